"""What every step does around its work."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NoReturn

from fededge.cluster.environment import RUN
from fededge.errors import FedEdgeError, InputError, LeaseError, RoundError, StoreUnavailableError
from fededge.events import emit
from fededge.monitoring import logs
from fededge.monitoring.send import send_metrics
from fededge.records import Attempt, AttemptRef, Failed, SittingRef
from fededge.signals import TERMINATED, terminable
from fededge.store import Store, keys, open_store
from fededge.store.leases import HOLDER, PAST, Leases
from fededge.store.trainings import TrainingStore

_LINE_LENGTH = 300
_COMING_BACK = timedelta(minutes=2)  # for Argo, which looks again after 10 s, and a pod that has to start


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

    @property
    def has_enough(self) -> bool:
        """Whether the round wants no more updates."""
        how = self.plan.settings
        return how.close_at_target and len(self.trainings.arrivals(self.ref)) >= how.target

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
def running(phase: str, training: str = "", sitting: str = "") -> Iterator[None]:
    """Report the start and the end of a step, and turn an error of ours into one line and an exit code.

    Args:
      phase: of the round, or what else the step does.
      training: that it works on, where that is known.
      sitting: as `distribute_model` named the attempt; empty before there is one.
    """
    with logs.lines(step=phase, run=run_name(), **{"training": training, **_named(sitting)}):
        begun = time.monotonic()
        emit("started", phase, training=training)
        try:
            with terminable():
                yield
        except FedEdgeError as error:
            _emit_failed(phase, training, error, str(error), error.exit_code)
            if not logs.is_json():
                sys.stderr.write(f"error: {error}\n")
            sys.exit(error.exit_code)
        except Exception as error:  # of the user's own code, most likely: told in a line, and raised for the log
            with logs.about(traceback=traceback.format_exc()):
                _emit_failed(phase, training, error, f"{phase} failed: {in_a_line(error)}", 1)
            if logs.is_json():  # and the traceback is in that line
                sys.exit(1)
            raise
        emit("finished", phase, training=training, seconds=round(time.monotonic() - begun, 3))


def _emit_failed(phase: str, training: str, error: Exception, told: str, exit_code: int) -> None:
    reason = type(error).__name__
    emit("failed", phase, training=training, ok=False, reason=reason, detail=told, exit_code=exit_code)


@contextlib.contextmanager
def working(
    phase: str, store: str, sitting: str, *, last: bool = False, ends_run: bool = True, comes_back: bool = False
) -> Iterator[Work]:
    """Do a step's work under the run's lease, which it renews; a step that fails or is the last one ends it.

    Args:
      phase: of the round.
      store: as in `open_store`.
      sitting: as `distribute_model` named the attempt.
      last: whether the run is over with this step.
      ends_run: whether it is over if this step fails; a pod of a Job may be killed and begin again.
      comes_back: whether the step, where Kubernetes ends its pod, is started again; nobody is to come in between.

    Raises:
      RoundError: the attempt was given up; its late steps must not go on.
      LeaseError: another run has taken over.
    """
    with running(phase, sitting=sitting):
        work = open_work(store, sitting)
        tell_work(work.trainings, work.plan)
        try:
            yield work
        except BaseException as error:
            if comes_back and isinstance(error, SystemExit) and error.code == TERMINATED:
                release(work.trainings, work.token, work.store.now() + _COMING_BACK)
            elif ends_run:
                release(work.trainings, work.token)
                if isinstance(error, Exception) and not isinstance(error, StoreUnavailableError):
                    send_metrics(work.trainings)
            raise
        if last:
            release(work.trainings, work.token)


def run_name() -> str:
    """Name this run, as its lease does: on a cluster by its id; empty where nobody said."""
    run = os.environ.get(RUN)
    return os.environ.get(HOLDER) or (f"run {run}" if run else "")


def _named(sitting: str) -> dict[str, str | int]:
    """Tell what a sitting's name says of it, for the log; nothing if it is no name."""
    try:
        ref = SittingRef.parse(sitting).attempt
        return {"training": ref.training, "round": keys.version_round(ref.version), "attempt": ref.number}
    except InputError:
        return {}


def tell_work(trainings: TrainingStore, plan: Attempt) -> None:
    """Have each line of the log say what this run works on; the lease names the run."""
    if logs.is_json():
        lease = trainings.lease.active()
        run = lease.holder if lease else ""
        logs.learn(run=run, round=plan.round, attempt=plan.number)


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


def release(trainings: TrainingStore, token: int, at: datetime = PAST) -> None:
    """Let the next run begin, at once or at a time. A lease that cannot be ended now ends by itself."""
    with contextlib.suppress(FedEdgeError):
        trainings.lease.release(token, at)


def in_a_line(error: Exception) -> str:
    """Tell what kind of error it is and its last line, which is where frameworks put the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"[:_LINE_LENGTH]
