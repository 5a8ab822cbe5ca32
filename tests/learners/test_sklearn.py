"""The scikit-learn learner: what it promises of any learner, and what of scikit-learn shows through."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import skops.io
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error
from sklearn.neural_network import MLPClassifier, MLPRegressor

from fededge.core.aggregation import Weighted
from fededge.core.statistics import pooled_statistics
from fededge.core.tensors import Tensors, signature
from fededge.core.updates import ClientUpdate, ExclusionReason
from fededge.errors import InputError, UpdateError, WorkloadError
from fededge.learners import ClientSeeds, Examples
from fededge.learners.normalized import MEAN, VARIANCE, NormalizedLearner
from fededge.learners.sklearn import THREADS, classifier, clusterer, regressor
from fededge.learners.sklearn_models import alone
from tests.learners.sklearn_small import (
    CLASSES,
    CLIENTS,
    INPUTS,
    MODELS,
    SEEDS,
    bits,
    examples,
    how,
    mlp,
    numbers,
    shaken,
)

few = settings(derandomize=True, deadline=None, max_examples=15)
every_model = pytest.mark.parametrize("name", MODELS)
CLASSIFIERS = {name: MODELS[name][0] for name in ("mlp", "log_loss", "hinge", "perceptron")}


# Weights


@every_model
def test_initial_weights_follow_the_seed(name: str) -> None:
    learner, _ = MODELS[name]
    first, again, other = (learner.initial_weights(seed) for seed in (1, 1, 2))
    assert bits(first) == bits(again)
    assert signature(first) == signature(other)
    assert {kind.partition("[")[0] for kind in signature(first).values()} == {"float32"}
    zeros = name in ("log_loss", "hinge", "perceptron", "sgd regressor")  # scikit-learn's linear models begin so
    assert (bits(first) == bits(other)) == zeros
    assert zeros == (not any(value.any() for value in first.values()))


def test_a_network_begins_as_the_librarys_own() -> None:
    weights = classifier(mlp, INPUTS, CLASSES).initial_weights(4)
    library = mlp(random_state=4, learning_rate_init=1e-30)
    library.partial_fit(examples().x, examples().y, classes=CLASSES)
    for i in range(2):
        np.testing.assert_array_equal(weights[f"coefs_/{i}"], library.coefs_[i])
        np.testing.assert_array_equal(weights[f"intercepts_/{i}"], library.intercepts_[i])


@every_model
def test_an_update_is_named_and_shaped_as_announced(name: str) -> None:
    learner, data = MODELS[name]
    weights = learner.initial_weights(0)
    update = learner.train("a", weights, data("a"), how(), SEEDS)
    assert signature(update.delta) == learner.update_signature(weights, how())
    assert list(update.metrics) == list(learner.evaluate(weights, data("a")))


def test_more_layers_than_ten_keep_their_order() -> None:
    learner = classifier(lambda: MLPClassifier((3,) * 11 + (4,), solver="sgd"), INPUTS, CLASSES)
    weights = shaken(learner)
    assert weights["coefs_/11"].shape == (3, 4)
    assert weights["coefs_/12"].shape == (4, 3)
    zero = {name: np.zeros_like(value) for name, value in weights.items()}
    last = np.array([1, 5, 2], np.float32)
    assert learner.predict({**zero, "intercepts_/12": last}, examples().x[:1]).tolist() == [last.tolist()]


@every_model
def test_the_global_weights_are_not_changed(name: str) -> None:
    learner, data = MODELS[name]
    weights = learner.initial_weights(0)
    before = bits(weights)
    learner.train("a", weights, data("a"), how(), SEEDS)
    learner.evaluate(weights, data("a"))
    assert bits(weights) == before


@every_model
def test_weights_of_a_changed_model_are_refused(name: str) -> None:
    learner, data = MODELS[name]
    weights = learner.initial_weights(0)
    first = next(iter(weights))
    others = [
        {**weights, first: np.zeros((9, 9), np.float32)},
        {**weights, "more": np.zeros(1, np.float32)},
        {name: value for name, value in weights.items() if name != first},
        {**weights, first: weights[first].astype(np.float64)},
    ]
    for other in others:
        with pytest.raises(
            WorkloadError, match=r"begin another training for the changed model, with `fededge run --new`"
        ):
            learner.train("a", other, data("a"), how(), SEEDS)
        with pytest.raises(WorkloadError, match="changed model"):
            learner.update_signature(other, how())
        with pytest.raises(WorkloadError, match="changed model"):
            learner.predict(other, data("a").x)


# What the result depends on


@every_model
def test_a_client_does_not_depend_on_who_trained_before(name: str) -> None:
    learner, data = MODELS[name]
    weights = shaken(learner)

    def train_all(order: tuple[str, ...]) -> dict[str, ClientUpdate]:
        return {c: learner.train(c, weights, data(c), how(local_epochs=2), SEEDS) for c in order}

    forth, back = train_all(CLIENTS), train_all(CLIENTS[::-1])
    for client in CLIENTS:
        assert bits(forth[client].delta) == bits(back[client].delta)
        assert forth[client].metrics == back[client].metrics


def test_momentum_begins_afresh_on_each_client() -> None:
    learner, _ = MODELS["mlp"]
    weights, settings_ = shaken(learner), how(client_momentum=0.9)
    first, second = (learner.train("a", weights, examples(), settings_, SEEDS) for _ in range(2))
    assert bits(first.delta) == bits(second.delta)


@every_model
def test_neither_numpys_global_seed_nor_its_state_matters(name: str) -> None:
    learner, data = MODELS[name]
    results = []
    for seed in (1, 2):
        np.random.seed(seed)
        before = np.random.get_state()[1].tobytes()
        weights = learner.initial_weights(3)
        results.append(bits(learner.train("a", weights, data("a"), how(), SEEDS).delta))
        assert np.random.get_state()[1].tobytes() == before
    assert results[0] == results[1]


@every_model
def test_the_shuffle_seed_matters_and_the_dropout_seed_does_not(name: str) -> None:
    learner, data = MODELS[name]
    weights = shaken(learner)
    one, same, other = (
        bits(learner.train("a", weights, data("a"), how(client_learning_rate=0.01), ClientSeeds(*s)).delta)
        for s in ((1, 1), (1, 2), (2, 1))
    )
    assert one == same != other


@every_model
def test_wider_numbers_and_other_layouts_of_the_same_data_give_the_same_bits(name: str) -> None:
    learner, data = MODELS[name]
    weights, plain = shaken(learner), data("a")
    y = plain.y if plain.y.dtype == np.int32 else plain.y.astype(np.float64)
    other = Examples(np.asfortranarray(plain.x.astype(np.float64)), y)
    expected = learner.train("a", weights, plain, how(), SEEDS)
    assert bits(learner.train("a", weights, other, how(), SEEDS).delta) == bits(expected.delta)


def test_the_librarys_warnings_stay_inside() -> None:
    """Of a minibatch with many classes scikit-learn suspects that they are no classes."""
    data = Examples(examples("b").x[:25], np.arange(25) % 20)
    for estimator in (mlp, SGDClassifier):
        learner = classifier(estimator, INPUTS, range(20))
        learner.train("b", learner.initial_weights(0), data, how(batch_size=25), SEEDS)
    with pytest.warns(UserWarning, match="unique classes"):
        mlp().partial_fit(data.x, data.y, classes=range(20))


def test_read_only_data_can_be_trained_on() -> None:
    for learner, data in MODELS.values():
        given_ = data("a")
        for array in (given_.x, given_.y):
            array.flags.writeable = False
        weights = learner.initial_weights(0)
        for value in weights.values():
            value.flags.writeable = False
        assert learner.train("a", weights, given_, how(), SEEDS).num_examples == 23


def test_a_network_computes_in_float32() -> None:
    learner, _ = MODELS["mlp"]
    seen = []

    class Watched(MLPClassifier):
        def partial_fit(self, x: np.ndarray, y: np.ndarray, classes: np.ndarray | None = None) -> Watched:
            super().partial_fit(x, y, classes=classes)
            seen.extend([x.dtype, *(value.dtype for value in (*self.coefs_, *self.intercepts_))])
            return self

    watched = classifier(lambda: Watched((6,), solver="sgd", alpha=np.float64(0.1)), INPUTS, CLASSES)
    data = examples()
    wide = Examples(data.x.astype(np.float64), data.y)
    watched.train("a", shaken(learner), wide, how(client_momentum=0.5), SEEDS)
    assert set(seen) == {np.dtype(np.float32)}


_THREADS = """
import numpy as np, sys
from sklearn.neural_network import MLPClassifier
from fededge.learners import ClientSeeds, Examples
from fededge.learners.sklearn import classifier
from fededge.settings import LocalTraining
import threadpoolctl
learner = classifier(lambda: MLPClassifier((100,), solver="sgd"), 784, range(10))
rng = np.random.default_rng(0)
data = Examples(rng.normal(size=(200, 784)).astype(np.float32), rng.integers(0, 10, 200))
weights = learner.initial_weights(0)
update = learner.train("a", weights, data, LocalTraining(local_epochs=2, batch_size=200), ClientSeeds(1, 2))
sys.stdout.write(str(max(pool["num_threads"] for pool in threadpoolctl.threadpool_info())) + " ")
sys.stdout.write("".join(update.delta[name].tobytes().hex() for name in sorted(update.delta)))
sys.stdout.write(learner.predict(weights, data.x).tobytes().hex())
"""


def test_the_number_of_threads_changes_no_bit() -> None:
    """A product of matrices of this size has other bits with two BLAS threads, if they are let."""

    def compute(threads: int) -> tuple[str, str]:
        environment = {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), "PYTHONPATH": _root()}
        done = subprocess.run(
            [sys.executable, "-c", _THREADS], env=environment, capture_output=True, text=True, check=True
        )
        used, _, result = done.stdout.partition(" ")
        return used, result

    (one, expected), (two, result) = compute(1), compute(2)
    assert result == expected
    assert one == "1"
    if two == one:
        pytest.skip("this machine gives BLAS one thread alone")


def test_threads_are_limited_while_it_computes_and_no_longer() -> None:
    before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    with alone():
        assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == {THREADS} == {1}
    assert [pool["num_threads"] for pool in threadpoolctl.threadpool_info()] == before


# Classes and clients' data


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("classes", [(0, 1), CLASSES])
@pytest.mark.parametrize("has", [0, 1])
def test_a_client_with_one_class_alone(name: str, classes: tuple[int, ...], has: int) -> None:
    estimator = MODELS[name][0]._estimator
    learner = classifier(estimator, INPUTS, classes)
    weights = learner.initial_weights(0)
    x = examples().x
    update = learner.train("a", weights, Examples(x, np.full(len(x), has)), how(local_epochs=20), SEEDS)
    assert signature(update.delta) == learner.update_signature(weights, how())
    trained = {n: weights[n] + update.delta[n] for n in weights}
    assert learner.evaluate(trained, Examples(x, np.full(len(x), has)))["accuracy"] == 1.0


def test_a_client_with_one_example() -> None:
    for learner, data in MODELS.values():
        one = Examples(data("a").x[:1], data("a").y[:1])
        assert learner.train("a", learner.initial_weights(0), one, how(local_epochs=2), SEEDS).num_examples == 2


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classes_need_not_begin_at_0(name: str) -> None:
    plain = MODELS[name][0]
    shifted = classifier(plain._estimator, INPUTS, [30, 10, 20])
    data, weights = examples(), shaken(plain)
    other = Examples(data.x, 10 * (data.y + 1))
    assert shifted.evaluate(weights, other) == plain.evaluate(weights, data)
    one, two = plain.train("a", weights, data, how(), SEEDS), shifted.train("a", weights, other, how(), SEEDS)
    assert bits(one.delta) == bits(two.delta)
    assert one.metrics == two.metrics


@pytest.mark.parametrize("classes", [[], [3], [1, 1, 2]])
def test_classes_are_at_least_two_and_each_named_once(classes: list[int]) -> None:
    with pytest.raises(WorkloadError, match="name each class once, and at least two"):
        classifier(mlp, INPUTS, classes)


def _bad(**changed: object) -> Examples:
    data = examples()
    return Examples(np.asarray(changed.get("x", data.x)), np.asarray(changed.get("y", data.y)))


_NAN = np.where(np.arange(23 * INPUTS).reshape(23, INPUTS) == 7, np.nan, 1.0)
UNUSABLE = [
    (_bad(x=np.zeros((0, INPUTS)), y=np.zeros(0)), ExclusionReason.NO_DATA, "no examples"),
    (_bad(x=_NAN), ExclusionReason.BAD_DATA, "1 of 115 values of the inputs are NaN or infinite"),
    (_bad(x=np.full((23, INPUTS), 1e300)), ExclusionReason.BAD_DATA, "115 of 115 values of the inputs"),
    (_bad(x=np.ones((23, 4))), ExclusionReason.BAD_DATA, "the inputs have 4 columns, and the model takes 5"),
    (_bad(y=np.full(23, 7)), ExclusionReason.BAD_DATA, "the targets have 7, and the classes are 0, 1, 2"),
    (_bad(y=np.full(23, 0.5)), ExclusionReason.BAD_DATA, r"the targets have 0\.5, and the classes are 0, 1, 2"),
    (_bad(y=np.full(23, -1)), ExclusionReason.BAD_DATA, "the targets have -1"),
    (_bad(y=np.full(23, np.nan)), ExclusionReason.BAD_DATA, "23 of 23 values of the targets are NaN"),
    (
        _bad(y=np.zeros((23, 3))),
        ExclusionReason.BAD_DATA,
        r"the targets have shape \[23, 3\], and the model needs \[23\]",
    ),
]


@pytest.mark.parametrize("name", ["mlp", "log_loss"])
@pytest.mark.parametrize(("data", "reason", "message"), UNUSABLE, ids=[message for _, _, message in UNUSABLE])
def test_unusable_data_are_named(name: str, data: Examples, reason: ExclusionReason, message: str) -> None:
    learner, _ = MODELS[name]
    weights = learner.initial_weights(0)
    with pytest.raises(UpdateError, match=message) as caught:
        learner.train("a", weights, data, how(), SEEDS)
    assert caught.value.reason == reason
    with pytest.raises(WorkloadError, match=f"the data to predict: .*{message}"):
        learner.evaluate(weights, data)


@pytest.mark.parametrize(("outputs", "shape"), [(1, (23, 2)), (2, (23,)), (2, (23, 3))])
def test_targets_of_another_number_of_outputs_are_named(outputs: int, shape: tuple[int, ...]) -> None:
    learner = regressor(lambda: MLPRegressor(hidden_layer_sizes=(3,), solver="sgd"), INPUTS, outputs)
    wanted = [23] if outputs == 1 else [23, 2]
    with pytest.raises(UpdateError) as caught:
        learner.train("a", learner.initial_weights(0), Examples(examples().x, np.zeros(shape)), how(), SEEDS)
    assert caught.value.detail == f"the targets have shape {list(shape)}, and the model needs {wanted}"


def test_predicting_inputs_of_another_width_is_refused() -> None:
    learner, _ = MODELS["mlp"]
    with pytest.raises(WorkloadError, match="the data to predict: the inputs have 2 columns"):
        learner.predict(learner.initial_weights(0), np.zeros((3, 2)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_class_numbers_of_any_width_give_the_same_bits(dtype: type) -> None:
    learner, _ = MODELS["mlp"]
    weights, data = shaken(learner), examples()
    expected = learner.train("a", weights, data, how(), SEEDS)
    other = learner.train("a", weights, Examples(data.x, data.y.astype(dtype)), how(), SEEDS)
    assert bits(other.delta) == bits(expected.delta)


def test_inputs_with_more_axes_are_flattened_and_a_column_of_targets_is_one() -> None:
    learner = classifier(lambda: SGDClassifier(), 6, CLASSES)
    x, y = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32), np.arange(20) % 3
    weights = shaken(learner)
    flat, deep = Examples(x, y), Examples(x.reshape(20, 2, 3), y[:, np.newaxis])
    results = [bits(learner.train("a", weights, data, how(), SEEDS).delta) for data in (flat, deep)]
    assert results[0] == results[1]
    assert learner.evaluate(weights, flat) == learner.evaluate(weights, deep)


@pytest.mark.parametrize("name", ["mlp", "log_loss", "sgd regressor", "mlp regressor"])
def test_diverged_training_is_named(name: str) -> None:
    learner, data = MODELS[name]
    wild = how(local_epochs=30, client_learning_rate=3e38)
    with pytest.raises(UpdateError, match="a smaller client_learning_rate may help") as caught:
        learner.train("a", shaken(learner), data("a"), wild, SEEDS)
    assert caught.value.reason == ExclusionReason.NON_FINITE_TRAINING


def test_divergence_after_the_librarys_last_step_is_named() -> None:
    learner, data = MODELS["mlp"]
    wild = how(client_algorithm="fedprox", proximal_mu=1e38, client_learning_rate=100, local_steps=2)
    with pytest.raises(UpdateError) as caught:
        learner.train("a", shaken(learner), data("a"), wild, SEEDS)
    assert caught.value.reason == ExclusionReason.NON_FINITE_TRAINING


def test_another_error_of_the_library_is_not_called_divergence() -> None:
    class Broken(MLPClassifier):
        def partial_fit(self, x: np.ndarray, y: np.ndarray, classes: np.ndarray | None = None) -> Broken:
            if x.any():
                raise ValueError("what is this")
            return super().partial_fit(x, y, classes=classes)

    learner = classifier(lambda: Broken((6,), solver="sgd"), INPUTS, CLASSES)
    with pytest.raises(ValueError, match="what is this"):
        learner.train("a", learner.initial_weights(0), examples(), how(), SEEDS)


# Predictions


def _fitted(name: str, classes: tuple[int, ...], path: Path) -> tuple[object, dict[str, np.ndarray], object]:
    """Return a learner, weights, and the library's own model of them."""
    learner = classifier(MODELS[name][0]._estimator, INPUTS, classes)
    weights = shaken(learner, 1.0)
    learner.export(weights, path / "m.skops")
    return learner, weights, skops.io.load(path / "m.skops")


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("classes", [(0, 1), CLASSES])
def test_scores_say_what_the_library_predicts(name: str, classes: tuple[int, ...], tmp_path: Path) -> None:
    learner, weights, library = _fitted(name, classes, tmp_path)
    data = examples("é", classes)
    scores = learner.predict(weights, data.x)
    assert scores.shape == (len(data), len(classes))
    np.testing.assert_array_equal(scores.argmax(axis=1), library.predict(data.x))
    measured = learner.evaluate(weights, data)
    assert measured["accuracy"] == pytest.approx(accuracy_score(data.y, library.predict(data.x)))
    if name in ("mlp", "log_loss"):
        probabilities = np.exp(scores.astype(np.float64))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(probabilities, library.predict_proba(data.x), atol=2e-6)
        assert measured["loss"] == pytest.approx(log_loss(data.y, library.predict_proba(data.x)), rel=1e-5)


