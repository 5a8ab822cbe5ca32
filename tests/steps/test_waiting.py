"""Quorum, target, deadline, attempts: whom a round waits for, and what it does when they do not come."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fededge.core.updates import ExclusionReason
from fededge.errors import InputError, LeaseError, RoundError
from fededge.records import ClosedBecause, Closing, Runtime, SittingRef
from fededge.steps import distribute_model as distribution
from fededge.steps.aggregate_updates import aggregate_updates
from fededge.store import Store, keys
from tests.steps import round as a_round
from tests.steps.tiny import TinyLearner, TinyWorkload

FAULTY = {"workload": "tests.steps.tiny:faulty", "clients": 8, "clients_per_pod": 8}


def close(store: Store, attempt: str, number: int = 1) -> Closing:
    aggregate_updates(store.url, attempt, [])
    trainings = a_round.trainings(store)
    closing = trainings.closing(trainings.attempts("v1")[number - 1])
    assert closing is not None
    return closing


def reasons(closing: Closing) -> dict[str, ExclusionReason]:
    return {excluded.client: excluded.reason for excluded in closing.excluded}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client, p21, takes a minute, and bears every exception."""
    real = TinyWorkload.train_data

    def train_data(self: TinyWorkload, client: str, clients: int) -> object:
        try:
            if client == "p21":
                time.sleep(60)
        except Exception:
            time.sleep(60)
        return real(self, client, clients)

    monkeypatch.setattr(TinyWorkload, "train_data", train_data)


def test_at_the_deadline_a_step_reports_who_is_not_done(store: Store, slow: None) -> None:
    distributed = a_round.distribute(store, clients_per_pod=4, deadline_s=1)
    begun = time.monotonic()
    (report,) = a_round.train(store, distributed)
    assert time.monotonic() - begun < 10
    assert (report["delivered"], report["failed"]) == (2, 2)
    closing = close(store, distributed.attempt)
    assert closing.because is ClosedBecause.DEADLINE
    assert [accepted.client for accepted in closing.accepted] == ["p0", "p14"]
    assert reasons(closing) == dict.fromkeys(["p21", "p7"], ExclusionReason.DEADLINE)
    assert "not done after 1 s" in closing.excluded[0].detail


def test_a_batch_that_begins_after_the_deadline_loads_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = a_round.distribute(store, deadline_s=1)
    time.sleep(1.1)
    monkeypatch.setattr("fededge.steps.train_clients.load_workload", lambda name: pytest.fail("loaded"))
    assert [report["delivered"] for report in a_round.train(store, distributed)] == [0, 0]


def test_what_arrives_after_the_deadline_does_not_count(store: Store) -> None:
    distributed = a_round.distribute(store, deadline_s=100)
    a_round.train(store, distributed)
    ref = a_round.trainings(store).attempts("v1")[0]
    _shift(Path(store.url, keys.update(ref, "p14")), 200)
    closing = close(store, distributed.attempt)
    assert closing.because is ClosedBecause.DEADLINE
    assert reasons(closing) == {"p14": ExclusionReason.LATE}
    assert "after the deadline" in closing.excluded[0].detail


