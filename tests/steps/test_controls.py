"""SCAFFOLD against its own arithmetic in numpy, and its control variates when things go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fededge.core.seeds import Purpose, derive_seed
from fededge.core.tensors import Tensors
from fededge.errors import InputError, QuorumError
from fededge.records import Failed
from fededge.settings import RoundSettings
from fededge.steps.aggregate_updates import aggregate_updates
from fededge.store import Store
from fededge.store.blobs import get_tensors
from fededge.store.folder import FolderStore
from tests.steps import round as a_round
from tests.steps.tiny import TinyLearner, workload

HOW: dict[str, Any] = {"client_algorithm": "scaffold", "client_momentum": 0.0, "batch_size": 1000, "local_epochs": 3}
CLIENTS, STEPS, RATE = ["p0", "p7", "p14", "p21"], 3, 0.1


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
    """Where the clients of these tests keep what stays with them."""
    monkeypatch.setenv("FEDEDGE_CLIENT_STATE", str(tmp_path / "device"))
    return FolderStore(tmp_path / "device")


def scaffold(rounds: int, cohorts: list[list[str]] | None = None) -> Tensors:
    """Run Algorithm 1 of Karimireddy et al. with option II, in float64, clients weighted by their examples."""
    model = TinyLearner().initial_weights(derive_seed(0, Purpose.INIT))
    x = np.concatenate([model["0000/w"], model["0001/b"]]).astype(np.float64)
    data = {client: workload.train_data(client, len(CLIENTS)) for client in CLIENTS}
    server, own = np.zeros(4), {client: np.zeros(4) for client in CLIENTS}
    for number in range(rounds):
        cohort = cohorts[number] if cohorts else CLIENTS
        moves, changes, counts = [], [], []
        for client in cohort:
            features = np.c_[data[client].x, np.ones(len(data[client]))].astype(np.float64)
            y = x.copy()
            for _ in range(STEPS):
                gradient = features.T @ (features @ y - data[client].y) / len(features)
                y -= RATE * (gradient - own[client] + server)
            after = own[client] - server + (x - y) / (STEPS * RATE)
            changes.append(after - own[client])
            own[client] = after
            moves.append(y - x)
            counts.append(len(features))
        x = x + np.average(moves, axis=0, weights=counts)
        server = server + len(cohort) / len(CLIENTS) * np.average(changes, axis=0, weights=counts)
    return {"0000/w": x[:3], "0001/b": x[3:]}


def model_of(store: Store) -> Tensors:
    return get_tensors(store, a_round.trainings(store).version().model)


def assert_near(got: Tensors, expected: Tensors) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=2e-6)


def test_four_rounds_by_its_own_arithmetic(store: Store, device: FolderStore, tmp_path: Path) -> None:
    for _ in range(4):
        a_round.run_round(store, tmp_path / "out", **HOW)
    assert_near(model_of(store), scaffold(4))


def test_clients_that_sit_out_keep_their_variates(store: Store, device: FolderStore, tmp_path: Path) -> None:
    for _ in range(4):
        a_round.run_round(store, tmp_path / "out", clients_per_round=2, **HOW)
    lineage = list(a_round.trainings(store).lineage("v4"))[::-1]
    cohorts = [[accepted.client for accepted in version.accepted] for version in lineage[1:]]
    assert len({tuple(cohort) for cohort in cohorts}) > 1
    assert_near(model_of(store), scaffold(4, cohorts))


def test_variates_stay_on_the_device_and_their_changes_travel(
    store: Store, device: FolderStore, tmp_path: Path
) -> None:
    a_round.run_round(store, tmp_path / "out", **HOW)
    assert not [key for key in store.keys("") if key.startswith("clients/")]
    assert [key.split("/")[1:4] for key in device.keys("")] == sorted(["tiny", client, "v1"] for client in CLIENTS)
    delta = get_tensors(store, a_round.trainings(store).version().accepted[0].delta)
    assert set(delta) == {"0000/w", "0001/b", "control/0000/w", "control/0001/b"}
    state = a_round.trainings(store).version().server_state
    assert state
    assert "control/0000/w" in get_tensors(store, state)


def test_an_attempt_that_failed_changes_nothing(store: Store, device: FolderStore, tmp_path: Path) -> None:
    """Its variates belong to updates that no version counts."""
    a_round.run_round(store, tmp_path / "out", **HOW)
    distributed = a_round.distribute(store, **HOW)
    a_round.train(store, distributed)
    trainings = a_round.trainings(store)
    trainings.fail_attempt(trainings.attempts("v2")[0], Failed(reason="for the test"))
    trainings.lease.release(int(distributed.attempt.rpartition("/")[2]))
    for _ in range(2):
        a_round.run_round(store, tmp_path / "out", **HOW)
    assert_near(model_of(store), scaffold(3))


def test_a_step_that_runs_again_changes_nothing(store: Store, device: FolderStore, tmp_path: Path) -> None:
    a_round.run_round(store, tmp_path / "out", **HOW)
    distributed = a_round.distribute(store, **HOW)
    a_round.train(store, distributed)
    before = device.keys("")
    a_round.train(store, distributed)
    assert device.keys("") == before


def test_after_a_rollback_the_older_variates_are_current(store: Store, device: FolderStore, tmp_path: Path) -> None:
    for _ in range(3):
        a_round.run_round(store, tmp_path / "out", **HOW)
    a_round.trainings(store).rollback("v1")
    a_round.run_round(store, tmp_path / "out", **HOW)
    assert a_round.trainings(store).version().version == "v2-b1"
    assert_near(model_of(store), scaffold(2))


def test_only_the_newest_are_kept(store: Store, device: FolderStore, tmp_path: Path) -> None:
    for _ in range(12):
        a_round.run_round(store, tmp_path / "out", **HOW)
    kept = [key.split("/")[3] for key in device.keys("clients/tiny/p7/")]
    assert sorted(kept) == sorted(f"v{number}" for number in range(3, 13))
    assert_near(model_of(store), scaffold(12))


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40])
def test_a_damaged_variate_is_told_and_done_without(
    damage: bytes, store: Store, device: FolderStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_round.run_round(store, tmp_path / "out", **HOW)
    (key,) = device.keys("clients/tiny/p7/")
    device.replace(key, damage, device.get(key).tag)
    assert a_round.run_round(store, tmp_path / "out", **HOW) == "v2"
    assert "p7 goes on with no control variate" in capsys.readouterr().out


def test_a_device_that_keeps_nothing_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FEDEDGE_CLIENT_STATE", raising=False)
    distributed = a_round.distribute(store, **HOW)
    reports = a_round.train(store, distributed)
    with a_round.refused(capsys, QuorumError.exit_code, "set FEDEDGE_CLIENT_STATE to a folder"):
        aggregate_updates(store.url, distributed.attempt, reports)


def test_it_goes_with_plain_sgd_and_the_mean() -> None:
    with pytest.raises(InputError, match="client_momentum=0"):
        RoundSettings.parse(client_algorithm="scaffold")
    with pytest.raises(InputError, match="aggregation=mean and clip_norm=0"):
        RoundSettings.parse(client_algorithm="scaffold", client_momentum=0, clip_norm=1)
    with pytest.raises(InputError, match="proximal_mu above 0"):
        RoundSettings.parse(client_algorithm="fedprox")
    with pytest.raises(InputError, match="only with it"):
        RoundSettings.parse(proximal_mu=0.1)
