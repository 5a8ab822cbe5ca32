"""Small PyTorch models and data for the tests; also run as a program, to train in a fresh process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from fededge.core.aggregation import Weighted, weighted_mean
from fededge.core.parts import split
from fededge.core.statistics import pooled_statistics
from fededge.core.tensors import Tensors
from fededge.learners import ClientSeeds, Examples
from fededge.learners.batch_norm import BatchNorm
from fededge.learners.torch import TorchLearner, classifier, pytorch
from fededge.settings import LocalTraining

FEATURES, CLASSES = 12, 4
CLIENTS = ("a", "b", "c10", "c9", "é")
HOW = LocalTraining(local_epochs=2, batch_size=8)


def mlp(dropout: float = 0.0) -> TorchLearner:
    def model() -> Any:
        nn = pytorch().nn
        hidden = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(dropout))
        return nn.Sequential(hidden, nn.Linear(16, CLASSES))

    return classifier(model, input_shape=(FEATURES,))


def convolutional(dropout: float = 0.0) -> TorchLearner:
    def model() -> Any:
        nn = pytorch().nn
        return nn.Sequential(
            nn.Unflatten(1, (1, 3, 4)),
            nn.Conv2d(1, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.Dropout2d(dropout),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16, CLASSES),
        )

    return classifier(model, input_shape=(FEATURES,))


def recurrent(dropout: float = 0.0) -> TorchLearner:
    def model() -> Any:
        torch = pytorch()

        class Recurrent(torch.nn.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.lstm = torch.nn.LSTM(3, 10, num_layers=2, dropout=dropout, batch_first=True)
                self.head = torch.nn.Linear(10, CLASSES)

            def forward(self, x: Any) -> Any:
                return self.head(self.lstm(x.reshape(-1, 4, 3))[0][:, -1])

        return Recurrent()

    return classifier(model, input_shape=(FEATURES,))


def normalized(batch_norm: BatchNorm, features: int = FEATURES, dropout: float = 0.0) -> TorchLearner:
    def model() -> Any:
        nn = pytorch().nn
        return nn.Sequential(
            nn.BatchNorm1d(features),
            nn.Linear(features, 16),
            nn.Dropout(dropout),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Linear(16, CLASSES),
        )

    return classifier(model, batch_norm, input_shape=(features,))


def examples(client: str) -> Examples:
    index = CLIENTS.index(client)
    rng = np.random.default_rng(index)
    count = 23 + 17 * index
    labels = rng.integers(0, CLASSES, count).astype(np.int32)
    return Examples((rng.normal(size=(count, FEATURES)) + labels[:, np.newaxis]).astype(np.float32), labels)


def seeds(client: str, round_number: int = 1) -> ClientSeeds:
    return ClientSeeds(shuffle=100 * round_number + CLIENTS.index(client), dropout=7 * round_number + 1)


def bits(tensors: Tensors) -> bytes:
    return b"".join(tensors[name].tobytes() for name in sorted(tensors))


def digest(make: Callable[[float], TorchLearner], client: str) -> str:
    """Train one client and digest what it learned."""
    learner = make(0.5)
    update = learner.train(client, learner.initial_weights(0), examples(client), HOW, seeds(client))
    return hashlib.sha256(bits(update.delta)).hexdigest()


def federated(learner: TorchLearner, clients: list[Examples], how: LocalTraining, rounds: int) -> Tensors:
    """Average rounds of training, as the server does with sgd of rate 1."""
    weights = learner.initial_weights(0)
    for number in range(rounds):
        updates = [
            learner.train(str(i), weights, data, how, ClientSeeds(100 * number + i, 1))
            for i, data in enumerate(clients)
        ]
        mean = weighted_mean(Weighted(split(u.delta).trained, u.num_examples) for u in updates)
        weights = weights | {name: weights[name] + change for name, change in mean.items()}
        if any(split(u.delta).statistics for u in updates):
            weights |= pooled_statistics(Weighted(u.delta, u.num_examples) for u in updates)
    return weights


def sensors(make: int, common: float, own: float, spread: float, test: bool = False) -> Examples:
    """Measure the same patterns with one make of sensor: 120 examples to learn from, or 200 others to test on.

    Args:
      make: its number.
      common: how far all makes' zeros are from 0.
      own: how far this one's zero is from theirs.
      spread: what it shows for 1.
    """
    fixed = np.random.default_rng(0)
    centers, zero = fixed.normal(size=(CLASSES, FEATURES)), common * fixed.normal(size=FEATURES)
    rng = np.random.default_rng([make, test])
    labels = np.arange(200 if test else 120) % CLASSES
    truth = centers[labels] + 0.6 * rng.normal(size=(len(labels), FEATURES))
    zero = zero + own * np.random.default_rng([make, 7]).normal(size=FEATURES)
    return Examples((spread * truth + zero).astype(np.float32), labels)


if __name__ == "__main__":
    for make in (mlp, convolutional, recurrent):
        print(digest(make, "b"))  # noqa: T201
