"""`fededge run`: a federated training on this machine, as the compiled pipeline that a cluster runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fededge.cli.local_run import (
    ClientImageOption,
    NetworkOption,
    RegistryOption,
    RunnerOption,
    check_combination,
    follow,
    make_job,
)
from fededge.cli.output import (
    DEFAULT_STORE,
    HOME,
    JsonOption,
    LibraryOption,
    StoreOption,
    WithOption,
    console,
    errors,
    say,
)
from fededge.cli.round_options import built_in, settings_of, with_round_options
from fededge.cli.run_view import RunView
from fededge.cli.training import tell_result, training_name
from fededge.errors import InputError
from fededge.run_folder import RunFolder
from fededge.store import open_store
from fededge.store.blobs import put_bytes
from fededge.store.trainings import TrainingStore
from fededge.workloads import image_of

_WEIGHTS = (".safetensors", ".keras", ".h5", ".pt", ".pth")


@with_round_options
def run(
    context: typer.Context,
    training: Annotated[
        str, typer.Argument(help="The training to begin or go on with; by default, the workload's.")
    ] = "",
    rounds: Annotated[int | None, typer.Option(help="How many rounds, 1 to 20; 5 by default.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Begin another training instead of going on.")] = False,
    store: StoreOption = DEFAULT_STORE,
    initial_model: Annotated[
        Path | None,
        typer.Option(
            help="Weights to begin with: .safetensors, .keras, .h5, .pt or .pth.", exists=True, dir_okay=False
        ),
    ] = None,
    runner: RunnerOption = "environment",
    packages: WithOption = None,
    library: LibraryOption = None,
    registry: RegistryOption = "",
    client_image: ClientImageOption = "",
    network: NetworkOption = "host",
    devices: Annotated[
        Path | None,
        typer.Option(
            help="Who lives on which device, in YAML or JSON. Claims count on a cluster only.", dir_okay=False
        ),
    ] = None,
    pipeline: Annotated[
        Path | None,
        typer.Option(help="Run this compiled pipeline instead of the shipped one.", exists=True, dir_okay=False),
    ] = None,
    as_json: JsonOption = False,
    **chosen: Any,
) -> None:
    """Run a federated training on this machine, as the very pipeline that Kubeflow runs.

    Running it again goes on with the training; a round that was cut short is taken up where it stopped.

    For example:

    - `fededge run`
    - `fededge run --rounds 10 --clients 20 --clients-per-round 10`
    - `fededge run --workload my_package.module:workload --with ./my_package`
    - `fededge run my-training --store s3://models/fededge --runner docker`
    """
    settings = settings_of(context, chosen)
    workload, ours = settings.workload, built_in(settings.workload)
    if ours and library:
        raise InputError(f"--library goes with a workload of your own: {workload} is on {image_of(ours)}")
    image = image_of(ours) if ours else library or "tensorflow"
    # kfp takes a second to import, and --help needs none of it.
    from fededge.kubeflow.export import Images, export_pipeline
    from fededge.kubeflow.holder import holding
    from fededge.kubeflow.rounds import check_rounds
    from fededge.kubeflow.yaml_file import count_rounds, read_pipeline

    other_images = bool(registry or client_image)
    check_combination(runner, packages or [], other_images=other_images)
    if pipeline and (rounds is not None or other_images):
        raise InputError("--pipeline has its rounds and images already: `fededge pipelines export` decides them")
    if initial_model and initial_model.suffix not in _WEIGHTS:
        raise InputError(f"--initial-model {initial_model}: the file must end in {', '.join(_WEIGHTS)}")
    if rounds is not None:
        check_rounds(rounds)
    inputs = _devices_input(devices)
    opened = open_store(store)
    opened.check()
    name = training_name(opened, training, workload, new)
    trainings = TrainingStore(opened, name)
    folder = RunFolder(HOME / "runs")
    say(f"training {name} in {opened.url}; log {folder.log}")
    yaml = pipeline or folder.path / "fl_training.yaml"
    if not pipeline:
        export_pipeline("fl_training", Images(registry, client_image, image), rounds, yaml)
    view = RunView(count_rounds(read_pipeline(yaml)), errors if as_json else console)
    arguments = {"store": opened.url, "training": name, **settings.model_dump(mode="json"), **inputs}
    with holding(trainings, folder.path) as holder:
        seen = [Path(path).parent for path in inputs.values()]
        job = make_job(runner, folder, yaml, arguments, opened, packages or [], network, holder, seen)
        if initial_model:  # last, so that nothing is kept of a run that cannot begin
            digest = put_bytes(opened, initial_model.read_bytes())
            job = job.model_copy(update={"arguments": {**job.arguments, "initial_model": digest}})
        follow(job, folder, view)
    report = folder.keep_artifact("round_report", "round_report.md")
    curve = folder.keep_artifact("learning_curve", "learning_curve.html")
    tell_result(trainings, view, report, curve, folder.log, as_json)


def _devices_input(path: Path | None) -> dict[str, str]:
    """Make the pipeline's input of a file with devices, after looking into it.

    Raises:
      InputError: it does not describe devices.
    """
    if path is None:
        return {}
    from fededge.cluster.devices import find_devices, image_architectures

    ours = image_architectures()
    ready = [not device.trouble(ours) for device in find_devices(str(path.absolute()))]
    say(f"{len(ready)} devices, {sum(ready)} of them ready; claims do not count here: all data are on this machine")
    return {"devices": str(path.absolute())}
