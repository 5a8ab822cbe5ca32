"""Reads everything that a training's versions and its open round need, and finds what is not as it was written.

    pointer ─► version ─► its parent's manifest, model, server state, documents ─► updates ─► their tensors

Every document carries its own digest, and is named by digest in what was made of it; blobs are named by digest. So one
flipped bit anywhere, a document in another's place, and one that is gone are found, and told once, under the key
that is wrong. What nothing needs any more, such as tensors of updates that were left out, is not read.

From the pointer to the attempts it goes here; an attempt has `attempt_checks`, and `checked_reads` reads for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fededge.errors import UNREADABLE, NotFoundError
from fededge.records import AttemptRef, Digest, Forgotten, Lease, Pointer, Training, Version, digest_of
from fededge.store import keys
from fededge.store.attempt_checks import AttemptChecks, FoundAttempt
from fededge.store.checked_reads import CheckedReads, Report, Watch, problem_of
from fededge.store.port import Store


def verify(store: Store, training: str, watch: Watch) -> Report:
    """Check everything of a training.

    Holds the listing of the training, a digest for each blob, one manifest, and one blob at a time.

    Args:
      store: that the training is in.
      training: its name.
      watch: told after each object that was read.
    """
    return _Verification(store, training, watch).run()


class _Verification:
    """Checks one training."""

    def __init__(self, store: Store, training: str, watch: Watch) -> None:
        self._report = Report(training)
        self._reads = CheckedReads(store, self._report, watch)
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
            self._pointer = Pointer.load(self._reads.read(key), key)
        except NotFoundError:
            return False
        except UNREADABLE as error:
            self._report.note(key, problem_of(error, key))
        return True

    def _versions(self, listed: Sequence[str]) -> list[str]:
        folder = keys.version_folder(self._name)
        names = [key.removeprefix(folder).removesuffix(".json") for key in listed if key.startswith(folder)]
        return sorted(filter(keys.is_version, names), key=_order)

    def _check_notes(self, listed: Sequence[str]) -> None:
        for key in listed:
            if not key.startswith(keys.forgotten_folder(self._name)):
                continue
            if note := self._reads.document(Forgotten, key):
                self._notes[note.client] = note
                if note.client != keys.client_of(key):
                    self._report.note(key, f"is of client {note.client}")

    def _check_lease(self, listed: Sequence[str]) -> None:
        """Check that the next run's token will be one that the pointer takes."""
        key = keys.lease(self._name)
        token = self._pointer.token if self._pointer else 0
        if key not in listed and not token:
            return
        lease = self._reads.document(Lease, key)
        if lease and lease.token < token:
            self._report.note(key, f"has the token {lease.token}, and the pointer has seen {token}")

    def _check_training(self) -> None:
        key = keys.training(self._name)
        training = self._reads.document(Training, key, "v0")
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
                self._reads.blob(digest, "v0")

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
        manifest = self._reads.document(Version, key, name)
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
        found = self._reads.tensors(manifest.model, name)
        if found is not None and found != manifest.signature:
            self._report.note(key, "describes other tensors than its model has", name)
        if manifest.server_state:
            self._reads.tensors(manifest.server_state, name)
        for variant in manifest.variants:
            self._reads.blob(variant, name)

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
        return digest_of(self._reads.read(key))

    def _check_attempts(
        self, version: str, manifest: Version | None, attempts: dict[AttemptRef, dict[str, keys.Place]]
    ) -> None:
        if manifest and manifest.parent:
            attempts.setdefault(manifest.attempt_ref, {})
        checks = AttemptChecks(self._reads, self._training, self._notes)
        last = max((ref.number for ref in attempts), default=0)
        for ref, listed in sorted(attempts.items(), key=lambda attempt: attempt[0].number):
            its = manifest if manifest and manifest.attempt == ref.number else None
            label = version if its else f"{version} (open)" if self._is_open(version) else ""
            checks.check(FoundAttempt(ref, listed, its, label), is_last=ref.number == last)

    def _is_open(self, version: str) -> bool:
        """Whether a run may go on with the round; nobody does with one that a rollback went back over."""
        if self._pointer is None:
            return version not in self._manifests
        return version == keys.next_version(self._pointer)


def _order(version: str) -> tuple[int, int]:
    """Put parents before children."""
    return keys.version_round(version), keys.version_branch(version)


def _attempts(listed: Iterable[str]) -> dict[AttemptRef, dict[str, keys.Place]]:
    found: dict[AttemptRef, dict[str, keys.Place]] = {}
    for key in listed:
        if place := keys.place(key):
            found.setdefault(place.ref, {})[key] = place
    return found
