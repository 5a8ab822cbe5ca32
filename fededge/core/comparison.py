"""Compares models of one task: how they spread over clients, and whether a difference is more than chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
_INTERVAL = (2.5, 97.5)  # percentiles: 95 %
_IN_MEMORY = 2**22  # values of resamples at a time

Floats = npt.NDArray[np.float64]


class Arm(StrEnum):
    """A way to come by a model."""

    FEDERATED = "federated"
    CENTRALIZED = "centralized"  # the data of all clients in one place
    LOCAL = "local"  # each client alone
    FINE_TUNED = "fine_tuned"  # each client goes on from the federated model


@dataclass(frozen=True)
class Extreme:
    """One client and its score."""

    client: str
    value: float


@dataclass(frozen=True)
class Distribution:
    """How scores spread over clients, each of which counts the same.

    Attributes:
      deviation: standard deviation, of the population: these clients are all there are.
      worst_decile: mean over the worst tenth of the clients, rounded down, at least one.
    """

    clients: int
    mean: float
    median: float
    deviation: float
    worst_decile: float
    best: Extreme
    worst: Extreme


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """What the same clients get from one model more than from another.

    Attributes:
      mean: of the clients' differences.
      median: likewise.
      relative: the mean difference over the size of the other model's mean; None where that is 0.
    """

    clients: int
    mean: Estimate
    median: Estimate
    relative: float | None


@dataclass(frozen=True)
class Share:
    """How many clients one model serves better than another.

    Attributes:
      better: how many.
      equal: how many it serves just as well.
      share: of `better` in all.
    """

    clients: int
    better: int
    equal: int
    share: float


@dataclass(frozen=True)
class RoundTraffic:
    """What a round moved.

    Attributes:
      cohort: clients that were sent the model.
      accepted: clients whose update counts.
      down: bytes that each of the cohort is sent.
      up: bytes of an update.
    """

    cohort: int
    accepted: int
    down: int
    up: int


def distribution(scores: Mapping[str, float], *, higher_is_better: bool) -> Distribution | None:
    """Describe the scores of clients; None without any.

    Of equal scores, the first in the order given is the best or the worst.
    """
    if not scores:
        return None
    values = np.array(list(scores.values()), np.float64)
    ranked = sorted(scores, key=lambda client: -scores[client] if higher_is_better else scores[client])
    worst = min(scores, key=lambda client: scores[client] if higher_is_better else -scores[client])
    tail = [scores[client] for client in ranked[-max(1, len(ranked) // 10) :]]
    return Distribution(
        clients=len(values),
        mean=float(values.mean()),
        median=float(np.median(values)),
        deviation=float(values.std()),
        worst_decile=float(np.mean(tail)),
        best=Extreme(ranked[0], scores[ranked[0]]),
        worst=Extreme(worst, scores[worst]),
    )


def paired_difference(
    ours: Mapping[str, float], theirs: Mapping[str, float], seed: int, resamples: int = RESAMPLES
) -> Difference | None:
    """Compare two models over the clients that have a score of both; None for fewer than two of them.

    Args:
      ours: by client.
      theirs: by client.
      seed: of the bootstrap.
      resamples: of the clients, with replacement.

    Source: Efron, Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13 (percentile intervals).
    """
    both = [client for client in ours if client in theirs]
    if len(both) < 2:
        return None
    other = np.array([theirs[client] for client in both], np.float64)
    differences = np.array([ours[client] for client in both], np.float64) - other
    means, medians = _resampled(differences, seed, resamples)
    mean, base = float(differences.mean()), abs(float(other.mean()))
    return Difference(
        clients=len(both),
        mean=_estimate(mean, means),
        median=_estimate(float(np.median(differences)), medians),
        relative=mean / base if base else None,
    )


def _resampled(values: Floats, seed: int, resamples: int) -> tuple[Floats, Floats]:
    """Return the mean and the median of each resample; holds a few millions of values at a time."""
    rng = np.random.default_rng(seed)
    means, medians = [], []
    at_once = max(1, _IN_MEMORY // len(values))
    for begin in range(0, resamples, at_once):
        drawn = values[rng.integers(0, len(values), (min(at_once, resamples - begin), len(values)))]
        means.append(drawn.mean(axis=1))
        medians.append(np.median(drawn, axis=1))
    return np.concatenate(means), np.concatenate(medians)


def _estimate(value: float, resampled: Floats) -> Estimate:
    low, high = np.percentile(resampled, _INTERVAL)
    return Estimate(value, float(low), float(high))


def share_better(ours: Mapping[str, float], theirs: Mapping[str, float], *, higher_is_better: bool) -> Share | None:
    """Count the clients that one model serves better than another, of those that have a score of both."""
    both = [client for client in ours if client in theirs]
    if not both:
        return None
    sign = 1 if higher_is_better else -1
    better = sum(sign * (ours[client] - theirs[client]) > 0 for client in both)
    equal = sum(ours[client] == theirs[client] for client in both)
    return Share(len(both), better, equal, better / len(both))


def bytes_moved(rounds: Iterable[RoundTraffic]) -> int:
    """Add up the models that went to clients, and the updates that came from them and count."""
    return sum(r.cohort * r.down + r.accepted * r.up for r in rounds)


def epochs_for(examples: int, available: int) -> int:
    """Say how often the data at hand are gone through to train on so many examples, at least once."""
    if available < 1:
        raise ValueError("there are no examples")
    return max(1, round(examples / available))


def in_equal_parts(total: int, parts: int) -> Sequence[int]:
    """Cut a number of steps into parts that differ by one at most, the larger ones first."""
    least, more = divmod(total, parts)
    return [least + (part < more) for part in range(parts)]
