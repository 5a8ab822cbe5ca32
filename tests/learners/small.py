"""A small classifier and its clients, of sizes that differ, with ids whose order is not that of their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from fededge.learners import ClientSeeds, Examples
from fededge.learners.keras import KerasLearner, classifier, tensorflow

CLIENTS = ("a", "b", "c10", "c9", "é")
_FEATURES, _CLASSES = 12, 4


def learner(dropout: float = 0.0) -> KerasLearner:
    def model() -> Any:
        layers = tensorflow().keras.layers
        return tensorflow().keras.Sequential(
            [
                tensorflow().keras.Input((_FEATURES,)),
                layers.Dense(16, activation="relu"),
                *([layers.Dropout(dropout)] if dropout else []),
                layers.Dense(_CLASSES),
            ]
        )

    return classifier(model)


def examples(client: str) -> Examples:
    index = CLIENTS.index(client)
    rng = np.random.default_rng(index)
    count = 23 + 17 * index
    labels = rng.integers(0, _CLASSES, count).astype(np.int32)
    return Examples(rng.normal(size=(count, _FEATURES)).astype(np.float32) + labels[:, np.newaxis], labels)


def seeds(client: str, round_number: int = 1) -> ClientSeeds:
    return ClientSeeds(shuffle=100 * round_number + CLIENTS.index(client), dropout=7 * round_number + 1)
