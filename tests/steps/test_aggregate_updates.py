from __future__ import annotations

import warnings

import numpy as np
import pytest

from fededge.core.tensors import Tensors
from fededge.core.updates import ExclusionReason
from fededge.errors import QuorumError
from fededge.records import Accepted, Update
from fededge.steps.aggregate_updates import aggregate_updates
from fededge.store import Store, keys
from fededge.store.blobs import get_tensors, put_tensors
from tests.steps import round as a_round
from tests.steps.tiny import TinyLearner

FAULTY = {"workload": "tests.steps.tiny:faulty", "clients": 8, "clients_per_pod": 8}


def weights_of(store: Store, digest: str) -> Tensors:
    return get_tensors(store, digest)


def test_the_new_model_is_the_old_one_plus_the_weighted_mean(store: Store) -> None:
    distributed = a_round.distribute(store)
    reports = a_round.train(store, distributed)
    digest = aggregate_updates(store.url, distributed.attempt, reports)
    trainings = a_round.trainings(store)
    ref = trainings.attempts("v1")[0]
    old = get_tensors(store, trainings.version().model)["0000/w"].astype(np.float64)
    updates = [trainings.update(ref, client) for client in ("p0", "p14", "p21", "p7")]
    total = sum(u.num_examples for u in updates if u)
    mean = sum(u.num_examples / total * get_tensors(store, u.delta)["0000/w"].astype(np.float64) for u in updates if u)
    np.testing.assert_allclose(weights_of(store, digest)["0000/w"], old + mean, rtol=1e-6)
    assert total == 2 * (5 + 6 + 7 + 8)


def test_every_exclusion_is_recorded_with_its_reason(store: Store) -> None:
    distributed = a_round.distribute(store, **FAULTY)
    aggregate_updates(store.url, distributed.attempt, a_round.train(store, distributed))
    closing = a_round.trainings(store).closing(a_round.trainings(store).attempts("v1")[0])
    assert closing is not None
    assert [accepted.client for accepted in closing.accepted] == ["p0", "p49"]
    assert {e.client: e.reason for e in closing.excluded} == {
        "p7": ExclusionReason.NON_FINITE,
        "p14": ExclusionReason.WRONG_TENSORS,
        "p21": ExclusionReason.WRONG_TENSORS,
        "p28": ExclusionReason.BAD_COUNT,
        "p35": ExclusionReason.TRAINING_FAILED,
        "p42": ExclusionReason.NO_DATA,
    }
    assert all(excluded.detail for excluded in closing.excluded)


def test_a_client_that_sent_nothing_is_excluded(store: Store) -> None:
    distributed = a_round.distribute(store)
    a_round.train(store, distributed._replace(plan=distributed.plan[:1]))
    aggregate_updates(store.url, distributed.attempt, [])
    closing = a_round.trainings(store).closing(a_round.trainings(store).attempts("v1")[0])
    assert closing is not None
    assert {e.client: e.reason for e in closing.excluded} == dict.fromkeys(("p21", "p7"), ExclusionReason.NO_UPDATE)


@pytest.mark.parametrize("field", ["base_model", "round", "attempt", "version"])
def test_an_update_for_another_round_is_excluded(store: Store, field: str) -> None:
    distributed = a_round.distribute(store)
    a_round.train(store, distributed)
    _rewrite(store, "p0", {field: 9 if field in ("round", "attempt") else f"sha256:{'0' * 64}"})
    assert _excluded(store, distributed.attempt) == {"p0": ExclusionReason.WRONG_BASE}


def test_a_damaged_update_is_excluded(store: Store) -> None:
    distributed = a_round.distribute(store)
    a_round.train(store, distributed)
    trainings = a_round.trainings(store)
    update = trainings.update(trainings.attempts("v1")[0], "p0")
    assert update is not None
    blob = store.get(keys.blob(update.delta))
    store.replace(keys.blob(update.delta), blob.data[:-1] + bytes([blob.data[-1] ^ 1]), blob.tag)
    assert _excluded(store, distributed.attempt) == {"p0": ExclusionReason.CORRUPT}