def test_invariant_13_one_clock_decides_deadlines(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's: a device whose own clock is a day ahead or behind delivers as all others do."""
    distributed = a_round.distribute(store, deadline_s=60)
    real = time.time
    for skew, entry in zip((86_400, -86_400), distributed.plan, strict=True):
        monkeypatch.setattr(time, "time", lambda skew=skew: real() + skew)
        a_round.train(store, distributed._replace(plan=[entry]))
    monkeypatch.setattr(time, "time", real)
    assert close(store, distributed.attempt).because is ClosedBecause.ALL_ANSWERED


def test_the_time_between_two_sittings_does_not_count(store: Store) -> None:
    """Opened at 0 s, last heard of at 40 s, taken up again now: of 100 s there are 60 left."""
    first = a_round.distribute(store, deadline_s=100, finish_s=1)
    a_round.train(store, first._replace(plan=first.plan[:1]))
    trainings = a_round.trainings(store)
    ref = trainings.attempts("v1")[0]
    for path in Path(store.url, keys.attempt_folder(ref)).rglob("*.json"):
        _set(path, -10_000)
    _set(Path(store.url, keys.update(ref, "p14")), -9_960)
    trainings.lease.release(1)
    second = a_round.distribute(store, deadline_s=100, finish_s=1)
    assert (first.attempt, second.attempt) == ("tiny/v1/1/1", "tiny/v1/1/2")
    left = trainings.deadline(SittingRef.parse(second.attempt), 100) - store.now()
    assert 58 < left.total_seconds() <= 60


def test_a_round_that_is_closed_at_its_target_begins_nobody_else(store: Store) -> None:
    distributed = a_round.distribute(store, target_clients=3, close_at_target=True)
    reports = a_round.train(store, distributed)
    assert [(report["delivered"], report["failed"]) for report in reports] == [(2, 0), (1, 1)]
    closing = close(store, distributed.attempt)
    assert closing.because is ClosedBecause.TARGET_REACHED
    assert reasons(closing) == {"p7": ExclusionReason.NOT_NEEDED}


def test_a_target_alone_closes_nothing_early(store: Store) -> None:
    distributed = a_round.distribute(store, target_clients=1)
    a_round.train(store, distributed)
    assert len(close(store, distributed.attempt).accepted) == 4


def test_more_are_drawn_than_are_wanted(store: Store) -> None:
    a_round.distribute(store, clients=20, clients_per_round=5, over_selection=1.3)
    trainings = a_round.trainings(store)
    assert len(trainings.attempt(trainings.attempts("v1")[0]).cohort) == 7


def test_invariant_06_below_the_quorum_the_round_fails_and_the_next_attempt_has_other_clients(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    cohorts = []
    settings = {"workload": "tests.steps.tiny:faulty", "clients": 12, "clients_per_round": 4, "min_clients": 4}
    for number in range(1, 4):
        distributed = a_round.distribute(store, **settings)
        reports = a_round.train(store, distributed)
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            aggregate_updates(store.url, distributed.attempt, reports)
        assert caught.value.code == RoundError.exit_code
        told = capsys.readouterr()
        assert "min_clients=4" in told.err
        assert "| reason |" in told.out  # who failed how, for the log
        trainings = a_round.trainings(store)
        assert trainings.version().version == "v0"
        cohorts.append(frozenset(trainings.attempt(trainings.attempts("v1")[number - 1]).cohort))
    assert len(frozenset.union(*cohorts)) == 12
    with a_round.refused(capsys, RoundError.exit_code, "failed 3 times", "max_attempts", "fededge rounds show tiny"):
        a_round.distribute(store, **settings)


def test_a_new_attempt_reuses_what_was_delivered(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = _count_training(monkeypatch)
    first = a_round.distribute(store, min_clients=4)
    a_round.train(store, first._replace(plan=first.plan[:1]))
    with a_round.refused(capsys, RoundError.exit_code, "2 of 4 clients"):
        aggregate_updates(store.url, first.attempt, [])
    assert trained == ["p0", "p14"]
    second = a_round.distribute(store, min_clients=4)
    assert second.attempt == "tiny/v1/2/2"
    a_round.train(store, second)
    assert trained == ["p0", "p14", "p21", "p7"]
    trainings = a_round.trainings(store)
    one, two = trainings.attempts("v1")
    reused, fresh = trainings.update(two, "p0"), trainings.update(two, "p7")
    assert reused is not None
    assert fresh is not None
    assert (reused.reused_from, reused.attempt, fresh.reused_from) == (1, 2, None)
    assert reused.delta == trainings.update(one, "p0").delta  # type: ignore[union-attr]
    assert len(close(store, second.attempt, 2).accepted) == 4


@pytest.mark.parametrize("changed", ["settings", "data", "code", "blob"])
def test_what_was_made_otherwise_is_not_reused(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changed: str
) -> None:
    trained = _count_training(monkeypatch)
    first = a_round.distribute(store, min_clients=4)
    a_round.train(store, first._replace(plan=first.plan[:1]))
    with a_round.refused(capsys, RoundError.exit_code, "2 of 4"):
        aggregate_updates(store.url, first.attempt, [])
    more: dict[str, object] = {}
    if changed == "settings":
        more = {"local_epochs": 3}
    elif changed == "data":
        real = TinyWorkload.train_data
        monkeypatch.setattr(TinyWorkload, "train_data", lambda *arguments: _without_the_last(real(*arguments)))
    elif changed == "code":
        monkeypatch.setattr(distribution, "code_digest", lambda name: "sha256:" + "7" * 64)
    else:
        trainings = a_round.trainings(store)
        update = trainings.update(trainings.attempts("v1")[0], "p0")
        assert update is not None
        store.delete(keys.blob(update.delta))
    second = a_round.distribute(store, min_clients=4, **more)
    a_round.train(store, second._replace(plan=second.plan[:1]))
    assert trained == ["p0", "p14", *(["p0"] if changed == "blob" else ["p0", "p14"])]


def test_resuming_with_other_code_or_another_image_names_the_difference(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_round.distribute(store)
    real = TinyLearner.runtime

    def other(**changes: object) -> None:
        monkeypatch.setattr(TinyLearner, "runtime", lambda self: Runtime(**{**real(self).model_dump(), **changes}))

    for changes, words in (
        ({"libraries": {"numpy": "9.9"}}, ["numpy", "not 9.9"]),
        ({"fededge": "7.0"}, ["an image with fededge", "not 7.0"]),
        ({"packages": "sha256:other"}, ["an image with other packages"]),
    ):
        other(**changes)
        with a_round.refused(capsys, InputError.exit_code, *words, "fededge rounds abandon tiny"):
            a_round.distribute(store)
    monkeypatch.setattr(TinyLearner, "runtime", real)
    monkeypatch.setattr(distribution, "code_digest", lambda name: "sha256:other")
    with a_round.refused(capsys, InputError.exit_code, "other code of the workload"):
        a_round.distribute(store)


@pytest.mark.parametrize("rounds_before", [0, 1])
def test_resuming_with_data_of_another_schema_names_the_difference(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rounds_before: int,
) -> None:
    for _ in range(rounds_before):
        a_round.run_round(store, tmp_path / "out")
    first = a_round.distribute(store)
    a_round.train(store, first._replace(plan=first.plan[:1]))
    trainings = a_round.trainings(store)
    trainings.lease.release(SittingRef.parse(first.attempt).token)
    real = TinyWorkload.train_data

    def train_data(self: TinyWorkload, client: str, clients: int) -> object:
        data = real(self, client, clients)
        return type(data)(data.x, data.y.astype("float64"))

    monkeypatch.setattr(TinyWorkload, "train_data", train_data)
    second = a_round.distribute(store, run="another")
    capsys.readouterr()
    with a_round.refused(
        capsys, InputError.exit_code, "'y': 'float32[]'", "'y': 'float64[]'", "fededge rounds abandon tiny"
    ):
        a_round.train(store, second)
    monkeypatch.setattr(TinyWorkload, "train_data", real)
    assert [report["delivered"] for report in a_round.train(store, second)] == [2, 2]


def test_a_client_with_data_of_another_schema_is_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = TinyWorkload.train_data

    def train_data(self: TinyWorkload, client: str, clients: int) -> object:
        data = real(self, client, clients)
        return data if client != "p7" else type(data)(data.x, data.y.astype("float64"))

    monkeypatch.setattr(TinyWorkload, "train_data", train_data)
    distributed = a_round.distribute(store)
    a_round.train(store, distributed)
    closing = close(store, distributed.attempt)
    assert reasons(closing) == {"p7": ExclusionReason.WRONG_SCHEMA}
    assert closing.excluded[0].detail == "y of the data is float64[], not float32[]"


def test_a_client_whose_data_changed_is_not_trained(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_round.run_round(store, tmp_path / "out")
    real = TinyWorkload.train_data

    def train_data(self: TinyWorkload, client: str, clients: int) -> object:
        data = real(self, client, clients)
        return data if client != "p7" else type(data)(data.x.astype("float64"), data.y)

    monkeypatch.setattr(TinyWorkload, "train_data", train_data)
    trained = _count_training(monkeypatch)
    a_round.run_round(store, tmp_path / "out")
    version = a_round.trainings(store).version()
    assert trained == ["p0", "p14", "p21"]
    assert [(e.client, e.reason) for e in version.excluded] == [("p7", ExclusionReason.WRONG_SCHEMA)]
    assert "float64[3]" in version.excluded[0].detail


def test_a_run_is_refused_while_another_works(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    a_round.distribute(store, run="monday")
    with a_round.refused(capsys, LeaseError.exit_code, "run monday", "fededge rounds release tiny"):
        a_round.distribute(store, run="tuesday")
    assert a_round.distribute(store, run="monday").attempt == "tiny/v1/1/1"


def test_a_holder_that_was_silent_for_too_long_is_taken_over_and_publishes_nothing(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    first = a_round.distribute(store, run="monday", deadline_s=1, finish_s=1)
    a_round.train(store, first._replace(plan=first.plan[:1]))
    time.sleep(2.1)
    second = a_round.distribute(store, run="tuesday", deadline_s=1, finish_s=1)
    assert (first.attempt, second.attempt) == ("tiny/v1/1/1", "tiny/v1/1/2")
    capsys.readouterr()
    with a_round.refused(capsys, LeaseError.exit_code, "run tuesday has taken over"):
        a_round.train(store, first)
    with a_round.refused(capsys, LeaseError.exit_code, "run tuesday has taken over"):
        aggregate_updates(store.url, first.attempt, [])
    assert a_round.trainings(store).closing(a_round.trainings(store).attempts("v1")[0]) is None


def _count_training(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    trained: list[str] = []
    real = TinyLearner.train

    def train(self: TinyLearner, client: str, *arguments: object) -> object:
        trained.append(client)
        return real(self, client, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TinyLearner, "train", train)
    return trained


def _without_the_last(data: object) -> object:
    return type(data)(data.x[:-1], data.y[:-1])  # type: ignore[attr-defined, call-arg]


def _shift(path: Path, seconds: float) -> None:
    stamp = path.stat().st_mtime + seconds
    os.utime(path, (stamp, stamp))


def _set(path: Path, seconds: float) -> None:
    stamp = (datetime.now(UTC) + timedelta(seconds=seconds)).timestamp()
    os.utime(path, (stamp, stamp))
