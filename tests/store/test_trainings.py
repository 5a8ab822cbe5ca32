from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from fededge.core.updates import ExclusionReason
from fededge.errors import ConflictError, InputError, LeaseError, NotFoundError
from fededge.records import (
    Aggregate,
    Attempt,
    AttemptRef,
    ClosedBecause,
    Closing,
    Evaluation,
    Failed,
    Failure,
    Pointer,
    Runtime,
    Training,
    Update,
    Version,
)
from fededge.settings import RoundSettings
from fededge.store import Store, keys
from fededge.store.trainings import TrainingStore, training_names
from tests.store.faulty import FaultyStore, Killed

START = datetime(2026, 1, 1, tzinfo=UTC)
RUNTIME = Runtime(fededge="0", python="3.11", machine="x", cpu_features="", threads=1, libraries={}, packages="")
SETTINGS = RoundSettings(clients=2)
TOKEN = 1
SIGNATURE = {"w": "float32[1]"}


def _digest(name: str) -> str:
    return "sha256:" + name.encode().hex().rjust(64, "0")


def _training(name: str = "digits", model: str = "initial") -> Training:
    return Training(name=name, settings=SETTINGS, signature=SIGNATURE, initial_model=_digest(model), created_at=START)


def _version(version: str, parent: str | None, model: str = "", attempt: int = 1) -> Version:
    number = keys.version_round(version)
    return Version(
        training="digits",
        version=version,
        round=number,
        parent=parent,
        parent_manifest=None,
        attempt=attempt,
        model=_digest(model or version),
        server_state=None,
        signature=SIGNATURE,
        settings=SETTINGS,
        because=None,
        accepted=[],
        excluded=[],
        repeats=[],
        counted=[],
        metric="accuracy",
        metrics={"accuracy": 0.5},
        data_schema={},
        documents={},
        runtime=RUNTIME,
        created_at=START + timedelta(seconds=number + 1000 * int(version.partition("-b")[2] or 0)),
    )


def _where(pointer: Pointer) -> tuple[str, int]:
    return pointer.version, pointer.branch


def _initial(model: str = "initial") -> Version:
    return _version("v0", None, model)


@pytest.fixture
def training(folder_store: Store) -> TrainingStore:
    training = TrainingStore(folder_store, "digits")
    training.create(_training(), _initial())
    return training


def _publish(training: TrainingStore, *versions: str) -> None:
    for version in versions:
        training.publish(_version(version, training.head().pointer.version), TOKEN)


def test_a_training_begins_at_version_0(store: Store) -> None:
    training = TrainingStore(store, "digits")
    with pytest.raises(NotFoundError):
        training.head()
    assert training.create(_training(), _initial()) == _training()
    assert training.training() == _training()
    assert _where(training.head().pointer) == ("v0", 0)
    assert training.version() == training.version("v0") == _initial()
    assert training.versions() == [_initial()]


def test_a_training_that_has_begun_is_returned_as_it_is(training: TrainingStore) -> None:
    _publish(training, "v1")
    later = _training().model_copy(update={"created_at": START + timedelta(days=1)})
    assert training.create(later, _initial()) == _training()
    assert _where(training.head().pointer) == ("v1", 0)


def test_a_training_does_not_begin_with_two_models(training: TrainingStore) -> None:
    with pytest.raises(ConflictError, match="choose another name"):
        training.create(_training(model="other"), _initial("other"))
    assert training.version() == _initial()


def _stopping(store: Store, writes: int) -> FaultyStore:
    """Have a store whose process is stopped after so many writes."""
    return FaultyStore(store, writes + 1)


@pytest.mark.parametrize("writes", range(3))
def test_a_start_that_was_cut_short_is_completed(folder_store: Store, writes: int) -> None:
    with pytest.raises(Killed):
        TrainingStore(_stopping(folder_store, writes), "digits").create(_training(), _initial())
    training = TrainingStore(folder_store, "digits")
    with pytest.raises(NotFoundError):
        training.head()
    training.create(_training(), _initial())
    assert training.version() == _initial()


@pytest.mark.parametrize("writes", range(2))
def test_a_publication_that_was_cut_short_is_completed(training: TrainingStore, writes: int) -> None:
    with pytest.raises(Killed):
        TrainingStore(_stopping(training.store, writes), "digits").publish(_version("v1", "v0"), TOKEN)
    assert _where(training.head().pointer) == ("v0", 0)
    _publish(training, "v1")
    assert training.version() == _version("v1", "v0")


