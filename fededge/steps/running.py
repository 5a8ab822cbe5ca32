"""What every step does around its work."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NoReturn

from fededge.errors import FedEdgeError, LeaseError, RoundError
from fededge.events import emit
from fededge.records import Attempt, AttemptRef, Failed, SittingRef
from fededge.signals import terminable
from fededge.store import Store, keys, open_store
from fededge.store.leases import Leases
from fededge.store.trainings import TrainingStore

_LINE_LENGTH = 300


@dataclass(frozen=True)
class Work:
    """What a step works on.

    Attributes:
      trainings: the training's documents.
      plan: the attempt.
      token: of the lease under which this run works.
      deadline: when the round stops waiting for its clients, by the store's clock.
    """

    trainings: TrainingStore
    plan: Attempt
    token: int
    deadline: datetime

    @property
    def store(self) -> Store:
        return self.trainings.store

    @property
    def ref(self) -> AttemptRef:
        return self.plan.ref

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier run has worked on the attempt."""
        return self.store.keys(keys.sitting_folder(self.ref))[0] != keys.sitting(self.ref, self.token)

    def renew(self) -> None:
        """Hold the training until the deadline and the time for finishing are over.

        Raises:
          LeaseError: another run has taken over, or garbage is being collected; this step must not go on.
        """
        end = max(self.store.now(), self.deadline) + timedelta(seconds=self.plan.settings.finish_s)
        self.trainings.lease.renew(self.token, end)
        require_no_collection(self.store)  # it may have begun when the lease had ended


def fail_round(work: Work, kind: type[RoundError], reason: str, told: str) -> NoReturn:
    """Give the attempt up; the current version stays.

    Args:
      work: that cannot go on.
      kind: of error to raise.
      reason: for the record.
      told: for people: the reason, and what to do.
    """
    plan = work.plan
    work.trainings.fail_attempt(work.ref, Failed(reason=reason))
    raise kind(f"round {plan.round} of {plan.training} failed, {plan.base_version} stays current: {told}")


def require_no_collection(store: Store) -> None:
    """Make sure that no garbage is being collected, after taking a lease.

    Each of the two writes its own mark before it looks for the other's, so one of them sees it.

    Raises:
      LeaseError: it is.
    """
    if Leases(store, "", keys.COLLECTING).active():
        raise LeaseError(f"garbage of {store.url} is being collected: run again in some minutes")


@contextlib.contextmanager
def running(phase: str, training: str = "") -> Iterator[None]:
    """Report the start and the end of a step, and turn an error of ours into one line and an exit code."""
    begun = time.monotonic()
    emit("started", phase, training=training)
    try:
        with terminable():
            yield
    except FedEdgeError as error:
        emit("failed", phase, training=training, ok=False, detail=str(error), exit_code=error.exit_code)
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except Exception as error:  # of the user's own code, most likely: told in a line, and raised for the log
        emit("failed", phase, training=training, ok=False, detail=f"{phase} failed: {in_a_line(error)}", exit_code=1)
        raise
    emit("finished", phase, training=training, seconds=round(time.monotonic() - begun, 3))


@contextlib.contextmanager
def working(phase: str, store: str, sitting: str, *, last: bool = False) -> Iterator[Work]:
    """Do a step's work under the run's lease, which it renews; a step that fails or is the last one ends it.

    Raises:
      RoundError: the attempt was given up; its late steps must not go on.
      LeaseError: another run has taken over.
    """
    with running(phase):
        work = open_work(store, sitting)
        try:
            yield work
        except BaseException:
            release(work.trainings, work.token)
            raise
        if last:
            release(work.trainings, work.token)


def open_work(store: str, sitting: str) -> Work:
    """Find what a step was told to work on, and renew the lease."""
    ref = SittingRef.parse(sitting)
    trainings = TrainingStore(open_store(store), ref.attempt.training)
    if failed := trainings.failed(ref.attempt):
        raise RoundError(f"attempt {ref.attempt} has failed ({failed.reason}); run again to open the next one")
    plan = trainings.attempt(ref.attempt)
    work = Work(trainings, plan, ref.token, trainings.deadline(ref, plan.settings.deadline_s))
    work.renew()
    return work


def release(trainings: TrainingStore, token: int) -> None:
    """Let the next run begin at once. A lease that cannot be ended now ends by itself."""
    with contextlib.suppress(FedEdgeError):
        trainings.lease.release(token)


def in_a_line(error: Exception) -> str:
    """Tell what kind of error it is and its last line, which is where frameworks put the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"[:_LINE_LENGTH]
