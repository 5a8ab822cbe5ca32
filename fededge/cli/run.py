"""`fededge run`: a federated training on this machine, as the compiled pipeline that a cluster runs."""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import Path
from typing import Annotated, Any, Literal

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
from fededge.cli.run_view import RunView
from fededge.errors import FedEdgeError, InputError, RunError
from fededge.settings import RoundSettings, ServerOptimizer
from fededge.store import Store, keys, open_store
from fededge.store.blobs import put_bytes
from fededge.store.folder import FolderStore
from fededge.store.trainings import TrainingStore, training_names
from fededge.workloads import import_path

INTERRUPTED = 130  # what shells expect after Ctrl-C
_DEFAULTS = RoundSettings()
_WEIGHTS = (".safetensors", ".keras", ".h5")


class StepError(FedEdgeError):
    """What a step of the run said, with the exit code that it chose."""

    def __init__(self, detail: str, exit_code: int) -> None:
        super().__init__(detail)
        self.exit_code = exit_code


def _setting(name: str) -> Any:
    return typer.Option(help=RoundSettings.model_fields[name].description)


def run(
    training: Annotated[
        str, typer.Argument(help="The training to begin or go on with; by default, the workload's.")
    ] = "",
    workload: Annotated[str, _setting("workload")] = _DEFAULTS.workload,
    rounds: Annotated[int | None, typer.Option(help="How many rounds, 1 to 20; 5 by default.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Begin another training instead of going on.")] = False,
    store: StoreOption = DEFAULT_STORE,
    clients: Annotated[int, _setting("clients")] = _DEFAULTS.clients,
    clients_per_round: Annotated[int, _setting("clients_per_round")] = _DEFAULTS.clients_per_round,
    clients_per_pod: Annotated[int, _setting("clients_per_pod")] = _DEFAULTS.clients_per_pod,
    min_clients: Annotated[int, _setting("min_clients")] = _DEFAULTS.min_clients,
    local_epochs: Annotated[int, _setting("local_epochs")] = _DEFAULTS.local_epochs,
    batch_size: Annotated[int, _setting("batch_size")] = _DEFAULTS.batch_size,
    client_learning_rate: Annotated[float, _setting("client_learning_rate")] = _DEFAULTS.client_learning_rate,
    client_momentum: Annotated[float, _setting("client_momentum")] = _DEFAULTS.client_momentum,
    server_optimizer: Annotated[ServerOptimizer, _setting("server_optimizer")] = _DEFAULTS.server_optimizer,
    server_learning_rate: Annotated[float, _setting("server_learning_rate")] = _DEFAULTS.server_learning_rate,
    server_momentum: Annotated[float, _setting("server_momentum")] = _DEFAULTS.server_momentum,
    seed: Annotated[int, _setting("seed")] = _DEFAULTS.seed,
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
) -> None:
    """Run a federated training on this machine, as the very pipeline that Kubeflow runs.

    Running it again goes on with the training; a round that was cut short is taken up where it stopped.

    For example:

    - `fededge run`
    - `fededge run --rounds 10 --clients 20 --clients-per-round 10`
    - `fededge run --workload my_package.module:workload --with ./my_package`
    - `fededge run my-training --store s3://models/fededge --runner docker`
    """
    settings = RoundSettings.parse(
        workload=workload, seed=seed, clients=clients, clients_per_round=clients_per_round,
        clients_per_pod=clients_per_pod, min_clients=min_clients, local_epochs=local_epochs, batch_size=batch_size,
        client_learning_rate=client_learning_rate, client_momentum=client_momentum,
        server_optimizer=server_optimizer, server_learning_rate=server_learning_rate,
        server_momentum=server_momentum,
    )  # fmt: skip
    # kfp takes a second to import, and --help needs none of it.
    from fededge.kubeflow import local
    from fededge.kubeflow.export import Images, export_pipeline
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
    folder = local.RunFolder(HOME / "runs")
    say(f"training {name} in {opened.url}; log {folder.log}")
    yaml = pipeline or folder.path / "fl_training.yaml"
    if not pipeline:
        export_pipeline("fl_training", Images(registry, client_image), rounds, yaml)
    total = count_rounds(read_pipeline(yaml))
    arguments = {"store": opened.url, "training": name, **settings.model_dump(mode="json")}
    if runner == "docker":
        folders = [Path(opened.url)] if isinstance(opened, FolderStore) else []
        job = local.docker_job(folder, yaml, arguments, folders, network)
    else:
        job = local.environments_job(folder, yaml, arguments, packages or [], say)
    if initial_model:  # last, so that nothing is kept of a run that cannot begin
        digest = put_bytes(opened, initial_model.read_bytes())
        job = job.model_copy(update={"arguments": {**job.arguments, "initial_model": digest}})
    view = RunView(total, errors if as_json else console)
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
    _tell_result(TrainingStore(opened, name), view, folder, as_json)


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
