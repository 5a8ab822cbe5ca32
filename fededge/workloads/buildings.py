"""Smart buildings: the electricity a building needs 24 hours ahead. A client is a building of Cambridge University.

Of each building the first 80 % of the year are to learn from and the rest is the test. Everything is told as a share of
the building's own mean, which stays with it: large buildings need some hundred times what small ones do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fededge.core.metrics import regression_metrics
from fededge.core.tensors import Array
from fededge.datasets import buildings
from fededge.datasets.buildings import HOURS
from fededge.datasets.files import Floats, data_folder
from fededge.learners import Examples
from fededge.learners.torch import TorchLearner, pytorch
from fededge.workloads.application import Application, named, own

AHEAD = 24  # hours
TEST_BEGINS = int(0.8 * HOURS)  # the first hour that is to be told, 20 October 2018

_LAGS = 24  # hours, up to now
_WEEK = 7 * 24
_INPUTS = _LAGS + 1 + 24 + 7 + 1
_MILD, _SWING = 10.0, 10.0  # °C, so that temperatures are about -1 to 2
_HIDDEN = 32
_MOST_MISSING = 0.1  # of the hours to learn from; the publisher put 0 where a reading was missing
_LARGE = 0.2  # an error, as a share of the mean, from which on it counts in proportion and not squared


def _members() -> Sequence[str]:
    return list(buildings.building_files(data_folder()))


def _read_train(building: str) -> Examples:
    return _examples(_load(building)[:TEST_BEGINS], _WEEK)


def _read_test(building: str) -> Examples:
    return _examples(_load(building), TEST_BEGINS)


def _load(building: str) -> Floats:
    """Read a building's own file and no other's."""
    return buildings.read_building(own(buildings.building_files(data_folder()), building))


def _is_idle(load: Floats) -> bool:
    """Whether there is nothing to divide by, or a mean that says nothing, as where a meter was put in late.

    A reading that is NaN is for the learner to refuse.
    """
    return bool(_mean(load) <= 0 or np.mean(load[:TEST_BEGINS] == 0) > _MOST_MISSING)


def _mean(load: Floats) -> float:
    return float(load[:TEST_BEGINS].mean(dtype=np.float64))


def _examples(load: Floats, first: int) -> Examples:
    """Make an example of each hour from `first`, which has a whole week before it, to the end."""
    if _is_idle(load):
        return Examples(np.empty((0, _INPUTS), np.float32), np.empty(0, np.float32))
    share = load.astype(np.float64) / _mean(load)
    target = np.arange(first, len(load))
    return Examples(_inputs(share, target), share[target].astype(np.float32))


def _inputs(share: npt.NDArray[np.float64], target: npt.NDArray[np.int64]) -> Array:
    """Say what is known of target hours, AHEAD hours before; around 0."""
    lags = target[:, np.newaxis] - AHEAD - np.arange(_LAGS)  # the latest first
    hours = buildings.hours()[target]
    hour_of_day = hours.astype(np.int64) % 24
    weekday = (hours.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 1 January 1970 was a Thursday; 0 is Monday
    temperature = buildings.read_weather().temperature[target]
    columns = [
        share[lags] - 1,
        share[target - _WEEK, np.newaxis] - 1,
        np.eye(24)[hour_of_day],
        np.eye(7)[weekday],
        (temperature[:, np.newaxis] - _MILD) / _SWING,
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)


def _model() -> Any:
    pytorch()
    from torch import nn

    class Load(nn.Module):  # type: ignore[misc]
        """Shares of the building's mean, float32 [examples]: a linear model and what a network adds to it."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(_INPUTS, 1)
            self.network = nn.Sequential(
                nn.Linear(_INPUTS, _HIDDEN),
                nn.ReLU(),
                nn.Linear(_HIDDEN, _HIDDEN),
                nn.ReLU(),
                nn.Linear(_HIDDEN, 1),
            )

        def forward(self, x: Any) -> Any:
            return (self.linear(x) + self.network(x))[:, 0]

    return Load()


def _loss(predictions: Any, y: Any) -> Any:
    return pytorch().nn.functional.huber_loss(predictions, y, delta=_LARGE)


def measure(targets: Array, predictions: Array) -> dict[str, float]:
    """Measure errors as shares of the building's mean, so that their RMSE is the CV-RMSE."""
    errors = regression_metrics(targets, predictions)
    return {"cv_rmse": errors["rmse"], "mae": errors["mae"]}


# Both chosen on the hours to learn from: trained on those before the last 15 % of the year, measured on these.
_DEFAULTS: Mapping[str, Any] = {
    "clients_per_round": 20,
    "local_steps": 20,
    "batch_size": 128,
    "client_learning_rate": 0.2,
    "learning_rate_decay": 0.97,
    "client_momentum": 0.9,
    "server_momentum": 0.9,
}
_FINE_TUNING: Mapping[str, Any] = {"local_epochs": 5, "local_steps": 0, "client_learning_rate": 0.01}

workload = Application(
    image="torch",
    metric="cv_rmse",
    higher_is_better=False,
    mean_over_clients=True,
    defaults=_DEFAULTS,
    rounds=80,
    fine_tuning=_FINE_TUNING,
    is_client=named(r"UCam_Building_\w+"),
    members=_members,
    read_train=_read_train,
    tested=_members,
    read_test=_read_test,
    learner=lambda: TorchLearner(_model, _loss, measure, input_shape=(_INPUTS,)),
)
