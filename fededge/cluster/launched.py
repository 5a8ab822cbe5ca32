"""What a launcher knows of a Job: its pods, how it came to its end, and why batches are not done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from fededge.cluster.pods import Trouble
from fededge.core.updates import ExclusionReason

Document = dict[str, Any]

_NO_POD = Trouble(ExclusionReason.NOT_STARTED, "no pod was made: see `kubectl describe job`")
_NOT_NEEDED = Trouble(ExclusionReason.NOT_NEEDED, "the target was reached before it was done")


class End(StrEnum):
    """How a Job came to its end, as far as the round waits for it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DELETED = "deleted"  # by somebody else
    ENOUGH = "enough"  # the round needs no more
    DEADLINE = "deadline"
    NOT_STARTED = "not started"  # no pod could start, for too long
    LOST = "lost"  # its last pods are on nodes that do not answer


class Seen(NamedTuple):
    """The last pod of an index.

    Attributes:
      pod: as Kubernetes last told of it.
      trouble: what is wrong with it.
      is_over: it has ended, or is there no more.
    """

    pod: Document
    trouble: Trouble | None
    is_over: bool

    @property
    def is_lost(self) -> bool:
        """Whether its node does not answer: nobody can end it, so the Job makes no other."""
        return not self.is_over and self.trouble is not None and self.trouble.reason is ExclusionReason.NODE_LOST


@dataclass
class Launched:
    """A Job, and what is known of it.

    Attributes:
      batches: numbers of the batches that it trains, by index.
      manifest: makes it, given the seconds until the deadline.
      is_pooled: it is started at once; others wait for their wave.
      uid: of the Job; empty before it is started.
      end: how it came to its end; None before.
      detail: Kubernetes' words on that.
      no_pod: why it has no pod.
      pods: by index.
      warnings: Kubernetes' last one on each pod, by uid.
      lost_at: since when all its pods that are left are lost.
    """

    batches: Sequence[int]
    manifest: Callable[[int], Document]
    is_pooled: bool
    name: str = ""
    uid: str = ""
    end: End | None = None
    detail: str = ""
    counts: tuple[int, int, int] = (0, 0, 0)
    began: float = 0.0
    has_started: bool = False
    no_pod: Trouble | None = None
    pods: dict[int, Seen] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)
    lost_at: float = math.inf

    def why(self, index: int, deadline_s: int) -> Trouble:
        """Say why a batch of a Job that is over is not done."""
        reasons = {
            End.SUCCEEDED: _NOT_NEEDED,
            End.ENOUGH: _NOT_NEEDED,
            End.DEADLINE: Trouble(ExclusionReason.DEADLINE, f"not done after {deadline_s} s"),
            End.NOT_STARTED: Trouble(ExclusionReason.NOT_STARTED, f"no pod of its Job could start: {self.detail}"),
            End.DELETED: Trouble(ExclusionReason.POD_FAILED, f"somebody deleted the Job {self.name}"),
            End.FAILED: Trouble(ExclusionReason.POD_FAILED, f"its Job ended before: {self.detail}"),
            End.LOST: Trouble(ExclusionReason.NOT_STARTED, "the pods before it were lost with their nodes"),
        }
        trouble = self.pods[index].trouble if index in self.pods else self.no_pod
        return trouble or reasons[self.end or End.DEADLINE]

    @property
    def is_running(self) -> bool:
        return bool(self.uid) and not self.end

    @property
    def is_lost(self) -> bool:
        return self.lost_at < math.inf

    @property
    def blocked(self) -> Trouble | None:
        """Why nothing of the Job has started; None if something has, or is about to."""
        if self.has_started:
            return None
        if not self.pods:
            return self.no_pod or _NO_POD
        troubles = [seen.trouble for seen in self.pods.values()]
        return troubles[0] if all(troubles) else None

    def see(self, index: int, seen: Seen) -> None:
        """Note what has become of an index's pod."""
        self.pods[index] = seen
        left = [one for one in self.pods.values() if not one.is_over]
        if not left or not all(one.is_lost for one in left):
            self.lost_at = math.inf
        elif self.lost_at == math.inf:
            self.lost_at = time.monotonic()
