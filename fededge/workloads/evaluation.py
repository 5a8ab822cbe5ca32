"""Measures a model on a workload's held-out examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fededge.core.tensors import Tensors
from fededge.learners import Examples, Learner
from fededge.workloads import HasClientTests, Workload

_BETTER_IF_HIGHER = re.compile(r"accuracy|f1|auc|precision|recall|r2")


class ClientScore(NamedTuple):
    """What a model is worth to one client.

    Attributes:
      examples: how many held-out ones there are.
      metrics: on those.
    """

    client: str
    examples: int
    metrics: Mapping[str, float]


class Measured(NamedTuple):
    """What a model is worth on the whole test.

    Attributes:
      metrics: of all examples, or the mean of the clients' own.
      examples: how many there are.
      schema: of one.
    """

    metrics: Mapping[str, float]
    examples: int
    schema: dict[str, str]


def measure(workload: Workload, learner: Learner, weights: Tensors) -> Measured:
    """Measure a model on the test that is reported."""
    if isinstance(workload, HasClientTests) and getattr(workload, "mean_over_clients", False):
        tests = [workload.client_test_data(client, 0) for client in official_clients(workload)]
        scores = [learner.evaluate(weights, test) for test in tests]
        return Measured(mean_of(scores), sum(map(len, tests)), tests[0].schema())
    test = workload.test_data()
    return Measured(learner.evaluate(weights, test), len(test), test.schema())


def official_clients(workload: HasClientTests) -> Sequence[str]:
    """Name the clients that make up the test that is reported."""
    official = getattr(workload, "official", None)
    return official() if official else workload.test_clients(0)


def score_clients(learner: Learner, weights: Tensors, tests: Iterable[tuple[str, Examples]]) -> Iterator[ClientScore]:
    """Measure a model on each client's own held-out examples; one without any is left out."""
    for client, test in tests:
        if len(test):
            yield ClientScore(client, len(test), learner.evaluate(weights, test))


def mean_of(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average each metric over clients, each counting the same."""
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


def higher_is_better(workload: Workload) -> bool:
    """Whether a larger metric is a better one: as the workload says, else as the metric's name does."""
    return bool(getattr(workload, "higher_is_better", better_if_higher(workload.metric)))


def better_if_higher(metric: str) -> bool:
    """Whether a larger one is a better one, going by its name."""
    return bool(_BETTER_IF_HIGHER.search(metric))


def tested_clients(workload: Workload, clients: int) -> Sequence[str]:
    """Name the clients with held-out examples of their own; none where the workload does not tell them apart."""
    return workload.test_clients(clients) if isinstance(workload, HasClientTests) else ()
