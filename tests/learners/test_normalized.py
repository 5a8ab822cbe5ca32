"""Normalizing, around a learner of a few lines of numpy: it needs no framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from fededge.core.aggregation import Weighted, weighted_mean
from fededge.core.statistics import pooled_statistics
from fededge.core.tensors import Array, Tensors, signature
from fededge.core.updates import ClientUpdate, ExclusionReason
from fededge.errors import InputError, UpdateError, WorkloadError
from fededge.learners import ClientSeeds, Examples, require_usable
from fededge.learners.normalized import MEAN, PRESENT, VARIANCE, NormalizedLearner
from fededge.records import Runtime
from fededge.runtime import describe_runtime
from fededge.settings import LocalTraining

few = settings(derandomize=True, deadline=None, max_examples=25)
HOW = LocalTraining(local_epochs=1, client_learning_rate=0.1, client_momentum=0.0)
SEEDS = ClientSeeds(1, 2)
FEATURES = 3


@dataclass
class Line:
    """Learns y = x·w by one step of gradient descent; remembers what it was given."""

    seen: list[Array] = field(default_factory=list)
    exported: tuple[Array, Array] | None = None

    def initial_weights(self, seed: int) -> Tensors:
        return {"w": np.full(FEATURES, seed, np.float32)}

    def load_weights(self, path: Path) -> Tensors:
        weights = safetensors.numpy.load_file(path)
        if list(weights) != ["w"]:
            raise InputError(f"{path.name} has {list(weights)}")
        return weights

    def prepare(self) -> None:
        self.seen.append(np.zeros(0))

    def update_signature(self, weights: Tensors, how: LocalTraining) -> dict[str, str]:
        if how.client_momentum:
            raise WorkloadError("no momentum here")
        return signature(weights)

    def train(
        self,
        client: str,
        weights: Tensors,
        examples: Examples,
        how: LocalTraining,
        seeds: ClientSeeds,
        correction: Tensors | None = None,
    ) -> ClientUpdate:
        require_usable(examples)
        self.seen.append(examples.x)
        error = self.predict(weights, examples.x) - examples.y
        gradient = (examples.x.reshape(-1, FEATURES) * error[:, np.newaxis]).mean(axis=0)
        if correction:
            gradient = gradient + correction["w"]
        return ClientUpdate(
            client, {"w": np.float32(-how.client_learning_rate) * gradient}, len(examples), {"loss": 1.0}
        )

    def predict(self, weights: Tensors, x: Array) -> Array:
        self.seen.append(x)
        return np.asarray(x.reshape(len(x), -1, FEATURES).mean(axis=1) @ weights["w"])

    def evaluate(self, weights: Tensors, examples: Examples) -> Mapping[str, float]:
        return {"mae": float(np.abs(self.predict(weights, examples.x) - examples.y).mean())}

    def export(self, weights: Tensors, path: Path, scaling: tuple[Array, Array] | None = None) -> None:
        self.exported = scaling

    def runtime(self) -> Runtime:
        return describe_runtime(("numpy",), 1)


def examples(x: object) -> Examples:
    inputs = np.array(x, np.float32)
    return Examples(inputs, np.ones(len(inputs), np.float32))


def measure(learner: NormalizedLearner, clients: list[Examples]) -> Tensors:
    """Run the first round: clients measure, the server pools."""
    weights = learner.initial_weights(1)
    updates = [learner.train(f"c{i}", weights, client, HOW, SEEDS) for i, client in enumerate(clients)]
    for update in updates:
        assert signature(update.delta) == learner.update_signature(weights, HOW)
    return {**weights, **pooled_statistics(Weighted(u.delta, u.num_examples) for u in updates)}


def measured(mean: list[float], variance: list[float]) -> Tensors:
    values = {MEAN: mean, VARIANCE: variance, PRESENT: [1.0] * len(mean)}
    return {"w": np.ones(FEATURES, np.float32), **{name: np.array(v, np.float32) for name, v in values.items()}}


SENSORS = [
    examples([[2388.0, 0.5, np.nan], [2388.1, 0.5, 4.0]]),
    examples([[2387.9, 0.5, 6.0]]),
    examples([[2388.0, 0.5, np.nan], [2388.05, 0.5, np.nan], [2388.05, 0.5, 8.0]]),
]


def test_the_model_begins_unmeasured() -> None:
    weights = NormalizedLearner(Line(), FEATURES).initial_weights(7)
    assert weights["w"].tolist() == [7.0] * 3
    assert weights[VARIANCE].tolist() == [-1.0] * 3
    assert signature({name: weights[name] for name in (MEAN, PRESENT, VARIANCE)}) == {
        "statistics/input/mean": "float32[3]",
        "statistics/input/present": "float32[3]",
        "statistics/input/variance": "float32[3]",
    }


def test_the_first_round_measures_and_trains_nothing() -> None:
    inner = Line()
    learner = NormalizedLearner(inner, FEATURES)
    weights = learner.initial_weights(0)
    update = learner.train("a", weights, SENSORS[0], HOW, SEEDS)
    assert learner.update_signature(weights, HOW) == signature(update.delta)
    assert set(update.delta) == {MEAN, VARIANCE, PRESENT}
    np.testing.assert_allclose(update.delta[MEAN], [2388.05, 0.5, 4.0], rtol=1e-7)
    np.testing.assert_allclose(update.delta[VARIANCE], [0.0025, 0, 0], rtol=3e-3, atol=1e-12)
    assert update.delta[PRESENT].tolist() == [1.0, 1.0, 0.5]
    assert (update.client, update.num_examples, dict(update.metrics)) == ("a", 2, {})
    assert not inner.seen


def test_the_pooled_statistics_are_those_of_all_clients_data() -> None:
    learner = NormalizedLearner(Line(), FEATURES)
    weights = measure(learner, SENSORS)
    together = np.concatenate([client.x for client in SENSORS]).astype(np.float64)
    np.testing.assert_allclose(weights[MEAN], np.nanmean(together, axis=0), rtol=1e-7)
    np.testing.assert_allclose(weights[VARIANCE], np.nanvar(together, axis=0), rtol=1e-2, atol=1e-12)
    np.testing.assert_allclose(weights[PRESENT], [1, 1, 0.5], rtol=1e-6)
    assert signature(weights) == signature(learner.initial_weights(0))


def test_later_rounds_train_on_normalized_inputs_and_leave_the_statistics() -> None:
    inner = Line()
    learner = NormalizedLearner(inner, FEATURES)
    weights = measured([10.0, 0.0, -1.0], [4.0, 0.25, 1.0])
    client = examples([[12.0, 0.5, np.nan], [8.0, -1.0, 0.0]])
    assert learner.update_signature(weights, HOW) == {"w": "float32[3]"}
    update = learner.train("a", weights, client, HOW, SEEDS)
    normalized = np.array([[1, 1, 0], [-1, -2, 1]], np.float32)
    np.testing.assert_array_equal(inner.seen[0], normalized)
    assert inner.seen[0].dtype == np.float32
    error = normalized.sum(axis=1) - 1
    np.testing.assert_allclose(update.delta["w"], -0.1 * (normalized * error[:, np.newaxis]).mean(axis=0), rtol=1e-6)
    assert np.isnan(client.x).any()  # the client's own are as they were


def test_many_values_far_from_0_are_measured_as_exactly_as_few() -> None:
    """Added up in float32, 20,000 values of 2,388 are wrong by more than their deviation."""
    x = np.random.default_rng(0).normal([2388, -2388, 0], 0.05, (20_000, 3)).astype(np.float32)
    learner = NormalizedLearner(Line(), FEATURES)
    delta = learner.train("a", learner.initial_weights(0), Examples(x, np.ones(len(x))), HOW, SEEDS).delta
    np.testing.assert_allclose(delta[MEAN], x.mean(axis=0, dtype=np.float64), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(delta[VARIANCE], x.var(axis=0, dtype=np.float64), rtol=1e-6)


def test_pooled_data_normalized_so_have_mean_0_and_deviation_1() -> None:
    rng = np.random.default_rng(0)
    data = [rng.normal([2388, -3e5, 1e-4], [0.05, 2e4, 1e-5], (200 + 50 * k, 3)) for k in range(4)]
    clients = [Examples(x.astype(np.float64), np.ones(len(x))) for x in data]
    inner = Line()
    learner = NormalizedLearner(inner, FEATURES)
    weights = measure(learner, clients)
    learner.predict(weights, np.concatenate(data))
    np.testing.assert_allclose(inner.seen[-1].mean(axis=0, dtype=np.float64), 0, atol=5e-3)
    np.testing.assert_allclose(inner.seen[-1].std(axis=0, dtype=np.float64), 1, rtol=1e-3)


def test_windows_are_measured_over_all_their_rows() -> None:
    inner = Line()
    learner = NormalizedLearner(inner, FEATURES)
    windows = np.arange(2 * 5 * 3, dtype=np.float32).reshape(2, 5, 3)
    update = learner.train("a", learner.initial_weights(0), Examples(windows, np.ones(2)), HOW, SEEDS)
    rows = windows.reshape(10, 3)
    np.testing.assert_allclose(update.delta[MEAN], rows.mean(axis=0))
    np.testing.assert_allclose(update.delta[VARIANCE], rows.var(axis=0))
    assert update.num_examples == 2
    weights = {**learner.initial_weights(0), **update.delta}
    learner.predict(weights, windows)
    np.testing.assert_allclose(inner.seen[-1], (windows - rows.mean(axis=0)) / rows.std(axis=0), rtol=1e-5)


def test_a_constant_feature_is_divided_by_1() -> None:
    inner = Line()
    learner = NormalizedLearner(inner, FEATURES)
    # In float64 518.67 is no float32: its mean over examples differs from it, and so seems to vary.
    noise = np.array([0, 1e-13, -1e-13])
    clients = [Examples(np.stack([np.full(3, 0.1), 518.67 + noise, np.zeros(3)], axis=1), np.ones(3)) for _ in range(7)]
    weights = measure(learner, clients)
    assert weights[VARIANCE][1] > 0
    learner.predict(weights, np.array([[0.1, 518.67, 0.0], [1.1, 519.67, 1.0]]))
    np.testing.assert_allclose(inner.seen[-1], [[0, 0, 0], [1, 1, 1]], atol=1e-4)


def test_a_feature_that_nobody_has_stays_0() -> None:
    inner = Line()
    learner = NormalizedLearner(inner, FEATURES)
    weights = measure(learner, [examples([[1.0, np.nan, 2.0]]), examples([[3.0, np.nan, 6.0]])])
    assert [weights[name][1] for name in (MEAN, VARIANCE, PRESENT)] == [0.0, 0.0, 0.0]
    assert learner.update_signature(weights, HOW) == {"w": "float32[3]"}
    learner.predict(weights, np.array([[2.0, np.nan, 4.0], [2.0, 5.0, 6.0]]))
    np.testing.assert_allclose(inner.seen[-1], [[0, 0, 0], [0, 5, 1]])


def test_before_measuring_inputs_are_predicted_as_they_are() -> None:
    inner = Line()
    learner = NormalizedLearner(inner, FEATURES)
    weights = learner.initial_weights(2)
    assert learner.predict(weights, np.array([[1.0, 2.0, np.nan]])).tolist() == [6.0]
    assert learner.evaluate(weights, examples([[1.0, np.nan, 0.0]])) == {"mae": 1.0}


def test_evaluation_normalizes_too() -> None:
    learner = NormalizedLearner(Line(), FEATURES)
    weights = measured([1.0, 1.0, 1.0], [4.0, 4.0, 4.0])
    assert learner.evaluate(weights, examples([[3.0, 1.0, 1.0], [7.0, 1.0, np.nan]])) == {"mae": 1.0}


def test_a_correction_is_passed_on() -> None:
    learner = NormalizedLearner(Line(), FEATURES)
    weights, client = measured([0.0] * 3, [1.0] * 3), examples([[0.0, 0.0, 0.0]])
    correction = {"w": np.array([1, 2, 3], np.float32)}
    update = learner.train("a", weights, client, HOW, SEEDS, correction)
    np.testing.assert_allclose(update.delta["w"], [-0.1, -0.2, -0.3], rtol=1e-6)


def test_what_the_inner_learner_refuses_is_refused_before_anybody_measures() -> None:
    learner = NormalizedLearner(Line(), FEATURES)
    with pytest.raises(WorkloadError, match="no momentum here"):
        learner.update_signature(learner.initial_weights(0), LocalTraining(client_momentum=0.9))


@pytest.mark.parametrize("is_measured", [False, True])
@pytest.mark.parametrize(
    ("x", "reason", "message"),
    [
        (
            [[1.0, np.inf, 2.0], [-np.inf, 0.0, 0.0]],
            ExclusionReason.BAD_DATA,
            "2 of 6 values of the inputs are infinite",
        ),
        ([[1.0, 2.0]], ExclusionReason.BAD_DATA, "the inputs have 2 features, and the model takes 3"),
        ([1.0, 2.0, 3.0], ExclusionReason.BAD_DATA, "the inputs have no features, and the model takes 3"),
        (np.zeros((0, 3)), ExclusionReason.NO_DATA, "no examples"),
    ],
)
def test_unusable_inputs_are_named(x: object, reason: ExclusionReason, message: str, is_measured: bool) -> None:
    learner = NormalizedLearner(Line(), FEATURES)
    weights = measured([0.0] * 3, [1.0] * 3) if is_measured else learner.initial_weights(0)
    with pytest.raises(UpdateError, match=message) as caught:
        learner.train("a", weights, examples(x), HOW, SEEDS)
    assert caught.value.reason == reason
    if reason is ExclusionReason.BAD_DATA:
        with pytest.raises(WorkloadError, match=message):
            learner.predict(weights, examples(x).x)


def test_unusable_targets_are_the_inner_learners_to_name() -> None:
    learner = NormalizedLearner(Line(), FEATURES)
    bad = Examples(np.zeros((1, 3), np.float32), np.array([np.nan]))
    with pytest.raises(UpdateError, match="1 of 1 values of the targets"):
        learner.train("a", measured([0.0] * 3, [1.0] * 3), bad, HOW, SEEDS)


def test_inputs_too_large_to_be_measured_are_refused() -> None:
    learner = NormalizedLearner(Line(), FEATURES)
    huge = Examples(np.array([[1e30, 0, 0], [-1e30, 0, 0]]), np.ones(2))
    with pytest.raises(UpdateError, match="too large for their variance") as caught:
        learner.train("a", learner.initial_weights(0), huge, HOW, SEEDS)
    assert caught.value.reason == ExclusionReason.BAD_DATA


def test_inputs_that_become_infinite_are_refused_without_a_warning() -> None:
    learner = NormalizedLearner(Line(), FEATURES)
    with pytest.raises(UpdateError, match="1 of 3 values of the inputs"):
        learner.train("a", measured([0.0] * 3, [1e-30] * 3), examples([[3e38, 0, 0]]), HOW, SEEDS)


@pytest.mark.parametrize("weights", [{"w": np.ones(3, np.float32)}, measured([0.0] * 2, [1.0] * 2)])
def test_a_version_with_other_statistics_is_refused(weights: Tensors) -> None:
    learner = NormalizedLearner(Line(), FEATURES)
    for use in (
        lambda: learner.update_signature(weights, HOW),
        lambda: learner.train("a", weights, SENSORS[0], HOW, SEEDS),
        lambda: learner.predict(weights, SENSORS[0].x),
        lambda: learner.export(weights, Path("m")),
    ):
        with pytest.raises(WorkloadError, match=r"normalizes its inputs by .* changed model"):
            use()


def test_weights_of_the_inner_model_and_of_the_whole_are_read(tmp_path: Path) -> None:
    learner = NormalizedLearner(Line(), FEATURES)
    whole = measured([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    safetensors.numpy.save_file(whole, tmp_path / "whole.safetensors")
    safetensors.numpy.save_file({"w": whole["w"]}, tmp_path / "inner.safetensors")
    loaded = learner.load_weights(tmp_path / "whole.safetensors")
    assert {name: value.tolist() for name, value in loaded.items()} == {n: v.tolist() for n, v in whole.items()}
    assert learner.load_weights(tmp_path / "inner.safetensors")[VARIANCE].tolist() == [-1.0] * 3


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    learner = NormalizedLearner(Line(), FEATURES)
    safetensors.numpy.save_file(measured([0.0] * 2, [1.0] * 2), tmp_path / "two.safetensors")
    safetensors.numpy.save_file({"v": np.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    for name in ("two", "other", "no", "missing"):
        with pytest.raises(InputError, match=f"{name}.safetensors"):
            learner.load_weights(tmp_path / f"{name}.safetensors")


def test_export_hands_over_mean_and_scale() -> None:
    inner = Line()
    NormalizedLearner(inner, FEATURES).export(measured([1.0, 2.0, 3.0], [4.0, 0.0, 0.25]), Path("m"))
    assert inner.exported is not None
    assert [(value.tolist(), value.dtype) for value in inner.exported] == [
        ([1.0, 2.0, 3.0], np.float32),
        ([2.0, 1.0, 0.5], np.float32),
    ]


def test_export_of_a_learner_that_cannot_is_refused() -> None:
    class Plain(Line):
        def export(self, weights: Tensors, path: Path) -> None:  # type: ignore[override]
            raise AssertionError

    with pytest.raises(WorkloadError, match="the export of Plain takes no scaling"):
        NormalizedLearner(Plain(), FEATURES).export(measured([0.0] * 3, [1.0] * 3), Path("m"))


def test_the_rest_is_the_inner_learners() -> None:
    inner = Line()
    learner = NormalizedLearner(inner, FEATURES)
    learner.prepare()
    assert len(inner.seen) == 1
    assert learner.runtime() == inner.runtime()


@few
@given(st.integers(0, 10**6), st.lists(st.integers(1, 20), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_two_rounds_do_not_depend_on_the_order_of_clients(seed: int, sizes: list[int], random: object) -> None:
    rng = np.random.default_rng(seed)
    clients = [
        Examples(np.where(rng.random((n, 3)) < 0.2, np.nan, rng.normal(5, 2, (n, 3))), rng.normal(size=n))
        for n in sizes
    ]
    learner = NormalizedLearner(Line(), FEATURES)
    weights = measure(learner, clients)
    order = list(range(len(clients)))
    random.shuffle(order)  # type: ignore[attr-defined]
    forth = {i: learner.train(str(i), weights, clients[i], HOW, SEEDS) for i in range(len(clients))}
    other = NormalizedLearner(Line(), FEATURES)
    back = {i: other.train(str(i), weights, clients[i], HOW, SEEDS) for i in order}
    assert all(forth[i].delta["w"].tobytes() == back[i].delta["w"].tobytes() for i in forth)
    mean = weighted_mean(Weighted(forth[i].delta, forth[i].num_examples) for i in forth)
    assert np.isfinite(mean["w"]).all()
