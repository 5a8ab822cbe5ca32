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
    DEVICE_UNAVAILABLE = "DEVICE_UNAVAILABLE"  # not Ready, cordoned, or without room, when the round was opened
    NO_DATA = "NO_DATA"
    BAD_DATA = "BAD_DATA"  # NaN, or of another form than the model takes
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
    # What Kubernetes says of a client's pod, where Jobs train:
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    EVICTED = "EVICTED"  # or preempted
    NODE_LOST = "NODE_LOST"
    NOT_STARTED = "NOT_STARTED"  # no room, no quota, or an image that cannot be pulled
    POD_FAILED = "POD_FAILED"  # in any other way


# Reasons that are no client's own: its pod was lost.
POD_REASONS = frozenset(
    {
        ExclusionReason.OUT_OF_MEMORY,
        ExclusionReason.EVICTED,
        ExclusionReason.NODE_LOST,
        ExclusionReason.NOT_STARTED,
        ExclusionReason.POD_FAILED,
    }
)


@dataclass(frozen=True)
class ClientUpdate:
    """What one client learned in one round.

    Attributes:
      client: the client's id.
      delta: client model − global model, float32, named and shaped like what is trained of the global model. (TFF's
        own sign is the opposite: initial − trained.) `core.parts` says what else may be there.
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