def test_below_the_quorum_the_round_fails_and_nothing_changes(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    distributed = a_round.distribute(store, **FAULTY, min_clients=3)
    reports = a_round.train(store, distributed)
    capsys.readouterr()
    with a_round.refused(capsys, QuorumError.exit_code, "2 of 8 clients", "min_clients=3", "v0 stays current"):
        aggregate_updates(store.url, distributed.attempt, reports)
    trainings = a_round.trainings(store)
    assert trainings.version().version == "v0"
    assert trainings.failed(trainings.attempts("v1")[0]) is not None
    assert a_round.distribute(store, **FAULTY, min_clients=2).attempt == "tiny/v1/2"


def test_the_closed_round_decides_whatever_arrives_later(store: Store) -> None:
    distributed = a_round.distribute(store)
    a_round.train(store, distributed._replace(plan=distributed.plan[:1]))
    first = aggregate_updates(store.url, distributed.attempt, [])
    a_round.train(store, distributed)
    store.delete(keys.aggregate(a_round.trainings(store).attempts("v1")[0]))
    assert aggregate_updates(store.url, distributed.attempt, []) == first


def test_the_order_of_arrival_does_not_matter(store: Store) -> None:
    distributed = a_round.distribute(store)
    a_round.train(store, distributed._replace(plan=distributed.plan[::-1]))
    backwards = aggregate_updates(store.url, distributed.attempt, [])
    for key in store.keys(keys.attempt_folder(a_round.trainings(store).attempts("v1")[0])):
        if not key.endswith("attempt.json"):
            store.delete(key)
    a_round.train(store, distributed)
    assert aggregate_updates(store.url, distributed.attempt, []) == backwards


def test_a_model_that_is_not_finite_is_not_published(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finite updates whose weighted sum overflows float32."""
    real = TinyLearner.train

    def huge(self: TinyLearner, *arguments: object) -> object:
        made = real(self, *arguments)  # type: ignore[arg-type]
        full = {name: np.full_like(a, np.finfo(np.float32).max) for name, a in made.delta.items()}
        return type(made)(made.client, full, made.num_examples, made.metrics)

    monkeypatch.setattr(TinyLearner, "train", huge)
    distributed = a_round.distribute(store)
    reports = a_round.train(store, distributed)
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy says that it overflows
        with a_round.refused(capsys, 5, "NaN or infinity", "v0 stays current"):
            aggregate_updates(store.url, distributed.attempt, reports)
    assert a_round.trainings(store).version().version == "v0"


def test_a_server_state_that_is_not_finite_is_not_published(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The square of 1e25 overflows in Adam's second moment, while the new weights are finite."""
    real = TinyLearner.train

    def large(self: TinyLearner, *arguments: object) -> object:
        made = real(self, *arguments)  # type: ignore[arg-type]
        full = {name: np.full_like(a, 1e25) for name, a in made.delta.items()}
        return type(made)(made.client, full, made.num_examples, made.metrics)

    monkeypatch.setattr(TinyLearner, "train", large)
    distributed = a_round.distribute(store, server_optimizer="adam", server_learning_rate=0.1)
    reports = a_round.train(store, distributed)
    capsys.readouterr()
    with a_round.refused(capsys, 5, "server state", "v0 stays current"):
        aggregate_updates(store.url, distributed.attempt, reports)


def _rewrite(store: Store, client: str, changed: dict[str, object]) -> None:
    trainings = a_round.trainings(store)
    ref = trainings.attempts("v1")[0]
    key = keys.update(ref, client)
    present = store.get(key)
    update = Update.load(present.data, key).model_copy(update=changed)
    store.replace(key, update.dump(), present.tag)


def _excluded(store: Store, attempt: str) -> dict[str, ExclusionReason]:
    aggregate_updates(store.url, attempt, [])
    closing = a_round.trainings(store).closing(a_round.trainings(store).attempts("v1")[0])
    assert closing is not None
    assert all(isinstance(accepted, Accepted) for accepted in closing.accepted)
    return {excluded.client: excluded.reason for excluded in closing.excluded}


def test_equal_tensors_are_one_blob(store: Store) -> None:
    tensors = {"0000/w": np.ones(3, np.float32)}
    assert put_tensors(store, tensors) == put_tensors(store, tensors)
    assert len(store.keys("blobs/")) == 1
