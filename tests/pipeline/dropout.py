"""The digits with a model that has dropout."""

from __future__ import annotations

from typing import Any

from fededge.learners.keras import classifier, tensorflow
from fededge.workloads.digits import workload as digits
from fededge.workloads.partitioned import PartitionedWorkload


def _model() -> Any:
    keras = tensorflow().keras
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(10),
        ]
    )


workload = PartitionedWorkload(
    train=lambda: digits._train(),
    examples=1_437,
    test=digits.test_data,
    learner=lambda: classifier(_model),
    metric="accuracy",
)
