"""Reads everything that a training's versions and its open round need, and finds what is not as it was written.

    pointer ─► version ─► its parent's manifest, model, server state, documents ─► updates ─► their tensors

Every document carries its own digest, and is named by digest in what was made of it; blobs are named by digest. So one
flipped bit anywhere, a document in another's place, and one that is gone are found, and told once, under the key
that is wrong. What nothing needs any more, such as tensors of updates that were left out, is not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from fededge.core.headers import PREFIX, data_size, header_room
from fededge.core.tensors import signature
from fededge.core.updates import POD_REASONS, ExclusionReason
from fededge.errors import UNREADABLE, CorruptError, NotFoundError, TooLargeError
from fededge.records import (
    Accepted,
    Aggregate,
    Attempt,
    AttemptRef,
    Closing,
    Digest,
    Evaluation,
    Excluded,
    Failed,
    Failure,
    Forgotten,
    Lease,
    Pointer,
    Record,
    Repeat,
    Sitting,
    Training,
    Update,
    Version,
    digest_of,
)
from fededge.store import keys
from fededge.store.blobs import decode_tensors
from fededge.store.port import Store
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
class Finding:
    """One thing that is not as it was written.

    Attributes:
      key: of the object that is wrong, or missing.
      problem: what is wrong with it.
      versions: that need it; one that is still being made is called `v4 (open)`.
    """

    key: str
    problem: str
    versions: list[str]


@dataclass
class Report:
    """What a training is made of, and what is wrong with it.

    Attributes:
      objects: that were read.
      size: of these, in bytes.
      gone: by client, how many updates were deleted on its request.
      findings: by key.
    """

    training: str
    versions: int = 0
    updates: int = 0
    objects: int = 0
    size: int = 0
    gone: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)

    def note(self, key: str, problem: str, version: str = "") -> None:
        finding = self.findings.setdefault(key, Finding(key, problem, []))
        if version and version not in finding.versions:
            finding.versions.append(version)


Watch = Callable[[Report], None]


def verify(store: Store, training: str, watch: Watch) -> Report:
    """Check everything of a training.

    Holds the listing of the training, a digest for each blob, one manifest, and one blob at a time.

    Args:
      store: that the training is in.
      training: its name.
      watch: told after each object that was read.
    """
    return _Verification(store, training, watch).run()


class _Seen(NamedTuple):
    """A blob that was read.

    Attributes:
      problem: what is wrong with it; mostly nothing.
      tensors: their signature, empty if it holds none; None where nobody asked.
    """

    problem: str
    tensors: dict[str, str] | None = None


class _Reader:
    """Reads objects, each blob once, and notes those that are wrong."""

    def __init__(self, store: Store, report: Report, watch: Watch) -> None:
        self._store = store
        self._report = report
        self._watch = watch
        self._blobs: dict[bytes, _Seen] = {}

    def read(self, key: str, limit: int | None = None) -> bytes:
        data = self._store.get(key, limit).data
        self._report.objects += 1
        self._report.size += len(data)
        self._watch(self._report)
        return data

    def document(self, kind: type[R], key: str, version: str = "", limit: int | None = None) -> R | None:
        """Read a document that must be there."""
        try:
            return kind.load(self.read(key, limit), key)
        except UNREADABLE as error:
            self._report.note(key, _problem(error, key), version)
            return None

    def blob(self, digest: Digest, version: str, limit: int | None = None) -> None:
        """Read a blob that must be there, unless it was read before."""
        self._see(digest, version, limit, decode=False)

    def tensors(self, digest: Digest, version: str) -> dict[str, str] | None:
        """Do the same, and describe the tensors in it; nothing of a blob that is wrong."""
        seen = self._see(digest, version, None, decode=True)
        return None if seen.problem else seen.tensors

    def _see(self, digest: Digest, version: str, limit: int | None, *, decode: bool) -> _Seen:
        key, known = keys.blob(digest), bytes.fromhex(digest.partition(":")[2])
        seen = self._blobs.get(known)
        if seen is None or (decode and not seen.problem and seen.tensors is None):
            seen = self._blobs[known] = self._inspect(key, digest, limit, decode=decode)
        if seen.problem:
            self._report.note(key, seen.problem, version)
        return seen

    def _inspect(self, key: str, digest: Digest, limit: int | None, *, decode: bool) -> _Seen:
        try:
            data = self.read(key, limit)
        except UNREADABLE as error:
            return _Seen(_problem(error, key))
        if digest_of(data) != digest:
            return _Seen(f"is damaged ({len(data)} bytes)")
        try:
            return _Seen("", signature(decode_tensors(data, key)) if decode else None)
        except CorruptError:
            return _Seen("", {})


def _problem(error: Exception, key: str) -> str:
    if isinstance(error, NotFoundError):
        return "is missing"
    if isinstance(error, TooLargeError):
        return "has more bytes than it may have"
    return str(error).removeprefix(f"{key} ").partition("; restore")[0]


@dataclass
class _Work:
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


class _Verification:
    """Checks one training."""

    def __init__(self, store: Store, training: str, watch: Watch) -> None:
        self._report = Report(training)
        self._reader = _Reader(store, self._report, watch)
        self._store = store
        self._name = training
        self._manifests: dict[str, Digest | None] = {}  # of the versions that are there; None for one that is wrong
        self._notes: dict[str, Forgotten] = {}
        self._pointer: Pointer | None = None
        self._training: Training | None = None

    def run(self) -> Report:
        begun = self._read_pointer()  # first: all that it names is then listed, whatever a run does meanwhile
        listed = self._store.keys(keys.training_folder(self._name))
        versions, attempts = self._versions(listed), _attempts(listed)
        if not begun and (attempts or versions[1:]):
            self._report.note(keys.pointer(self._name), "is missing")
        self._check_notes(listed)
        self._check_lease(listed)
        if set(listed) - {keys.lease(self._name)}:  # all that is left of a run that ends before it begins the training
            self._check_training()
        for version in sorted({*versions, *(ref.version for ref in attempts)}, key=_order):
            manifest = self._check_manifest(version) if version in versions else None
            its = {ref: places for ref, places in attempts.items() if ref.version == version}
            self._check_attempts(version, manifest, its)
        self._check_first_blobs()
        self._check_pointer()
        return self._report

    def _read_pointer(self) -> bool:
        """Read the pointer, and say whether there is one."""
        key = keys.pointer(self._name)
        try:
            self._pointer = Pointer.load(self._reader.read(key), key)
        except NotFoundError:
            return False
        except UNREADABLE as error:
            self._report.note(key, _problem(error, key))
        return True

    def _versions(self, listed: Sequence[str]) -> list[str]:
        folder = keys.version_folder(self._name)
        names = [key.removeprefix(folder).removesuffix(".json") for key in listed if key.startswith(folder)]
        return sorted(filter(keys.is_version, names), key=_order)

    def _check_notes(self, listed: Sequence[str]) -> None:
        for key in listed:
            if not key.startswith(keys.forgotten_folder(self._name)):
                continue
            if note := self._reader.document(Forgotten, key):
                self._notes[note.client] = note
                if note.client != keys.client_of(key):
                    self._report.note(key, f"is of client {note.client}")

    def _check_lease(self, listed: Sequence[str]) -> None:
        """Check that the next run's token will be one that the pointer takes."""
        key = keys.lease(self._name)
        token = self._pointer.token if self._pointer else 0
        if key not in listed and not token:
            return
        lease = self._reader.document(Lease, key)
        if lease and lease.token < token:
            self._report.note(key, f"has the token {lease.token}, and the pointer has seen {token}")

    def _check_training(self) -> None:
        key = keys.training(self._name)
        training = self._reader.document(Training, key, "v0")
        if training is None:
            return
        if training.name != self._name:
            self._report.note(key, f"is of training {training.name}", "v0")
            return
        self._training = training

    def _check_first_blobs(self) -> None:
        """Check what the training names itself, after v0, which has the same model."""
        if self._training:
            for digest in filter(None, (self._training.initial_model, self._training.initial_file)):
                self._reader.blob(digest, "v0")

    def _check_pointer(self) -> None:
        pointer = self._pointer
        if pointer is None:
            return
        for version in pointer.known_versions:
            if version not in self._manifests:
                self._report.note(keys.version(self._name, version), "is missing", version)
        digest = self._manifests.get(pointer.version)
        if digest and digest != pointer.manifest:
            problem = f"names another manifest than {keys.version(self._name, pointer.version)} is"
            self._report.note(keys.pointer(self._name), problem, pointer.version)

    def _check_manifest(self, name: str) -> Version | None:
        key = keys.version(self._name, name)
        self._manifests[name] = None
        manifest = self._reader.document(Version, key, name)
        if manifest is None:
            return None
        if (manifest.training, manifest.version, manifest.round) != (self._name, name, keys.version_round(name)):
            self._report.note(key, f"is the manifest of {manifest.training} {manifest.version}", name)
            return None
        self._manifests[name] = manifest.digest
        self._report.versions += 1
        self._check_parent(manifest)
        self._check_tensors(manifest)
        self._check_documents(manifest)
        return manifest

    def _check_parent(self, manifest: Version) -> None:
        parent = manifest.parent
        if parent is None:
            return
        key = keys.version(self._name, parent)
        if parent not in self._manifests:
            self._report.note(key, "is missing", manifest.version)
            return
        digest = self._manifests[parent]
        if digest and digest != manifest.parent_manifest:
            self._report.note(key, f"is not the manifest that {manifest.version} was made from", manifest.version)

    def _check_tensors(self, manifest: Version) -> None:
        key, name = keys.version(self._name, manifest.version), manifest.version
        found = self._reader.tensors(manifest.model, name)
        if found is not None and found != manifest.signature:
            self._report.note(key, "describes other tensors than its model has", name)
        if manifest.server_state:
            self._reader.tensors(manifest.server_state, name)
        for variant in manifest.variants:
            self._reader.blob(variant, name)

    def _check_documents(self, manifest: Version) -> None:
        """Check the documents that the manifest names, but for those of its attempt."""
        folder = keys.attempt_folder(manifest.attempt_ref)
        for key, digest in manifest.documents.items():
            if key.startswith(folder) or key in self._report.findings:
                continue
            try:
                same = self._digest(key) == digest
            except NotFoundError:
                self._report.note(key, "is missing", manifest.version)
                continue
            if not same:
                self._report.note(key, f"is not the one that {manifest.version} was made from", manifest.version)

    def _digest(self, key: str) -> Digest:
        if self._training and key == keys.training(self._name):
            return self._training.digest  # was read already
        return digest_of(self._reader.read(key))

    def _check_attempts(
        self, version: str, manifest: Version | None, attempts: dict[AttemptRef, dict[str, keys.Place]]
    ) -> None:
        if manifest and manifest.parent:
            attempts.setdefault(manifest.attempt_ref, {})
        last = max((ref.number for ref in attempts), default=0)
        for ref, listed in sorted(attempts.items(), key=lambda attempt: attempt[0].number):
            its = manifest if manifest and manifest.attempt == ref.number else None
            label = version if its else f"{version} (open)" if self._is_open(version) else ""
            self._check_attempt(_Work(ref, listed, its, label), is_last=ref.number == last)

    def _is_open(self, version: str) -> bool:
        """Whether a run may go on with the round; nobody does with one that a rollback went back over."""
        if self._pointer is None:
            return version not in self._manifests
        return version == keys.next_version(self._pointer)

    def _check_attempt(self, work: _Work, *, is_last: bool) -> None:
        ref = work.ref
        evaluation = self._own(work, Evaluation, keys.evaluation(ref), required=False)
        aggregate = self._own(work, Aggregate, keys.aggregate(ref), required=work.has(keys.evaluation(ref)))
        work.closing = self._own(work, Closing, keys.closing(ref), required=work.has(keys.aggregate(ref)))
        self._own(work, Failed, keys.failed(ref), required=not is_last)
        plan = self._own(work, Attempt, keys.attempt(ref), required=True)
        if plan and plan.ref != ref:
            self._report.note(keys.attempt(ref), f"is the plan of {plan.ref}", work.label)
        if work.manifest:
            self._compare(work.manifest, _expected(plan, work.closing, aggregate, evaluation))
        if work.is_open:
            named = [plan.base_model, plan.base_server_state] if plan else []
            named += [aggregate.model, aggregate.server_state] if aggregate else []
            for digest in filter(None, named):
                self._reader.blob(digest, work.label)
        self._check_sittings(work)
        self._check_accepted(work)
        self._check_excluded(work)
        self._check_others(work)

    def _own(self, work: _Work, kind: type[R], key: str, *, required: bool) -> R | None:
        """Read a document of an attempt, if it has it or must have it."""
        if not required and not work.has(key):
            return None
        record = self._reader.document(kind, key, work.label)
        named = work.manifest.documents.get(key) if work.manifest else None
        if record and named and record.digest != named:
            self._report.note(key, f"is not the one that {work.label} was made from", work.label)
            return None
        return record

    def _compare(self, manifest: Version, expected: Mapping[str, object]) -> None:
        """Check that a manifest says what the documents say that it was made from."""
        wrong = [name for name, value in expected.items() if getattr(manifest, name) != value]
        if wrong:
            key = keys.version(self._name, manifest.version)
            self._report.note(key, f"says something else than its documents of {', '.join(wrong)}", manifest.version)

    def _check_sittings(self, work: _Work) -> None:
        found = sorted(key for key, place in work.listed.items() if place.folder == "sittings")
        if not found and any(place.folder in keys.CLIENT_FOLDERS for place in work.listed.values()):
            self._report.note(keys.sitting_folder(work.ref), "is missing", work.label)
        spent, first = 0.0, True
        for key in found:
            sitting = self._reader.document(Sitting, key, work.label)
            if sitting is None:
                first = False
                continue
            if sitting.spent_s < spent or (first and sitting.spent_s):
                self._report.note(key, "tells another time than there was before it", work.label)
            spent, first = sitting.spent_s, False

    def _check_accepted(self, work: _Work) -> None:
        for accepted in work.accepted:
            key = keys.update(work.ref, accepted.client)
            note = self._notes.get(accepted.client)
            if key not in work.listed and note and accepted.delta in note.deltas:
                self._report.gone[accepted.client] += 1
                continue
            update = self._reader.document(Update, key, work.label, CLIENT_LIMIT)
            if update and update.digest != accepted.update:
                self._report.note(key, "is not the update that counted", work.label)
            self._report.updates += update is not None
            if work.label:
                self._reader.blob(accepted.delta, work.label, self._longest())

    def _longest(self) -> int | None:
        """Return the most bytes that an update can have."""
        if self._training is None:
            return None
        tensors = self._training.signature
        return PREFIX + header_room(tensors) + data_size(tensors)

    def _check_excluded(self, work: _Work) -> None:
        """Check that there still is what decided that a client was left out."""
        for excluded in work.excluded:
            update, failure = keys.update(work.ref, excluded.client), keys.failure(work.ref, excluded.client)
            if {update, failure} & work.listed.keys() or excluded.reason is ExclusionReason.NO_UPDATE:
                continue
            if excluded.client in self._notes:
                self._report.gone[excluded.client] += 1
            else:
                self._report.note(failure if excluded.reason in _REPORTED else update, "is missing", work.label)

    def _check_others(self, work: _Work) -> None:
        """Check what did not count: it is part of the history, and of an open round."""
        accepted = {accepted.client: accepted for accepted in work.accepted}
        excluded = {excluded.client: excluded for excluded in work.excluded}
        for key, place in work.listed.items():
            client = place.name
            left_out = excluded.get(client)
            if left_out and left_out.reason in _ARRIVED_BROKEN:
                continue
            if place.folder == "updates" and client not in accepted:
                self._check_update(work, key, client, left_out)
            if place.folder == "failures":
                self._check_failure(work, key, client, left_out)
            if place.folder == "repeats":
                self._check_repeat(work, key, client, accepted.get(client))
        for client in work.closing.repeats if work.closing else []:
            key = keys.repeat(work.ref, client)
            if key not in work.listed and client not in self._notes:
                self._report.note(key, "is missing", work.label)

    def _check_update(self, work: _Work, key: str, client: str, left_out: Excluded | None) -> None:
        update = self._reader.document(Update, key, work.label, CLIENT_LIMIT)
        if update is None:
            return
        self._report.updates += 1
        if (update.attempt_ref, update.client) != (work.ref, client):
            if not left_out or left_out.reason is not ExclusionReason.WRONG_BASE:
                self._report.note(key, f"is the update of {update.client} in {update.attempt_ref}", work.label)
        elif work.is_open:
            self._reader.blob(update.delta, work.label, self._longest())

    def _check_failure(self, work: _Work, key: str, client: str, left_out: Excluded | None) -> None:
        failure = self._reader.document(Failure, key, work.label, CLIENT_LIMIT)
        if failure is None:
            return
        if failure.client != client:
            self._report.note(key, f"is of client {failure.client}", work.label)
        # What comes after the round was closed, or beside an update, is not why the client was left out.
        decided = left_out and left_out.reason is not ExclusionReason.NO_UPDATE
        if decided and keys.update(work.ref, client) not in work.listed and not _same(failure, left_out):
            self._report.note(key, "is not why the client was left out", work.label)

    def _check_repeat(self, work: _Work, key: str, client: str, accepted: Accepted | None) -> None:
        repeat = self._reader.document(Repeat, key, work.label, CLIENT_LIMIT)
        if repeat and (repeat.client != client or (accepted and accepted.delta != repeat.kept)):
            self._report.note(key, f"is not of what {client} delivered", work.label)


def _same(failure: Failure, excluded: Excluded | None) -> bool:
    return excluded is not None and (failure.reason, failure.detail) == (excluded.reason, excluded.detail)


def _order(version: str) -> tuple[int, int]:
    """Put parents before children."""
    return keys.version_round(version), keys.version_branch(version)


def _attempts(listed: Iterable[str]) -> dict[AttemptRef, dict[str, keys.Place]]:
    found: dict[AttemptRef, dict[str, keys.Place]] = {}
    for key in listed:
        if place := keys.place(key):
            found.setdefault(place.ref, {})[key] = place
    return found


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
