"""MNIST, from the publisher's four files in `FEDEDGE_DATA`: 60,000 digits to learn from and 10,000 to test on.

Source: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fededge.datasets import mnist
from fededge.learners import Examples
from fededge.learners.keras import classifier, tensorflow
from fededge.workloads.partitioned import PartitionedWorkload


def _examples(digits: mnist.Digits) -> Examples:
    images = (digits.images[..., np.newaxis] / np.float32(255)).astype(np.float32)
    return Examples(images, digits.labels.astype(np.int32))


def _model() -> Any:
    keras = tensorflow().keras
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 5, activation="relu", name="edges"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, activation="relu", name="shapes"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="digit"),
        ]
    )


workload = PartitionedWorkload(
    train=lambda: _examples(mnist.read_train()),
    examples=60_000,
    test=lambda: _examples(mnist.read_test()),
    learner=lambda: classifier(_model),
    metric="accuracy",
    alpha=0.3,
    clients=100,
    defaults={  # chosen with a sixth of the training digits left out
        "clients_per_round": 10,
        "local_epochs": 2,
        "batch_size": 20,
        "client_learning_rate": 0.1,
        "client_momentum": 0.0,
        "learning_rate_decay": 0.97,  # at the end of 50 rounds a quarter
        "server_momentum": 0.8,
    },
    rounds=50,
)
