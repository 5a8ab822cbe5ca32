from __future__ import annotations

from pathlib import Path

import pytest

from fededge.core.updates import ExclusionReason
from fededge.errors import InputError, RoundError, StoreUnavailableError
from fededge.records import Failed
from fededge.steps.aggregate_updates import aggregate_updates
from fededge.steps.train_clients import train_clients
from fededge.store import Store, keys
from fededge.store.blobs import get_tensors
from tests.steps import round as a_round
from tests.steps.tiny import TinyLearner, workload

FAULTY = {"workload": "tests.steps.tiny:faulty", "clients": 7, "clients_per_pod": 7}


def test_each_client_delivers_what_its_learner_made(store: Store) -> None:
    distributed = a_round.distribute(store)
    reports = a_round.train(store, distributed)
    assert [(report["delivered"], report["failed"]) for report in reports] == [(2, 0), (2, 0)]
    trainings = a_round.trainings(store)
    attempt = trainings.attempt(trainings.attempts("v1")[0])
    weights = get_tensors(store, attempt.base_model)
    for client in attempt.cohort:
        update = trainings.update(attempt.ref, client)
        assert update is not None
        data = workload.train_data(client, 4)
        expected = TinyLearner().train(client, weights, data, attempt.settings, None)  # type: ignore[arg-type]
        assert get_tensors(store, update.delta)["0000/w"].tobytes() == expected.delta["0000/w"].tobytes()
        assert update.num_examples == 2 * len(data)
        assert update.base_model == attempt.base_model


def test_a_client_that_fails_is_reported_and_the_others_go_on(store: Store) -> None:
    distributed = a_round.distribute(store, **FAULTY)
    (report,) = a_round.train(store, distributed)
    assert (report["delivered"], report["failed"]) == (5, 2)
    trainings = a_round.trainings(store)
    ref = trainings.attempts("v1")[0]
    gone, empty = trainings.failure(ref, "p35"), trainings.failure(ref, "p42")
    assert gone is not None
    assert empty is not None
    assert gone.reason is ExclusionReason.TRAINING_FAILED
    assert "the disk of this device is gone" in gone.detail
    assert empty.reason is ExclusionReason.NO_DATA


def test_delivered_clients_are_not_trained_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = a_round.distribute(store)
    first = a_round.train(store, distributed)

    def refuse(*arguments: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(TinyLearner, "train", refuse)
    assert a_round.train(store, distributed) == first


def test_an_update_that_was_damaged_meanwhile_is_left_to_the_gate(store: Store) -> None:
    """Taken up again, the round leaves that client out and goes on."""
    distributed = a_round.distribute(store)
    a_round.train(store, distributed)
    ref = a_round.trainings(store).attempts("v1")[0]
    value = store.get(keys.update(ref, "p7"))
    store.replace(keys.update(ref, "p7"), value.data.replace(b"p7", b"p8"), value.tag)
    reports = a_round.train(store, distributed)
    assert [report["delivered"] for report in reports] == [2, 2]
    assert aggregate_updates(store.url, distributed.attempt, reports).clients == {
        "accepted": 3, "excluded": 1, "CORRUPT": 1,
    }  # fmt: skip


def test_tensors_that_were_damaged_meanwhile_are_made_again(store: Store) -> None:
    """Taken up again, the round trains that client once more, which gives the very same."""
    distributed = a_round.distribute(store)
    a_round.train(store, distributed)
    trainings = a_round.trainings(store)
    ref = trainings.attempts("v1")[0]
    before = store.get(keys.update(ref, "p7"))
    update = trainings.update(ref, "p7")
    assert update is not None
    blob = store.get(keys.blob(update.delta))
    store.replace(keys.blob(update.delta), blob.data[:-1] + b"?", blob.tag)
    reports = a_round.train(store, distributed)
    assert store.get(keys.update(ref, "p7")) == before
    assert trainings.repeats(ref) == []
    assert aggregate_updates(store.url, distributed.attempt, reports).clients == {"accepted": 4, "excluded": 0}


def test_a_store_that_fails_ends_the_step(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    distributed = a_round.distribute(store)

    def fail(self: Store, key: str, data: bytes) -> None:
        raise StoreUnavailableError("the store is full")

    monkeypatch.setattr(type(store), "create", fail)
    with a_round.refused(capsys, StoreUnavailableError.exit_code, "the store is full"):
        train_clients(store.url, distributed.plan[0]["batch"])


def test_a_batch_that_is_not_planned_is_refused(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    a_round.distribute(store)
    with a_round.refused(capsys, InputError.exit_code, "b777"):
        train_clients(store.url, "tiny/v1/1/1/b777")


def test_a_late_step_of_a_failed_attempt_is_refused(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    distributed = a_round.distribute(store)
    trainings = a_round.trainings(store)
    trainings.fail_attempt(trainings.attempts("v1")[0], Failed(reason="for the test"))
    with a_round.refused(capsys, RoundError.exit_code, "for the test"):
        a_round.train(store, distributed)


def test_invariant_14_raw_data_never_leave_the_client(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No example, as bytes or as text, is in the store, the events or the artifacts of two rounds."""
    monkeypatch.setenv("FEDEDGE_EVENTS", str(tmp_path / "events.jsonl"))
    for _ in range(2):
        a_round.run_round(store, tmp_path / "out")
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(written) > 30
    searched = 0
    for client in workload.population(4):
        data = workload.train_data(client, 4)
        for value in [*data.x.ravel(), *data.y]:
            needles = (value.tobytes(), repr(float(value)).encode(), f"{value:.6f}".encode())
            searched += 1
            for path, content in written.items():
                assert not any(needle in content for needle in needles), (path, value)
    assert searched == 4 * (5 + 6 + 7 + 8)
