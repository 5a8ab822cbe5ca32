"""Reads from a store what a training's metrics are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from fededge.records import Attempt, AttemptRef, Closing, Failed, Version
from fededge.store import keys
from fededge.store.port import Entry
from fededge.store.trainings import TrainingStore


@dataclass(frozen=True)
class Try:
    """One attempt at a round."""

    plan: Attempt
    closing: Closing | None
    failed: Failed | None


@dataclass(frozen=True)
class History:
    """A training, as of its latest round.

    Attributes:
      version: the current one.
      made_at: when its manifest was written, by the store's clock.
      tries: at the latest round, the oldest first; empty where no round was opened. The last one is the latest, or
        the one that made the current version.
      written: when the documents of that last one were, by the store's clock: by their folder and name, as in
        `keys.Place`.
      succeeded: whether it made the current version.
    """

    version: Version
    made_at: datetime
    tries: Sequence[Try]
    written: Mapping[str, Mapping[str, datetime]]
    succeeded: bool


def read_history(trainings: TrainingStore) -> History:
    """Read a training's latest round: one that is under way or has failed, or else the one of the current version.

    Costs a listing of the versions and of one round, and some documents, whatever the age of the training.
    """
    pointer = trainings.head().pointer
    version = trainings.version(pointer.version)
    refs, succeeded = trainings.attempts(keys.next_version(pointer)), False
    if not refs:
        refs = [ref for ref in trainings.attempts(version.version) if ref.number <= version.attempt]
        succeeded = bool(refs)
    return History(
        version=version,
        made_at=_made_at(trainings, version),
        tries=[_try(trainings, ref) for ref in refs],
        written=_written(trainings.store.entries(keys.attempt_folder(refs[-1])) if refs else []),
        succeeded=succeeded,
    )


def _made_at(trainings: TrainingStore, version: Version) -> datetime:
    """Say when a version was made; one that is written again after a loss is as old as it says itself."""
    key = keys.version(trainings.name, version.version)
    written = {e.key: e.written_at for e in trainings.store.entries(keys.version_folder(trainings.name))}
    return written.get(key, version.created_at)


def _written(entries: Iterable[Entry]) -> Mapping[str, Mapping[str, datetime]]:
    found: dict[str, dict[str, datetime]] = defaultdict(dict)
    for entry in entries:
        if place := keys.place(entry.key):
            found[place.folder][place.name] = entry.written_at
    return found


def _try(trainings: TrainingStore, ref: AttemptRef) -> Try:
    return Try(trainings.attempt(ref), trainings.closing(ref), trainings.failed(ref))
