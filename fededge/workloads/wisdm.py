"""Health monitoring: what a person does, from the phone in the pocket. A client is a person of WISDM.

The test that is reported is of people nobody trained on. The others also keep their latest windows of each activity to
themselves, which tell what a model of their own is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fededge.core.tensors import Array
from fededge.datasets import wisdm
from fededge.datasets.wisdm import ACTIVITIES, FEATURES, Recordings
from fededge.learners import Examples
from fededge.learners.normalized import NormalizedLearner
from fededge.learners.sklearn import classifier
from fededge.workloads.application import Application, named, own

UNSEEN = (1, 7, 14, 20, 27, 32)  # these users where the data have them, else every fifth

_FIXED = [f"user-{number}" for number in UNSEEN]
_HELD_OUT = 5  # one window in so many, of each activity of a user who trains
_SMALLEST_PEAK = 1.0  # ms
_SMALLEST_DEVIATION = 0.05  # m/s², below the noise of a phone that lies on a table
_INPUTS = 13


def _users() -> dict[str, Recordings]:
    return {f"user-{number}": recordings for number, recordings in wisdm.read().items()}


def _unseen() -> list[str]:
    users = list(_users())
    return [user for user in _FIXED if user in users] or (users[::5] if len(users) > 1 else [])


def _is_client(user: str) -> bool:
    return named(r"user-\d+")(user) and user not in _FIXED


def _members() -> Sequence[str]:
    unseen = _unseen()
    return [user for user in _users() if user not in unseen]


def _tested() -> Sequence[str]:
    return [user for user in _users() if len(_read_test(user))]


def _read_train(user: str) -> Examples:
    """Read what a user learns from; on a device, where others are not seen, whoever the round has asked."""
    recordings = own({name: found for name, found in _users().items() if name not in _FIXED}, user)
    return _examples(recordings, ~_held_out(recordings.y))


def _read_test(user: str) -> Examples:
    recordings = own(_users(), user)
    return _read_all(user) if user in _unseen() else _examples(recordings, _held_out(recordings.y))


def _read_all(user: str) -> Examples:
    recordings = own(_users(), user)
    return _examples(recordings, np.ones(len(recordings.y), bool))


def _held_out(activities: Array) -> npt.NDArray[np.bool_]:
    """Mark the last windows of each activity, in the order of the file."""
    held_out = np.zeros(len(activities), bool)
    for activity in np.unique(activities):
        windows = np.flatnonzero(activities == activity)
        held_out[windows[len(windows) - len(windows) // _HELD_OUT :]] = True
    return held_out


def _examples(recordings: Recordings, which: npt.NDArray[np.bool_]) -> Examples:
    return Examples(_inputs(recordings.x[which]), recordings.y[which])


def _inputs(x: Array) -> Array:
    """Choose and transform the features of windows; NaN stays NaN.

    Histograms are left out: they tell people apart rather than what they do. A phone can be put into a pocket either
    way up and round, so the signs of the means say nothing.
    """
    of = {name: x[:, column] for column, name in enumerate(FEATURES)}
    absolute = {axis: of[f"{axis}ABSOLDEV"] for axis in "XYZ"}
    standard = {axis: of[f"{axis}STANDDEV"] for axis in "XY"}  # that of Z is a copy of X's
    columns = [
        *(np.abs(of[f"{axis}AVG"]) for axis in "YZ"),  # that of X is always 0
        *(np.log(np.maximum(of[f"{axis}PEAK"], _SMALLEST_PEAK)) for axis in "XYZ"),
        *absolute.values(),
        *standard.values(),
        of["RESULTANT"],
        *(absolute[axis] / np.maximum(standard[axis], _SMALLEST_DEVIATION) for axis in "XY"),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _model() -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(hidden_layer_sizes=(64,), solver="sgd", alpha=0)


# Both chosen on the users who train: the first with some of them left out, the second on their later windows.
_DEFAULTS: Mapping[str, Any] = {
    "local_epochs": 2,
    "batch_size": 32,
    "client_learning_rate": 0.05,
    "client_momentum": 0.0,
    "server_momentum": 0.8,
    "clients_per_pod": 10,  # each trains for a moment
}
_FINE_TUNING: Mapping[str, Any] = {"local_epochs": 50, "batch_size": 16, "client_learning_rate": 0.05}

workload = Application(
    image="sklearn",
    metric="accuracy",
    higher_is_better=True,
    defaults=_DEFAULTS,
    rounds=40,
    fine_tuning=_FINE_TUNING,
    is_client=_is_client,
    members=_members,
    read_train=_read_train,
    tested=_tested,
    official=_unseen,
    read_test=_read_test,
    read_cold=_read_all,
    learner=lambda: NormalizedLearner(classifier(_model, _INPUTS, range(len(ACTIVITIES))), _INPUTS),
)