def test_publishing_moves_the_pointer_from_the_parent(training: TrainingStore) -> None:
    assert training.publish(_version("v1", "v0"), TOKEN) == _version("v1", "v0")
    assert _where(training.head().pointer) == ("v1", 0)
    assert training.version() == _version("v1", "v0")


def test_publishing_again_returns_what_is_there(training: TrainingStore) -> None:
    _publish(training, "v1")
    again = _version("v1", "v0").model_copy(update={"created_at": START + timedelta(days=1)})
    assert training.publish(again, TOKEN) == _version("v1", "v0")
    assert _where(training.head().pointer) == ("v1", 0)


def test_nothing_is_published_but_from_the_current_version(training: TrainingStore) -> None:
    _publish(training, "v1", "v2")
    for late in (_version("v2-b1", "v1"), _version("v4", "v3"), _version("v1-b7", "v0")):
        with pytest.raises(ConflictError, match="start the round again"):
            training.publish(late, TOKEN)
        with pytest.raises(NotFoundError):
            training.version(late.version)
    assert _where(training.head().pointer) == ("v2", 0)


@pytest.mark.parametrize("other", [_version("v1", "v0", model="other"), _version("v1", "v0", attempt=2)])
def test_a_version_that_another_run_published_is_kept(training: TrainingStore, other: Version) -> None:
    _publish(training, "v1")
    with pytest.raises(ConflictError, match="published by another run"):
        training.publish(other, TOKEN)
    assert training.version() == _version("v1", "v0")


def test_a_version_that_was_made_first_and_not_published_is_published(training: TrainingStore) -> None:
    """A run that was taken over has written its manifest, and died: the version stands, and nobody is stuck."""
    with pytest.raises(Killed):
        TrainingStore(_stopping(training.store, 1), "digits").publish(_version("v1", "v0"), TOKEN)
    assert training.publish(_version("v1", "v0", model="other", attempt=2), TOKEN) == _version("v1", "v0")
    assert _where(training.head().pointer) == ("v1", 0)


def test_a_version_of_an_attempt_that_was_given_up_is_not_published(training: TrainingStore) -> None:
    """Its run slept, was given up, and woke too late: it wrote the manifest, and could not move the pointer."""
    with pytest.raises(Killed):
        TrainingStore(_stopping(training.store, 1), "digits").publish(_version("v1", "v0"), TOKEN)
    training.fail_attempt(REF, Failed(reason="given up by hand"))
    ours = _version("v1", "v0", model="other", attempt=2)
    assert training.publish(ours, TOKEN) == ours
    assert training.version() == ours
    # What is current stays, whatever is noted of its attempt.
    training.fail_attempt(REF.model_copy(update={"number": 2}), Failed(reason="too late"))
    with pytest.raises(ConflictError, match="published by another run"):
        training.publish(_version("v1", "v0", attempt=3), TOKEN)
    assert training.version() == ours


def test_an_older_token_publishes_nothing(training: TrainingStore) -> None:
    training.fence(7)
    with pytest.raises(LeaseError, match="another run has taken over"):
        training.publish(_version("v1", "v0"), 6)
    with pytest.raises(LeaseError):
        training.fence(6)
    assert training.versions() == [_initial()]
    assert training.publish(_version("v1", "v0"), 7) == _version("v1", "v0")


class Meanwhile(FaultyStore):
    """A store where somebody else acts just before the pointer moves."""

    def __init__(self, store: Store, act: Callable[[], object]) -> None:
        super().__init__(store)
        self._act = act

    def replace(self, key: str, data: bytes, tag: str) -> None:
        self._act()
        super().replace(key, data, tag)


def test_a_pointer_that_moves_meanwhile_is_not_overwritten(training: TrainingStore) -> None:
    _publish(training, "v1", "v2")
    slow = TrainingStore(Meanwhile(training.store, lambda: training.rollback("v1")), "digits")
    with pytest.raises(ConflictError):
        slow.publish(_version("v3", "v2"), TOKEN)
    assert _where(training.head().pointer) == ("v1", 1)


def test_a_run_that_is_taken_over_while_it_publishes_publishes_nothing(training: TrainingStore) -> None:
    slow = TrainingStore(Meanwhile(training.store, lambda: training.fence(TOKEN + 1)), "digits")
    with pytest.raises(LeaseError):
        slow.publish(_version("v1", "v0"), TOKEN)
    assert _where(training.head().pointer) == ("v0", 0)


