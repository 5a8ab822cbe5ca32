"""MNIST, from the publisher's four files in `FEDEDGE_DATA`: 60,000 digits to learn from and 10,000 to test on.

Source: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fededge.errors import WorkloadError
from fededge.learners import Examples
from fededge.learners.keras import classifier, tensorflow
from fededge.workloads import data_folder
from fededge.workloads.idx import read_idx
from fededge.workloads.partitioned import PartitionedWorkload


def _read(part: str) -> Examples:
    folder = data_folder()
    images = read_idx(folder, f"{part}-images-idx3-ubyte")
    labels = read_idx(folder, f"{part}-labels-idx1-ubyte")
    if len(images) != len(labels):
        raise WorkloadError(f"{folder} has {len(images)} {part} images and {len(labels)} labels; fetch both again")
    return Examples((images[..., np.newaxis] / np.float32(255)).astype(np.float32), labels.astype(np.int32))


def _model() -> Any:
    keras = tensorflow().keras
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 5, strides=2, activation="relu", name="edges"),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu", name="shapes"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="digit"),
        ]
    )


workload = PartitionedWorkload(
    train=lambda: _read("train"),
    examples=60_000,
    test=lambda: _read("t10k"),
    learner=lambda: classifier(_model),
    metric="accuracy",
)
