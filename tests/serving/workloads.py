"""Digits for each library. Importing this loads none of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fededge.learners import Examples, Learner
from fededge.workloads.digits import split
from fededge.workloads.digits import workload as keras_digits
from fededge.workloads.partitioned import PartitionedWorkload

CLASSES = 10


def _network() -> Learner:
    from sklearn.neural_network import MLPClassifier

    from fededge.learners.sklearn import classifier

    return classifier(lambda: MLPClassifier((16,), solver="sgd"), inputs=64, classes=tuple(range(CLASSES)))


def _convolutional() -> Learner:
    from fededge.learners.torch import classifier, pytorch

    def model() -> Any:
        nn = pytorch().nn
        convolution = nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten())
        return nn.Sequential(convolution, nn.Linear(8 * 6 * 6, CLASSES))

    return classifier(model)


def _images(examples: Examples) -> Examples:
    return Examples(examples.x.reshape(-1, 8, 8).astype(np.float32), examples.y)


class _Workload(PartitionedWorkload):
    def __init__(self, image: str, learner: Any, change: Any = lambda examples: examples) -> None:
        super().__init__(lambda: change(split()[0]), 1_437, lambda: change(split()[1]), learner, "accuracy")
        self.image = image


sklearn = _Workload("sklearn", _network)
torch = _Workload("torch", _convolutional, _images)
tensorflow = keras_digits
