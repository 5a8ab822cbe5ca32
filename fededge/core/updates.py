"""A client's update, and why one does not count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from fededge.core.tensors import Tensors

MAX_EXAMPLES = 2**24  # of one client; float32, in which updates are weighted, skips integers above


class ExclusionReason(StrEnum):
    """Why a client of the cohort does not count in the new model."""

    NO_UPDATE = "NO_UPDATE"  # nothing arrived, not even a report
    NO_DATA = "NO_DATA"
    TRAINING_FAILED = "TRAINING_FAILED"
    NON_FINITE_TRAINING = "NON_FINITE_TRAINING"  # the client diverged
    DEADLINE = "DEADLINE"  # cut its training off
    LATE = "LATE"  # arrived after the deadline
    NOT_NEEDED = "NOT_NEEDED"  # the target was reached before the client began
    WRONG_BASE = "WRONG_BASE"  # identity, round, attempt or base model
    WRONG_SCHEMA = "WRONG_SCHEMA"  # trained on data of another schema
    TOO_LARGE = "TOO_LARGE"  # more bytes than any update of this model has
    WRONG_TENSORS = "WRONG_TENSORS"  # names, shapes or dtypes
    NON_FINITE = "NON_FINITE"
    BAD_COUNT = "BAD_COUNT"  # of examples
    NORM_TOO_LARGE = "NORM_TOO_LARGE"
    OVERFLOW = "OVERFLOW"  # finite, but the sum over the cohort might not be
    CORRUPT = "CORRUPT"  # not the bytes that were written, or no tensors


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
    """Why an update is not admitted; the detail is one line for people."""

    reason: ExclusionReason
    detail: str
