"""A data set in one place, split among made-up clients with label skew. For trying things out.

The held-out examples are split too: each client has labels in the proportions of its own training examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fededge.core.partition import dirichlet_partition, proportional_partition
from fededge.errors import WorkloadError
from fededge.learners import Examples, Learner

_SEED = 0  # the split belongs to the data, not to a training: every training sees the same clients


class PartitionedWorkload:
    """Splits training examples by a Dirichlet distribution over their labels.

    Args:
      train: reads all training examples; `y` are integer labels, shape [examples].
      examples: how many they are; known without reading them, for the server may not have them.
      test: reads the held-out examples.
      learner: makes the learner.
      metric: the name of the metric that people watch.
      alpha: of the distribution: the smaller, the more the clients' labels differ.
      clients: how many there are where nobody says.
      defaults: settings of a round that suit it.
      rounds: how many rounds it takes to be good.
    """

    def __init__(
        self,
        train: Callable[[], Examples],
        examples: int,
        test: Callable[[], Examples],
        learner: Callable[[], Learner],
        metric: str,
        alpha: float = 0.5,
        clients: int = 10,
        defaults: Mapping[str, Any] | None = None,
        rounds: int = 5,
    ) -> None:
        self.metric = metric
        self.defaults = defaults or {}
        self.rounds = rounds
        self._clients = clients
        self._examples = examples
        self._train = cache(train)
        self._parts = cache(
            lambda clients: dirichlet_partition(self._train().y.astype(np.int64), clients, alpha, _SEED)
        )
        self._test_parts = cache(self._share_out_test)
        self.test_data = test
        self.learner = learner

    def population(self, clients: int) -> Sequence[str]:
        if clients > self._examples:
            raise WorkloadError(f"clients={clients} is more than the {self._examples} examples to share out")
        return [f"client-{i:06d}" for i in range(clients or self._clients)]

    def train_data(self, client: str, clients: int) -> Examples:
        everything = self._train()
        index = self.population(clients).index(client)
        mine = self._parts(clients or self._clients)[index]
        return Examples(everything.x[mine], everything.y[mine])

    def test_clients(self, clients: int) -> Sequence[str]:
        parts = self._test_parts(clients)
        return [client for client, mine in zip(self.population(clients), parts, strict=True) if len(mine)]

    def client_test_data(self, client: str, clients: int) -> Examples:
        everything = self.test_data()
        mine = self._test_parts(clients)[self.population(clients).index(client)]
        return Examples(everything.x[mine], everything.y[mine])

    def _share_out_test(self, clients: int) -> list[npt.NDArray[np.int64]]:
        labels = self._train().y.astype(np.int64)
        parts = self._parts(clients or self._clients)
        return proportional_partition(self.test_data().y.astype(np.int64), [labels[part] for part in parts])
