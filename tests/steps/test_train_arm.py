from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fededge.core.comparison import Arm
from fededge.core.parts import COVERAGE, STATISTICS
from fededge.core.tensors import Tensors
from fededge.core.updates import ClientUpdate, ExclusionReason
from fededge.errors import StoreUnavailableError, UpdateError
from fededge.learners import ClientSeeds, Examples
from fededge.learners.alone import applied, train_alone
from fededge.learners.normalized import NormalizedLearner
from fededge.records import ComparisonRef
from fededge.settings import LocalTraining
from fededge.steps.train_arm import train_arm
from fededge.store import Store, keys
from fededge.store.blobs import get_tensors
from fededge.store.comparisons import ComparisonStore
from tests.steps import comparing
from tests.steps.comparing import COLD, plan, results, train_arms, train_rounds
from tests.steps.round import refused, trainings
from tests.steps.tiny import TinyLearner, TinyWorkload

SEEDS = ClientSeeds(0, 0)
MEMBERS = ["p0", "p14", "p21", "p7"]


def _scores(store: Store, planned: Any, arm: Arm) -> dict[str, float]:
    return {s.client: s.metrics["error"] for result in results(store, planned, arm) for s in result.scores}


def _model(store: Store, version: str) -> Tensors:
    return get_tensors(store, trainings(store).version(version).model)


def _train(weights: Tensors, examples: Examples, epochs: int) -> Tensors:
    return train_alone(TinyLearner(), weights, "", examples, LocalTraining(local_epochs=epochs), SEEDS)


def _data(client: str) -> Examples:
    return comparing.workload.train_data(client, 4)


def _error(weights: Tensors, examples: Examples) -> float:
    return TinyLearner().evaluate(weights, examples)["error"]


def _tests() -> Mapping[str, Examples]:
    return {client: comparing.workload.client_test_data(client, 4) for client in comparing.workload.test_clients(4)}


