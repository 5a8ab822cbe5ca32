"""`fededge versions`: what a training has made."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.table import Column, Table

from fededge.cli.learner_call import WEIGHTS, call_learner, image_of_training
from fededge.cli.output import (
    DEFAULT_STORE,
    JsonOption,
    StoreOption,
    TrainingArgument,
    WithOption,
    YesOption,
    confirm,
    console,
    errors,
    existing,
    print_json,
)
from fededge.errors import CorruptError, InputError, NotFoundError
from fededge.kubeflow.holder import end_dead
from fededge.records import Pointer, Version
from fededge.store import Store, keys, open_store
from fededge.store.blobs import get_bytes
from fededge.store.checked_reads import Finding, Report
from fededge.store.collection import MIN_AGE, Garbage, collect_garbage, find_garbage
from fededge.store.forgetting import Deleted, forget, forgotten_in
from fededge.store.trainings import TrainingStore, begun_trainings, training_folders
from fededge.store.verification import verify as verify_training

app = typer.Typer(
    help="List, show, roll back, export, check and clean the versions of a training.", no_args_is_help=True
)

_SUFFIXES = {"tensorflow": ".keras", "torch": ".pt2", "sklearn": ".skops"}  # of a whole model, by image

VersionArgument = Annotated[str, typer.Argument(help="Its name, as v4; or current.")]


@app.command("list")
def list_versions(
    training: Annotated[str, typer.Argument(help="The training's name; without it, the trainings are listed.")] = "",
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """List the versions of a training, or the trainings of a store.

    For example:

    - `fededge versions list`
    - `fededge versions list digits --json`
    """
    opened = open_store(store, hurried=True)
    if not training:
        _list_trainings(opened, as_json)
        return
    trainings = existing(opened, training)
    pointer = trainings.head().pointer
    current, versions = pointer.version, trainings.versions()
    if as_json:
        print_json([{**json.loads(v.model_dump_json()), "current": v.version == current} for v in versions])
        return
    table = Table(Column("version", no_wrap=True), "parent", "clients", "score", "made")
    for version in versions:
        name = f"{version.version} (current)" if version.version == current else version.version
        made = _local(version.created_at)
        clients = f"{len(version.accepted)} of {len(version.accepted) + len(version.excluded)}"
        table.add_row(name, version.parent or "", clients if version.parent else "", _score(version), made)
    console.print(table)
    for line in _rollbacks(pointer):
        console.print(line, soft_wrap=True)


@app.command()
def show(
    training: TrainingArgument,
    version: VersionArgument = "current",
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show a version: where it comes from, who took part, who was left out and why.

    For example:

    - `fededge versions show digits`
    - `fededge versions show digits v3 --json`
    """
    from rich.markdown import Markdown

    from fededge.reports.round_report import HISTORY, round_report

    trainings = existing(open_store(store, hurried=True), training)
    manifest = trainings.version(version)
    forgotten = forgotten_in(trainings, manifest)
    if as_json:
        print_json({**json.loads(manifest.model_dump_json()), "forgotten": forgotten})
        return
    lineage = list(itertools.islice(trainings.lineage(manifest.version), HISTORY))
    console.print(Markdown(round_report(manifest, lineage)))
    if forgotten:
        console.print(f"deleted on the clients' request: what {', '.join(forgotten)} delivered", soft_wrap=True)


@app.command()
def rollback(
    training: TrainingArgument,
    version: Annotated[str, typer.Argument(help="The version to make current again, as v3.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Make an earlier version current. Later versions stay; going on makes versions beside them, as v4-b1.

    For example:

    - `fededge versions rollback digits v3`
    """
    moved = existing(open_store(store, hurried=True), training).rollback(version)
    console.print(f"{training} is at {moved.version}; its next versions end in -b{moved.branch}")


@app.command()
def export(
    training: TrainingArgument,
    version: VersionArgument = "current",
    to: Annotated[
        Path | None, typer.Option("--to", "-o", help="The file: .keras, .pt2, .skops, or .safetensors.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    packages: WithOption = None,
) -> None:
    """Write a version's model as a file that loads without FedEdge.

    The whole model is a `.keras` file of Keras, a `.pt2` of PyTorch or a `.skops` of scikit-learn; `.safetensors` holds
    the weights alone.

    For example:

    - `fededge versions export digits`
    - `fededge versions export digits v3 --to digits.safetensors`
    """
    trainings = existing(open_store(store, hurried=True), training)
    manifest = trainings.version(version)
    image = image_of_training(trainings)
    path = (to or Path(f"{training}-{manifest.version}{_SUFFIXES[image]}")).absolute()
    if path.suffix not in (_SUFFIXES[image], ".safetensors"):
        raise InputError(f"--to {path.name}: the file must end in {_SUFFIXES[image]} or .safetensors")
    if not path.parent.is_dir():
        raise InputError(f"--to {path}: there is no folder {path.parent}")
    weights = get_bytes(trainings.store, manifest.model)
    if path.suffix == ".safetensors":
        try:
            path.write_bytes(weights)
        except OSError as error:
            raise InputError(f"--to {path}: it cannot be written: {error.strerror}") from error
    else:
        arguments = [manifest.settings.workload, WEIGHTS, str(path)]
        call_learner(
            image, packages or [], "fededge.workloads.export", arguments, weights, "the model could not be written"
        )
    console.print(f"{training} {manifest.version} is in {path}", soft_wrap=True)


@app.command()
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


@app.command()
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


@app.command("forget")
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


def _local(moment: datetime) -> str:
    return moment.astimezone().strftime("%d %b %H:%M")


def _rollbacks(pointer: Pointer) -> list[str]:
    return [f"rolled back from {r.left} to {r.to}, {_local(r.at)}" for r in pointer.rollbacks]


def _list_trainings(store: Store, as_json: bool) -> None:
    begun = [TrainingStore(store, name) for name in begun_trainings(store)]
    rows = [(trainings.name, trainings.version(), trainings.head().pointer) for trainings in begun]
    if as_json:
        print_json([{"training": n, "version": v.version, "metrics": v.metrics, **_moves(p)} for n, v, p in rows])
        return
    if not rows:
        console.print(f"no trainings in {store.url}; `fededge run` begins one", soft_wrap=True)
        return
    table = Table("training", "current", "score", "workload")
    for name, version, _ in rows:
        table.add_row(name, version.version, _score(version), version.settings.workload)
    console.print(table)


def _moves(pointer: Pointer) -> dict[str, object]:
    return {"rollbacks": [rollback.model_dump(mode="json") for rollback in pointer.rollbacks]}


def _score(version: Version) -> str:
    return f"{version.metric} {version.metrics[version.metric]:.4f}" if version.metrics else ""
