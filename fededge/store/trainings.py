"""Trainings, attempts and versions in a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from fededge.errors import ConflictError, ExistsError, InputError, NotFoundError
from fededge.records import (
    Aggregate,
    Attempt,
    AttemptRef,
    Closing,
    Evaluation,
    Failed,
    Failure,
    Pointer,
    Record,
    Training,
    Update,
    Version,
)
from fededge.store import keys
from fededge.store.port import Store

R = TypeVar("R", bound=Record)


def training_names(store: Store) -> list[str]:
    """List the trainings of a store, by name."""
    found = (key.split("/") for key in store.keys(keys.TRAININGS))
    return sorted({parts[1] for parts in found if parts[2:] == ["training.json"]})


class Head(NamedTuple):
    """The current pointer, and the tag that moving it must name."""

    pointer: Pointer
    tag: str


class TrainingStore:
    """One training's documents."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name

    def create(self, training: Training, initial: Version) -> Training:
        """Begin a training with its version 0, or return the one that has begun already.

        The training's own document comes first and the pointer last, so that a start that was cut short is
        completed by the next one.
        """
        try:
            self.store.create(keys.training(self.name), training.dump())
        except ExistsError:
            training = self.training()
        if training.initial_model != initial.model:
            raise ConflictError(f"training {self.name} began with another model; choose another name")
        self._create_or_keep(keys.version(self.name, initial.version), initial)
        self._create_or_keep(keys.pointer(self.name), Pointer(version=initial.version))
        return training

    def training(self) -> Training:
        return self._get(Training, keys.training(self.name))

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
        """
        name = self.head().pointer.version if version == "current" else version
        try:
            return self._get(Version, keys.version(self.name, name))
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

    def publish(self, manifest: Version) -> Version:
        """Make a version current, after everything it names is durable.

        Args:
          manifest: its parent must be the current version.

        Returns:
          The manifest that is in the store: this one, or that of an earlier try with the same model.

        Raises:
          ConflictError: another run has published meanwhile.
        """
        head = self.head()
        if head.pointer.version not in (manifest.version, manifest.parent):
            raise ConflictError(
                f"{self.name} is at {head.pointer.version} and no longer at {manifest.parent}: another run or a "
                "rollback moved it; start the round again"
            )
        kept = self._create_or_keep(keys.version(self.name, manifest.version), manifest)
        if (kept.model, kept.attempt) != (manifest.model, manifest.attempt):
            raise ConflictError(f"{self.name} {manifest.version} was published by another run; this one is dropped")
        if head.pointer.version == manifest.version:
            return kept
        moved = head.pointer.model_copy(update={"version": manifest.version})
        self.store.replace(keys.pointer(self.name), moved.dump(), head.tag)
        return kept

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
        moved = Pointer(version=target.version, branch=head.pointer.branch + 1)
        self.store.replace(keys.pointer(self.name), moved.dump(), head.tag)
        return moved

    def attempts(self, version: str) -> list[AttemptRef]:
        """List the attempts at a version, oldest first."""
        found = (key.split("/") for key in self.store.keys(keys.round_folder(self.name, version)))
        numbers = sorted(int(parts[4]) for parts in found if parts[5:] == ["attempt.json"])
        return [AttemptRef(training=self.name, version=version, number=number) for number in numbers]

    def open_attempt(self, attempt: Attempt) -> Attempt:
        """Record an attempt; if another run opened the same one first, return that one's."""
        return self._create_or_keep(keys.attempt(attempt.ref), attempt)

    def attempt(self, ref: AttemptRef) -> Attempt:
        return self._get(Attempt, keys.attempt(ref))

    def fail_attempt(self, ref: AttemptRef, failed: Failed) -> None:
        self._create_or_keep(keys.failed(ref), failed)

    def failed(self, ref: AttemptRef) -> Failed | None:
        return self._find(Failed, keys.failed(ref))

    def deliver(self, ref: AttemptRef, update: Update) -> Update:
        """Record a client's update. The first one counts; a later one is dropped."""
        return self._create_or_keep(keys.update(ref, update.client), update)

    def update(self, ref: AttemptRef, client: str) -> Update | None:
        return self._find(Update, keys.update(ref, client))

    def report_failure(self, ref: AttemptRef, failure: Failure) -> None:
        self._create_or_keep(keys.failure(ref, failure.client), failure)

    def failure(self, ref: AttemptRef, client: str) -> Failure | None:
        return self._find(Failure, keys.failure(ref, client))

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

    def _get(self, kind: type[R], key: str) -> R:
        return kind.load(self.store.get(key).data, key)

    def _find(self, kind: type[R], key: str) -> R | None:
        try:
            return self._get(kind, key)
        except NotFoundError:
            return None

    def _create_or_keep(self, key: str, record: R) -> R:
        """Write a document unless there is one; return the one that stands."""
        try:
            self.store.create(key, record.dump())
        except ExistsError:
            return self._get(type(record), key)
        return record