def test_the_federated_arm_is_the_version(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run")
    planned = plan(store)
    train_arms(store, planned)
    (result,) = results(store, planned, Arm.FEDERATED)
    model = _model(store, "v2")
    assert result.official == {"error": _error(model, comparing.workload.test_data())}
    assert result.official == trainings(store).version().metrics
    assert _scores(store, planned, Arm.FEDERATED) == {c: _error(model, test) for c, test in _tests().items()}
    assert [score.own for score in result.scores] == [True] * 5
    assert result.raw_bytes == 0


def test_the_centralized_arm_is_training_on_all_data_in_one_place(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run", rounds=3)
    planned = plan(store)
    train_arms(store, planned)
    (result,) = results(store, planned, Arm.CENTRALIZED)
    data = [_data(client) for client in MEMBERS]
    together = Examples(np.concatenate([d.x for d in data]), np.concatenate([d.y for d in data]))
    model = _train(_model(store, "v0"), together, 3 * 2)
    assert result.official == {"error": _error(model, comparing.workload.test_data())}
    assert _scores(store, planned, Arm.CENTRALIZED) == {c: _error(model, test) for c, test in _tests().items()}
    assert result.raw_bytes == together.x.nbytes + together.y.nbytes == 26 * 4 * 4


def test_a_local_model_has_seen_one_clients_data(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run", rounds=3)
    planned = plan(store)
    train_arms(store, planned)
    start, tests = _model(store, "v0"), {**_tests(), "p7": _tests()["p7"]}
    tests["p21"] = comparing.workload.test_data()  # has none of its own
    wanted = {client: _error(_train(start, _data(client), 6), tests[client]) for client in MEMBERS}
    assert _scores(store, planned, Arm.LOCAL) == wanted
    own = {s.client: s.own for result in results(store, planned, Arm.LOCAL) for s in result.scores}
    assert own == {"p0": True, "p14": True, "p21": False, "p7": True}


def test_a_fine_tuned_model_goes_on_from_the_version(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run", workload="tests.steps.comparing:tuned")
    planned = plan(store)
    train_arms(store, planned)
    how = LocalTraining(local_epochs=3, client_learning_rate=0.05)
    model = train_alone(TinyLearner(), _model(store, "v2"), "", _data("p14"), how, SEEDS)
    assert _scores(store, planned, Arm.FINE_TUNED)["p14"] == _error(model, _tests()["p14"])


def test_newcomers_have_scores_of_the_shared_models_alone(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run")
    planned = plan(store)
    train_arms(store, planned)
    cold = {arm: set(COLD) & _scores(store, planned, arm).keys() for arm in Arm}
    assert cold == {Arm.FEDERATED: set(COLD), Arm.CENTRALIZED: set(COLD), Arm.LOCAL: set(), Arm.FINE_TUNED: set()}


def test_without_tests_of_their_own_clients_are_measured_on_the_reported_one(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run", workload="tests.steps.comparing:plain")
    planned = plan(store)
    train_arms(store, planned)
    assert _scores(store, planned, Arm.FEDERATED) == {}
    assert _scores(store, planned, Arm.LOCAL).keys() == set(MEMBERS)
    assert not any(s.own for result in results(store, planned, Arm.LOCAL) for s in result.scores)


def test_each_client_that_fails_is_recorded_and_the_others_go_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_rounds(store, tmp_path / "run", clients=6)
    planned = plan(store)
    monkeypatch.setattr(comparing.workload, "train_data", comparing.spoiled.train_data)
    with np.errstate(all="ignore"):
        reports = train_arms(store, planned)
    for arm in (Arm.LOCAL, Arm.FINE_TUNED):
        failures = {f.client: f.reason for result in results(store, planned, arm) for f in result.failures}
        assert failures == {
            "p0": ExclusionReason.NON_FINITE_TRAINING,
            "p7": ExclusionReason.NO_DATA,
            "p14": ExclusionReason.TRAINING_FAILED,
            "p21": ExclusionReason.WRONG_SCHEMA,
        }
        assert _scores(store, planned, arm).keys() == {"p28", "p35"}
    assert [(report["scored"], report["failed"]) for report in reports[2:]] == [(0, 3), (2, 1)] * 2
    (centralized,) = results(store, planned, Arm.CENTRALIZED)
    assert {f.client for f in centralized.failures} == {"p7", "p14", "p21"}
    assert centralized.problem.startswith("NON_FINITE_TRAINING: ")  # p0's data spoil the whole of it
    assert centralized.official == {}


def test_running_again_finds_what_was_done(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_rounds(store, tmp_path / "run")
    planned = plan(store)
    reports = train_arms(store, planned)
    before = {key: store.get(key).data for key in store.keys("")}
    monkeypatch.setattr(TinyLearner, "train", lambda *_, **__: pytest.fail("trains again"))
    assert train_arms(store, planned) == reports
    assert plan(store) == planned
    assert {key: store.get(key).data for key in store.keys("")} == before


def test_the_numbers_are_the_seeds(store: Store, tmp_path: Path) -> None:
    """Done again, in pods of other sizes and without the results of before, they are the same."""
    train_rounds(store, tmp_path / "run")
    planned = plan(store)
    train_arms(store, planned)
    before = {arm: _scores(store, planned, arm) for arm in Arm}
    ref = ComparisonRef.parse(planned.comparison)
    for name in comparing.comparison(store, planned).batches:
        store.delete(keys.arm_result(ref, name))
    train_arms(store, planned)
    assert {arm: _scores(store, planned, arm) for arm in Arm} == before
    alone = plan(store, clients_per_pod=1)
    train_arms(store, alone)
    assert {arm: _scores(store, alone, arm) for arm in Arm} == before


def test_a_killed_batch_is_done_again_and_the_others_are_not(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_rounds(store, tmp_path / "run")
    planned = plan(store)
    whole = plan(store, deadline_s=3599)
    train_arms(store, whole)
    train = TinyLearner.train
    trained: list[str] = []

    def killed(self: TinyLearner, client: str, *arguments: Any, **named: Any) -> ClientUpdate:
        if client == "p21":
            raise KeyboardInterrupt
        trained.append(client)
        return train(self, client, *arguments, **named)

    monkeypatch.setattr(TinyLearner, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        train_arms(store, planned)
    assert trained == ["centralized", "p0", "p14"]
    monkeypatch.setattr(TinyLearner, "train", train)
    train_arms(store, planned)
    for arm in Arm:
        assert _scores(store, planned, arm) == _scores(store, whole, arm)


def test_a_store_that_fails_fails_the_step(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_rounds(store, tmp_path / "run")
    planned = plan(store)

    def full(*_: object) -> None:
        raise StoreUnavailableError("the disk is full")

    monkeypatch.setattr(ComparisonStore, "put", full)
    capsys.readouterr()
    with refused(capsys, StoreUnavailableError.exit_code, "the disk is full"):
        train_arms(store, planned)


def test_at_the_deadline_who_is_not_done_is_recorded(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_rounds(store, tmp_path / "run")
    planned = plan(store, deadline_s=1)
    train = TinyLearner.train

    def slow(self: TinyLearner, client: str, *arguments: Any, **named: Any) -> ClientUpdate:
        if client in ("p14", "centralized"):
            time.sleep(30)
        return train(self, client, *arguments, **named)

    monkeypatch.setattr(TinyLearner, "train", slow)
    train_arms(store, planned)
    failures = {f.client: f.reason for result in results(store, planned, Arm.LOCAL) for f in result.failures}
    assert failures == {"p14": ExclusionReason.DEADLINE, "p21": ExclusionReason.DEADLINE}
    assert _scores(store, planned, Arm.LOCAL).keys() == {"p0", "p7"}
    assert results(store, planned, Arm.CENTRALIZED)[0].problem == "not done after 1 s"


def test_no_document_has_raw_data(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run")
    before = set(store.keys("blobs/"))
    train_arms(store, plan(store))
    assert set(store.keys("blobs/")) == before
    for key in store.keys("comparisons/"):
        text = store.get(key).data.decode()
        json.loads(text)
        for client in MEMBERS:
            assert str(float(_data(client).x[0, 0])) not in text


@pytest.mark.parametrize("wrong", ["", "tiny", "tiny/v1", "tiny/v1/0123456789ab", "tiny/v1/../x", "a/b/c/d/e"])
def test_what_is_no_batch_is_refused(store: Store, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train_arm(store.url, wrong)
    assert end.value.code in (2, 4)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_batch_that_the_plan_lacks_is_refused(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_rounds(store, tmp_path / "run", rounds=1)
    planned = plan(store)
    capsys.readouterr()
    with refused(capsys, 2, "no batch local-b009"):
        train_arm(store.url, f"{planned.comparison}/local-b009")


def test_a_learner_that_measures_first_is_trained_too() -> None:
    learner = NormalizedLearner(TinyLearner(), 3)
    examples = TinyWorkload().train_data("p0", 4)
    scaled = Examples(examples.x * np.float32(100) + np.float32(7), examples.y)
    before = learner.initial_weights(seed=0)
    after = train_alone(learner, before, "a", scaled, LocalTraining(local_epochs=2), SEEDS)
    mean = f"{STATISTICS}input/mean"
    np.testing.assert_allclose(after[mean], scaled.x.mean(axis=0), rtol=1e-5)
    assert not np.array_equal(after["0000/w"], before["0000/w"])
    measured = {**before, **{name: value for name, value in after.items() if name.startswith(STATISTICS)}}
    again = train_alone(learner, measured, "a", scaled, LocalTraining(local_epochs=2), SEEDS)
    assert all(again[name].tobytes() == after[name].tobytes() for name in after)


def test_an_update_is_added_over_what_it_covers() -> None:
    weights: Tensors = {"w": np.array([1, 2, 3], np.float32), "b": np.zeros(1, np.float32)}
    update: Tensors = {
        "w": np.array([0.5, 0, 2], np.float32),
        f"{COVERAGE}w": np.array([0.25, 0, 1], np.float32),
        f"{STATISTICS}x/mean": np.array([9], np.float32),
    }
    model = applied(weights, update)
    assert model["w"].tolist() == [3, 2, 5]
    assert model["b"].tolist() == [0]
    assert model[f"{STATISTICS}x/mean"].tolist() == [9]
    assert model["w"].dtype == np.float32


def test_a_model_that_overflows_is_refused() -> None:
    big: Tensors = {"w": np.full(2, 3e38, np.float32)}
    with pytest.raises(UpdateError, match="NON_FINITE_TRAINING"):
        applied(big, big)
