"""How far an attempt at a round has come, from what the store has of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import PurePath
from typing import Any

from fededge.core.cohorts import client_order
from fededge.core.updates import ExclusionReason
from fededge.errors import UNREADABLE, NotFoundError
from fededge.records import Attempt, AttemptRef, Closing, Excluded, Failed, SittingRef
from fededge.store import keys
from fededge.store.trainings import TrainingStore


class State(StrEnum):
    PUBLISHED = "published"
    FAILED = "failed"
    CLOSED = "closed"  # its model is not published yet
    OPEN = "open"
    LEFT = "left behind"  # a rollback went elsewhere, and no run takes it up


@dataclass(frozen=True)
class AttemptView:
    """One attempt.

    Attributes:
      holder: the run that works on it now; empty if none does.
      closing: which updates count; None before the round is closed.
      arrivals: when each update arrived.
      failing: clients that reported a failure and have delivered nothing since; empty once the round is closed.
      ended_at: when it was published, failed or closed, whichever is the last known.
    """

    plan: Attempt
    state: State
    holder: str
    closing: Closing | None
    failed: Failed | None
    arrivals: dict[str, datetime]
    failing: list[str]
    ended_at: datetime | None

    @property
    def status(self) -> str:
        """The state in words, with who works on it."""
        if self.state not in (State.OPEN, State.CLOSED):
            return self.state.value
        return f"{self.state.value}, {f'worked on by {self.holder}' if self.holder else 'waiting for a run'}"

    @property
    def reasons(self) -> dict[str, int]:
        """How many were left out, by reason, the most frequent first."""
        excluded = self.closing.excluded if self.closing else []
        return dict(Counter(one.reason.value for one in excluded).most_common())

    @property
    def silent(self) -> list[str]:
        """Those of the cohort of whom nothing has been heard."""
        heard = {*self.arrivals, *self.failing}
        return [client for client in sorted(self.plan.cohort, key=client_order) if client not in heard]

    def as_json(self) -> dict[str, Any]:
        """Sum it up; `accepted` is null before the round is closed."""
        return {
            "version": self.plan.version,
            "round": self.plan.round,
            "attempt": self.plan.number,
            "state": self.state.value,
            "holder": self.holder or None,
            "cohort": len(self.plan.cohort),
            "delivered": len(self.arrivals),
            "accepted": len(self.closing.accepted) if self.closing else None,
            "excluded": self.reasons,
            "failing": len(self.failing),
            "failure": self.failed.reason if self.failed else None,
            "opened_at": self.plan.opened_at.isoformat(),
            "ended_at": self.ended_at.isoformat() if self.ended_at else None,
        }


class Attempts:
    """All attempts at the rounds of a training."""

    def __init__(self, trainings: TrainingStore) -> None:
        self.trainings = trainings
        self.lease = trainings.lease.active()
        self.pointer = trainings.head().pointer
        self.next = keys.next_version(self.pointer)

    def all(self) -> list[AttemptView]:
        """View each attempt, in the order of their opening."""
        views = [self.view(ref) for version in self._tried() for ref in self.trainings.attempts(version)]
        return sorted(views, key=lambda view: view.plan.opened_at)

    def view(self, ref: AttemptRef) -> AttemptView:
        trainings = self.trainings
        plan, closing, failed = trainings.attempt(ref), trainings.closing(ref), trainings.failed(ref)
        published_at = self._published_at(ref)
        state = self._state(ref, published_at, closing, failed)
        arrivals = trainings.arrivals(ref)
        reported = [] if closing else [keys.client_of(k) for k in trainings.store.keys(keys.failure_folder(ref))]
        return AttemptView(
            plan=plan,
            state=state,
            holder=self.lease.holder if self.lease and state in (State.OPEN, State.CLOSED) else "",
            closing=closing,
            failed=failed,
            arrivals=arrivals,
            failing=[client for client in reported if client not in arrivals],
            ended_at=published_at or (failed.failed_at if failed else closing.closed_at if closing else None),
        )

    def latest(self) -> AttemptRef:
        """Find the latest attempt at the next version, or else the current one's.

        Raises:
          NotFoundError: no round has been opened.
        """
        for version in (self.next, self.pointer.version):
            if found := self.trainings.attempts(version):
                return found[-1]
        name = self.trainings.name
        raise NotFoundError(f"no round was opened since {name} is at {self.pointer.version}: `fededge run` opens one")

    def find(self, version: str, number: int | None = None) -> AttemptRef:
        """Find an attempt.

        Args:
          version: that it makes; `current`, or empty for the latest.
          number: of the attempt; by default, the last one's.

        Raises:
          NotFoundError: there is no such attempt.
        """
        named = self.pointer.version if version == "current" else version or self.latest().version
        found = self.trainings.attempts(named)
        if chosen := [ref for ref in found if number in (None, ref.number)]:
            return chosen[-1]
        name = self.trainings.name
        missing = f"attempt {number} at {named}" if found else f"round of {named}"
        raise NotFoundError(f"training {name} has no {missing}: `fededge rounds list {name}` shows what there is")

    def _tried(self) -> list[str]:
        """Name the versions at which there can be attempts: those made, the next, and the next before each rollback."""
        made = [version.version for version in self.trainings.versions()]
        left = [
            keys.version_name(keys.version_round(rollback.left) + 1, branch)
            for branch, rollback in enumerate(self.pointer.rollbacks)
        ]
        return list(dict.fromkeys([*made, *left, self.next]))

    def _published_at(self, ref: AttemptRef) -> datetime | None:
        """Say when an attempt's version was made; one that is written and not current yet is not published."""
        if ref.version == self.next:
            return None
        try:
            version = self.trainings.version(ref.version)
        except NotFoundError:
            return None
        return version.created_at if version.attempt == ref.number else None

    def _state(
        self, ref: AttemptRef, published_at: datetime | None, closing: Closing | None, failed: Failed | None
    ) -> State:
        if published_at:
            return State.PUBLISHED
        if failed:
            return State.FAILED
        if ref.version != self.next:
            return State.LEFT
        return State.CLOSED if closing else State.OPEN


