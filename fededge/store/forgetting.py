"""Deletes what a client delivered, on its request.

    hold the store ─► note what goes ─► documents ─► blobs that nobody else needs

A comparison's results have scores of many clients each; those with the client go whole, and are made again when it is
asked for again.

The note comes first, so that what is missing is never taken for damage; it remembers the blobs when the documents that
name them are gone. Killed anywhere, it is finished by being typed again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from fededge.core.updates import ExclusionReason
from fededge.errors import UNREADABLE, ConflictError, ExistsError, InputError, NotFoundError
from fededge.records import AttemptRef, Closing, Digest, Forgotten, Version
from fededge.store import keys
from fededge.store.collection import Hold, Watch, hold, is_gone, needed_blobs
from fededge.store.comparisons import results_with
from fededge.store.trainings import TrainingStore


class Deleted(NamedTuple):
    """What was deleted of a client.

    Attributes:
      updates: how many documents of updates.
      reports: how many of failures and repeated deliveries.
      deltas: how many tensors may be gone; of an earlier request too.
      kept: how many of the client's tensors stay because another client or training has the very same.
      versions: that were made with the client's help, and keep what they learned.
      scores: how many results of comparisons.
    """

    updates: int
    reports: int
    deltas: int
    kept: int
    versions: list[str]
    scores: int = 0


class _Belongings(NamedTuple):
    """What a training has of a client.

    Attributes:
      documents: updates and reports, by key.
      deltas: digests that these, or what was decided from them, name.
      versions: that the client's updates are in.
      mentioned: whether the training has anything of the client, be it that it was left out.
      scores: keys of the results of comparisons.
    """

    documents: dict[str, keys.Place]
    deltas: set[Digest]
    versions: list[str]
    mentioned: bool
    scores: Sequence[str] = ()


def forget(trainings: TrainingStore, client: str, watch: Watch) -> Deleted:
    """Delete a client's updates from all rounds of a training.

    The versions stay, with what they learned, and so do the client's id, counts and metrics in the manifests.

    Args:
      trainings: has begun.
      client: its id.
      watch: told how far it is.

    Raises:
      InputError: the training has nothing of that client, or a round is open that needs it.
      LeaseError: a run is under way, or garbage is being collected.
      CorruptError: a document is damaged, so that it is not known what others need.
    """
    with hold(trainings.store, "deletion of a client's updates") as held:
        require_no_open_round(trainings)
        found = _belongings(trainings, client, held)
        note = _remember(trainings, client, found)
        for key in (*found.documents, *found.scores):
            held.require()
            trainings.store.delete(key)
        kept = _delete_blobs(trainings, note, held, watch)
    updates = sum(place.folder == "updates" for place in found.documents.values())
    reports, deltas = len(found.documents) - updates, len(note.deltas) - kept
    return Deleted(updates, reports, deltas, kept, found.versions, len(found.scores))


def require_no_open_round(trainings: TrainingStore) -> None:
    """Make sure that no round waits for updates that were delivered.

    Raises:
      InputError: one does.
    """
    unfinished = trainings.unfinished()
    if unfinished and not trainings.aggregate(unfinished):
        name, number = trainings.name, keys.version_round(unfinished.version)
        raise InputError(
            f"round {number} of {name} is open and may need the client's update: finish it "
            f"with `fededge run {name}`, or give it up with `fededge rounds abandon {name}`"
        )


def forgotten_in(trainings: TrainingStore, version: Version) -> list[str]:
    """Name the clients of a version's round whose updates were deleted on their request."""
    forgotten = trainings.forgotten()
    ref = version.attempt_ref
    counted = [accepted.client for accepted in version.accepted if is_gone(trainings, ref, accepted, forgotten)]
    heard_of = [excluded for excluded in version.excluded if excluded.reason is not ExclusionReason.NO_UPDATE]
    left_out = [excluded.client for excluded in heard_of if excluded.client in forgotten]
    return sorted([*counted, *(client for client in left_out if not _delivered_anything(trainings, ref, client))])


def _delivered_anything(trainings: TrainingStore, ref: AttemptRef, client: str) -> bool:
    try:
        return bool(trainings.update(ref, client) or trainings.failure(ref, client))
    except UNREADABLE:
        return True


def _belongings(trainings: TrainingStore, client: str, held: Hold) -> _Belongings:
    store, name = trainings.store, trainings.name
    places = {key: place for key in store.keys(keys.rounds_folder(name)) if (place := keys.place(key))}
    documents = {
        key: place for key, place in places.items() if place.folder in keys.CLIENT_FOLDERS and place.name == client
    }
    deltas = {digest for place in documents.values() for digest in _deltas(trainings, place)}
    scores = results_with(store, name, client)
    mentioned = bool(documents or scores)
    for ref in (place.ref for place in places.values() if (place.folder, place.name) == ("", "closing")):
        held.look()
        if closing := trainings.closing(ref):
            deltas |= _accepted(closing, client)
            mentioned |= any(excluded.client == client for excluded in closing.excluded)
    versions = []
    for key in store.keys(keys.version_folder(name)):
        held.look()
        manifest = Version.load(store.get(key).data, key)
        if accepted := _accepted(manifest, client):
            deltas |= accepted
            versions.append(manifest)
    versions.sort(key=lambda version: (version.round, version.created_at))
    names = [version.version for version in versions]
    return _Belongings(documents, deltas, names, mentioned or bool(deltas), scores)


def _deltas(trainings: TrainingStore, place: keys.Place) -> list[Digest]:
    """Name the tensors that a client's document names; one that cannot be read names none."""
    try:
        if place.folder == "updates" and (update := trainings.update(place.ref, place.name)):
            named = [update.delta]
        elif place.folder == "repeats" and (repeat := trainings.repeated(place.ref, place.name)):
            named = [repeat.kept, repeat.dropped]
        else:
            return []
    except UNREADABLE:
        return []
    return [digest for digest in named if keys.is_digest(digest)]  # a client may write anything


def _accepted(decided: Closing | Version, client: str) -> set[Digest]:
    return {accepted.delta for accepted in decided.accepted if accepted.client == client}


def _remember(trainings: TrainingStore, client: str, found: _Belongings) -> Forgotten:
    """Write the note, or what is new into the one there is.

    Raises:
      InputError: there is nothing to note, and never was.
    """
    key = keys.forgotten(trainings.name, client)
    while True:
        try:
            value = trainings.store.get(key)
        except NotFoundError:
            if not found.mentioned:
                raise InputError(
                    f"training {trainings.name} has nothing of a client {client!r}: "
                    f"`fededge versions show {trainings.name}` names the clients of a round"
                ) from None
            note = Forgotten(client=client, deltas=sorted(found.deltas))
            with contextlib.suppress(ExistsError):
                trainings.store.create(key, note.dump())
                return note
            continue
        note = Forgotten.load(value.data, key)
        if found.deltas <= set(note.deltas):
            return note
        longer = Forgotten(client=client, deltas=sorted(found.deltas | set(note.deltas)))
        with contextlib.suppress(ConflictError):
            trainings.store.replace(key, longer.dump(), value.tag)
            return longer


def _delete_blobs(trainings: TrainingStore, note: Forgotten, held: Hold, watch: Watch) -> int:
    """Delete the tensors that nobody else needs; return how many stay."""
    needed = needed_blobs(trainings.store, held.watching(watch))
    gone = [digest for digest in note.deltas if digest not in needed]
    for digest in gone:
        held.require()
        trainings.store.delete(keys.blob(digest))
    return len(note.deltas) - len(gone)
