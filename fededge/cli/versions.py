"""`fededge versions`: what a training has made."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from fededge.cli.output import (
    DEFAULT_STORE,
    JsonOption,
    StoreOption,
    TrainingArgument,
    WithOption,
    console,
    print_json,
    say,
)
from fededge.environments import environment, link_library, make
from fededge.errors import InputError, NotFoundError, RunError
from fededge.records import Version
from fededge.store import Store, open_store
from fededge.store.blobs import get_bytes
from fededge.store.trainings import TrainingStore, training_names

app = typer.Typer(help="List, show, roll back and export the versions of a training.", no_args_is_help=True)

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
    opened = open_store(store)
    if not training:
        _list_trainings(opened, as_json)
        return
    trainings = _existing(opened, training)
    current = trainings.head().pointer.version
    versions = trainings.versions()
    if as_json:
        print_json([{**json.loads(v.model_dump_json()), "current": v.version == current} for v in versions])
        return
    table = Table(Column("version", no_wrap=True), "parent", "clients", "score", "made")
    for version in versions:
        name = f"{version.version} (current)" if version.version == current else version.version
        made = version.created_at.astimezone().strftime("%d %b %H:%M")
        clients = f"{len(version.accepted)} of {len(version.accepted) + len(version.excluded)}"
        table.add_row(name, version.parent or "", clients if version.parent else "", _score(version), made)
    console.print(table)


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

    from fededge.reports.round_report import round_report

    manifest = _existing(open_store(store), training).version(version)
    if as_json:
        print_json(json.loads(manifest.model_dump_json()))
        return
    console.print(Markdown(round_report(manifest)))


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
    moved = _existing(open_store(store), training).rollback(version)
    console.print(f"{training} is at {moved.version}; its next versions end in -b{moved.branch}")


@app.command()
def export(
    training: TrainingArgument,
    version: VersionArgument = "current",
    to: Annotated[Path | None, typer.Option("--to", "-o", help="The file: .keras or .safetensors.")] = None,
    store: StoreOption = DEFAULT_STORE,
    packages: WithOption = None,
) -> None:
    """Write a version's model as a file that loads without FedEdge.

    A `.keras` file holds the whole Keras model; `.safetensors` the weights alone.

    For example:

    - `fededge versions export digits`
    - `fededge versions export digits v3 --to digits.safetensors`
    """
    trainings = _existing(open_store(store), training)
    manifest = trainings.version(version)
    path = (to or Path(f"{training}-{manifest.version}.keras")).absolute()
    if path.suffix not in (".keras", ".safetensors"):
        raise InputError(f"--to {path.name}: the file must end in .keras or .safetensors")
    if not path.parent.is_dir():
        raise InputError(f"--to {path}: there is no folder {path.parent}")
    weights = get_bytes(trainings.store, manifest.model)
    if path.suffix == ".safetensors":
        try:
            path.write_bytes(weights)
        except OSError as error:
            raise InputError(f"--to {path}: it cannot be written: {error.strerror}") from error
    else:
        _export_with_learner(manifest.settings.workload, weights, path, packages or [])
    console.print(f"{training} {manifest.version} is in {path}", soft_wrap=True)


def _existing(store: Store, training: str) -> TrainingStore:
    trainings = TrainingStore(store, training)
    try:
        trainings.head()
    except NotFoundError as error:
        known = ", ".join(training_names(store)) or "none"
        raise NotFoundError(f"no training {training} in {store.url}; there are: {known}") from error
    return trainings


def _has_begun(store: Store, training: str) -> bool:
    """Whether a training has a current version; one whose start was cut short has none."""
    try:
        TrainingStore(store, training).head()
    except NotFoundError:
        return False
    return True


def _list_trainings(store: Store, as_json: bool) -> None:
    rows = [(name, TrainingStore(store, name).version()) for name in training_names(store) if _has_begun(store, name)]
    if as_json:
        print_json([{"training": n, "version": v.version, "metrics": v.metrics} for n, v in rows])
        return
    if not rows:
        console.print(f"no trainings in {store.url}; `fededge run` begins one", soft_wrap=True)
        return
    table = Table("training", "current", "score", "workload")
    for name, version in rows:
        table.add_row(name, version.version, _score(version), version.settings.workload)
    console.print(table)


def _score(version: Version) -> str:
    return f"{version.metric} {version.metrics[version.metric]:.4f}" if version.metrics else ""


def _export_with_learner(workload: str, weights: bytes, path: Path, packages: list[str]) -> None:
    """Have the learner write the file, in its image's environment."""
    wanted = environment("tensorflow", packages)
    make(wanted, say)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "weights.safetensors").write_bytes(weights)
        command = [
            str(wanted.python),
            "-m",
            "fededge.learners.export",
            workload,
            str(folder / "weights.safetensors"),
            str(path),
        ]
        done = subprocess.run(command, env=wanted.variables(link_library(folder)), capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        kind = InputError if done.returncode == InputError.exit_code else RunError
        raise kind(f"the model could not be written: {reason}")
