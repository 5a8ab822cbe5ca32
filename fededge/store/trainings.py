"""Trainings, attempts and versions in a store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar

from fededge.errors import ConflictError, CorruptError, ExistsError, InputError, LeaseError, NotFoundError
from fededge.records import (
    Aggregate,
    Attempt,
    AttemptRef,
    Closing,
    Evaluation,
    Failed,
    Failure,
    Forgotten,
    Pointer,
    Record,
    Repeat,
    Rollback,
    Sitting,
    SittingRef,
    Training,
    Update,
    Version,
)
from fededge.store import keys
from fededge.store.leases import Leases
from fededge.store.port import Store

R = TypeVar("R", bound=Record)

_OWN_LIMIT = 2**30  # bytes of a document that the server wrote; a manifest names a million clients in fewer
CLIENT_LIMIT = 2**20  # of one that a client wrote


def training_names(store: Store) -> list[str]:
    """List the trainings of a store, by name."""
    found = (key.split("/") for key in store.keys(keys.TRAININGS))
    return sorted({parts[1] for parts in found if parts[2:] == ["training.json"]})


def begun_trainings(store: Store) -> list[str]:
    """List the trainings that have a current version, by name; one whose start was cut short has none."""
    named = ((key, keys.training_of(key)) for key in store.keys(keys.TRAININGS))
    return sorted(name for key, name in named if name and key == keys.pointer(name))


def training_folders(store: Store) -> list[str]:
    """List the trainings of a store with those whose start was cut short, by name."""
    return sorted({name for key in store.keys(keys.TRAININGS) if (name := keys.training_of(key))})


class Head(NamedTuple):
    """The current pointer, and the tag that moving it must name."""

    pointer: Pointer
    tag: str


class TrainingStore:
    """One training's documents."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self.lease = Leases(store, name)

    def create(self, training: Training, initial: Version) -> Training:
        """Begin a training with its version 0, or return the one that has begun already.

        The training's own document comes first and the pointer last, so that a start that was cut short is
        completed by the next one.
        """
        try:
            self.store.create(keys.training(self.name), training.dump())
        except ExistsError:
            training = self.training()
            # Made at another time, the document is another one, and version 0 names the one that stands.
            initial = initial.model_copy(update={"documents": {keys.training(self.name): training.digest}})
        if training.initial_model != initial.model:
            raise ConflictError(f"training {self.name} began with another model; choose another name")
        kept = self._create_or_keep(keys.version(self.name, initial.version), initial)
        self._create_or_keep(keys.pointer(self.name), Pointer(version=kept.version, manifest=kept.digest))
        return training

    def training(self) -> Training:
        return self._get(Training, keys.training(self.name))

    def acquire(self, holder: str, expires_at: datetime) -> int:
        """Take the lease, with a token that the pointer will take, even if the lease's document was lost.

        Raises:
          LeaseError: another run holds it.
        """
        try:
            seen = self.head().pointer.token
        except NotFoundError:
            seen = 0
        return self.lease.acquire(holder, expires_at, seen)

    def head(self) -> Head:
        """Read the current pointer.

        Raises:
          NotFoundError: the training has not begun.
        """
        key = keys.pointer(self.name)
        value = self.store.get(key)
        return Head(Pointer.load(value.data, key), value.tag)

    def version(self, version: str = "current") -> Version:
        """Read a version's manifest.

        Raises:
          NotFoundError: there is no such version, or no such training.
          CorruptError: it is not the one that was published.
        """
        pointer = self.head().pointer
        name = pointer.version if version == "current" else version
        try:
            manifest = self._get(Version, keys.version(self.name, name))
            if name == pointer.version and manifest.digest != pointer.manifest:
                raise CorruptError(
                    f"{self.name} {name} is not the version that was published; restore it from a backup"
                )
            return manifest
        except NotFoundError as error:
            raise NotFoundError(
                f"training {self.name} has no version {name}: `fededge versions list {self.name}` shows them"
            ) from error

    def versions(self) -> list[Version]:
        """Read all manifests, by round, then branch in the order made."""
        found = [self._get(Version, key) for key in self.store.keys(keys.version_folder(self.name))]
        return sorted(found, key=lambda v: (v.round, v.created_at))

    def lineage(self, version: str) -> Iterator[Version]:
        """Walk from a version back to version 0."""
        name: str | None = version
        while name is not None:
            manifest = self.version(name)
            yield manifest
            name = manifest.parent

    def fence(self, token: int) -> None:
        """Have the pointer refuse whoever holds an older lease.

        Raises:
          LeaseError: a newer one has been here.
        """
        while True:
            head = self.head()
            self._require_token(head.pointer, token)
            if head.pointer.token == token:
                return
            try:
                self._move(head, token=token)
            except ConflictError:
                continue

    def publish(self, manifest: Version, token: int) -> Version:
        """Make a version current, after everything it names is durable.

        Args:
          manifest: its parent must be the current version.
          token: of the lease.

        Returns:
          The manifest that is in the store: this one, or that of an earlier try or attempt. The first one written
          stands, and is published if its writer did not get to it; but for one of an attempt that was given up.

        Raises:
          ConflictError: the pointer was moved meanwhile.
          LeaseError: another run has taken over.
        """
        while True:
            head = self.head()
            self._require_token(head.pointer, token)
            if head.pointer.version not in (manifest.version, manifest.parent):
                raise ConflictError(
                    f"{self.name} is at {head.pointer.version} and no longer at {manifest.parent}: another run or a "
                    "rollback moved it; start the round again"
                )
            try:
                kept = self._keep_manifest(manifest, is_current=head.pointer.version == manifest.version)
            except ConflictError:
                continue
            if head.pointer.version == manifest.version:
                if (kept.model, kept.attempt) != (manifest.model, manifest.attempt):
                    raise ConflictError(
                        f"{self.name} {manifest.version} was published by another run; this one is dropped"
                    )
                return kept
            try:
                self._move(head, version=kept.version, manifest=kept.digest)
            except ConflictError:
                continue
            return kept

    def _keep_manifest(self, manifest: Version, *, is_current: bool) -> Version:
        """Write a manifest unless there is one; return the one that stands.

        One that nothing names yet and whose attempt was given up, written by a run that woke too late, is replaced.
        """
        key = keys.version(self.name, manifest.version)
        try:
            self.store.create(key, manifest.dump())
        except ExistsError:
            value = self.store.get(key)
            kept = Version.load(value.data, key)
            if is_current or kept.attempt == manifest.attempt or not self.failed(kept.attempt_ref):
                return kept
            self.store.replace(key, manifest.dump(), value.tag)
        return manifest

    def rollback(self, version: str) -> Pointer:
        """Make an earlier version current. Later versions stay; going on makes a branch beside them.

        Raises:
          InputError: `version` is current, or not an ancestor of the current version.
          ConflictError: another run moved the pointer meanwhile.
        """
        head = self.head()
        target = self.version(version)
        if target.version == head.pointer.version:
            raise InputError(f"{target.version} is the current version already")
        if all(ancestor.version != target.version for ancestor in self.lineage(head.pointer.version)):
            raise InputError(
                f"{version} is not an ancestor of the current version, {head.pointer.version}, and a rollback only "
                "goes back: `fededge versions export` still writes its model"
            )
        return self._move(
            head,
            version=target.version,
            manifest=target.digest,
            branch=head.pointer.branch + 1,
            rollbacks=[*head.pointer.rollbacks, Rollback(left=head.pointer.version, to=target.version)],
        )

    def attempts(self, version: str) -> list[AttemptRef]:
        """List the attempts at a version, oldest first."""
        found = (key.split("/") for key in self.store.keys(keys.round_folder(self.name, version)))
        numbers = sorted(int(parts[4]) for parts in found if parts[5:] == ["attempt.json"])
        return [AttemptRef(training=self.name, version=version, number=number) for number in numbers]

    def next_version(self) -> str | None:
        """Name the only version that a round can still make; None before the training has begun.

        Rounds that a rollback went back over are never gone on with: its branch is in the names of all later versions.
        """
        try:
            return keys.next_version(self.head().pointer)
        except NotFoundError:
            return None

    def unfinished(self) -> AttemptRef | None:
        """Find the attempt that the next run goes on with; None if it opens one."""
        version = self.next_version()
        past = self.attempts(version) if version else []
        return past[-1] if past and not self.failed(past[-1]) else None

    def open_attempt(self, attempt: Attempt) -> Attempt:
        """Record an attempt; if another run opened the same one first, return that one's."""
        return self._create_or_keep(keys.attempt(attempt.ref), attempt)

    def attempt(self, ref: AttemptRef) -> Attempt:
        return self._get(Attempt, keys.attempt(ref))

    def fail_attempt(self, ref: AttemptRef, failed: Failed) -> None:
        self._create_or_keep(keys.failed(ref), failed)

    def failed(self, ref: AttemptRef) -> Failed | None:
        return self._find(Failed, keys.failed(ref))

    def begin_sitting(self, sitting: SittingRef) -> None:
        """Record that a run begins to work on an attempt, and how much of the time for its clients is used up.

        What earlier sittings used is the time from their beginning to the last that was heard of them.
        """
        spent = 0.0
        if past := self.store.entries(keys.sitting_folder(sitting.attempt)):
            last = max(entry.written_at for entry in self.store.entries(keys.attempt_folder(sitting.attempt)))
            spent = self._get(Sitting, past[-1].key).spent_s + (last - past[-1].written_at).total_seconds()
        self._create_or_keep(keys.sitting(sitting.attempt, sitting.token), Sitting(spent_s=spent))

    def deadline(self, sitting: SittingRef, seconds: int) -> datetime:
        """Return when a round stops waiting for its clients, by the store's clock.

        Args:
          sitting: that was begun.
          seconds: from the opening of the attempt, not counting the time between sittings.
        """
        key = keys.sitting(sitting.attempt, sitting.token)
        begun = {e.key: e.written_at for e in self.store.entries(keys.sitting_folder(sitting.attempt))}.get(key)
        if begun is None:
            raise InputError(f"no run has begun to work on {sitting}; `distribute_model` names what the others work on")
        return begun + timedelta(seconds=seconds - self._get(Sitting, key).spent_s)

    def deliver(self, ref: AttemptRef, update: Update) -> Update:
        """Record a client's update. The first one counts; later other ones are noted and never used."""
        kept = self._create_or_keep(keys.update(ref, update.client), update)
        if (kept.delta, kept.num_examples) != (update.delta, update.num_examples):
            repeat = Repeat(client=update.client, kept=kept.delta, dropped=update.delta)
            self._create_or_keep(keys.repeat(ref, update.client), repeat)
        return kept

    def update(self, ref: AttemptRef, client: str) -> Update | None:
        return self._find(Update, keys.update(ref, client), CLIENT_LIMIT)

    def arrivals(self, ref: AttemptRef) -> dict[str, datetime]:
        """Say when each client's update was written, by the store's clock."""
        return {keys.client_of(entry.key): entry.written_at for entry in self.store.entries(keys.update_folder(ref))}

    def repeats(self, ref: AttemptRef) -> list[str]:
        """List the clients that delivered again, with other bytes."""
        return [keys.client_of(key) for key in self.store.keys(keys.repeat_folder(ref))]

    def repeated(self, ref: AttemptRef, client: str) -> Repeat | None:
        return self._find(Repeat, keys.repeat(ref, client), CLIENT_LIMIT)

    def report_failure(self, ref: AttemptRef, failure: Failure) -> None:
        self._create_or_keep(keys.failure(ref, failure.client), failure)

    def failure(self, ref: AttemptRef, client: str) -> Failure | None:
        return self._find(Failure, keys.failure(ref, client), CLIENT_LIMIT)

    def close(self, ref: AttemptRef, closing: Closing) -> Closing:
        """Record which updates count; if the round is closed already, return that record."""
        return self._create_or_keep(keys.closing(ref), closing)

    def closing(self, ref: AttemptRef) -> Closing | None:
        return self._find(Closing, keys.closing(ref))

    def put_aggregate(self, ref: AttemptRef, aggregate: Aggregate) -> Aggregate:
        return self._create_or_keep(keys.aggregate(ref), aggregate)

    def aggregate(self, ref: AttemptRef) -> Aggregate | None:
        return self._find(Aggregate, keys.aggregate(ref))

    def put_evaluation(self, ref: AttemptRef, evaluation: Evaluation) -> Evaluation:
        return self._create_or_keep(keys.evaluation(ref), evaluation)

    def evaluation(self, ref: AttemptRef) -> Evaluation | None:
        return self._find(Evaluation, keys.evaluation(ref))

    def forgotten(self) -> dict[str, Forgotten]:
        """Read what was deleted on a client's request, by client."""
        found = [self._get(Forgotten, key) for key in self.store.keys(keys.forgotten_folder(self.name))]
        return {forgotten.client: forgotten for forgotten in found}

    def _require_token(self, pointer: Pointer, token: int) -> None:
        if pointer.token > token:
            raise LeaseError(f"another run has taken over training {self.name}; this one publishes nothing any more")

    def _move(self, head: Head, **changes: object) -> Pointer:
        moved = head.pointer.model_copy(update=changes)
        self.store.replace(keys.pointer(self.name), moved.dump(), head.tag)
        return moved

    def _get(self, kind: type[R], key: str, limit: int = _OWN_LIMIT) -> R:
        return kind.load(self.store.get(key, limit).data, key)

    def _find(self, kind: type[R], key: str, limit: int = _OWN_LIMIT) -> R | None:
        try:
            return self._get(kind, key, limit)
        except NotFoundError:
            return None

    def _create_or_keep(self, key: str, record: R) -> R:
        """Write a document unless there is one; return the one that stands."""
        try:
            self.store.create(key, record.dump())
        except ExistsError:
            return self._get(type(record), key)
        return record
