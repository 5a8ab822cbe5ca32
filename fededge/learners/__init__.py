"""How a client trains: one protocol, one module for each library."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fededge.core.tensors import Array, Tensors
from fededge.core.updates import ClientUpdate, ExclusionReason
from fededge.errors import SetupError, UpdateError
from fededge.records import Digest, Runtime
from fededge.settings import LocalTraining

__all__ = ["ClientSeeds", "Examples", "Learner", "needing", "require_usable"]


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


def require_usable(examples: Examples) -> None:
    """Make sure that a client's examples can be trained on.

    Raises:
      UpdateError: there are none, not as many targets as inputs, or one of them is NaN or infinite.
    """
    if not len(examples):
        raise UpdateError(ExclusionReason.NO_DATA, "the client has no examples")
    if len(examples.x) != len(examples.y):
        detail = f"{len(examples.x)} inputs and {len(examples.y)} targets: each example needs both"
        raise UpdateError(ExclusionReason.BAD_DATA, detail)
    for what, values in (("inputs", examples.x), ("targets", examples.y)):
        if bad := int(np.count_nonzero(~np.isfinite(values))):
            raise UpdateError(
                ExclusionReason.BAD_DATA,
                f"{bad} of {values.size} values of the {what} are NaN or infinite: mend or leave out those examples",
            )


@contextlib.contextmanager
def needing(library: str, image: str) -> Iterator[None]:
    """Import a learner's library.

    Args:
      library: as people call it.
      image: that has it, as in the folder `images/`.

    Raises:
      SetupError: it is not in this environment or image.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise SetupError(
            f"this workload needs {library}, which is not here ({error}): it runs on the image fededge-{image}, as in "
            f"a pipeline of `fededge pipelines export --library {image}`, or here by `--library {image}`"
        ) from error


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

    def update_signature(self, weights: Tensors, how: LocalTraining) -> dict[str, str]:
        """Describe the tensors that a client makes of these weights, as `core.tensors.signature` does.

        A tensor of the model that is not among them stays as it is in this round. `core.parts` says what else than
        the model's tensors may be there, by how their names begin.

        Raises:
          WorkloadError: the model cannot be trained so; the message says why.
        """

    def train(
        self,
        client: str,
        weights: Tensors,
        examples: Examples,
        how: LocalTraining,
        seeds: ClientSeeds,
        correction: Tensors | None = None,
    ) -> ClientUpdate:
        """Train on one client's examples, starting from the global weights.

        The result depends on the arguments alone: not on what this process trained before.

        Args:
          client: whose they are.
          weights: the global model.
          examples: what to train on.
          how: in this round; its learning rate is used as it is.
          seeds: of every random number.
          correction: added to each gradient of the loss; float32, named and shaped like the trained tensors.

        Raises:
          UpdateError: training gave nothing usable.
        """

    def predict(self, weights: Tensors, x: Array) -> Array:
        """Return what the model says of inputs, shape [examples, …]; of a classifier, a score for each class."""

    def evaluate(self, weights: Tensors, examples: Examples) -> Mapping[str, float]:
        """Measure a model; the workload's metric is among the results."""

    def export(self, weights: Tensors, path: Path) -> None:
        """Write a file that the learner's library loads without FedEdge."""

    def runtime(self) -> Runtime:
        """Say what computes here."""