@pytest.mark.parametrize("name", ["mlp", "log_loss", "hinge"])
def test_large_scores_are_told_apart(name: str, tmp_path: Path) -> None:
    """A probability would be 1 for two classes, and the first of them win."""
    learner, weights, library = _fitted(name, CLASSES, tmp_path)
    x = 1e5 * examples().x
    scores = learner.predict(weights, x)
    np.testing.assert_array_equal(scores.argmax(axis=1), library.predict(x))
    assert np.isfinite(learner.evaluate(weights, Examples(x, examples().y))["loss"])


def test_a_tie_of_two_classes_goes_to_the_first_as_in_the_library() -> None:
    learner = classifier(SGDClassifier, INPUTS, (0, 1))
    assert learner.predict(learner.initial_weights(0), np.zeros((1, INPUTS))).tolist() == [[0.0, 0.0]]


def test_regressors_predict_in_the_targets_shape() -> None:
    for outputs, shape in ((1, (23,)), (2, (23, 2))):
        learner = regressor(lambda: MLPRegressor(hidden_layer_sizes=(3,), solver="sgd"), INPUTS, outputs)
        assert learner.predict(learner.initial_weights(0), examples().x).shape == shape
    line = {"coef_": np.array([1, 0, 0, 0, 2], np.float32), "intercept_": np.array([0.5], np.float32)}
    learner = regressor(SGDRegressor, INPUTS)
    np.testing.assert_allclose(learner.predict(line, np.array([[1, 9, 9, 9, 3]])), [7.5])
    data = numbers()
    expected = mean_absolute_error(data.y, data.x @ line["coef_"] + 0.5)
    assert learner.evaluate(line, data)["mae"] == pytest.approx(expected, rel=1e-5)


