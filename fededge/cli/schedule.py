"""`fededge schedule`: a round on Kubeflow every night, or every hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from fededge.cli.kubeflow_options import (
    ClientImageOption,
    DigestsOption,
    ExperimentOption,
    InputOption,
    PipelineArgument,
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
from fededge.cli.output import JsonOption, LibraryOption, YesOption, confirm, console, print_json
from fededge.cli.round_options import with_round_options
from fededge.kubeflow import EXPERIMENT, SERVICE_ACCOUNT

if TYPE_CHECKING:
    from fededge.kubeflow.schedule import Schedule

app = typer.Typer(
    help="Make, list, pause, resume and delete recurring runs on Kubeflow.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

NameArgument = Annotated[str, typer.Argument(help="Of the recurring run.", show_default=False)]


@app.command()
@with_login_options
@with_round_options
def create(
    context: typer.Context,
    when: Annotated[
        str, typer.Argument(help="A cron expression, as '0 2 * * *', or an interval, as 90s, 15m, 1h or 1d.")
    ],
    pipeline: PipelineArgument = "fl_round",
    name: Annotated[str, typer.Option(help="By default the training's, or the pipeline's.", show_default=False)] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of the one of that name.")] = False,
    training: TrainingOption = "",
    rounds: RoundsOption = None,
    typed_inputs: InputOption = None,
    store: RunStoreOption = "",
    registry: RegistryOption = "",
    client_image: ClientImageOption = "",
    library: LibraryOption = None,
    digests: DigestsOption = None,
    experiment: ExperimentOption = EXPERIMENT,
    service_account: ServiceAccountOption = SERVICE_ACCOUNT,
    as_json: JsonOption = False,
    **chosen: Any,
) -> None:
    """Start a run again and again: one at a time, and none for what was missed.

    Times are those of the cluster, which is UTC as a rule. One round a time is what a training takes best.

    For example:

    - `fededge schedule create '0 2 * * *' --registry harbor.example.org/fededge`
    - `fededge schedule create 1h --training digits --clients-per-round 10 --replace`
    """
    login = take_login(chosen)
    with package_of(pipeline, chosen["workload"], rounds, registry, client_image, library, digests) as package:
        inputs = inputs_of(context, package, chosen, training, store, typed_inputs)
        from fededge.kubeflow.schedule import parse_time, schedule

        parse_time(when)  # before the login, which may take a while
        kubeflow = connected(login)
        name = name or str(inputs.get("training", package.path.stem))
        made = schedule(
            kubeflow, package, inputs, name, when,
            replace=replace, experiment=experiment, service_account=service_account,
        )  # fmt: skip
    _show(made, f"{made.name}: {made.when}  {made.link}", as_json)


@app.command("list")
@with_login_options
def list_schedules(as_json: JsonOption = False, **chosen: Any) -> None:
    """List the recurring runs of the namespace.

    For example:

    - `fededge schedule list --json`
    """
    kubeflow = connected(take_login(chosen))
    from fededge.kubeflow.schedule import schedules

    found = schedules(kubeflow)
    if as_json:
        print_json([one._asdict() for one in found])
        return
    table = Table(Column("name", no_wrap=True), "when", "state", "trouble")
    for one in found:
        table.add_row(one.name, one.when, "on" if one.enabled else "paused", one.error)
    console.print(table)


@app.command()
@with_login_options
def pause(name: NameArgument, as_json: JsonOption = False, **chosen: Any) -> None:
    """Start no more runs; one that goes on is not touched.

    For example:

    - `fededge schedule pause digits`
    """
    kubeflow = connected(take_login(chosen))
    from fededge.kubeflow import schedule

    _show(schedule.pause(kubeflow, name), f"{name} is paused", as_json)


@app.command()
@with_login_options
def resume(name: NameArgument, as_json: JsonOption = False, **chosen: Any) -> None:
    """Start runs again, from the next time on.

    For example:

    - `fededge schedule resume digits`
    """
    kubeflow = connected(take_login(chosen))
    from fededge.kubeflow import schedule

    resumed = schedule.resume(kubeflow, name)
    _show(resumed, f"{name} goes on: {resumed.when}", as_json)


@app.command()
@with_login_options
def delete(name: NameArgument, yes: YesOption = False, as_json: JsonOption = False, **chosen: Any) -> None:
    """Delete a recurring run. Its runs stay, one that goes on goes on, and what they have made stays too.

    For example:

    - `fededge schedule delete digits --yes`
    """
    login = take_login(chosen)
    confirm(f"Delete the recurring run {name}?", yes)
    kubeflow = connected(login)
    from fededge.kubeflow import schedule

    _show(schedule.delete(kubeflow, name), f"{name} is deleted", as_json)


def _show(one: Schedule, line: str, as_json: bool) -> None:
    if as_json:
        print_json(one._asdict())
    else:
        console.print(line, soft_wrap=True)
