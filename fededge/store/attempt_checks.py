"""Checks everything about one attempt: its plan, what was decided, and what its clients delivered.

    evaluation ─► aggregate ─► closing ─► updates that counted ─► their tensors
                                     └──► reports of those left out

A document must be there where one that was made from it is, and must say what that one says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from fededge.core.headers import PREFIX, data_size, header_room
from fededge.core.updates import POD_REASONS, ExclusionReason
from fededge.records import (
    Accepted,
    Aggregate,
    Attempt,
    AttemptRef,
    Closing,
    Evaluation,
    Excluded,
    Failed,
    Failure,
    Forgotten,
    Record,
    Repeat,
    Sitting,
    Training,
    Update,
    Version,
)
from fededge.store import keys
from fededge.store.checked_reads import CheckedReads
from fededge.store.trainings import CLIENT_LIMIT

R = TypeVar("R", bound=Record)

_REPORTED = {  # by the client, or of its pod; for other reasons it was left out in spite of its update
    ExclusionReason.DEVICE_UNAVAILABLE,
    ExclusionReason.NO_DATA,
    ExclusionReason.TRAINING_FAILED,
    ExclusionReason.NON_FINITE_TRAINING,
    ExclusionReason.DEADLINE,
    ExclusionReason.NOT_NEEDED,
    *POD_REASONS,
}
_ARRIVED_BROKEN = {ExclusionReason.CORRUPT, ExclusionReason.TOO_LARGE}


@dataclass
class FoundAttempt:
    """An attempt, as far as it can be read.

    Attributes:
      listed: the keys that are there, and what they are for.
      manifest: of the version that this attempt made.
      label: the version that needs what the attempt has; empty for one that nothing comes of any more.
      closing: None as long as the round is open, and where it cannot be read.
    """

    ref: AttemptRef
    listed: Mapping[str, keys.Place]
    manifest: Version | None
    label: str
    closing: Closing | None = None

    @property
    def accepted(self) -> Sequence[Accepted]:
        decided = self.manifest or self.closing
        return decided.accepted if decided else []

    @property
    def excluded(self) -> Sequence[Excluded]:
        decided = self.manifest or self.closing
        return decided.excluded if decided else []

    @property
    def is_open(self) -> bool:
        return bool(self.label) and not self.manifest

    def has(self, key: str) -> bool:
        """Whether a document must be there: it is, or the version was made from it."""
        return key in self.listed or (self.manifest is not None and key in self.manifest.documents)


class AttemptChecks:
    """Checks the attempts of one training.

    Args:
      reads: how, and where it is noted what is wrong.
      training: that they are of; None if it cannot be read.
      notes: of what was deleted on a client's request, by client.
    """

    def __init__(self, reads: CheckedReads, training: Training | None, notes: Mapping[str, Forgotten]) -> None:
        self._reads = reads
        self._report = reads.report
        self._training = training
        self._notes = notes

    def check(self, attempt: FoundAttempt, *, is_last: bool) -> None:
        """Check one attempt.

        Args:
          attempt: what there is of it; its closing record is put into it.
          is_last: whether no other attempt at its version came after it.
        """
        ref = attempt.ref
        evaluation = self._own(attempt, Evaluation, keys.evaluation(ref), required=False)
        aggregate = self._own(attempt, Aggregate, keys.aggregate(ref), required=attempt.has(keys.evaluation(ref)))
        attempt.closing = self._own(attempt, Closing, keys.closing(ref), required=attempt.has(keys.aggregate(ref)))
        self._own(attempt, Failed, keys.failed(ref), required=not is_last)
        plan = self._own(attempt, Attempt, keys.attempt(ref), required=True)
        if plan and plan.ref != ref:
            self._report.note(keys.attempt(ref), f"is the plan of {plan.ref}", attempt.label)
        if attempt.manifest:
            self._compare(attempt.manifest, _expected(plan, attempt.closing, aggregate, evaluation))
        if attempt.is_open:
            named = [plan.base_model, plan.base_server_state] if plan else []
            named += [aggregate.model, aggregate.server_state] if aggregate else []
            for digest in filter(None, named):
                self._reads.blob(digest, attempt.label)
        self._check_sittings(attempt)
        self._check_accepted(attempt)
        self._check_excluded(attempt)
        self._check_others(attempt)

    def _own(self, attempt: FoundAttempt, kind: type[R], key: str, *, required: bool) -> R | None:
        """Read a document of an attempt, if it has it or must have it."""
        if not required and not attempt.has(key):
            return None
        record = self._reads.document(kind, key, attempt.label)
        named = attempt.manifest.documents.get(key) if attempt.manifest else None
        if record and named and record.digest != named:
            self._report.note(key, f"is not the one that {attempt.label} was made from", attempt.label)
            return None
        return record

    def _compare(self, manifest: Version, expected: Mapping[str, object]) -> None:
        """Check that a manifest says what the documents say that it was made from."""
        wrong = [name for name, value in expected.items() if getattr(manifest, name) != value]
        if wrong:
            key = keys.version(manifest.training, manifest.version)
            self._report.note(key, f"says something else than its documents of {', '.join(wrong)}", manifest.version)

    def _check_sittings(self, attempt: FoundAttempt) -> None:
        found = sorted(key for key, place in attempt.listed.items() if place.folder == "sittings")
        if not found and any(place.folder in keys.CLIENT_FOLDERS for place in attempt.listed.values()):
            self._report.note(keys.sitting_folder(attempt.ref), "is missing", attempt.label)
        spent, first = 0.0, True
        for key in found:
            sitting = self._reads.document(Sitting, key, attempt.label)
            if sitting is None:
                first = False
                continue
            if sitting.spent_s < spent or (first and sitting.spent_s):
                self._report.note(key, "tells another time than there was before it", attempt.label)
            spent, first = sitting.spent_s, False

    def _check_accepted(self, attempt: FoundAttempt) -> None:
        for accepted in attempt.accepted:
            key = keys.update(attempt.ref, accepted.client)
            note = self._notes.get(accepted.client)
            if key not in attempt.listed and note and accepted.delta in note.deltas:
                self._report.gone[accepted.client] += 1
                continue
            update = self._reads.document(Update, key, attempt.label, CLIENT_LIMIT)
            if update and update.digest != accepted.update:
                self._report.note(key, "is not the update that counted", attempt.label)
            self._report.updates += update is not None
            if attempt.label:
                self._reads.blob(accepted.delta, attempt.label, self._longest)

    @cached_property
    def _longest(self) -> int | None:
        """The most bytes that an update can have."""
        if self._training is None:
            return None
        tensors = self._training.signature
        return PREFIX + header_room(tensors) + data_size(tensors)

    def _check_excluded(self, attempt: FoundAttempt) -> None:
        """Check that there still is what decided that a client was left out."""
        for excluded in attempt.excluded:
            update, failure = keys.update(attempt.ref, excluded.client), keys.failure(attempt.ref, excluded.client)
            if {update, failure} & attempt.listed.keys() or excluded.reason is ExclusionReason.NO_UPDATE:
                continue
            if excluded.client in self._notes:
                self._report.gone[excluded.client] += 1
            else:
                self._report.note(failure if excluded.reason in _REPORTED else update, "is missing", attempt.label)

    def _check_others(self, attempt: FoundAttempt) -> None:
        """Check what did not count: it is part of the history, and of an open round."""
        accepted = {accepted.client: accepted for accepted in attempt.accepted}
        excluded = {excluded.client: excluded for excluded in attempt.excluded}
        for key, place in attempt.listed.items():
            client = place.name
            left_out = excluded.get(client)
            if left_out and left_out.reason in _ARRIVED_BROKEN:
                continue
            if place.folder == "updates" and client not in accepted:
                self._check_update(attempt, key, client, left_out)
            if place.folder == "failures":
                self._check_failure(attempt, key, client, left_out)
            if place.folder == "repeats":
                self._check_repeat(attempt, key, client, accepted.get(client))
        for client in attempt.closing.repeats if attempt.closing else []:
            key = keys.repeat(attempt.ref, client)
            if key not in attempt.listed and client not in self._notes:
                self._report.note(key, "is missing", attempt.label)

    def _check_update(self, attempt: FoundAttempt, key: str, client: str, left_out: Excluded | None) -> None:
        update = self._reads.document(Update, key, attempt.label, CLIENT_LIMIT)
        if update is None:
            return
        self._report.updates += 1
        if (update.attempt_ref, update.client) != (attempt.ref, client):
            if not left_out or left_out.reason is not ExclusionReason.WRONG_BASE:
                self._report.note(key, f"is the update of {update.client} in {update.attempt_ref}", attempt.label)
        elif attempt.is_open:
            self._reads.blob(update.delta, attempt.label, self._longest)

    def _check_failure(self, attempt: FoundAttempt, key: str, client: str, left_out: Excluded | None) -> None:
        failure = self._reads.document(Failure, key, attempt.label, CLIENT_LIMIT)
        if failure is None:
            return
        if failure.client != client:
            self._report.note(key, f"is of client {failure.client}", attempt.label)
        # What comes after the round was closed, or beside an update, is not why the client was left out.
        decided = left_out and left_out.reason is not ExclusionReason.NO_UPDATE
        if decided and keys.update(attempt.ref, client) not in attempt.listed and not _same(failure, left_out):
            self._report.note(key, "is not why the client was left out", attempt.label)

    def _check_repeat(self, attempt: FoundAttempt, key: str, client: str, accepted: Accepted | None) -> None:
        repeat = self._reads.document(Repeat, key, attempt.label, CLIENT_LIMIT)
        if repeat and (repeat.client != client or (accepted and accepted.delta != repeat.kept)):
            self._report.note(key, f"is not of what {client} delivered", attempt.label)


def _same(failure: Failure, excluded: Excluded | None) -> bool:
    return excluded is not None and (failure.reason, failure.detail) == (excluded.reason, excluded.detail)


def _expected(
    plan: Attempt | None, closing: Closing | None, aggregate: Aggregate | None, evaluation: Evaluation | None
) -> dict[str, object]:
    """Say what a manifest must say, as far as its documents can be read."""
    expected: dict[str, object] = {}
    if plan:
        expected |= {"round": plan.round, "parent": plan.base_version, "settings": plan.settings}
    if closing:
        names = ("because", "accepted", "excluded", "repeats", "data_schema")
        expected |= {name: getattr(closing, name) for name in names}
    if aggregate:
        expected |= {name: getattr(aggregate, name) for name in ("model", "server_state", "counted")}
    if evaluation:
        expected |= {name: getattr(evaluation, name) for name in ("model", "metric", "metrics")}
    return expected