def failures(trainings: TrainingStore, view: AttemptView) -> list[Excluded]:
    """Read why clients have failed so far."""
    return [_failure(trainings, view.plan.ref, client) for client in sorted(view.failing, key=client_order)]


def spent_seconds(attempts: Attempts, view: AttemptView) -> float:
    """Say how much of the deadline's seconds an attempt has used: the time that runs have worked on it until it closed.

    Of a run that is gone, the time until the last that was heard of it.
    """
    trainings, ref = attempts.trainings, view.plan.ref
    sittings = trainings.store.entries(keys.sitting_folder(ref))
    if not sittings:
        return 0.0
    token = int(PurePath(sittings[-1].key).stem)
    heard = {entry.key: entry.written_at for entry in trainings.store.entries(keys.attempt_folder(ref))}
    heard.pop(keys.failed(ref), None)  # can be given up days later
    until = heard.get(keys.closing(ref)) or max(heard.values())
    if not view.closing and attempts.lease and attempts.lease.token == token:
        until = trainings.store.now()
    seconds = view.plan.settings.deadline_s
    left = trainings.deadline(SittingRef(attempt=ref, token=token), seconds) - until
    return max(0.0, seconds - left.total_seconds())


def _failure(trainings: TrainingStore, ref: AttemptRef, client: str) -> Excluded:
    try:
        failure = trainings.failure(ref, client)
    except UNREADABLE as error:  # a client wrote it
        return Excluded(client=client, reason=ExclusionReason.CORRUPT, detail=str(error))
    if failure is None:
        return Excluded(client=client, reason=ExclusionReason.NO_UPDATE, detail="its report is gone")
    return Excluded(client=client, reason=failure.reason, detail=failure.detail)
