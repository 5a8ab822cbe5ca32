"""Softmax regression on the digits, the same model in three libraries. It begins at zero, so that all begin alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fededge.core.metrics import classification_metrics
from fededge.core.tensors import Array, Tensors
from fededge.learners import Learner
from fededge.workloads.digits import split
from fededge.workloads.partitioned import PartitionedWorkload

FEATURES, CLASSES = 64, 10


class FromZero:
    """A learner whose model begins with zeros."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def initial_weights(self, seed: int) -> Tensors:
        return {name: np.zeros_like(value) for name, value in self._learner.initial_weights(seed).items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._learner, name)


def keras_learner() -> Learner:
    from fededge.learners.keras import KerasLearner, tensorflow

    def model() -> Any:
        keras = tensorflow().keras
        return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])

    return KerasLearner(
        model,
        loss=lambda: tensorflow().keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        measure=classification_metrics,
    )


def torch_learner() -> Learner:
    from fededge.learners.torch import classifier

    def model() -> Any:
        from torch import nn

        return nn.Linear(FEATURES, CLASSES)

    return classifier(model, input_shape=(FEATURES,))


def sklearn_learner() -> Learner:
    from fededge.learners.sklearn import classifier

    def model() -> Any:
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier(hidden_layer_sizes=(), alpha=0, solver="sgd", nesterovs_momentum=False)

    return classifier(model, inputs=FEATURES, classes=range(CLASSES))


def as_matrix(tensors: Tensors) -> Array:
    """Return the model as one array [features + 1, classes], whatever its library calls and turns its parts."""
    (weights,) = [value for value in tensors.values() if value.ndim == 2]
    (bias,) = [value for value in tensors.values() if value.ndim == 1]
    return np.vstack([weights if weights.shape[0] == FEATURES else weights.T, bias])


def _workload(learner: Callable[[], Learner]) -> PartitionedWorkload:
    return PartitionedWorkload(
        train=lambda: split()[0],
        examples=1_437,
        test=lambda: split()[1],
        learner=lambda: FromZero(learner()),
        metric="accuracy",
    )


keras, torch, sklearn = _workload(keras_learner), _workload(torch_learner), _workload(sklearn_learner)
__all__ = ["as_matrix", "keras", "sklearn", "torch"]
