"""How a client trains: one protocol, one module for each library."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fededge.core.tensors import Array, Tensors
from fededge.core.updates import ClientUpdate
from fededge.records import Digest, Runtime
from fededge.settings import LocalTraining

__all__ = ["ClientSeeds", "Examples", "Learner"]


@dataclass(frozen=True)
class Examples:
    """A data set in memory.

    Attributes:
      x: inputs, shape [examples, …].
      y: targets, shape [examples, …].
    """

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.x)

    def schema(self) -> dict[str, str]:
        """Describe one example, as `{"x": "float32[64]", "y": "int32[]"}`."""
        return {
            name: f"{a.dtype.name}[{','.join(map(str, a.shape[1:]))}]" for name, a in (("x", self.x), ("y", self.y))
        }

    def digest(self) -> Digest:
        """Digest all examples. Tells a guesser of the data no more than the update does, which follows from them."""
        data = hashlib.sha256(repr((self.schema(), len(self))).encode())
        for array in (self.x, self.y):
            data.update(np.ascontiguousarray(array).tobytes())
        return f"sha256:{data.hexdigest()}"


@dataclass(frozen=True)
class ClientSeeds:
    """The random streams of one client in one round."""

    shuffle: int
    dropout: int


class Learner(Protocol):
    """A model, and how it is trained and measured. The model's weights go in and out; nothing is remembered."""

    def initial_weights(self, seed: int) -> Tensors:
        """Make the weights of version 0, float32, the same for the same seed."""

    def load_weights(self, path: Path) -> Tensors:
        """Read the weights of a model that the user brings.

        Raises:
          InputError: the file is of another model, or of a format that this learner does not read.
        """

    def prepare(self) -> None:
        """Load what training needs, such as a framework. Called once, before the first client of a process."""

    def train(
        self, client: str, weights: Tensors, examples: Examples, how: LocalTraining, seeds: ClientSeeds
    ) -> ClientUpdate:
        """Train on one client's examples, starting from the global weights.

        The result depends on the arguments alone: not on what this process trained before.

        Raises:
          UpdateError: training gave nothing usable.
        """

    def evaluate(self, weights: Tensors, examples: Examples) -> Mapping[str, float]:
        """Measure a model; the workload's metric is among the results."""

    def export(self, weights: Tensors, path: Path) -> None:
        """Write a file that the learner's library loads without FedEdge."""

    def runtime(self) -> Runtime:
        """Say what computes here."""
