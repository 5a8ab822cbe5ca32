"""`fededge evaluate`: what a version is worth to each client, those that never took part among them."""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

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
    say,
)
from fededge.errors import InputError
from fededge.store import open_store
from fededge.store.blobs import get_bytes
from fededge.store.trainings import TrainingStore


def evaluate(
    training: TrainingArgument,
    version: Annotated[str, typer.Argument(help="Its name, as v4; or current.")] = "current",
    cold: Annotated[bool, typer.Option("--cold", help="Only clients that never took part.")] = False,
    store: StoreOption = DEFAULT_STORE,
    packages: WithOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a version on each client's own held-out examples, in `FEDEDGE_DATA` or the workload itself.

    Clients are cold if no round up to that version counts an update of theirs: what the model is worth to a newcomer.
    They are tested on all that they have, where the workload's time or targets allow it.

    For example:

    - `fededge evaluate digits`
    - `FEDEDGE_DATA=~/other-people fededge evaluate wisdm --cold`
    """
    trainings = existing(open_store(store, hurried=True), training)
    manifest = trainings.version(version)
    known = _taken_part(trainings, manifest.version)
    said = call_learner(
        image_of_training(trainings),
        packages or [],
        "fededge.workloads.score",
        [manifest.settings.workload, str(manifest.settings.clients), WEIGHTS],
        get_bytes(trainings.store, manifest.model),
        "the model could not be measured",
        json.dumps(sorted(known)),
    )
    scores = json.loads(said.strip().splitlines()[-1])
    clients = [{**score, "cold": score["client"] not in known} for score in scores["clients"]]
    clients = [score for score in clients if score["cold"] or not cold]
    if not clients:
        raise InputError(f"there is no {'cold ' * cold}client with held-out examples in the data")
    report = {
        "training": training,
        "version": manifest.version,
        "metric": manifest.metric,
        "official": scores["official"],
        "known": _summary([s for s in clients if not s["cold"]], manifest.metric),
        "cold": _summary([s for s in clients if s["cold"]], manifest.metric),
        "clients": clients,
        "untested": scores["untested"],
    }
    if as_json:
        print_json(report)
    else:
        _show(report, manifest.metric)


def _taken_part(trainings: TrainingStore, version: str) -> set[str]:
    return {accepted.client for ancestor in trainings.lineage(version) for accepted in ancestor.accepted}


def _summary(scores: list[dict[str, Any]], metric: str) -> dict[str, float]:
    values = [score["metrics"][metric] for score in scores]
    if not values:
        return {}
    return {
        "clients": len(values),
        "mean": float(np.mean(values)),
        "median": float(np.median(values)),
        "lowest": float(min(values)),
        "highest": float(max(values)),
    }


def _show(report: dict[str, Any], metric: str) -> None:
    table = Table("client", "", "examples", *(names := sorted(report["clients"][0]["metrics"])))
    for score in report["clients"]:
        values = [f"{score['metrics'][name]:.4f}" for name in names]
        table.add_row(score["client"], "cold" if score["cold"] else "", str(score["examples"]), *values)
    console.print(table)
    for client, why in report["untested"].items():
        say(f"{client} is left out: {why}")
    for kind in ("known", "cold"):
        if found := report[kind]:
            mean, median = f"{found['mean']:.4f} in the mean", f"{found['median']:.4f} in the median"
            spread = f"{found['lowest']:.4f} to {found['highest']:.4f}"
            console.print(f"{found['clients']} {kind} clients: {metric} {mean}, {median}, {spread}")
    if metric in report["official"]:
        console.print(f"reported test: {metric} {report['official'][metric]:.4f}")
