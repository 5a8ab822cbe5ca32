"""Normalizes inputs by the means and deviations of all clients. Use it for sensors and other measured features.

Networks and linear models train badly on features of other sizes (a pressure of 101,325 beside a ratio of 0.4), and a
client's own mean and deviation would hide from the model in what that client differs from others. Here clients measure
once, in the first round, and train from the second on. Not needed for pixels, or features that are scaled already.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fededge.core.parts import STATISTICS
from fededge.core.tensors import Array, Tensors, signature
from fededge.core.updates import ClientUpdate, ExclusionReason
from fededge.errors import CorruptError, InputError, UpdateError, WorkloadError
from fededge.learners import ClientSeeds, Examples, Learner, require_usable
from fededge.records import Runtime
from fededge.settings import LocalTraining
from fededge.store.blobs import decode_tensors

MEAN, VARIANCE, PRESENT = (f"{STATISTICS}input/{what}" for what in ("mean", "variance", "present"))
_NAMES = (MEAN, VARIANCE, PRESENT)
_UNMEASURED = -1.0  # a variance that no measurement gives
_RESOLUTION = float(np.finfo(np.float32).eps)  # what float32 tells apart, of a number around 1


class NormalizedLearner:
    """Learns with another learner, on normalized inputs.

    The model has three tensors more, float32, shape [features]: `statistics/input/mean`, `…/variance` and `…/present`
    (the share of values that are not missing). As long as they are not measured, a round measures them and trains
    nothing; from then on they stay as they are. NaN is a missing value and becomes 0, the mean.

    Args:
      inner: the learner of the model, which takes inputs of mean 0 and deviation 1. For this one's `export`, its own
        has to take `scaling`: the mean and scale of each feature, float32, shape [features]. The file's model then
        computes with (input − mean) / scale, or 0 where an input is NaN.
      features: how many there are: the length of the inputs' last axis.
    """

    def __init__(self, inner: Learner, features: int) -> None:
        self._inner = inner
        self._features = features

    def initial_weights(self, seed: int) -> Tensors:
        return {**self._inner.initial_weights(seed), **self._unmeasured()}

    def load_weights(self, path: Path) -> Tensors:
        """Read the weights of a model: of the inner learner, or of this one, which has the statistics too."""
        if path.suffix == ".safetensors":
            try:
                weights = decode_tensors(path.read_bytes(), path.name)
            except (CorruptError, OSError) as error:
                raise InputError(f"{path.name} does not fit this workload's model: {error}") from error
            if any(name in weights for name in _NAMES):
                if signature(weights) != (expected := signature(self.initial_weights(0))):
                    raise InputError(f"{path.name} has {signature(weights)}, this workload's model needs {expected}")
                return weights
        return {**self._inner.load_weights(path), **self._unmeasured()}

    def prepare(self) -> None:
        self._inner.prepare()

    def update_signature(self, weights: Tensors, how: LocalTraining) -> dict[str, str]:
        trained = self._inner.update_signature(_inner(weights), how)  # what it refuses is refused before measuring
        self._require_statistics(weights)
        return trained if _is_measured(weights) else signature(self._unmeasured())

    def train(
        self,
        client: str,
        weights: Tensors,
        examples: Examples,
        how: LocalTraining,
        seeds: ClientSeeds,
        correction: Tensors | None = None,
    ) -> ClientUpdate:
        self._require_statistics(weights)
        if not len(examples):
            require_usable(examples)
        if problem := self._problem(examples.x):
            raise UpdateError(ExclusionReason.BAD_DATA, problem)
        if not _is_measured(weights):
            return ClientUpdate(client, _measure(examples.x), num_examples=len(examples), metrics={})
        usable = Examples(_normalized(weights, examples.x), examples.y)
        return self._inner.train(client, _inner(weights), usable, how, seeds, correction)

    def predict(self, weights: Tensors, x: Array) -> Array:
        return self._inner.predict(_inner(weights), self._prepared(weights, x))

    def evaluate(self, weights: Tensors, examples: Examples) -> Mapping[str, float]:
        usable = Examples(self._prepared(weights, examples.x), examples.y)
        return self._inner.evaluate(_inner(weights), usable)

    def export(self, weights: Tensors, path: Path) -> None:
        self._require_statistics(weights)
        export: Any = self._inner.export
        if "scaling" not in inspect.signature(export).parameters:
            raise WorkloadError(
                f"the export of {type(self._inner).__name__} takes no scaling, so that the file's model would need "
                "normalized inputs: export the weights alone, as .safetensors"
            )
        export(_inner(weights), path, scaling=_scaling(weights))

    def runtime(self) -> Runtime:
        return self._inner.runtime()

    def _unmeasured(self) -> Tensors:
        shape = (self._features,)
        return {
            MEAN: np.zeros(shape, np.float32),
            VARIANCE: np.full(shape, _UNMEASURED, np.float32),
            PRESENT: np.zeros(shape, np.float32),
        }

    def _prepared(self, weights: Tensors, x: Array) -> Array:
        self._require_statistics(weights)
        if problem := self._problem(x):
            raise WorkloadError(f"the data to predict: {problem}")
        return _normalized(weights, x)

    def _problem(self, x: Array) -> str:
        """Say why inputs cannot be normalized; empty if they can."""
        if x.ndim < 2 or x.shape[-1] != self._features:
            last = x.shape[-1] if x.ndim > 1 else "no"
            return f"the inputs have {last} features, and the model takes {self._features}"
        if infinite := int(np.count_nonzero(np.isinf(x))):
            return f"{infinite} of {x.size} values of the inputs are infinite: mend them, or make them NaN, for missing"
        return ""

    def _require_statistics(self, weights: Tensors) -> None:
        ours = {name: weights[name] for name in _NAMES if name in weights}
        if signature(ours) != (expected := signature(self._unmeasured())):
            raise WorkloadError(
                f"the workload normalizes its inputs by {expected}, the version has {signature(ours)}: begin another "
                "training for the changed model, with `fededge run --new`"
            )


def _inner(weights: Tensors) -> Tensors:
    return {name: value for name, value in weights.items() if name not in _NAMES}


def _is_measured(weights: Tensors) -> bool:
    return bool(np.all(weights[VARIANCE].astype(np.float64) >= 0))


def _measure(x: Array) -> Tensors:
    """Measure each feature over all examples and all axes but the last, in float64; NaN is missing.

    Returns:
      Mean, population variance and the share of values that are there, float32; mean and variance are 0 without any.

    Raises:
      UpdateError: they do not fit into float32.
    """
    rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
    there = ~np.isnan(rows)
    number = np.maximum(there.sum(axis=0), 1)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused
        mean = np.where(there, rows, 0).sum(axis=0) / number
        variance = np.square(np.where(there, rows - mean, 0)).sum(axis=0) / number
        measured = {MEAN: mean, VARIANCE: variance, PRESENT: there.mean(axis=0)}
        tensors: Tensors = {name: np.asarray(value, np.float32) for name, value in measured.items()}
    if not all(np.isfinite(value.astype(np.float64)).all() for value in tensors.values()):
        raise UpdateError(ExclusionReason.BAD_DATA, "the inputs are too large for their variance to be a float32")
    return tensors


def _scaling(weights: Tensors) -> tuple[Array, Array]:
    """Return what is subtracted from each feature and what it is then divided by, float32.

    A constant feature is divided by 1. So is one whose deviation is below float32's resolution at its mean, which is
    rounding and no measurement: dividing by it would blow up the first value that differs.
    """
    if not _is_measured(weights):
        return np.zeros_like(weights[MEAN]), np.ones_like(weights[MEAN])
    mean: npt.NDArray[np.float64] = weights[MEAN].astype(np.float64)
    deviation = np.sqrt(weights[VARIANCE].astype(np.float64))
    varies = deviation > _RESOLUTION * np.abs(mean)
    return weights[MEAN], np.where(varies, deviation, 1).astype(np.float32)


def _normalized(weights: Tensors, x: Array) -> Array:
    """Normalize inputs of any width, float32, with 0 where they are missing."""
    mean, scale = _scaling(weights)
    with np.errstate(over="ignore"):  # what becomes infinite is refused by the inner learner
        values = np.divide(np.subtract(x, mean), scale)
        return np.where(np.isnan(x), 0, values).astype(np.float32)
