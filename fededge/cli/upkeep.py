"""Looks after a store, as commands of `fededge versions`: whether all is there, what nothing needs, what must go."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Annotated

import typer
from rich.filesize import decimal

from fededge.cli.output import (
    DEFAULT_STORE,
    JsonOption,
    StoreOption,
    TrainingArgument,
    YesOption,
    confirm,
    console,
    errors,
    existing,
    print_json,
)
from fededge.errors import CorruptError, NotFoundError
from fededge.kubeflow.holder import end_dead
from fededge.store import Store, keys, open_store
from fededge.store.checked_reads import Finding, Report
from fededge.store.collection import MIN_AGE, Garbage, collect_garbage, find_garbage
from fededge.store.forgetting import Deleted, forget
from fededge.store.trainings import TrainingStore, training_folders
from fededge.store.verification import verify as verify_training


def verify(
    training: Annotated[str, typer.Argument(help="The training's name; without it, all are checked.")] = "",
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Read everything that the versions and the open round of a training need, and tell what is damaged or missing.

    Finds one flipped bit anywhere. Nothing is changed, and a run may be under way. The exit code is 4 if something is
    wrong.

    For example:

    - `fededge versions verify digits`
    - `fededge versions verify --json`
    """
    opened = open_store(store, hurried=True)
    if training and not opened.keys(keys.training_folder(training)):
        existing(opened, training)  # which says what there is instead
    reports = [_verified(opened, name) for name in ([training] if training else _all_trainings(opened))]
    if as_json:
        print_json({"whole": not any(r.findings for r in reports), "trainings": [_report_json(r) for r in reports]})
    else:
        _tell_reports(reports)
    if wrong := sum(len(report.findings) for report in reports):
        what = "object is" if wrong == 1 else "objects are"
        raise CorruptError(f"{wrong} {what} damaged or missing in {opened.url}: restore from a backup what you can")


def gc(
    store: StoreOption = DEFAULT_STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")] = False,
    min_age_minutes: Annotated[
        int, typer.Option(min=0, max=10**6, help="Keep what was written in so many last minutes.")
    ] = int(MIN_AGE.total_seconds() // 60),
    as_json: JsonOption = False,
) -> None:
    """Remove the tensors that no version and no open round needs, from the whole store.

    These are updates that were left out, and those of failed attempts at rounds that are over. Every version
    stays, and so does every document. Refused while a run is under way; no run begins meanwhile.

    For example:

    - `fededge versions gc --dry-run`
    - `fededge versions gc`
    """
    opened, min_age = open_store(store, hurried=True), timedelta(minutes=min_age_minutes)
    _end_dead(opened)
    with _progress("looking for what nothing needs") as watch:
        if dry_run:
            garbage = Garbage(find_garbage(opened, min_age, watch), 0)
        else:
            garbage = collect_garbage(opened, min_age, watch)
    if as_json:
        blobs = [{"key": entry.key, "bytes": entry.size} for entry in garbage.blobs]
        print_json({"dry_run": dry_run, "objects": blobs, "bytes": garbage.size, "leftovers": garbage.leftovers})
        return
    if dry_run:
        for entry in garbage.blobs:
            console.print(f"{entry.key}  {decimal(entry.size)}", soft_wrap=True)
    done = "would be removed" if dry_run else "removed"
    rest = f", and {_count(garbage.leftovers, 'unfinished write')}" if garbage.leftovers else ""
    said = f"{_count(len(garbage.blobs), 'object')}, {decimal(garbage.size)}{rest} {done} from {opened.url}"
    console.print(said, soft_wrap=True)


def forget_client(
    training: TrainingArgument,
    client: Annotated[str, typer.Argument(help="The client's id.", show_default=False)],
    yes: YesOption = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Delete everything that a client delivered to a training, on its request.

    It cannot take back what the models have learned from it: to be rid of that too, train again without the client. The
    versions stay valid, and go on naming the client's id, its counts and its metrics. Refused while a run is under
    way, and while a round is open that waits for updates.

    For example:

    - `fededge versions forget digits client-000003`
    - `fededge versions forget digits client-000003 --yes`
    """
    trainings = existing(open_store(store, hurried=True), training)
    _end_dead(trainings.store)
    confirm(f"Delete everything that {client} delivered to {training}? It cannot be undone.", yes)
    with _progress("looking for what others need") as watch:
        deleted = forget(trainings, client, watch)
    for line in _told(training, client, deleted):
        console.print(line, soft_wrap=True)


def _all_trainings(store: Store) -> list[str]:
    """List what may be trainings; a store without any is more likely a mistyped one."""
    if not (names := training_folders(store)):
        raise NotFoundError(f"there is no training in {store.url}: is --store right?")
    return names


def _end_dead(store: Store) -> None:
    """Let go of what runs of this machine hold that died."""
    for name in _all_trainings(store):
        end_dead(TrainingStore(store, name))


@contextlib.contextmanager
def _progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal how far something is that takes more than a second."""
    status = errors.status(doing)
    begun, shown = time.monotonic(), False

    def watch(objects: int, size: int) -> None:
        nonlocal shown
        if not shown and time.monotonic() - begun > 1:
            status.start()
            shown = True
        if shown and objects % 16 == 0:
            status.update(f"{doing}: {_count(objects, 'object')}, {decimal(size)}")

    try:
        yield watch
    finally:
        status.stop()


def _verified(store: Store, training: str) -> Report:
    with _progress(f"reading {training}") as watch:
        return verify_training(store, training, lambda report: watch(report.objects, report.size))


def _tell_reports(reports: Sequence[Report]) -> None:
    for report in reports:
        for finding in report.findings.values():
            console.print(_finding(finding), soft_wrap=True)
        for client, number in sorted(report.gone.items()):
            gone = _count(number, "delivery", "deliveries")
            console.print(f"{report.training}: {gone} of {client} gone, on its request", soft_wrap=True)
        wrong = len(report.findings)
        outcome = f"{wrong} damaged or missing" if wrong else "everything is whole"
        counts = f"{_count(report.versions, 'version')}, {_count(report.updates, 'update')}"
        read = f"{_count(report.objects, 'object')}, {decimal(report.size)} read"
        console.print(f"{report.training}: {counts}, {read}: {outcome}", soft_wrap=True)


def _finding(finding: Finding) -> str:
    needed = f", and needed by {', '.join(finding.versions)}" if finding.versions else ""
    return f"{finding.key} {finding.problem}{needed}"


def _report_json(report: Report) -> dict[str, object]:
    return {
        "training": report.training,
        "versions": report.versions,
        "updates": report.updates,
        "objects": report.objects,
        "bytes": report.size,
        "gone": dict(report.gone),
        "findings": [
            {"key": finding.key, "problem": finding.problem, "versions": finding.versions}
            for finding in report.findings.values()
        ],
    }


def _told(training: str, client: str, deleted: Deleted) -> Iterator[str]:
    updates, reports = _count(deleted.updates, "update"), _count(deleted.reports, "report")
    yield f"{training}: {updates} and {reports} of {client} deleted"
    if deleted.scores:
        results = _count(deleted.scores, "result")
        yield f"{results} of comparisons with its scores deleted; `fededge compare` makes them anew"
    if deleted.kept:
        stay = "blob stays" if deleted.kept == 1 else "blobs stay"
        yield f"{deleted.kept} {stay}: other clients, versions or trainings have the very same tensors"
    if deleted.versions:
        yield f"{', '.join(deleted.versions)} stay, with what they learned from it"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
