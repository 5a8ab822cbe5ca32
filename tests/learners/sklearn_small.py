"""Small scikit-learn models and their clients, of sizes that differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor

from fededge.core.tensors import Tensors
from fededge.learners import ClientSeeds, Examples
from fededge.learners.sklearn import SklearnLearner, classifier, clusterer, minibatches, regressor
from fededge.settings import LocalTraining

INPUTS, CLASSES = 5, (0, 1, 2)
SEEDS = ClientSeeds(shuffle=11, dropout=12)
CLIENTS = ("a", "b", "c10", "c9", "é")


def how(**values: Any) -> LocalTraining:
    return LocalTraining(**{"local_epochs": 1, "batch_size": 8, "client_momentum": 0.0, **values})


PROX = how(client_algorithm="fedprox", proximal_mu=0.5)
SCAFFOLD = how(client_algorithm="scaffold")


def mlp(**values: Any) -> MLPClassifier:
    return MLPClassifier((6,), solver="sgd", **values)


def examples(client: str = "a", classes: tuple[int, ...] = CLASSES) -> Examples:
    index = CLIENTS.index(client)
    rng = np.random.default_rng(index)
    labels = rng.choice(classes, 23 + 17 * index).astype(np.int32)
    x = rng.normal(size=(len(labels), INPUTS)) + labels[:, np.newaxis] / 2
    return Examples(x.astype(np.float32), labels)


def numbers(client: str = "a", outputs: int = 1) -> Examples:
    x = examples(client).x
    y = np.stack([x @ np.arange(1, INPUTS + 1) * (k + 1) / 5 + k for k in range(outputs)], axis=1)
    return Examples(x, y.astype(np.float32).squeeze())


def shaken(learner: SklearnLearner, scale: float = 0.3) -> Tensors:
    """Make weights that no initialization gives."""
    rng = np.random.default_rng(5)
    return {
        name: rng.normal(0, scale, value.shape).astype(np.float32) for name, value in learner.initial_weights(0).items()
    }


def in_order(data: Examples, settings_: LocalTraining) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for batch in minibatches(len(data), settings_, SEEDS.shuffle):
        yield data.x[batch].astype(np.float64), data.y[batch]


def bits(tensors: Tensors) -> bytes:
    return b"".join(tensors[name].tobytes() for name in sorted(tensors))


def close(got: Tensors, expected: Tensors, tolerance: float = 2e-6) -> None:
    assert set(got) == set(expected)
    for name, value in got.items():
        assert value.dtype == np.float32, name
        assert value.shape == expected[name].shape, name
        np.testing.assert_allclose(value, expected[name], atol=tolerance, err_msg=name)


MODELS: dict[str, tuple[SklearnLearner, Callable[[str], Examples]]] = {
    "mlp": (classifier(mlp, INPUTS, CLASSES), examples),
    "log_loss": (classifier(lambda: SGDClassifier(loss="log_loss"), INPUTS, CLASSES), examples),
    "hinge": (classifier(SGDClassifier, INPUTS, CLASSES), examples),
    "perceptron": (classifier(Perceptron, INPUTS, CLASSES), examples),
    "mlp regressor": (
        regressor(lambda: MLPRegressor(hidden_layer_sizes=(6,), solver="sgd"), INPUTS, outputs=2),
        lambda c: numbers(c, 2),
    ),
    "sgd regressor": (regressor(SGDRegressor, INPUTS), numbers),
    "k-means": (clusterer(lambda: MiniBatchKMeans(4), INPUTS), examples),
}
