"""A workload that prints, warns and fails in its own ways."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from fededge.learners import Examples
from tests.steps.tiny import TinyWorkload


class NoisyWorkload(TinyWorkload):
    def train_data(self, client: str, clients: int) -> Examples:
        print("reading", client, end="")  # noqa: T201
        print(" …\n50 %\r100 %")  # noqa: T201
        sys.stderr.write("half a line")
        logging.getLogger("sensor").warning("drift of %d", 3)
        if client == "p7":
            raise RuntimeError("no such sensor")
        return super().train_data(client, clients)


class BrokenWorkload(TinyWorkload):
    def population(self, clients: int) -> Sequence[str]:
        raise RuntimeError("the directory service is down")


workload = NoisyWorkload()
broken = BrokenWorkload()
