"""Rounds of clients that are real data holders: they come and go, and their data may be on their devices alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fededge.core.updates import ExclusionReason
from fededge.errors import InputError, WorkloadError
from fededge.settings import RoundSettings
from fededge.steps.distribute_model import Distribution
from fededge.steps.train_clients import train_clients
from fededge.store import Store
from tests.steps import round as a_round

HERE = {"workload": "tests.steps.tiny:real", "clients": 0}
Give = Callable[..., Path]


@pytest.fixture
def give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Give:
    """Let a folder have the data of some clients, and be where the steps look."""

    def give(*clients: str, folder: str = "data") -> Path:
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        for old in path.iterdir():
            old.unlink()
        for client in clients:
            (path / client).touch()
        monkeypatch.setenv("FEDEDGE_DATA", str(path))
        return path

    return give


@pytest.fixture
def devices(tmp_path: Path) -> str:
    """Two devices with clients of the workload, and one of another's."""
    file = tmp_path / "devices.json"
    file.write_text(
        json.dumps(
            [
                {"name": "one", "clients": ["p21", "p0"], "claim": "of-one"},
                {"name": "two", "clients": ["p7", "engine-3"], "claim": "of-two"},
            ]
        )
    )
    return str(file)


def distribute(store: Store, **changed: Any) -> Distribution:
    return a_round.distribute(store, **HERE, **changed)


def settings(store: Store, version: str = "v1") -> RoundSettings:
    return a_round.trainings(store).attempt(a_round.trainings(store).attempts(version)[0]).settings


def test_clients_whose_data_are_on_their_devices_alone(store: Store, give: Give, devices: str) -> None:
    """The first step sees nobody's data, and each pod those of its own device."""
    give()
    distributed = distribute(store, devices=devices)
    plan = a_round.trainings(store).attempt(a_round.trainings(store).attempts("v1")[0])
    assert plan.batches == {"b000": ["p0", "p21"], "b001": ["p7"]}
    assert plan.settings.clients == 3
    assert [entry["data_claim"] for entry in distributed.plan] == ["of-one", "of-two"]
    give("p0", "p21", folder="of-one")
    assert train_clients(store.url, distributed.plan[0]["batch"])["delivered"] == 2
    give("p7", folder="of-two")
    assert train_clients(store.url, distributed.plan[1]["batch"])["delivered"] == 1


def test_on_the_wrong_device_a_client_is_named_and_the_others_train(store: Store, give: Give, devices: str) -> None:
    give()
    distributed = distribute(store, devices=devices)
    give("p0")
    assert train_clients(store.url, distributed.plan[0]["batch"]) == {
        "batch": distributed.plan[0]["batch"],
        "delivered": 1,
        "failed": 1,
    }
    ref = a_round.trainings(store).attempts("v1")[0]
    failure = a_round.trainings(store).failure(ref, "p21")
    assert failure is not None
    assert failure.reason is ExclusionReason.TRAINING_FAILED
    assert "no client p21" in failure.detail


def test_others_are_where_the_shared_data_are(store: Store, give: Give, devices: str) -> None:
    give("p0", "p35")
    distribute(store, devices=devices)
    plan = a_round.trainings(store).attempt(a_round.trainings(store).attempts("v1")[0])
    assert sorted(plan.cohort) == ["p0", "p21", "p35", "p7"]


def test_nobody_anywhere(store: Store, give: Give, devices: str, capsys: pytest.CaptureFixture[str]) -> None:
    give()
    Path(devices).write_text(json.dumps([{"name": "one", "clients": ["engine-3"], "claim": "of-one"}]))
    with a_round.refused(capsys, WorkloadError.exit_code, "neither in the data here nor on the devices"):
        distribute(store, devices=devices)


def test_a_number_that_is_not_theirs(
    store: Store, give: Give, devices: str, capsys: pytest.CaptureFixture[str]
) -> None:
    give()
    with a_round.refused(capsys, WorkloadError.exit_code, "clients=4, and there are 3"):
        a_round.distribute(store, **{**HERE, "clients": 4}, devices=devices)


def test_a_round_that_wants_more_than_there_are_takes_all(store: Store, give: Give) -> None:
    give("p0", "p7", "p14")
    distribute(store, clients_per_round=20)
    assert settings(store).clients_per_round == settings(store).cohort_size == 3


def test_a_round_needs_as_many_as_it_says(store: Store, give: Give, capsys: pytest.CaptureFixture[str]) -> None:
    give("p0", "p7", "p14")
    with a_round.refused(capsys, InputError.exit_code, "min_clients=4 is more than the 3 of a round"):
        distribute(store, min_clients=4)


def test_a_training_goes_on_when_clients_come_and_go(store: Store, give: Give, tmp_path: Path) -> None:
    give("p0", "p7", "p14")
    a_round.run_round(store, tmp_path / "out", **HERE)
    give("p0", "p21", "p28", "p35")
    assert a_round.run_round(store, tmp_path / "out", **HERE) == "v2"
    assert [one.client for one in a_round.trainings(store).version().accepted] == ["p0", "p21", "p28", "p35"]
    assert settings(store, "v2").clients == 4


def test_a_round_that_was_cut_short_keeps_its_clients(store: Store, give: Give) -> None:
    give("p0", "p7", "p14")
    first = distribute(store, clients_per_round=20)
    give("p0", "p7", "p14", "p21")
    assert [entry["batch"].rpartition("/")[2] for entry in distribute(store, clients_per_round=20).plan] == [
        entry["batch"].rpartition("/")[2] for entry in first.plan
    ]
    assert settings(store).clients == 3


def test_clients_that_are_made_up_are_as_many_as_ever(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """There the number decides what each of them has."""
    a_round.distribute(store)
    with a_round.refused(capsys, InputError.exit_code, "clients=4, not 5"):
        a_round.distribute(store, clients=5)
