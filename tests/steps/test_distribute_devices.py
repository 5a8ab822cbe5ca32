"""Rounds whose clients live on devices, as a file describes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fededge.core.updates import ExclusionReason
from fededge.errors import InputError, RoundError
from fededge.records import Attempt, OnDevice, Version
from fededge.settings import Placement
from fededge.steps.aggregate_updates import aggregate_updates
from fededge.steps.distribute_model import Distribution
from fededge.steps.evaluate_model import evaluate_model
from fededge.steps.version_model import version_model
from fededge.store import Store, keys
from fededge.store.trainings import TrainingStore
from fededge.store.verification import verify
from tests.steps import round as a_round

# Of the clients p0, p7, … p35, gaps in whose ids mean nothing: two on each device, and two on none.
ONE = {"name": "one", "node": "node-1", "clients": ["p0", "p21"], "claim": "data-of-one"}
TWO = {"name": "two", "clients": ["p7", "p35", "p9999"], "claim": "data-of-two"}
SICK = {"ready": False, "why_not": "is not Ready: Kubelet stopped posting node status."}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "devices.json"
    path.write_text(json.dumps([ONE, TWO]))
    return path


def distribute(store: Store, file: Path, **changed: Any) -> Distribution:
    return a_round.distribute(store, devices=str(file), **{"clients": 6, **changed})


def attempt(store: Store, number: int = 1) -> Attempt:
    return a_round.trainings(store).attempt(a_round.trainings(store).attempts("v1")[number - 1])


def claims(distributed: Distribution) -> list[str]:
    return [entry["data_claim"] for entry in distributed.plan]


def finish(store: Store, folder: Path, distributed: Distribution) -> Version:
    folder.mkdir(exist_ok=True)
    named = distributed.attempt
    model = aggregate_updates(store.url, named, a_round.train(store, distributed)).model
    evaluate_model(store.url, named, model, str(folder / "curve.html"))
    version_model(store.url, named, model, str(folder / "model.json"), str(folder / "report.md"))
    return a_round.trainings(store).version()


def test_batches_keep_to_a_device_and_take_its_claim(store: Store, file: Path) -> None:
    distributed = distribute(store, file)
    plan = attempt(store)
    assert plan.batches == {"b000": ["p0", "p21"], "b001": ["p14", "p28"], "b002": ["p35", "p7"]}
    assert plan.devices == {
        "b000": OnDevice(device="one", node="node-1", claim="data-of-one"),
        "b002": OnDevice(device="two", claim="data-of-two"),
    }
    assert claims(distributed) == ["data-of-one", "fededge-data", "data-of-two"]
    for entry in distributed.plan:
        assert entry.keys() == {"batch", *Placement().model_dump()}
        assert len(json.dumps(entry)) < 200


def test_clients_per_pod_still_limits_a_batch(store: Store, file: Path) -> None:
    distribute(store, file, clients_per_pod=1)
    assert [len(batch) for batch in attempt(store).batches.values()] == [1] * 6


def test_clients_of_a_device_that_cannot_train_are_left_out_and_recorded(
    store: Store, file: Path, tmp_path: Path
) -> None:
    file.write_text(json.dumps([{**ONE, **SICK}, TWO]))
    distributed = distribute(store, file)
    plan = attempt(store)
    assert plan.batches == {"b000": ["p14", "p28"], "b001": ["p35", "p7"]}
    assert sorted(plan.cohort) == ["p0", "p14", "p21", "p28", "p35", "p7"]
    version = finish(store, tmp_path / "out", distributed)
    assert {one.client: (one.reason, one.detail) for one in version.excluded} == dict.fromkeys(
        ("p0", "p21"),
        (
            ExclusionReason.DEVICE_UNAVAILABLE,
            "device one is not Ready: Kubelet stopped posting node status.",
        ),
    )
    assert [one.client for one in version.accepted] == ["p14", "p28", "p35", "p7"]
    assert "DEVICE_UNAVAILABLE" in (tmp_path / "out" / "report.md").read_text()
    assert not verify(store, a_round.NAME, lambda *_: None).findings


def test_a_device_without_room_is_left_out(store: Store, file: Path) -> None:
    pytest.importorskip("kubernetes")
    file.write_text(json.dumps([{**ONE, "cpu_free": "250m"}, {**TWO, "cpu_free": "500m", "memory_free": "1Gi"}]))
    distribute(store, file)
    assert [one.client for one in attempt(store).left_out] == ["p0", "p21"]
    assert "no room: 0.25 CPUs are free, 500m are requested" in attempt(store).left_out[0].detail


def test_the_model_does_not_depend_on_devices(store: Store, file: Path, tmp_path: Path) -> None:
    from fededge.store.folder import FolderStore

    other = FolderStore(tmp_path / "other")
    with_devices = finish(store, tmp_path / "out", distribute(store, file))
    without = finish(other, tmp_path / "out", a_round.distribute(other, clients=6, clients_per_pod=4))
    assert with_devices.model == without.model
    assert [one.delta for one in with_devices.accepted] == [one.delta for one in without.accepted]


def test_a_round_that_is_taken_up_again_keeps_its_plan(store: Store, file: Path) -> None:
    first = distribute(store, file)
    file.write_text(json.dumps([{**ONE, **SICK}, {**TWO, "claim": "another"}]))
    assert distribute(store, file).plan == first.plan
    assert [entry["batch"] for entry in a_round.distribute(store, clients=6).plan] == [
        entry["batch"] for entry in first.plan
    ]
    assert attempt(store).left_out == []


def test_a_training_without_devices_is_recorded_as_before(store: Store) -> None:
    a_round.distribute(store)
    text = store.get(keys.attempt(attempt(store).ref)).data.decode()
    assert "devices" not in text
    assert "left_out" not in text


def test_too_few_that_can_train_end_the_round(
    store: Store, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(json.dumps([{**ONE, **SICK}, {**TWO, **SICK}]))
    with a_round.refused(
        capsys,
        RoundError.exit_code,
        "round 1 of tiny failed, v0 stays current: 2 of 6 clients can train, min_clients=3",
        "4 DEVICE_UNAVAILABLE (p0: device one is not Ready",
    ):
        distribute(store, file, min_clients=3)
    assert a_round.trainings(store).failed(attempt(store).ref)
    assert a_round.trainings(store).lease.active() is None
    file.write_text(json.dumps([ONE, TWO]))
    version = finish(store, tmp_path / "out", distribute(store, file, min_clients=3))
    assert (version.attempt, len(version.accepted)) == (2, 6)


def test_nobody_at_all_can_train(store: Store, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    everybody = {**ONE, "clients": ["p0", "p7", "p14", "p21"]}
    file.write_text(json.dumps([{**everybody, **SICK}]))
    with a_round.refused(capsys, RoundError.exit_code, "0 of 4 clients can train, min_clients=1"):
        a_round.distribute(store, devices=str(file))
    assert attempt(store).batches == {}


def test_a_run_that_was_killed_before_it_told_whom_it_left_out(
    store: Store, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    file.write_text(json.dumps([{**ONE, **SICK}, TWO]))
    with monkeypatch.context() as patch:
        patch.setattr(TrainingStore, "report_failure", killed)
        with pytest.raises(KilledError):
            distribute(store, file)
    version = finish(store, tmp_path / "out", distribute(store, file))
    assert [(one.client, one.reason.value) for one in version.excluded] == [
        ("p0", "DEVICE_UNAVAILABLE"),
        ("p21", "DEVICE_UNAVAILABLE"),
    ]
    assert version.attempt == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"name": "Gateway"}]', "must be a DNS label"),
        (json.dumps([ONE, {**TWO, "clients": ["p0"]}]), "both claim the client p0"),
        (json.dumps([{**ONE, "clients": ["someone"]}]), "no client of the workload lives on a device of"),
    ],
)
def test_wrong_devices_leave_the_store_as_it_was(
    store: Store, file: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    file.write_text(text)
    with a_round.refused(capsys, InputError.exit_code, words):
        distribute(store, file)
    assert not Path(store.url).exists()


def test_more_pods_than_a_pipeline_may_start(store: Store, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Six clients fit into two pods, but not where some live on devices."""
    with a_round.refused(capsys, InputError.exit_code, "3 pods a round are more than the 2"):
        distribute(store, file, clients_per_pod=3, max_batches=2)
    assert a_round.trainings(store).attempts("v1") == []