@few
@given(st.integers(0, 10**6), st.integers(1, 30), st.sampled_from(["mlp", "log_loss", "hinge"]))
def test_a_prediction_does_not_depend_on_the_others(seed: int, number: int, name: str) -> None:
    learner = MODELS[name][0]
    x = np.random.default_rng(seed).normal(size=(number, INPUTS)).astype(np.float32)
    together = learner.predict(shaken(learner), x)
    np.testing.assert_allclose(together[:1], learner.predict(shaken(learner), x[:1]), rtol=1e-4, atol=1e-5)


# Training together


@pytest.mark.parametrize("name", ["mlp", "log_loss", "sgd regressor"])
def test_rounds_learn(name: str) -> None:
    learner, data = MODELS[name]
    weights = learner.initial_weights(0)
    metric, better = ("rmse", -1) if "regressor" in name else ("accuracy", 1)
    settings_ = how(client_learning_rate=0.02 if "regressor" in name else 0.1, local_epochs=3)
    begun = learner.evaluate(weights, data("é"))[metric]
    for number in range(4):
        updates = [learner.train(c, weights, data(c), settings_, ClientSeeds(number, 0)) for c in CLIENTS]
        total = sum(u.num_examples for u in updates)
        weights = {
            n: (w + sum(u.delta[n] * (u.num_examples / total) for u in updates)).astype(np.float32)
            for n, w in weights.items()
        }
    assert better * learner.evaluate(weights, data("é"))[metric] > better * begun


