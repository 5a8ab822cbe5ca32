"""Runs the steps of a round in this process, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fededge.settings import Placement, RoundSettings
from fededge.steps.aggregate_updates import aggregate_updates
from fededge.steps.distribute_model import Distribution, distribute_model
from fededge.steps.evaluate_model import evaluate_model
from fededge.steps.train_clients import train_clients
from fededge.steps.version_model import version_model
from fededge.store import Store
from fededge.store.trainings import TrainingStore

NAME = "tiny"
SETTINGS = RoundSettings(workload="tests.steps.tiny:workload", clients=4, clients_per_pod=2, local_epochs=2)


def distribute(store: Store, **changed: Any) -> Distribution:
    """Distribute with `SETTINGS`; `changed` are settings, a placement, or the step's own arguments."""
    own: dict[str, Any] = {"base_version": "current", "initial_model": "", "max_batches": 0}
    own |= {"run": "a-test", "devices": "", "interval_s": 0}
    own.update({name: changed.pop(name) for name in list(changed) if name in own})
    where = {name: changed.pop(name) for name in list(changed) if name in Placement.model_fields}
    settings, placement = {**SETTINGS.model_dump(), **changed}, {**Placement().model_dump(), **where}
    return distribute_model(store=store.url, training=NAME, settings=settings, placement=placement, **own)


def train(store: Store, distributed: Distribution) -> list[dict[str, int | str]]:
    return [train_clients(store.url, entry["batch"]) for entry in distributed.plan]


def run_round(store: Store, folder: Path, **changed: Any) -> str:
    """Run a whole round and return the version."""
    folder.mkdir(exist_ok=True)
    distributed = distribute(store, **changed)
    reports = train(store, distributed)
    model = aggregate_updates(store.url, distributed.attempt, reports).model
    evaluate_model(store.url, distributed.attempt, model, str(folder / "curve.html"))
    return version_model(
        store.url, distributed.attempt, model, str(folder / "model.json"), str(folder / "report.md")
    ).version


def trainings(store: Store) -> TrainingStore:
    return TrainingStore(store, NAME)


@contextmanager
def refused(capsys: pytest.CaptureFixture[str], exit_code: int, *words: str) -> Iterator[None]:
    """Expect a step to end with an exit code and one line that has the words."""
    with pytest.raises(SystemExit) as caught:
        yield
    error = capsys.readouterr().err
    assert caught.value.code == exit_code, error
    assert error.count("\n") == 1
    for word in words:
        assert word in error
