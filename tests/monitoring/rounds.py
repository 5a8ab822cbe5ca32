"""Rounds whose metrics are known."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from fededge.core.tensors import signature
from fededge.monitoring.history import read_history
from fededge.monitoring.metrics import samples
from fededge.records import SittingRef
from fededge.steps.aggregate_updates import aggregate_updates
from fededge.steps.version_model import version_model
from fededge.store import Store
from fededge.store.trainings import TrainingStore
from tests.steps import round as a_round
from tests.trainings import START, begin_training, close_round, make_manifest, open_round, weights

Values = dict[str, float]
FAULTY = {"workload": "tests.steps.tiny:faulty", "clients": 8, "clients_per_pod": 4}


def values(trainings: TrainingStore) -> Values:
    """Compute all metrics, by name and labels but for those that all have: `round_bytes direction=up`."""
    found = {}
    for name, labels, value in samples(read_history(trainings)):
        own = [f"{label}={text}" for label, text in labels.items() if label not in ("training", "workload")]
        found[" ".join([name.removeprefix("fededge_"), *own])] = float(value)
    return found


def publish(store: Store, folder: Path, name: str = "digits") -> TrainingStore:
    """Make version v1 of a training, by the last step itself."""
    trainings = begin_training(store, name)
    plan, token = open_round(trainings, "run 1")
    make_manifest(trainings, plan, close_round(trainings, plan))
    sitting, model = str(SittingRef(attempt=plan.ref, token=token)), trainings.aggregate(plan.ref)
    assert model
    version_model(store.url, sitting, model.model, str(folder / "model.json"), "")
    return trainings


def fail_quorum(store: Store, interval_s: int = 0) -> TrainingStore:
    """Have a round fail for too few clients: of 8, 2 are accepted, 4 refused, 2 fail, and 3 are needed."""
    distributed = a_round.distribute(store, min_clients=3, interval_s=interval_s, **FAULTY)
    reports = a_round.train(store, distributed)
    with pytest.raises(SystemExit):
        aggregate_updates(store.url, distributed.attempt, reports)
    return a_round.trainings(store)


def set_times(store: Store, seconds: Mapping[str, float]) -> None:
    """Say when documents were written, in seconds since `START`."""
    for key, second in seconds.items():
        at = (START + timedelta(seconds=second)).timestamp()
        os.utime(Path(store.url, key), (at, at))


SIGNATURE = signature(weights(0))
