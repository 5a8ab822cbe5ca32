"""Removes what no version and no open round needs.

    hold the store ─► nobody holds a training? ─► read what is needed ─► list the blobs ─► remove the rest, one by one

A run takes its training's lease and then looks whether the store is being cleaned; here the store is held and then
every training's lease is looked at. Each leaves its own mark before it looks for the other's, so that one of them
sees it. Whoever is killed in here leaves a hold that ends by itself, and nothing half done: each removal stands alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from fededge.errors import UNREADABLE, CorruptError, FedEdgeError, LeaseError, NotFoundError
from fededge.records import Accepted, AttemptRef, Digest, Forgotten, Version
from fededge.store import keys
from fededge.store.leases import Leases
from fededge.store.port import Entry, Store
from fededge.store.trainings import TrainingStore, training_folders

Watch = Callable[[int, int], None]  # told how many objects were looked at, and their bytes

HOLD = timedelta(minutes=10)
MIN_AGE = timedelta(hours=1)  # `fededge run --initial-model` writes a blob before its run begins and names it
_BETWEEN_LOOKS_S = 30.0  # at the hold, while nothing is removed


class Garbage(NamedTuple):
    """What nothing needs.

    Attributes:
      blobs: that were, or would be, removed.
      leftovers: how many pieces of unfinished writes were removed.
    """

    blobs: list[Entry]
    leftovers: int

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.blobs)


def collect_garbage(store: Store, min_age: timedelta, watch: Watch) -> Garbage:
    """Remove the blobs that no version and no open round needs, and what killed writers left.

    The documents stay: they say what happened.

    Args:
      store: to clean.
      min_age: younger blobs stay in any case.
      watch: told how far it is.

    Raises:
      LeaseError: a run is under way, or another collection.
      CorruptError: a document is damaged or missing, so that it is not known what is needed. Nothing was removed.
    """
    with hold(store, "garbage collection") as held:
        blobs = find_garbage(store, min_age, held.watching(watch))
        for entry in blobs:
            held.require()
            store.delete(entry.key)
        held.require()
        return Garbage(blobs, store.sweep(max(min_age, MIN_AGE)))


def find_garbage(store: Store, min_age: timedelta, watch: Watch) -> list[Entry]:
    """List the blobs that no version and no open round needs; nothing is changed."""
    before = store.now() - min_age
    needed = needed_blobs(store, watch)
    found = store.entries(keys.BLOBS)
    return [e for e in found if e.written_at < before and (d := keys.digest_of_blob(e.key)) and d not in needed]


class Hold:
    """The whole store is this process's: no run begins.

    Args:
      store: whose clock decides when the hold ends.
      holder: names this process to others.
    """

    def __init__(self, store: Store, holder: str) -> None:
        self._store = store
        self._leases = Leases(store, "", keys.COLLECTING)
        self._until = store.now() + HOLD
        self._token = self._leases.acquire(holder, self._until)
        self._looked = time.monotonic()

    def require(self) -> None:
        """Make sure that no run begins for some minutes, each time before something is removed.

        Raises:
          LeaseError: this process was stopped for so long that a run may have begun.
        """
        now = self._store.now()
        if self._until - now < HOLD / 5:
            raise LeaseError(f"this process was held up, and runs may have begun in {self._store.url}: type it again")
        if self._until - now < HOLD / 2:
            self._until = now + HOLD
            self._leases.renew(self._token, self._until)
        self._looked = time.monotonic()

    def look(self) -> None:
        """Do the same now and then, where reading goes on for long."""
        if time.monotonic() - self._looked > _BETWEEN_LOOKS_S:
            self.require()

    def watching(self, watch: Watch) -> Watch:
        """Have whoever is told how far the reading is also keep the hold."""

        def both(count: int, size: int) -> None:
            self.look()
            watch(count, size)

        return both

    def end(self) -> None:
        with contextlib.suppress(FedEdgeError):  # it ends by itself
            self._leases.release(self._token)


@contextlib.contextmanager
def hold(store: Store, purpose: str) -> Iterator[Hold]:
    """Keep runs out of the store.

    Args:
      store: to hold.
      purpose: told to those who must wait.

    Raises:
      LeaseError: a run is under way, or somebody else holds the store.
    """
    # Each process has a name of its own: two that took one hold for theirs would let go of it under each other.
    held = Hold(store, f"{purpose} (process {os.getpid()} on {socket.gethostname()})")
    try:
        for name in training_folders(store):
            leases = TrainingStore(store, name).lease
            if lease := leases.active():
                raise LeaseError(leases.held_by(lease))
        yield held
    finally:
        held.end()


def needed_blobs(store: Store, watch: Watch) -> set[Digest]:
    """Find what the versions and the open rounds of all trainings need."""
    needed: set[Digest] = set()
    count = size = 0
    for name in training_folders(store):
        for digests, read in _needs(TrainingStore(store, name)):
            needed.update(digests)
            count, size = count + 1, size + read
            watch(count, size)
    return needed


def is_gone(trainings: TrainingStore, ref: AttemptRef, accepted: Accepted, forgotten: Mapping[str, Forgotten]) -> bool:
    """Whether an update was deleted on its client's request.

    The note alone does not say so: it comes first, and later the same bytes may come again from a client that is back.
    """
    note = forgotten.get(accepted.client)
    return note is not None and accepted.delta in note.deltas and not _is_there(trainings, ref, accepted.client)


def _is_there(trainings: TrainingStore, ref: AttemptRef, client: str) -> bool:
    try:
        return trainings.update(ref, client) is not None
    except UNREADABLE:
        return True


class _Need(NamedTuple):
    """What one document names, and how many bytes it has."""

    digests: list[Digest]
    size: int


def _needs(trainings: TrainingStore) -> Iterator[_Need]:
    store, name = trainings.store, trainings.name
    forgotten = trainings.forgotten()
    with contextlib.suppress(NotFoundError):  # a start that was cut short may lack it
        training = trainings.training()
        yield _Need(_named(training.initial_model, training.initial_file), len(training.dump()))
    listed = set(store.keys(keys.training_folder(name)))
    named = _named_by_pointer(trainings)
    for key in sorted(key for key in listed if key.startswith(keys.version_folder(name))):
        data = store.get(key).data
        version = Version.load(data, key)
        named |= {keys.version(name, version.parent)} if version.parent else set()
        named |= version.documents.keys()
        yield _Need(_of_version(trainings, version, forgotten), len(data))
    if missing := sorted(named - listed):
        raise CorruptError(f"{missing[0]} is missing, and what it needs is not known; restore it from a backup")
    coming = trainings.next_version()
    # The next attempt at a round takes over the updates of those that failed.
    folder = keys.round_folder(name, coming) if coming else keys.rounds_folder(name)
    for place in filter(None, map(keys.place, store.keys(folder))):
        yield _of_attempt(trainings, place, forgotten)


def _named_by_pointer(trainings: TrainingStore) -> set[str]:
    """Return the manifests that were current, as far as the pointer knows."""
    try:
        pointer = trainings.head().pointer
    except NotFoundError:
        return set()
    return {keys.version(trainings.name, version) for version in pointer.known_versions}


def _named(*digests: Digest | None) -> list[Digest]:
    return [digest for digest in digests if digest]


def _of_version(trainings: TrainingStore, version: Version, forgotten: Mapping[str, Forgotten]) -> list[Digest]:
    return [
        *_named(version.model, version.server_state, *version.variants),
        *_of_accepted(trainings, version.attempt_ref, version.accepted, forgotten),
    ]


def _of_accepted(
    trainings: TrainingStore, ref: AttemptRef, accepted: Sequence[Accepted], forgotten: Mapping[str, Forgotten]
) -> list[Digest]:
    return [update.delta for update in accepted if not is_gone(trainings, ref, update, forgotten)]


def _of_attempt(trainings: TrainingStore, place: keys.Place, forgotten: Mapping[str, Forgotten]) -> _Need:
    """Read a document of an attempt at an open round."""
    ref = place.ref
    match place.folder, place.name:
        case "", "attempt":
            plan = trainings.attempt(ref)
            return _Need(_named(plan.base_model, plan.base_server_state), len(plan.dump()))
        case "", "closing" if closing := trainings.closing(ref):
            return _Need(_of_accepted(trainings, ref, closing.accepted, forgotten), len(closing.dump()))
        case "", "aggregate" if aggregate := trainings.aggregate(ref):
            return _Need(_named(aggregate.model, aggregate.server_state), len(aggregate.dump()))
        case "updates", client:
            return _of_update(trainings, ref, client)
    return _Need([], 0)  # the others name nothing, or nothing else


def _of_update(trainings: TrainingStore, ref: AttemptRef, client: str) -> _Need:
    try:
        update = trainings.update(ref, client)
    except UNREADABLE:  # also by the round, which leaves the client out
        return _Need([], 0)
    return _Need(_named(update.delta), len(update.dump())) if update else _Need([], 0)
