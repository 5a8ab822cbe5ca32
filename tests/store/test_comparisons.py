"""Comparisons lie beside the trainings: nothing that cares for those trips over them, and a client can be forgotten."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fededge.core.comparison import Arm
from fededge.core.updates import ExclusionReason
from fededge.errors import CorruptError, InputError, NotFoundError
from fededge.records import (
    ArmBatch,
    ArmResult,
    ArmScore,
    Budget,
    Comparison,
    ComparisonRef,
    Excluded,
    digest_of,
)
from fededge.settings import LocalTraining
from fededge.store import Store, keys
from fededge.store.collection import collect_garbage
from fededge.store.comparisons import ComparisonStore, results_with
from fededge.store.folder import FolderStore
from fededge.store.forgetting import forget
from fededge.store.trainings import TrainingStore, training_folders
from fededge.store.verification import verify
from tests.store.history import RUNTIME, SETTINGS
from tests.trainings import make_training

ALICE, BOB = "client-000001", "newcomer"


@pytest.fixture
def trainings(store: Store) -> TrainingStore:
    return make_training(store)


def _begin(trainings: TrainingStore, deadline_s: int = 60) -> ComparisonRef:
    version = trainings.version("v2-b1")
    batches = {
        "federated": ArmBatch(arm=Arm.FEDERATED, clients=[]),
        "local-b000": ArmBatch(arm=Arm.LOCAL, clients=[ALICE]),
    }
    return ComparisonStore(trainings.store).begin(
        Comparison(
            training=trainings.name,
            version=version.version,
            manifest=version.digest,
            model=version.model,
            initial_model=version.model,
            settings=SETTINGS,
            population=[ALICE, "client-000002"],
            fine_tuning=LocalTraining(),
            budget=Budget(examples=1, available=1, epochs=1, rounds=[1]),
            bytes_moved=1,
            batches=batches,
            metric="accuracy",
            unit="",
            higher_is_better=True,
            deadline_s=deadline_s,
            code=digest_of(b""),
            runtime=RUNTIME,
        )
    )


def _result(batch: str, clients: list[str], failed: str = "", seconds: float = 1) -> ArmResult:
    return ArmResult(
        batch=batch,
        arm=Arm.LOCAL,
        official={},
        scores=[ArmScore(client=client, own=True, examples=1, metrics={"accuracy": 0.5}) for client in clients],
        failures=[Excluded(client=failed, reason=ExclusionReason.NO_DATA, detail="")] if failed else [],
        problem="",
        raw_bytes=0,
        seconds=seconds,
        runtime=RUNTIME,
    )


def _filled(trainings: TrainingStore) -> ComparisonRef:
    ref, comparisons = _begin(trainings), ComparisonStore(trainings.store)
    comparisons.put(ref, _result("federated", [ALICE, BOB]))
    comparisons.put(ref, _result("local-b000", ["client-000002"], failed=ALICE))
    comparisons.put(ref, _result("local-b001", ["client-000002"]))
    return ref


def test_what_was_asked_for_before_is_the_same_document(trainings: TrainingStore) -> None:
    ref = _begin(trainings)
    assert _begin(trainings) == ref
    assert _begin(trainings, deadline_s=61) != ref
    assert ComparisonRef.parse(str(ref)) == ref
    assert ComparisonStore(trainings.store).comparison(ref).ref == ref


def test_the_first_result_of_a_batch_stands(trainings: TrainingStore) -> None:
    ref, comparisons = _begin(trainings), ComparisonStore(trainings.store)
    assert comparisons.result(ref, "local-b000") is None
    first = comparisons.put(ref, _result("local-b000", [ALICE], seconds=1))
    assert comparisons.put(ref, _result("local-b000", [ALICE], seconds=2)) == first
    assert comparisons.result(ref, "local-b000") == first


def test_a_comparison_in_anothers_place_is_found(trainings: TrainingStore) -> None:
    store, ref = trainings.store, _begin(trainings)
    other = ref.model_copy(update={"name": "0123456789ab"})
    with pytest.raises(NotFoundError):
        ComparisonStore(store).comparison(other)
    store.create(keys.comparison(other), store.get(keys.comparison(ref)).data)
    with pytest.raises(CorruptError, match=str(ref)):
        ComparisonStore(store).comparison(other)


@pytest.mark.parametrize("wrong", ["", "a", "a/v1", "a/v1/2/3"])
def test_what_names_no_comparison_is_refused(wrong: str) -> None:
    with pytest.raises(InputError, match="is no comparison"):
        ComparisonRef.parse(wrong)


@pytest.mark.parametrize("name", ["", "..", "0123456789AB", "0123456789abc"])
def test_a_key_stays_in_its_folder(name: str) -> None:
    with pytest.raises(InputError):
        keys.comparison(ComparisonRef(training="a", version="v1", name=name))


@pytest.mark.parametrize("batch", ["", "../x", "local-b1", "local/b000"])
def test_a_batch_stays_in_its_folder(batch: str) -> None:
    with pytest.raises(InputError):
        keys.arm_result(ComparisonRef(training="a", version="v1", name="0123456789ab"), batch)


def test_trainings_are_checked_and_cleaned_as_without_comparisons(trainings: TrainingStore) -> None:
    store = trainings.store
    before = verify(store, trainings.name, lambda _: None)
    _filled(trainings)
    documents = {key: store.get(key).data for key in store.keys("comparisons/")}
    assert len(documents) == 4
    assert training_folders(store) == ["digits"]
    assert verify(store, trainings.name, lambda _: None) == before
    collect_garbage(store, timedelta(0), lambda *_: None)
    assert {key: store.get(key).data for key in store.keys("comparisons/")} == documents
    assert verify(store, trainings.name, lambda _: None).findings == {}


def test_a_client_that_is_forgotten_has_no_scores(trainings: TrainingStore) -> None:
    store, ref = trainings.store, _filled(trainings)
    deleted = forget(trainings, ALICE, lambda *_: None)
    assert deleted.scores == 2
    assert results_with(store, trainings.name, ALICE) == []
    assert store.keys("comparisons/") == [keys.arm_result(ref, "local-b001"), keys.comparison(ref)]
    assert verify(store, trainings.name, lambda _: None).findings == {}


def test_a_client_that_never_trained_can_be_forgotten(trainings: TrainingStore) -> None:
    _filled(trainings)
    deleted = forget(trainings, BOB, lambda *_: None)
    assert (deleted.updates, deleted.reports, deleted.scores) == (0, 0, 1)
    assert forget(trainings, BOB, lambda *_: None).scores == 0
    with pytest.raises(InputError, match="nothing of a client"):
        forget(trainings, "nobody", lambda *_: None)


def test_a_result_that_is_damaged_may_be_the_clients(trainings: TrainingStore, store: FolderStore) -> None:
    ref = _filled(trainings)
    key = keys.arm_result(ref, "local-b001")
    value = store.get(key)
    store.replace(key, value.data.replace(b"0.5", b"0.6"), value.tag)
    assert key in results_with(store, trainings.name, "nobody")


def test_another_trainings_comparisons_stay(trainings: TrainingStore) -> None:
    _filled(trainings)
    assert results_with(trainings.store, "other", ALICE) == []
