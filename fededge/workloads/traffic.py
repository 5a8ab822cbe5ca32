"""Traffic: how fast it is on a road in 15, 30 and 60 minutes. A client is a road sensor of Los-loop.

Of each sensor the first 80 % of the time are to learn from and the rest is the test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fededge.core.metrics import regression_metrics
from fededge.core.tensors import Array
from fededge.datasets import los
from fededge.datasets.files import Floats
from fededge.datasets.los import STEPS_PER_DAY
from fededge.learners import Examples
from fededge.learners.keras import KerasLearner, tensorflow
from fededge.workloads.application import Application, named, own

AHEAD = {"15": 3, "30": 6, "60": 12}  # steps of 5 minutes, by the minutes they make
LAGS = 12  # readings up to now

_TRAIN_SHARE = 0.8
_TYPICAL = 60.0  # mph, an input of 0
_RANGE = 70.0  # mph that make an input of 1: of the size of the time of day, or less
_ERROR = 20.0  # mph of error that make a loss of 1
_INPUTS = LAGS + 2
_HIDDEN = 64
_CLIENT = "sensor-{}"


def _sensors() -> dict[str, Floats]:
    speeds = los.read()
    return {_CLIENT.format(sensor): mph for sensor, mph in zip(speeds.sensors, speeds.mph.T, strict=True)}


def _tested() -> Sequence[str]:
    return [sensor for sensor, mph in _sensors().items() if _test_times(len(mph)).size]


def _read_train(sensor: str) -> Examples:
    mph = own(_sensors(), sensor)
    return _examples(mph, _train_times(len(mph)))


def _read_test(sensor: str) -> Examples:
    mph = own(_sensors(), sensor)
    return _examples(mph, _test_times(len(mph)))


def _train_times(steps: int) -> npt.NDArray[np.int64]:
    """Name the times to tell from whose last target is still in the part to learn from."""
    return np.arange(LAGS - 1, _test_begins(steps) - AHEAD["60"])


def _test_times(steps: int) -> npt.NDArray[np.int64]:
    """Name the times to tell from whose first target is in the part to test on already."""
    return np.arange(max(LAGS - 1, _test_begins(steps) - AHEAD["15"]), steps - AHEAD["60"])


def _test_begins(steps: int) -> int:
    return int(_TRAIN_SHARE * steps)


def _examples(mph: Floats, now: npt.NDArray[np.int64]) -> Examples:
    latest_first = mph[now[:, np.newaxis] - np.arange(LAGS)]
    of_day = 2 * np.pi * (now % STEPS_PER_DAY) / STEPS_PER_DAY
    columns = [(latest_first - _TYPICAL) / _RANGE, np.sin(of_day)[:, np.newaxis], np.cos(of_day)[:, np.newaxis]]
    y = mph[now[:, np.newaxis] + list(AHEAD.values())]
    return Examples(np.concatenate(columns, axis=1).astype(np.float32), y.astype(np.float32))


def _model() -> Any:
    keras = tensorflow().keras
    return keras.Sequential(
        [
            keras.Input((_INPUTS,)),
            keras.layers.Dense(_HIDDEN, activation="relu", name="first"),
            keras.layers.Dense(_HIDDEN, activation="relu", name="second"),
            keras.layers.Dense(len(AHEAD), name="ahead"),
            keras.layers.Rescaling(_ERROR, _TYPICAL, name="mph"),
        ]
    )


def _loss() -> Any:
    tensorflow()
    import tensorflow as tf

    class Scaled(tf.keras.losses.Loss):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return tf.reduce_mean(tf.square((y_pred - y_true) / _ERROR), axis=-1)

    return Scaled()


def measure(targets: Array, predictions: Array) -> dict[str, float]:
    """Measure errors in mph, over all times ahead and for each."""
    each = {
        f"rmse_{minutes}": regression_metrics(targets[:, i], predictions[:, i])["rmse"]
        for i, minutes in enumerate(AHEAD)
    }
    return {**regression_metrics(targets, predictions), **each}


# Both chosen on the times to learn from: trained on those before the last 15 % of the week, measured on these.
_DEFAULTS: Mapping[str, Any] = {
    "clients_per_round": 20,
    "local_epochs": 1,
    "batch_size": 64,
    "client_learning_rate": 0.2,
    "learning_rate_decay": 0.95,
    "client_momentum": 0.9,
    "server_momentum": 0.8,
}
_FINE_TUNING: Mapping[str, Any] = {"local_epochs": 2, "client_learning_rate": 0.01}

workload = Application(
    image="tensorflow",
    metric="rmse",
    unit="mph",
    higher_is_better=False,
    defaults=_DEFAULTS,
    rounds=60,
    fine_tuning=_FINE_TUNING,
    is_client=named(_CLIENT.format(r"\d+")),
    members=lambda: list(_sensors()),
    read_train=_read_train,
    tested=_tested,
    read_test=_read_test,
    learner=lambda: KerasLearner(_model, _loss, measure=measure),
)