def test_a_rollback_is_refused_when_the_pointer_moves_meanwhile(training: TrainingStore) -> None:
    _publish(training, "v1")
    slow = TrainingStore(Meanwhile(training.store, lambda: _publish(training, "v2")), "digits")
    with pytest.raises(ConflictError):
        slow.rollback("v0")
    assert _where(training.head().pointer) == ("v2", 0)


def test_lineage_goes_back_to_version_0(training: TrainingStore) -> None:
    _publish(training, "v1", "v2")
    training.rollback("v1")
    _publish(training, "v2-b1", "v3-b1")
    assert [v.version for v in training.lineage("v3-b1")] == ["v3-b1", "v2-b1", "v1", "v0"]
    assert [v.version for v in training.lineage("v2")] == ["v2", "v1", "v0"]


def test_rounds_after_a_rollback_have_names_of_their_own(training: TrainingStore) -> None:
    _publish(training, "v1", "v2")
    assert _where(training.rollback("v1")) == ("v1", 1)
    assert training.version().version == "v1"
    assert keys.version_name(2, training.head().pointer.branch) == "v2-b1"
    _publish(training, "v2-b1")
    assert _where(training.head().pointer) == ("v2-b1", 1)
    assert _where(training.rollback("v0")) == ("v0", 2)
    _publish(training, "v1-b2")
    assert training.version("v2") == _version("v2", "v1")
    assert training.version("v2-b1") == _version("v2-b1", "v1")


def test_two_rollbacks_without_a_round_between(training: TrainingStore) -> None:
    _publish(training, "v1", "v2")
    training.rollback("v1")
    pointer = training.rollback("v0")
    assert pointer.version == "v0"
    _publish(training, keys.version_name(1, pointer.branch))
    assert training.version("v1") == _version("v1", "v0")


@pytest.mark.parametrize("version", ["v2", "v3", "v2-b1"])
def test_a_rollback_goes_to_an_ancestor(training: TrainingStore, version: str) -> None:
    _publish(training, "v1", "v2", "v3")
    training.rollback("v1")
    _publish(training, "v2-b1")
    with pytest.raises(InputError):
        training.rollback(version)
    assert _where(training.head().pointer) == ("v2-b1", 1)


def test_a_version_that_is_not_there(training: TrainingStore) -> None:
    for act in (training.version, training.rollback):
        with pytest.raises(NotFoundError, match="fededge versions list digits"):
            act("v7")
        with pytest.raises(InputError, match="is no version"):
            act("../v1")


def test_versions_are_by_round_and_then_by_age(training: TrainingStore) -> None:
    _publish(training, *(f"v{number}" for number in range(1, 12)))
    training.rollback("v1")
    _publish(training, "v2-b1")
    assert [v.version for v in training.versions()] == ["v0", "v1", "v2", "v2-b1", *(f"v{n}" for n in range(3, 12))]


def test_trainings_are_listed_by_name(store: Store) -> None:
    assert training_names(store) == []
    for name in ("b", "a", "a-1"):
        TrainingStore(store, name).create(_training(name), _initial())
    store.create("trainings/unfinished/current.json", b"{}")
    assert training_names(store) == ["a", "a-1", "b"]


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "-a", "a-", "a" * 64, "a.b", "ä"])
def test_a_name_that_could_not_be_a_key_is_refused(folder_store: Store, name: str) -> None:
    with pytest.raises(InputError, match="is no name for a training"):
        TrainingStore(folder_store, name).create(_training(name), _initial())


REF = AttemptRef(training="digits", version="v1", number=1)


def _attempt(number: int = 1, version: str = "v1", seconds: int = 0) -> Attempt:
    return Attempt(
        training="digits",
        version=version,
        round=1,
        number=number,
        base_version="v0",
        base_model=_digest("initial"),
        base_server_state=None,
        settings=SETTINGS,
        batches={"0": ["a", "b c/ü"]},
        update_signature={},
        data_schema={},
        code="",
        runtime=RUNTIME,
        opened_at=START + timedelta(seconds=seconds),
    )


def _update(client: str, delta: str) -> Update:
    return Update(
        training="digits",
        version="v1",
        attempt=1,
        round=1,
        client=client,
        base_model=_digest("initial"),
        delta=_digest(delta),
        num_examples=3,
        metrics={},
        data_schema={},
        seconds=1.0,
        work="",
        runtime=RUNTIME,
    )


