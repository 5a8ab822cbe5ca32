"""What the two workloads of health monitoring learn from the publishers' data, with their own settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.health import fine_tune, measure_own, train
from fededge.workloads import parkinsons, wisdm


@pytest.fixture(autouse=True)
def _real(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDEDGE_DATA", str(data))


def test_wisdm_knows_what_strangers_do() -> None:
    found = wisdm.workload.learner().evaluate(train(wisdm.workload, seed=0), wisdm.workload.test_data())
    assert found["accuracy"] >= 0.78
    assert found["macro_f1"] >= 0.66


def test_parkinsons_follows_a_person_by_a_model_of_their_own() -> None:
    common = train(parkinsons.workload, seed=0)
    clients = parkinsons.workload.population(0)
    own = {client: fine_tune(parkinsons.workload, common, client, seed=0) for client in clients}
    pooled, _ = measure_own(parkinsons.workload, own)
    assert pooled["mae"] <= 2.2
    found = parkinsons.workload.learner().evaluate(common, parkinsons.workload.test_data())
    assert 2 * pooled["mae"] < found["mae"] < 8  # points, and not tens of them
