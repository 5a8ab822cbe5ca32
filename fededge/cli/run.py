"""`fededge run`: a federated training on this machine, as the compiled pipeline that a cluster runs."""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fededge.cli.output import (
    DEFAULT_STORE,
    HOME,
    JsonOption,
    StoreOption,
    WithOption,
    console,
    errors,
    print_json,
    say,
)
from fededge.cli.round_options import with_round_options
from fededge.cli.run_view import RunView
from fededge.errors import FedEdgeError, InputError, RunError
from fededge.settings import RoundSettings
from fededge.store import Store, keys, open_store
from fededge.store.blobs import put_bytes
from fededge.store.folder import FolderStore
from fededge.store.trainings import TrainingStore, training_names
from fededge.workloads import import_path

if TYPE_CHECKING:
    from fededge.kubeflow.job import Job
    from fededge.kubeflow.local import RunFolder

INTERRUPTED = 130  # what shells expect after Ctrl-C
_WEIGHTS = (".safetensors", ".keras", ".h5")


class StepError(FedEdgeError):
    """What a step of the run said, with the exit code that it chose."""

    def __init__(self, detail: str, exit_code: int) -> None:
        super().__init__(detail)
        self.exit_code = exit_code


@with_round_options
def run(
    training: Annotated[
        str, typer.Argument(help="The training to begin or go on with; by default, the workload's.")
    ] = "",
    rounds: Annotated[int | None, typer.Option(help="How many rounds, 1 to 20; 5 by default.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Begin another training instead of going on.")] = False,
    store: StoreOption = DEFAULT_STORE,
    initial_model: Annotated[
        Path | None,
        typer.Option(help="Weights to begin with: .safetensors, .keras or .h5.", exists=True, dir_okay=False),
    ] = None,
    runner: Annotated[
        Literal["environment", "docker"],
        typer.Option(help="Run steps in environments made from the images' locks, or in the images."),
    ] = "environment",
    packages: WithOption = None,
    registry: Annotated[str, typer.Option(help="With docker: the registry of our images.")] = "",
    client_image: Annotated[str, typer.Option(help="With docker: the image with your workload.")] = "",
    network: Annotated[str, typer.Option(help="With docker: the network of the containers.")] = "host",
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
    settings = RoundSettings.parse(**chosen)
    workload = settings.workload
    # kfp takes a second to import, and --help needs none of it.
    from fededge.kubeflow import local
    from fededge.kubeflow.export import Images, export_pipeline
    from fededge.kubeflow.holder import holding
    from fededge.kubeflow.rounds import check_rounds
    from fededge.kubeflow.yaml_file import count_rounds, read_pipeline

    import_path(workload)
    _check_combination(
        runner == "docker", bool(packages), bool(registry or client_image), bool(pipeline), rounds is not None
    )
    if initial_model and initial_model.suffix not in _WEIGHTS:
        raise InputError(f"--initial-model {initial_model}: the file must end in {', '.join(_WEIGHTS)}")
    if rounds is not None:
        check_rounds(rounds)
    opened = open_store(store)
    opened.check()
    name = _training_name(opened, training, workload, new)
    trainings = TrainingStore(opened, name)
    folder = local.RunFolder(HOME / "runs")
    say(f"training {name} in {opened.url}; log {folder.log}")
    yaml = pipeline or folder.path / "fl_training.yaml"
    if not pipeline:
        export_pipeline("fl_training", Images(registry, client_image), rounds, yaml)
    view = RunView(count_rounds(read_pipeline(yaml)), errors if as_json else console)
    arguments = {"store": opened.url, "training": name, **settings.model_dump(mode="json")}
    with holding(trainings, folder.path) as holder:
        if runner == "docker":
            folders = [Path(opened.url)] if isinstance(opened, FolderStore) else []
            job = local.docker_job(folder, yaml, arguments, folders, network, holder)
        else:
            job = local.environments_job(folder, yaml, arguments, packages or [], holder, say)
        if initial_model:  # last, so that nothing is kept of a run that cannot begin
            digest = put_bytes(opened, initial_model.read_bytes())
            job = job.model_copy(update={"arguments": {**job.arguments, "initial_model": digest}})
        _follow(job, folder, view)
    _tell_result(trainings, view, folder, as_json)


def _follow(job: Job, folder: RunFolder, view: RunView) -> None:
    """Run a job, and show what happens."""
    from fededge.kubeflow import local

    try:
        with view.shown(), contextlib.closing(local.run(job, folder)) as happening:
            for event in happening:
                view.follow(event)
    except KeyboardInterrupt:
        if view.rounds:
            errors.print(view.table())
        say("interrupted: nothing of it runs any more; the same command goes on where it stopped")
        raise typer.Exit(INTERRUPTED) from None
    except RunError as error:
        if view.failure:
            raise StepError(f"{view.failure.detail} (log: {folder.log})", view.failure.exit_code) from error
        raise


def _check_combination(docker: bool, packages: bool, other_images: bool, pipeline: bool, rounds: bool) -> None:
    if docker and packages:
        raise InputError("--with is for environments: build an image with your packages, and pass --client-image")
    if other_images and not docker:
        raise InputError("--registry and --client-image go with --runner docker")
    if pipeline and (rounds or other_images):
        raise InputError("--pipeline has its rounds and images already: `fededge pipelines export` decides them")


def _training_name(store: Store, wanted: str, workload: str, new: bool) -> str:
    base = wanted or re.sub(r"[^a-z0-9]+", "-", workload.rpartition(":")[0].lower() or workload).strip("-")
    keys.training_folder(base)
    if not new:
        return base
    taken = set(training_names(store))
    return next(
        name for name in itertools.chain([base], (f"{base}-{i}" for i in itertools.count(2))) if name not in taken
    )


def _tell_result(trainings: TrainingStore, view: RunView, folder: Any, as_json: bool) -> None:
    report = folder.keep_artifact("round_report", "round_report.md")
    curve = folder.keep_artifact("learning_curve", "learning_curve.html")
    current = trainings.version()
    if as_json:
        print_json(
            {
                "training": trainings.name,
                "store": trainings.store.url,
                "version": current.version,
                "metrics": current.metrics,
                "rounds": [done.as_json() for done in view.rounds],
                "report": str(report),
                "learning_curve": str(curve),
                "log": str(folder.log),
            }
        )
        return
    console.print(view.table())
    score = f"{current.metric} {current.metrics[current.metric]:.4f}" if current.metrics else ""
    console.print(f"{trainings.name} is at {current.version}: {score}")
    console.print(f"learning curve  {curve}\nround report    {report}\nlog             {folder.log}", soft_wrap=True)
