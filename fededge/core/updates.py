"""A client's update, and what makes it usable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from fededge.core.tensors import Array, Tensors, non_finite, signature

MAX_EXAMPLES = 2**24  # of one client; float32, in which updates are weighted, skips integers above


class ExclusionReason(StrEnum):
    """Why a client of the cohort does not count in the new model."""

    NO_UPDATE = "NO_UPDATE"
    NO_DATA = "NO_DATA"
    TRAINING_FAILED = "TRAINING_FAILED"
    NON_FINITE_TRAINING = "NON_FINITE_TRAINING"
    WRONG_BASE = "WRONG_BASE"
    WRONG_TENSORS = "WRONG_TENSORS"
    NON_FINITE = "NON_FINITE"
    BAD_COUNT = "BAD_COUNT"
    CORRUPT = "CORRUPT"


@dataclass(frozen=True)
class ClientUpdate:
    """What one client learned in one round.

    Attributes:
      client: the client's id.
      delta: client model − global model, float32, named and shaped like the global model. (TFF's own sign is
        the opposite: initial − trained.)
      num_examples: the client's weight: examples trained on, summed over local epochs, as TFF counts them.
      metrics: of the local training, for reports only.
    """

    client: str
    delta: Tensors
    num_examples: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Refusal:
    """Why an update is not admitted."""

    reason: ExclusionReason
    detail: str


def inspect_update(delta: Mapping[str, Array], num_examples: int, expected: Mapping[str, str]) -> Refusal | None:
    """Say why an update must not enter the mean, or None if it may.

    Args:
      delta: the update's tensors, of any names, shapes and dtypes.
      num_examples: the weight that the client claims, an integer from 1 to `MAX_EXAMPLES`.
      expected: the global model's signature; it must match exactly, nothing is broadcast.
    """
    if signature(delta) != dict(expected):
        return Refusal(ExclusionReason.WRONG_TENSORS, _difference(signature(delta), expected))
    if bad := non_finite(delta):
        return Refusal(ExclusionReason.NON_FINITE, f"NaN or infinity in {', '.join(bad)}")
    if not isinstance(num_examples, int) or not 0 < num_examples <= MAX_EXAMPLES:
        return Refusal(ExclusionReason.BAD_COUNT, f"{num_examples} examples; 1 to {MAX_EXAMPLES} can be")
    return None


def _difference(got: Mapping[str, str], expected: Mapping[str, str]) -> str:
    for name in sorted(got.keys() | expected.keys()):
        if got.get(name) != expected.get(name):
            return f"{name} is {got.get(name, 'missing')}, the model has {expected.get(name, 'no such tensor')}"
    return ""
