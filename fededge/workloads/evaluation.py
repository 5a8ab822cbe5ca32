"""Measures a model on a workload's held-out examples."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fededge.core.tensors import Array, Tensors
from fededge.errors import FedEdgeError, WorkloadError
from fededge.learners import Examples, Learner
from fededge.workloads import HasClientTests, HasReportedClients, Workload

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
      untested: the clients whose part of the test cannot be used, and why.
    """

    metrics: Mapping[str, float]
    examples: int
    schema: dict[str, str]
    untested: Mapping[str, str] = {}


def measure(workload: Workload, learner: Learner, weights: Tensors) -> Measured:
    """Measure a model on the test that is reported.

    Where it is made of clients' own, one whose part cannot be used does not end it for the others.

    Raises:
      WorkloadError: there is nothing to measure on.
    """
    if not isinstance(workload, HasReportedClients):
        test = workload.test_data()
        return Measured(learner.evaluate(weights, test), len(test), test.schema())
    tests, untested = read_tests(lambda client: workload.client_test_data(client, 0), workload.reported_clients())
    metrics = _metrics_of(workload, learner, weights, tests)
    if not math.isfinite(metrics.get(workload.metric, 0)):
        good = {client: test for client, test in tests.items() if not _is_bad(test.x)}
        if 0 < len(good) < len(tests):
            bad = [client for client in tests if client not in good]
            untested |= dict.fromkeys(bad, "its inputs have values that are NaN or infinite")
            tests = good
            metrics = _metrics_of(workload, learner, weights, tests)
    examples = [*tests.values()]
    return Measured(metrics, sum(map(len, examples)), examples[0].schema(), untested)


def read_tests(read: Callable[[str], Examples], clients: Iterable[str]) -> tuple[dict[str, Examples], dict[str, str]]:
    """Read clients' own tests.

    Args:
      read: reads one client's.
      clients: whose.

    Returns:
      Those that can be used, and why the others cannot.

    Raises:
      WorkloadError: none can; its message is the first one's.
    """
    tests: dict[str, Examples] = {}
    untested: dict[str, str] = {}
    for client in clients:
        try:
            test = read(client)
        except FedEdgeError as error:
            untested[client] = str(error)
            continue
        if _is_bad(test.y):
            untested[client] = "its targets have values that are NaN or infinite"
        elif len(test):
            tests[client] = test
    if not tests:
        why = next((f": {client}: {why}" for client, why in untested.items()), "")
        raise WorkloadError(f"the data have no client to test on{why}; see `fededge data check`")
    return tests, untested


def _metrics_of(
    workload: HasReportedClients, learner: Learner, weights: Tensors, tests: Mapping[str, Examples]
) -> Mapping[str, float]:
    if workload.mean_over_clients:
        return mean_of([learner.evaluate(weights, test) for test in tests.values()])
    x, y = (np.concatenate(parts) for parts in zip(*((test.x, test.y) for test in tests.values()), strict=True))
    return learner.evaluate(weights, Examples(x, y))


def _is_bad(values: Array) -> bool:
    return not np.isfinite(values).all()


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
