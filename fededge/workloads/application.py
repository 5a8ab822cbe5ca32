"""A workload whose clients are real data holders: people, engines, road sensors, buildings."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from fededge.errors import MissingDataError, WorkloadError
from fededge.learners import Examples, Learner

T = TypeVar("T")


def named(pattern: str) -> Callable[[str], bool]:
    """Make what tells clients by their names: a regular expression of all of it."""
    return lambda name: re.fullmatch(pattern, name) is not None


def own(held: Mapping[str, T], client: str) -> T:
    """Return what a client has.

    Raises:
      WorkloadError: there is no such client.
    """
    if client not in held:
        such = f"; there are {len(held)}, such as {next(iter(held))}" if held else ""
        raise WorkloadError(f"there is no client {client} in the data{such}")
    return held[client]


@dataclass(frozen=True, kw_only=True)
class Application:
    """Makes a workload of functions that read one client's data.

    Attributes:
      image: that has the learner's library, as in the folder `images/`.
      metric: the name of the metric that people watch.
      unit: of the metric, for people; empty for a share.
      higher_is_better: whether a larger metric is a better one.
      mean_over_clients: whether the metric is the mean of each test client's own; else it is that of all examples.
      defaults: settings of a round that suit it.
      rounds: how many suit it.
      fine_tuning: how a client trains on from the global model to its own, as settings of `LocalTraining`; those that
        are not there are the round's.
      is_client: tells the name of a client who can train.
      members: names those who are in the data here, in the publisher's own order.
      read_train: reads a client's examples to learn from.
      tested: names the clients with held-out examples.
      official: names those of them that make up the test that is reported; by default all.
      read_test: reads a client's held-out examples.
      read_cold: reads what a client is tested on who never trained; by default the held-out examples.
      learner: makes the learner.
    """

    image: str
    metric: str
    unit: str = ""
    higher_is_better: bool
    mean_over_clients: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 5
    fine_tuning: Mapping[str, Any] = field(default_factory=dict)
    is_client: Callable[[str], bool]
    members: Callable[[], Sequence[str]]
    read_train: Callable[[str], Examples]
    tested: Callable[[], Sequence[str]]
    official: Callable[[], Sequence[str]] | None = None
    read_test: Callable[[str], Examples]
    read_cold: Callable[[str], Examples] | None = None
    learner: Callable[[], Learner]

    def population(self, clients: int) -> Sequence[str]:
        members = self.members()
        if not members:
            raise MissingDataError("the data have no client to train: see `fededge data check`")
        if clients not in (0, len(members)):
            raise WorkloadError(f"clients={clients}, and the data have {len(members)}: leave it at 0 to take them all")
        return members

    def train_data(self, client: str, clients: int) -> Examples:  # noqa: ARG002
        return self.read_train(client)

    def test_clients(self, clients: int) -> Sequence[str]:  # noqa: ARG002
        return self.tested()

    def client_test_data(self, client: str, clients: int) -> Examples:  # noqa: ARG002
        return self.read_test(client)

    def reported_clients(self) -> Sequence[str]:
        return (self.official or self.tested)()

    def test_data(self) -> Examples:
        parts = [self.read_test(client) for client in self.reported_clients()]
        if not parts:
            raise WorkloadError("the data have no client to test on: see `fededge data check`")
        return Examples(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))

    def everyone(self) -> Sequence[str]:
        found: list[str] = []
        for names in (self.members, self.tested):  # of which one may be in files that are not here
            with contextlib.suppress(MissingDataError):
                found += names()
        return [*dict.fromkeys(found)]

    def cold_test_data(self, client: str) -> Examples:
        return (self.read_cold or self.read_test)(client)