# Files


@every_model
def test_own_weights_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    learner, _ = MODELS[name]
    weights = shaken(learner)
    safetensors.numpy.save_file(weights, tmp_path / "own.safetensors")
    assert bits(learner.load_weights(tmp_path / "own.safetensors")) == bits(weights)


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.skops", "model"])
def test_no_pickle_is_read(name: str, tmp_path: Path) -> None:
    learner, _ = MODELS["log_loss"]
    with pytest.raises(InputError, match=rf"^{name} is no .safetensors file.* a pickle .* coef_, intercept_$"):
        learner.load_weights(tmp_path / name)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    learner, _ = MODELS["log_loss"]
    safetensors.numpy.save_file({"coef_": np.zeros((3, 5)), "intercept_": np.zeros(3)}, tmp_path / "wide.safetensors")
    (tmp_path / "garbage.safetensors").write_bytes(b"no model")
    for name in ("wide", "garbage", "missing"):
        with pytest.raises(InputError, match=f"{name}.safetensors"):
            learner.load_weights(tmp_path / f"{name}.safetensors")


_LOAD = """
import sys, numpy as np, skops.io
from pathlib import Path
for path in Path().glob("*.skops"):
    trusted = ["numpy.dtype"] if path.stem.endswith("rows") else []
    assert skops.io.get_untrusted_types(file=path) == trusted, path
    model = skops.io.load(path, trusted=trusted)
    x = np.load(path.with_suffix(".npy"), allow_pickle=False)
    names = ("predict_proba", "decision_function", "transform", "predict")
    scores = next(getattr(model, name) for name in names if hasattr(model, name))
    np.savez(path.with_suffix(".npz"), predicted=model.predict(x), scores=scores(x))
assert not any(name.startswith("fededge") for name in sys.modules)
"""


