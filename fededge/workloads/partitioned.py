"""A data set in one place, split among made-up clients with label skew. For trying things out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from fededge.core.partition import dirichlet_partition
from fededge.errors import WorkloadError
from fededge.learners import Examples, Learner

_ALPHA = 0.5
_SEED = 0  # the split belongs to the data, not to a training: every training sees the same clients


class PartitionedWorkload:
    """Splits training examples by Dirichlet(0.5) over their labels.

    Args:
      train: reads all training examples; `y` are integer labels, shape [examples].
      examples: how many they are; known without reading them, for the server may not have them.
      test: reads the held-out examples.
      learner: makes the learner.
      metric: the name of the metric that people watch.
    """

    def __init__(
        self,
        train: Callable[[], Examples],
        examples: int,
        test: Callable[[], Examples],
        learner: Callable[[], Learner],
        metric: str,
    ) -> None:
        self.metric = metric
        self._examples = examples
        self._train = cache(train)
        self._parts = cache(
            lambda clients: dirichlet_partition(self._train().y.astype(np.int64), clients, _ALPHA, _SEED)
        )
        self.test_data = test
        self.learner = learner

    def population(self, clients: int) -> Sequence[str]:
        if clients > self._examples:
            raise WorkloadError(f"clients={clients} is more than the {self._examples} examples to share out")
        return [f"client-{i:06d}" for i in range(clients)]

    def train_data(self, client: str, clients: int) -> Examples:
        everything = self._train()
        index = self.population(clients).index(client)
        mine = self._parts(clients)[index]
        return Examples(everything.x[mine], everything.y[mine])
