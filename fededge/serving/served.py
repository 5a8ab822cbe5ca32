"""A version of the store, loaded and ready to answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from fededge.core.tensors import Array, Tensors
from fededge.errors import CorruptError, InputError
from fededge.learners import Learner
from fededge.records import Digest, Version
from fededge.store.blobs import get_tensors
from fededge.store.trainings import TrainingStore
from fededge.workloads import learner_of

_SPEC = re.compile(r"(?P<dtype>[a-z]+\d*)\[(?P<shape>(\d+(,\d+)*)?)\]")


@dataclass(frozen=True)
class Spec:
    """One example of a tensor.

    Attributes:
      dtype: numpy's name.
      shape: without the batch.
    """

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read what `Examples.schema` writes, as `float32[64]`."""
        match = _SPEC.fullmatch(text)
        if not match:
            raise CorruptError(f"{text!r} describes no tensor, as float32[64] does; restore the version from a backup")
        return cls(match["dtype"], tuple(int(size) for size in match["shape"].split(",") if size))


@dataclass(frozen=True)
class Served:
    """A version that answers.

    Attributes:
      version: its name.
      model: digest of its weights, which were checked against it.
      workload: that the training is about.
      learner: of the workload, which predicts.
      inputs: what it takes.
    """

    version: str
    model: Digest
    workload: str
    learner: Learner
    weights: Tensors
    inputs: Spec

    def predict(self, x: Array) -> Array:
        """Return what the learner says of inputs, shape [examples, …]: the very same bits."""
        return np.asarray(self.learner.predict(self.weights, x))

    def outputs(self) -> Spec:
        """Find out what the answers are like, by asking once; the model is warm afterwards."""
        answer = self.predict(np.zeros((1, *self.inputs.shape), self.inputs.dtype))
        return Spec(answer.dtype.name, answer.shape[1:])


def load(trainings: TrainingStore, version: str) -> Served:
    """Read a version and its weights, and check them against their digests.

    Args:
      trainings: of the training.
      version: its name, as `v7`; or `current`.

    Raises:
      NotFoundError: there is no such version.
      CorruptError: the weights or the manifest are damaged.
      InputError: no round has made the version.
      WorkloadError: the workload is not installed here.
    """
    manifest = trainings.version(version)
    return Served(
        version=manifest.version,
        model=manifest.model,
        workload=manifest.settings.workload,
        learner=learner_of(manifest.settings.workload),
        weights=get_tensors(trainings.store, manifest.model),
        inputs=inputs_of(manifest),
    )


def inputs_of(manifest: Version) -> Spec:
    """Tell what a version takes.

    Raises:
      InputError: no round has made it, so that nothing tells.
    """
    try:
        return Spec.parse(manifest.data_schema["x"])
    except KeyError as error:
        raise InputError(
            f"{manifest.training} {manifest.version} was made by no round: serve a version that was trained"
        ) from error
