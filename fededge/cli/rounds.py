"""`fededge rounds`: the rounds of a training and every attempt at them, failed and open ones too."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Annotated

import typer
from rich.table import Column, Table

from fededge.cli.attempt_report import attempt_report, details
from fededge.cli.attempt_view import Attempts, AttemptView, State
from fededge.cli.output import (
    DEFAULT_STORE,
    JsonOption,
    StoreOption,
    TrainingArgument,
    YesOption,
    confirm,
    console,
    existing,
    print_json,
)
from fededge.errors import ConflictError, InputError, LeaseError, NotFoundError, StoreError
from fededge.kubeflow.holder import end_dead
from fededge.records import GIVEN_UP, Failed
from fededge.store import open_store
from fededge.store.trainings import TrainingStore

app = typer.Typer(
    help="List and show the attempts at the rounds of a training, free it from a dead run, give an attempt up.",
    no_args_is_help=True,
)

_GIVING_UP = timedelta(minutes=1)


@app.command("list")
def list_rounds(training: TrainingArgument, store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """List every attempt at every round, in the order of their opening.

    For example:

    - `fededge rounds list digits`
    - `fededge rounds list digits --json`
    """
    views = Attempts(_existing(store, training)).all()
    if as_json:
        print_json([view.as_json() for view in views])
        return
    if not views:
        console.print(f"no round of {training} was opened yet; `fededge run` opens one", soft_wrap=True)
        return
    table = Table(
        Column("version", no_wrap=True), "attempt", Column("state", overflow="fold"), "clients", "left out", "when"
    )
    for view in views:
        when = (view.ended_at or view.plan.opened_at).astimezone().strftime("%d %b %H:%M")
        table.add_row(view.plan.version, str(view.plan.number), view.status, _clients(view), _left_out(view), when)
    console.print(table)


@app.command()
def show(
    training: TrainingArgument,
    version: Annotated[str, typer.Argument(help="The version it makes, as v4; by default, the latest.")] = "",
    attempt: Annotated[
        int | None, typer.Option("--attempt", help="Its number; by default, the last one's.", min=1)
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show an attempt: who has delivered, who has failed and why, its plan, its deadline, and who works on it.

    For example:

    - `fededge rounds show digits`
    - `fededge rounds show digits v4 --attempt 1`
    """
    from rich.markdown import Markdown

    attempts = Attempts(_existing(store, training))
    view = attempts.view(attempts.find(version, attempt))
    if as_json:
        print_json(details(attempts, view))
        return
    console.print(Markdown(attempt_report(attempts, view)))


@app.command()
def release(training: TrainingArgument, yes: YesOption = False, store: StoreOption = DEFAULT_STORE) -> None:
    """Free a training from the run that holds it, when that run is dead. If it is not, it publishes nothing any more.

    For example:

    - `fededge rounds release digits`
    - `fededge rounds release digits --yes`
    """
    opened = open_store(store, hurried=True)
    trainings = TrainingStore(opened, training)
    lease = trainings.lease.active()
    if lease is None:
        existing(opened, training)
        console.print(f"no run holds {training}: the next one can begin")
        return
    until = f"{lease.expires_at.astimezone():%d %b %H:%M:%S}"
    confirm(f"{lease.holder} holds {training}, until {until} at most. End that now?", yes)
    # The pointer comes first: cut short here, the command ends with the run fenced off and can be given again.
    with contextlib.suppress(NotFoundError):  # a run that died making version 0 leaves no pointer
        trainings.fence(lease.token + 1)
    trainings.lease.revoke(lease.token, by="`fededge rounds release`")
    console.print(
        f"{lease.holder} held {training}, and publishes nothing any more; the next run can begin", soft_wrap=True
    )


@app.command()
def abandon(training: TrainingArgument, yes: YesOption = False, store: StoreOption = DEFAULT_STORE) -> None:
    """Give up the open attempt. The next run opens another, and uses again what was delivered where it fits.

    For example:

    - `fededge rounds abandon digits`
    - `fededge rounds abandon digits --yes`
    """
    trainings = _existing(store, training)
    view = _open_attempt(trainings)
    if lease := trainings.lease.active():
        raise LeaseError(trainings.lease.held_by(lease))
    plan = view.plan
    delivered = f"{len(view.arrivals)} of {len(plan.cohort)} clients have delivered"
    confirm(f"In attempt {plan.number} at {training} {plan.version}, {delivered}. Give it up?", yes)
    token = trainings.lease.acquire("`fededge rounds abandon`", trainings.store.now() + _GIVING_UP)
    try:
        trainings.fence(token)  # so that a run which wakes does not publish what was given up
        if _open_attempt(trainings).plan.ref != plan.ref:
            raise ConflictError(f"{training} has moved on meanwhile: see `fededge rounds list {training}`")
        trainings.fail_attempt(plan.ref, Failed(reason=GIVEN_UP))
    finally:
        trainings.lease.release(token)
    console.print(
        f"attempt {plan.number} at {training} {plan.version} is given up; the next run opens attempt {plan.number + 1}",
        soft_wrap=True,
    )


def _open_attempt(trainings: TrainingStore) -> AttemptView:
    """Find the attempt that the next run would go on with.

    Raises:
      InputError: there is none, or nothing is left of it but to be published.
    """
    attempts, name = Attempts(trainings), trainings.name
    found = trainings.attempts(attempts.next)
    view = attempts.view(found[-1]) if found else None
    if view is None or view.state not in (State.OPEN, State.CLOSED):
        raise InputError(f"{name} has no open attempt to give up; `fededge rounds list {name}` shows what there is")
    with contextlib.suppress(NotFoundError):
        trainings.version(attempts.next)
        raise InputError(
            f"{name} {attempts.next} is made already and cannot be given up: the next run makes it current, and "
            f"`fededge versions rollback {name} {attempts.pointer.version}` goes back from it"
        )
    return view


def _existing(store: str, training: str) -> TrainingStore:
    """Open a training, after a run of this machine that died holding it."""
    trainings = existing(open_store(store, hurried=True), training)
    with contextlib.suppress(StoreError):  # a reader may have no right to write
        end_dead(trainings)
    return trainings


def _clients(view: AttemptView) -> str:
    cohort = len(view.plan.cohort)
    return (
        f"{len(view.closing.accepted)} of {cohort}" if view.closing else f"{len(view.arrivals)} of {cohort} delivered"
    )


def _left_out(view: AttemptView) -> str:
    if view.closing:
        return ", ".join(f"{count} {reason}" for reason, count in view.reasons.items())
    return f"{len(view.failing)} failed" if view.failing else ""