def test_attempts_are_listed_oldest_first_and_not_with_those_of_other_versions(training: TrainingStore) -> None:
    assert training.attempts("v1") == []
    for attempt in (_attempt(10_000), _attempt(2), _attempt(10), _attempt(3, "v1-b1"), _attempt(4, "v10")):
        training.open_attempt(attempt)
    training.deliver(REF, _update("a", "of no open attempt"))
    assert [ref.number for ref in training.attempts("v1")] == [2, 10, 10_000]
    assert training.attempts("v1-b1") == [_attempt(3, "v1-b1").ref]


def test_the_unfinished_attempt_is_the_last_at_the_next_version(training: TrainingStore) -> None:
    assert (training.next_version(), training.unfinished()) == ("v1", None)
    for attempt in (_attempt(1), _attempt(2), _attempt(3, "v1-b1"), _attempt(4, "v2")):
        training.open_attempt(attempt)
    assert training.unfinished() == _attempt(2).ref
    training.fail_attempt(_attempt(1).ref, Failed(reason="too few"))
    assert training.unfinished() == _attempt(2).ref
    training.fail_attempt(_attempt(2).ref, Failed(reason="too few"))
    assert training.unfinished() is None


def test_a_training_that_has_not_begun_makes_no_version(folder_store: Store) -> None:
    training = TrainingStore(folder_store, "digits")
    training.open_attempt(_attempt())
    assert (training.next_version(), training.unfinished()) == (None, None)


def test_the_first_to_open_an_attempt_decides_its_plan(training: TrainingStore) -> None:
    assert training.open_attempt(_attempt()) == _attempt()
    assert training.open_attempt(_attempt(seconds=9)) == _attempt()
    assert training.attempt(REF) == _attempt()
    assert str(REF) == "digits/v1/1"


def test_the_first_update_of_a_client_counts(store: Store) -> None:
    training = TrainingStore(store, "digits")
    assert training.update(REF, "b c/ü") is None
    assert training.deliver(REF, _update("b c/ü", "first")) == _update("b c/ü", "first")
    assert training.deliver(REF, _update("b c/ü", "second")) == _update("b c/ü", "first")
    assert training.update(REF, "b c/ü") == _update("b c/ü", "first")
    assert training.update(REF, "b c") is None
    assert training.update(REF.model_copy(update={"number": 2}), "b c/ü") is None


def test_an_update_that_comes_again_and_is_another_is_noted(training: TrainingStore) -> None:
    training.deliver(REF, _update("a", "first"))
    training.deliver(REF, _update("a", "first"))
    assert training.repeats(REF) == []
    training.deliver(REF, _update("a", "second"))
    assert training.repeats(REF) == ["a"]


def test_what_is_recorded_first_stands(training: TrainingStore) -> None:
    closing = Closing(
        because=ClosedBecause.ALL_ANSWERED, accepted=[], excluded=[], repeats=[], data_schema={}, closed_at=START
    )
    assert training.closing(REF) is None
    assert training.close(REF, closing) == closing
    assert training.close(REF, closing.model_copy(update={"repeats": ["a"]})) == closing
    assert training.closing(REF) == closing

    aggregate = Aggregate(model=_digest("m"), server_state=_digest("s"), counted=[], runtime=RUNTIME)
    assert training.put_aggregate(REF, aggregate) == aggregate
    assert training.put_aggregate(REF, aggregate.model_copy(update={"model": _digest("n")})) == aggregate
    assert training.aggregate(REF) == aggregate

    evaluation = Evaluation(model=_digest("m"), metric="a", metrics={"a": 1.0}, num_examples=1, data_schema={})
    assert training.put_evaluation(REF, evaluation) == evaluation
    assert training.put_evaluation(REF, evaluation.model_copy(update={"metric": "b"})) == evaluation
    assert training.evaluation(REF) == evaluation


def test_failures_are_recorded_once(training: TrainingStore) -> None:
    failure = Failure(client="a", reason=ExclusionReason.NO_DATA, detail="first")
    assert training.failure(REF, "a") is None
    training.report_failure(REF, failure)
    training.report_failure(REF, failure.model_copy(update={"detail": "second"}))
    assert training.failure(REF, "a") == failure

    assert training.failed(REF) is None
    training.fail_attempt(REF, Failed(reason="first", failed_at=START))
    training.fail_attempt(REF, Failed(reason="second"))
    assert training.failed(REF) == Failed(reason="first", failed_at=START)
