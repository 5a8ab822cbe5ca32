"""Industrial IoT: how many more flights a jet engine makes before it fails. A client is an engine of C-MAPSS FD001.

Engines that ran until they failed train. The test is the publisher's: other engines, each cut off at some flight, of
which one number is to be told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fededge.core.metrics import regression_metrics
from fededge.core.tensors import Array
from fededge.datasets import cmapss
from fededge.datasets.cmapss import COLUMNS
from fededge.datasets.files import Floats
from fededge.learners import Examples
from fededge.learners.normalized import NormalizedLearner
from fededge.learners.torch import TorchLearner, pytorch
from fededge.workloads.application import Application, named, own

LONGEST_LIFE = 125  # cycles; an engine with more left shows nothing of it yet
WINDOW = 30  # cycles that the model sees

_AVERAGED = 5  # cycles, against the sensors' noise
_HIDDEN = 32
_NEW, _WORN = "engine-{}", "test-engine-{}"  # both files count from 1, and the engines are others


_is_client = named(_NEW.format(r"\d+"))


def _engines() -> dict[str, Floats]:
    return {_NEW.format(number): cycles for number, cycles in cmapss.read_train().items()}


def _test_engines() -> dict[str, Floats]:
    return {_WORN.format(number): cycles for number, cycles in cmapss.read_test().items()}


def _read_train(engine: str) -> Examples:
    cycles = own(_engines(), engine)
    left = np.arange(len(cycles))[::-1]  # the last cycle is the one it failed in
    return Examples(_windows(cycles), _targets(left))


def _read_test(engine: str) -> Examples:
    """Read an engine's latest window: what is known on the day that somebody asks."""
    left = {_WORN.format(number): cycles for number, cycles in cmapss.read_rul().items()}
    return Examples(_windows(own(_test_engines(), engine))[-1:], _targets(np.array([own(left, engine)])))


def _read_cold(engine: str) -> Examples:
    """Read all of an engine's life, of which it has told nobody; of the publisher's test, the one window."""
    return _read_train(engine) if _is_client(engine) else _read_test(engine)


def _windows(cycles: Floats) -> Array:
    """Make the window that ends with each cycle, shape [cycles, WINDOW, columns].

    Before its first cycle an engine is taken to have been as in that.
    """
    padded = np.concatenate([np.repeat(cycles[:1], WINDOW - 1, axis=0), cycles])
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=0).transpose(0, 2, 1)


def _targets(left: Array) -> Array:
    return np.minimum(left, LONGEST_LIFE).astype(np.float32)


def _model() -> Any:
    pytorch()
    from torch import nn

    class RemainingLife(nn.Module):  # type: ignore[misc]
        """Cycles that are left, float32 [examples]."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(WINDOW // _AVERAGED * len(COLUMNS), _HIDDEN),
                nn.ReLU(),
                nn.Linear(_HIDDEN, _HIDDEN),
                nn.ReLU(),
                nn.Linear(_HIDDEN, 1),
            )

        def forward(self, x: Any) -> Any:
            averages = x.unflatten(1, (-1, _AVERAGED)).mean(dim=2)
            return LONGEST_LIFE * (self.layers(averages.flatten(1))[:, 0] + 0.5)

    return RemainingLife()


def _loss(predictions: Any, y: Any) -> Any:
    return ((predictions - y) / LONGEST_LIFE).square().mean()


def measure(targets: Array, predictions: Array) -> dict[str, float]:
    """Measure errors in cycles, of predictions that are clipped as the targets are."""
    return regression_metrics(targets, predictions.clip(0, LONGEST_LIFE))


# Chosen with every fifth of the training engines left out. Round 1 measures the sensors, and trains nothing.
_DEFAULTS: Mapping[str, Any] = {
    "clients_per_round": 20,
    "local_epochs": 1,
    "batch_size": 32,
    "client_learning_rate": 0.1,
    "learning_rate_decay": 0.97,
    "client_momentum": 0.0,
    "server_momentum": 0.9,
}

workload = Application(
    image="torch",
    metric="rmse",
    unit="cycles",
    higher_is_better=False,
    defaults=_DEFAULTS,
    rounds=100,
    is_client=_is_client,
    members=lambda: list(_engines()),
    read_train=_read_train,
    tested=lambda: list(_test_engines()),
    read_test=_read_test,
    read_cold=_read_cold,
    learner=lambda: NormalizedLearner(
        TorchLearner(_model, _loss, measure, input_shape=(WINDOW, len(COLUMNS))), len(COLUMNS)
    ),
)
