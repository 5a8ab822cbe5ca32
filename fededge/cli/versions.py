"""`fededge versions`: what a training has made."""

from __future__ import annotations

import itertools
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from fededge.cli import upkeep
from fededge.cli.learner_call import WEIGHTS, call_learner, image_of_training
from fededge.cli.output import (
    DEFAULT_STORE,
    JsonOption,
    StoreOption,
    TrainingArgument,
    WithOption,
    console,
    existing,
    print_json,
)
from fededge.errors import InputError
from fededge.records import Pointer, Version
from fededge.store import Store, open_store
from fededge.store.blobs import get_bytes
from fededge.store.forgetting import forgotten_in
from fededge.store.trainings import TrainingStore, begun_trainings

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


app.command("verify")(upkeep.verify)
app.command("gc")(upkeep.gc)
app.command("forget")(upkeep.forget_client)


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
