"""`fededge submit` and `fededge stop`: a run of a pipeline on Kubeflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fededge.cli.kubeflow_options import (
    ClientImageOption,
    DigestsOption,
    ExperimentOption,
    InputOption,
    PipelineArgument,
    PollOption,
    RegistryOption,
    RoundsOption,
    RunStoreOption,
    ServiceAccountOption,
    TrainingOption,
    connected,
    inputs_of,
    package_of,
    take_login,
    with_login_options,
)
from fededge.cli.local_run import INTERRUPTED
from fededge.cli.output import JsonOption, LibraryOption, console, existing, print_json, say
from fededge.cli.round_options import with_round_options
from fededge.errors import RunError
from fededge.kubeflow import EXPERIMENT, SERVICE_ACCOUNT

if TYPE_CHECKING:
    from fededge.kubeflow.client import Kubeflow
    from fededge.kubeflow.runs import Run

_ENDED_ITSELF = ("SUCCEEDED", "FAILED", "SKIPPED")


@with_login_options
@with_round_options
def submit(
    context: typer.Context,
    pipeline: PipelineArgument = "fl_training",
    training: TrainingOption = "",
    rounds: RoundsOption = None,
    typed_inputs: InputOption = None,
    store: RunStoreOption = "",
    registry: RegistryOption = "",
    client_image: ClientImageOption = "",
    library: LibraryOption = None,
    digests: DigestsOption = None,
    experiment: ExperimentOption = EXPERIMENT,
    run_name: Annotated[str, typer.Option(help="By default the training and the time.", show_default=False)] = "",
    service_account: ServiceAccountOption = SERVICE_ACCOUNT,
    watch: Annotated[bool, typer.Option("--watch", help="Show how it goes, and end with it.")] = False,
    poll_s: PollOption = 5.0,
    as_json: JsonOption = False,
    **chosen: Any,
) -> None:
    """Start a run of a pipeline on Kubeflow: a training of some rounds, if nothing else is said.

    With --watch the exit code is 0 if it succeeds and 1 if not; Ctrl-C stops watching, and the run goes on.

    For example:

    - `fededge submit --registry harbor.example.org/fededge --watch`
    - `fededge submit fl_round --training digits --clients 20 --host http://localhost:8888`
    - `fededge submit fl_comparison --training digits --input version=v3`
    - `fededge submit my_pipeline.yaml --input cpu_limit=4 --json`
    """
    login = take_login(chosen)
    with package_of(pipeline, chosen["workload"], rounds, registry, client_image, library, digests) as package:
        inputs = inputs_of(context, package, chosen, training, store, typed_inputs)
        kubeflow = connected(login)
        from fededge.kubeflow.submit import send

        run = send(kubeflow, package, inputs, run_name, experiment, service_account)
    say(f"run {run.name}  {run.link or run.id}")
    if watch:
        run = _watched(kubeflow, run, poll_s)
    _tell(run, inputs, store, watch, as_json)
    if watch and not run.succeeded:
        raise RunError(f"run {run.name} {run.state.lower()}: {run.error or 'Kubeflow does not say why'}")


@with_login_options
def stop(
    run: Annotated[str, typer.Argument(help="The run's id, as the other commands show it.", show_default=False)],
    as_json: JsonOption = False,
    **chosen: Any,
) -> None:
    """End a run on Kubeflow. What it has put into the store stays, and the next run goes on from there.

    Clients that are Jobs outlive it; how to end them is said.

    For example:

    - `fededge stop 3f6c9a52-7d0e-4a7e-9c1b-2f5d8e1a4b60`
    """
    kubeflow = connected(take_login(chosen))
    from fededge.kubeflow import runs

    ended = runs.stop(kubeflow, run)
    if as_json:
        print_json(as_document(ended))
    else:
        console.print(f"run {ended.name} is {(ended.state or 'ending').lower()}", soft_wrap=True)
    if ended.state not in _ENDED_ITSELF and ended.starts_jobs is not False:
        say(_left_behind(ended, kubeflow.namespace or "kubeflow"))


def _left_behind(run: Run, namespace: str) -> str:
    """Say what of a run that was ended still goes on, and how to end that."""
    jobs = "the Jobs that train its clients go on" if run.starts_jobs else "if Jobs train its clients, they go on"
    labels = f"app.kubernetes.io/part-of=fededge,fededge.io/training={run.training or 'TRAINING'}"
    how = f"`kubectl delete jobs --selector {labels} --namespace {namespace}`"
    return f"{jobs} to the round's deadline; {how} ends them now"


def as_document(run: Run) -> dict[str, Any]:
    tasks = [{"task": name, "state": state, "count": count} for (name, state), count in run.tasks.items()]
    return {"run": run.id, "name": run.name, "state": run.state, "error": run.error, "link": run.link, "tasks": tasks}


def line(run: Run) -> str:
    """Say in a line how a run is doing."""
    tasks = ", ".join(f"{count} {name} {state.lower()}" for (name, state), count in run.tasks.items())
    return f"{run.name}: {(run.state or 'waiting').lower()}{f' ({tasks})' if tasks else ''}"


def _watched(kubeflow: Kubeflow, run: Run, poll_s: float) -> Run:
    from fededge.kubeflow.runs import watch

    last = run
    try:
        for last in watch(kubeflow, run.id, poll_s):
            say(line(last))
    except KeyboardInterrupt:
        say(f"the run goes on; `fededge stop {run.id}` ends it")
        raise typer.Exit(INTERRUPTED) from None
    return last


def _tell(run: Run, inputs: dict[str, Any], store: str, watched: bool, as_json: bool) -> None:
    made = _version(inputs, store) if watched and run.succeeded and store and "training" in inputs else None
    if as_json:
        print_json({**as_document(run), "inputs": inputs, **(made or {})})
    elif made:
        scores = ", ".join(f"{name} {value:.4f}" for name, value in made["metrics"].items())
        console.print(f"{made['training']} is at {made['version']}: {scores}")
    elif not watched:
        console.print(run.id)


def _version(inputs: dict[str, Any], store: str) -> dict[str, Any]:
    from fededge.store import open_store

    current = existing(open_store(store, hurried=True), inputs["training"]).version()
    return {"training": current.training, "version": current.version, "metrics": current.metrics}
