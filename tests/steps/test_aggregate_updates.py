from __future__ import annotations

import warnings

import numpy as np
import pytest

from fededge.core.tensors import Tensors
from fededge.core.updates import ExclusionReason
from fededge.errors import LeaseError, QuorumError
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
    digest = aggregate_updates(store.url, distributed.attempt, reports).model
    trainings = a_round.trainings(store)
    ref = trainings.attempts("v1")[0]
    old = get_tensors(store, trainings.version().model)["0000/w"].astype(np.float64)
    updates = [trainings.update(ref, client) for client in ("p0", "p14", "p21", "p7")]
    total = sum(u.num_examples for u in updates if u)
    mean = sum(u.num_examples / total * get_tensors(store, u.delta)["0000/w"].astype(np.float64) for u in updates if u)
    np.testing.assert_allclose(weights_of(store, digest)["0000/w"], old + mean, rtol=1e-6)
    assert total == 2 * (5 + 6 + 7 + 8)


def test_invariant_11_every_exclusion_is_recorded_with_its_reason(store: Store) -> None:
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
    assert a_round.distribute(store, **FAULTY, min_clients=2).attempt == "tiny/v1/2/2"


def test_what_arrives_after_the_round_is_closed_is_refused_as_stale(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    distributed = a_round.distribute(store)
    a_round.train(store, distributed._replace(plan=distributed.plan[:1]))
    first = aggregate_updates(store.url, distributed.attempt, [])
    capsys.readouterr()
    with a_round.refused(capsys, LeaseError.exit_code, "stale"):
        a_round.train(store, distributed)
    store.delete(keys.aggregate(a_round.trainings(store).attempts("v1")[0]))
    assert aggregate_updates(store.url, distributed.attempt, []) == first


def test_the_order_of_arrival_does_not_matter(store: Store) -> None:
    distributed = a_round.distribute(store)
    a_round.train(store, distributed._replace(plan=distributed.plan[::-1]))
    backwards = aggregate_updates(store.url, distributed.attempt, []).model
    for key in store.keys(keys.attempt_folder(a_round.trainings(store).attempts("v1")[0])):
        if not key.endswith("attempt.json") and "/sittings/" not in key:
            store.delete(key)
    a_round.train(store, distributed)
    assert aggregate_updates(store.url, distributed.attempt, []).model == backwards


def test_invariant_02_no_non_finite_model_is_published(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finite updates and a finite mean, times the server's learning rate."""
    real = TinyLearner.train

    def huge(self: TinyLearner, *arguments: object) -> object:
        made = real(self, *arguments)  # type: ignore[arg-type]
        full = {name: np.full_like(a, 1e30) for name, a in made.delta.items()}
        return type(made)(made.client, full, made.num_examples, made.metrics)

    monkeypatch.setattr(TinyLearner, "train", huge)
    distributed = a_round.distribute(store, server_learning_rate=1e30)
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


def test_a_client_that_claims_very_many_examples_does_not_take_the_model_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uncapped it would weigh 91 %: 100,000 against 19 with about 500 each."""
    real = TinyLearner.train

    def claim(self: TinyLearner, client: str, *arguments: object) -> object:
        made = real(self, client, *arguments)  # type: ignore[arg-type]
        return type(made)(client, made.delta, 100_000 if client == "p0" else 500, made.metrics)

    monkeypatch.setattr(TinyLearner, "train", claim)
    distributed = a_round.distribute(store, clients=20, clients_per_pod=20)
    aggregate_updates(store.url, distributed.attempt, a_round.train(store, distributed))
    closing = a_round.trainings(store).closing(a_round.trainings(store).attempts("v1")[0])
    assert closing is not None
    liar = closing.accepted[0]
    assert (liar.client, liar.num_examples, liar.weight) == ("p0", 100_000, 2375)
    assert {update.weight for update in closing.accepted[1:]} == {500}
    assert liar.weight / sum(update.weight for update in closing.accepted) == 0.2


@pytest.mark.parametrize(("setting", "reason"), [("max_update_norm", "NORM_TOO_LARGE"), ("clip_norm", None)])
def test_a_large_update_is_refused_or_clipped(
    store: Store, monkeypatch: pytest.MonkeyPatch, setting: str, reason: str | None
) -> None:
    real = TinyLearner.train

    def large(self: TinyLearner, client: str, *arguments: object) -> object:
        made = real(self, client, *arguments)  # type: ignore[arg-type]
        scaled = {n: a * np.float32(1000 if client == "p7" else 1) for n, a in made.delta.items()}
        return type(made)(client, scaled, made.num_examples, made.metrics)

    monkeypatch.setattr(TinyLearner, "train", large)
    distributed = a_round.distribute(store, **{setting: 50.0})
    model = aggregate_updates(store.url, distributed.attempt, a_round.train(store, distributed)).model
    closing = a_round.trainings(store).closing(a_round.trainings(store).attempts("v1")[0])
    assert closing is not None
    if reason:
        assert [(e.client, e.reason) for e in closing.excluded] == [("p7", reason)]
    else:
        assert [update.client for update in closing.accepted if update.clipped] == ["p7"]
        clipped = next(update for update in closing.accepted if update.clipped)
        assert clipped.norm > 50
        assert clipped.norm == pytest.approx(
            float(
                np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in get_tensors(store, clipped.delta).values()))
            )
        )
    assert all(np.abs(array).max() < 50 for array in get_tensors(store, model).values())


def test_the_component_counts_who_was_left_out_by_reason(store: Store) -> None:
    distributed = a_round.distribute(store, **FAULTY)
    done = aggregate_updates(store.url, distributed.attempt, a_round.train(store, distributed))
    assert done.clients == {
        "accepted": 2, "excluded": 6, "NON_FINITE": 1, "WRONG_TENSORS": 2, "BAD_COUNT": 1, "TRAINING_FAILED": 1,
        "NO_DATA": 1,
    }  # fmt: skip
    assert aggregate_updates(store.url, distributed.attempt, []) == done


def test_too_few_for_the_rule_fail_the_round(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight could bear one attacker; the two that are admitted cannot."""
    distributed = a_round.distribute(store, **FAULTY, aggregation="krum", attackers=1)
    reports = a_round.train(store, distributed)
    capsys.readouterr()
    with a_round.refused(capsys, QuorumError.exit_code, "krum needs at least 5 clients", "v0 stays current"):
        aggregate_updates(store.url, distributed.attempt, reports)


@pytest.mark.parametrize("delta", ["", "../../etc/passwd", "sha256:0", f"sha256:{'0' * 64}"])
def test_an_update_that_names_no_tensors_is_excluded(store: Store, delta: str) -> None:
    distributed = a_round.distribute(store)
    a_round.train(store, distributed)
    _rewrite(store, "p0", {"delta": delta})
    assert _excluded(store, distributed.attempt) == {"p0": ExclusionReason.CORRUPT}


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff" * 100, b'{"format": 3}', b"[" * 10**5, b'{"format": ' + b"9" * 10**4]
)
def test_an_update_that_is_no_document_is_excluded(store: Store, content: bytes) -> None:
    distributed = a_round.distribute(store)
    a_round.train(store, distributed)
    key = keys.update(a_round.trainings(store).attempts("v1")[0], "p0")
    store.replace(key, content, store.get(key).tag)
    assert _excluded(store, distributed.attempt) == {"p0": ExclusionReason.CORRUPT}


@pytest.mark.parametrize("count", [10**12, 1.5, "many", None, True, -1, 0, float("nan"), [5], 10**4000])
def test_a_count_that_is_none_is_excluded_and_a_huge_one_capped(store: Store, count: object) -> None:
    distributed = a_round.distribute(store)
    a_round.train(store, distributed)
    _rewrite(store, "p0", {"num_examples": count})
    excluded = _excluded(store, distributed.attempt)
    if isinstance(count, int) and count > 1:
        assert excluded == {}
    else:
        assert excluded.keys() == {"p0"}
        assert excluded["p0"] in (ExclusionReason.BAD_COUNT, ExclusionReason.CORRUPT)


def test_an_oversized_document_is_left_out_and_not_read(store: Store) -> None:
    distributed = a_round.distribute(store)
    a_round.train(store, distributed)
    key = keys.update(a_round.trainings(store).attempts("v1")[0], "p0")
    store.replace(key, b" " * (2**20 + 1), store.get(key).tag)
    assert _excluded(store, distributed.attempt) == {"p0": ExclusionReason.TOO_LARGE}


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
