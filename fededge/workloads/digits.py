"""Handwritten digits, 8 by 8, that come with scikit-learn: 1,437 to learn from and 360 to test on.

Source: https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html (UCI data set 80).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from fededge.learners import Examples
from fededge.learners.keras import classifier, tensorflow
from fededge.workloads.partitioned import PartitionedWorkload

_TEST_SHARE = 0.2


@cache
def split() -> tuple[Examples, Examples]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=_TEST_SHARE, stratify=y, random_state=0)
    return Examples(train_x, train_y), Examples(test_x, test_y)


def _model() -> Any:
    keras = tensorflow().keras
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="digit"),
        ]
    )


workload = PartitionedWorkload(
    train=lambda: split()[0],
    examples=1_437,
    test=lambda: split()[1],
    learner=lambda: classifier(_model),
    metric="accuracy",
)