def _predicted(folder: Path, inputs: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Let each exported model predict in a fresh process that cannot import FedEdge."""
    for name, x in inputs.items():
        np.save(folder / f"{name}.npy", x)
    command = [sys.executable, "-I", "-W", "error", "-c", _LOAD]
    done = subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: dict(np.load(folder / f"{name}.npz", allow_pickle=False)) for name in inputs}


def test_an_exported_model_predicts_as_ours_without_fededge(tmp_path: Path) -> None:
    for name, (learner, _) in MODELS.items():
        learner.export(shaken(learner), tmp_path / f"{name}.skops")
    loaded = _predicted(tmp_path, {name: data("é").x for name, (_, data) in MODELS.items()})
    for name, (learner, data) in MODELS.items():
        ours = learner.predict(shaken(learner), data("é").x)
        if name in ("hinge", "perceptron"):
            np.testing.assert_allclose(loaded[name]["scores"], ours, rtol=1e-6)
        if name == "k-means":
            np.testing.assert_allclose(-np.square(loaded[name]["scores"]), ours, rtol=1e-5)
        if "regressor" in name:
            np.testing.assert_allclose(loaded[name]["predicted"], ours, rtol=1e-6)
        else:
            np.testing.assert_array_equal(loaded[name]["predicted"], ours.argmax(axis=1))


def _normalized(name: str, rows: int) -> tuple[NormalizedLearner, Tensors, np.ndarray]:
    """Return a learner that has measured, its weights, and inputs, some of which are missing."""
    estimator = MODELS[name][0]._estimator
    width = rows * INPUTS
    inner = clusterer(estimator, width) if name == "k-means" else classifier(estimator, width, CLASSES)
    learner = NormalizedLearner(inner, INPUTS)
    rng = np.random.default_rng(0)
    x = rng.normal([2388, 0, 1e5, -3, 7], [0.05, 1e-6, 1e4, 0, 1], (60, rows, INPUTS)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    weights = {**learner.initial_weights(0), **shaken(inner)}
    update = learner.train("a", weights, Examples(x, np.zeros(60)), how(), SEEDS)
    return learner, weights | pooled_statistics([Weighted(update.delta, update.num_examples)]), x


def test_a_normalized_model_is_exported_with_its_normalization(tmp_path: Path) -> None:
    cases = {f"{name} {rows} rows": _normalized(name, rows) for name in ("mlp", "k-means") for rows in (1, 2)}
    for name, (learner, weights, _) in cases.items():
        assert weights[VARIANCE].min() == 0 < weights[VARIANCE].max()
        assert weights[MEAN][0] == pytest.approx(2388, abs=0.1)
        learner.export(weights, tmp_path / f"{name}.skops")
    loaded = _predicted(tmp_path, {name: x.reshape(60, -1) for name, (_, _, x) in cases.items()})
    for name, (learner, weights, x) in cases.items():
        ours = learner.predict(weights, x)
        np.testing.assert_array_equal(loaded[name]["predicted"], ours.argmax(axis=1))
        if "mlp" in name:
            softmax = np.exp(ours) / np.exp(ours).sum(axis=1, keepdims=True)
            np.testing.assert_allclose(loaded[name]["scores"], softmax, atol=1e-5)


def test_a_model_is_exported_to_skops_alone(tmp_path: Path) -> None:
    learner, _ = MODELS["mlp"]
    with pytest.raises(InputError, match=r"model\.pkl: .* ends in \.skops"):
        learner.export(learner.initial_weights(0), tmp_path / "model.pkl")


def test_an_exported_model_is_the_users_own_and_can_be_trained_on(tmp_path: Path) -> None:
    for name, (learner, data) in MODELS.items():
        learner.export(shaken(learner), tmp_path / f"{name}.skops")
        loaded = skops.io.load(tmp_path / f"{name}.skops")
        assert loaded.get_params() == learner._estimator().get_params()
        loaded.partial_fit(data("a").x, data("a").y)


def test_many_inputs_are_predicted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for learner, data in MODELS.values():
        weights, x = shaken(learner), data("é").x
        whole = learner.predict(weights, x)
        with monkeypatch.context() as patch:
            patch.setattr("fededge.learners.sklearn._PART", 7)
            np.testing.assert_allclose(learner.predict(weights, x), whole, rtol=1e-4, atol=1e-5)


# Around it


def test_the_runtime_names_what_computes() -> None:
    runtime = MODELS["mlp"][0].runtime()
    assert list(runtime.libraries) == ["scikit-learn", "numpy", "scipy"]
    assert runtime.threads == 1


def test_preparing_builds_the_model() -> None:
    for learner, _ in MODELS.values():
        learner.prepare()
    with pytest.raises(WorkloadError, match="solver='adam'"):
        classifier(MLPClassifier, INPUTS, CLASSES).prepare()


def test_the_module_is_imported_without_scikit_learn() -> None:
    program = "import sys, fededge.learners.sklearn; sys.exit('sklearn' in sys.modules or 'skops' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": _root()}, check=True)


def _root() -> str:
    return str(Path(__file__).parents[2])
