"""`fededge simulate`: many rounds of a training in one process tree on this machine, for research."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from fededge.cli.local_run import watch
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
from fededge.cli.simulation_view import SimulationView
from fededge.cli.training import tell_result, training_name
from fededge.errors import InputError
from fededge.kubeflow.holder import holding
from fededge.run_folder import RunFolder
from fededge.store import open_store
from fededge.store.trainings import TrainingStore
from fededge.workloads import image_of, suited_rounds


@with_round_options
def simulate(
    context: typer.Context,
    training: Annotated[
        str, typer.Argument(help="The training to begin or go on with; by default, the workload's.")
    ] = "",
    rounds: Annotated[
        int | None, typer.Option(help="How many rounds; as many as suit a workload of ours by default, else 5.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="How many processes train clients; one for each CPU by default.")
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Begin another training instead of going on.")] = False,
    store: StoreOption = DEFAULT_STORE,
    packages: WithOption = None,
    library: LibraryOption = None,
    as_json: JsonOption = False,
    **chosen: Any,
) -> None:
    """Run many rounds of a federated training on this machine, in a few long-lived processes.

    The steps are the pipeline's, and make the same versions, bit for bit: `fededge run` and a cluster can go on with
    them. What takes a pipeline its time is left out: a process for each step, which loads the framework anew.

    Running it again goes on with the training; a round that was cut short is taken up where it stopped.

    For example:

    - `fededge simulate --rounds 100`
    - `fededge simulate --rounds 200 --clients 500 --clients-per-round 20`
    - `fededge simulate --workload my_package.module:workload --with ./my_package`
    """
    from fededge.environments import environment, make
    from fededge.simulation.rounds import Simulation, curve_of, report_of
    from fededge.simulation.rounds import simulate as start

    rounds = suited_rounds(built_in(chosen["workload"])) if rounds is None else rounds
    if rounds < 1:
        raise InputError(f"rounds={rounds} must be at least 1")
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers} must be at least 1: a process that trains clients")
    settings = settings_of(context, chosen)
    workload, ours = settings.workload, built_in(settings.workload)
    if ours and library:
        raise InputError(f"--library goes with a workload of your own: {workload} is on {image_of(ours)}")
    image = image_of(ours) if ours else library or "tensorflow"
    client, server = (environment(name, packages or []) for name in (image, "tensorflow"))
    opened = open_store(store)
    opened.check()
    trainings = TrainingStore(opened, training_name(opened, training, workload, new))
    folder = RunFolder(HOME / "runs", "simulation.log")
    say(f"training {trainings.name} in {opened.url}; log {folder.log}")
    view = SimulationView(rounds, errors if as_json else console)
    with holding(trainings, folder.path) as holder:
        for wanted in {client, server}:
            make(wanted, say)
        source = context.get_parameter_source("clients_per_pod")
        own_batches = source is not None and source.name == "DEFAULT"
        what = Simulation(trainings, settings, own_batches, rounds, workers or _cpus(), client, server)
        watch(start(what, folder, holder), folder, view)
    tell_result(trainings, view, report_of(folder), curve_of(folder), folder.log, as_json)


def _cpus() -> int:
    """Count the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
