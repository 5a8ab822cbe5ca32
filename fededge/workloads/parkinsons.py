"""Health monitoring: how severe a person's Parkinson's disease is, from the voice. A client is a person.

Of each person the first 80 % of the recordings in time are to learn from and the later ones are the test. The voice
says little about a stranger: it takes a model of the person's own, trained on from the common one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fededge.core.metrics import regression_metrics
from fededge.core.tensors import Array
from fededge.datasets import parkinsons
from fededge.datasets.parkinsons import VOICE, Recordings
from fededge.learners import Examples
from fededge.learners.normalized import NormalizedLearner
from fededge.learners.sklearn import SklearnLearner
from fededge.workloads.application import Application, named, own

TYPICAL, SCALE = 20.0, 10.0  # points of motor UPDRS: a target of 0, and how many make a target of 1

_TRAIN_SHARE = 0.8
_SESSION = 0.5  # days between recordings that belong to two sessions
_STEPS = (30, 60, 90, 120)  # days since recruitment
_STEP_WIDTH = 30  # days
_SMALLEST_VOICE = 1e-7  # of jitter and shimmer; the smallest that was measured is 2e-6
_LINEAR = ("HNR", "RPDE", "DFA", "PPE")  # voice measures without a long tail
_INPUTS = len(VOICE) + 2 + len(_STEPS)


class _Split(NamedTuple):
    """Which recordings of a person are to learn from and to test on, each in time."""

    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


def _subjects() -> dict[str, Recordings]:
    return {f"subject-{number}": recordings for number, recordings in parkinsons.read().items()}


def _split(recordings: Recordings) -> _Split:
    """Split a person's recordings in time, at the beginning of a session: its score is the same throughout."""
    order = np.argsort(recordings.test_time, kind="stable")
    sessions = 1 + np.flatnonzero(np.diff(recordings.test_time[order]) > _SESSION)
    early = sessions[sessions <= _TRAIN_SHARE * len(order)]
    cut = early[-1] if early.size else len(order)
    return _Split(order[:cut], order[cut:])


def _tested() -> Sequence[str]:
    return [subject for subject, recordings in _subjects().items() if _split(recordings).test.size]


def _read_train(subject: str) -> Examples:
    recordings = own(_subjects(), subject)
    return _examples(recordings, _split(recordings).train)


def _read_test(subject: str) -> Examples:
    recordings = own(_subjects(), subject)
    return _examples(recordings, _split(recordings).test)


def _read_all(subject: str) -> Examples:
    recordings = own(_subjects(), subject)
    return _examples(recordings, np.arange(len(recordings.test_time)))


def _examples(recordings: Recordings, which: npt.NDArray[np.int64]) -> Examples:
    targets = (recordings.motor_updrs[which] - TYPICAL) / SCALE
    return Examples(_inputs(recordings)[which], targets.astype(np.float32))


def _inputs(recordings: Recordings) -> Array:
    """Choose and transform what is known of each recording; no score is among it.

    Time comes as soft steps, one a month, and not as days: a model can bend at each, and after the last one it keeps
    the level rather than going on along a line.
    """
    days = recordings.test_time.astype(np.float64)
    measures = zip(VOICE, recordings.voice.astype(np.float64).T, strict=True)
    columns = [
        *(v if name in _LINEAR else np.log(np.maximum(v, _SMALLEST_VOICE)) for name, v in measures),
        recordings.age,
        recordings.sex,
        *(np.tanh((days - step) / _STEP_WIDTH) for step in _STEPS),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _in_points(targets: Array, predictions: Array) -> dict[str, float]:
    """Measure a regression in points of motor UPDRS."""
    return {name: SCALE * value for name, value in regression_metrics(targets, predictions).items()}


def _model() -> Any:
    from sklearn.neural_network import MLPRegressor

    return MLPRegressor(hidden_layer_sizes=(32,), solver="sgd", alpha=0.3)


# Chosen on the recordings to learn from: trained on the first part of each person's, measured on those that follow.
_DEFAULTS: Mapping[str, Any] = {
    "local_epochs": 2,
    "batch_size": 32,
    "client_learning_rate": 0.02,
    "client_momentum": 0.0,
    "server_momentum": 0.8,
    "clients_per_pod": 10,  # each trains for a moment
}
_FINE_TUNING: Mapping[str, Any] = {"local_epochs": 100, "batch_size": 16, "client_learning_rate": 0.05}

workload = Application(
    image="sklearn",
    metric="mae",
    unit="points",
    higher_is_better=False,
    defaults=_DEFAULTS,
    rounds=20,
    fine_tuning=_FINE_TUNING,
    is_client=named(r"subject-\d+"),
    members=lambda: list(_subjects()),
    read_train=_read_train,
    tested=_tested,
    read_test=_read_test,
    read_cold=_read_all,
    learner=lambda: NormalizedLearner(SklearnLearner(_model, _INPUTS, None, _in_points), _INPUTS),
)
