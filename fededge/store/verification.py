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
from fededge.core.updates import ExclusionReason
from fededge.errors import CorruptError, FormatError, NotFoundError, TooLargeError
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

R = TypeVar("R", bound=Record)

_CLIENT_LIMIT = 2**20  # bytes of a document that a client wrote
_REPORTED = {  # by the client; for other reasons it was left out in spite of its update
    ExclusionReason.NO_DATA,
    ExclusionReason.TRAINING_FAILED,
    ExclusionReason.NON_FINITE_TRAINING,
    ExclusionReason.DEADLINE,
    ExclusionReason.NOT_NEEDED,
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


class _Reader:
    """Reads objects once, and notes those that are wrong."""

    def __init__(self, store: Store, report: Report, watch: Watch) -> None:
        self.report = report
        self._store = store
        self._watch = watch
        self._blobs: dict[bytes, str] = {}  # what is wrong with those that were read; mostly nothing

    def read(self, key: str, limit: int | None = None) -> bytes:
        data = self._store.get(key, limit).data
        self.report.objects += 1
        self.report.size += len(data)
        self._watch(self.report)
        return data

    def document(self, kind: type[R], key: str, version: str = "", limit: int | None = None) -> R | None:
        """Read a document that must be there; note what is wrong."""
        try:
            return kind.load(self.read(key, limit), key)
        except (CorruptError, FormatError, NotFoundError, TooLargeError) as error:
            self.report.note(key, _problem(error, key), version)
            return None

    def blob(self, digest: Digest, version: str, limit: int | None = None) -> None:
        self.tensors(digest, version, None, limit)

    def tensors(
        self, digest: Digest, version: str, check: Callable[[bytes], str] | None, limit: int | None = None
    ) -> str:
        """Read a blob unless it was read before.

        Args:
          digest: of its bytes.
          version: that needs it.
          check: what else must be true of its bytes: returns what is wrong, or nothing.
          limit: the most bytes that it can have.

        Returns:
          What `check` found.
        """
        key, known = keys.blob(digest), bytes.fromhex(digest.partition(":")[2])
        found = ""
        if known not in self._blobs or (check and not self._blobs[known]):
            self._blobs[known], found = self._inspect(key, digest, check, limit)
        if problem := self._blobs[known]:
            self.report.note(key, problem, version)
        return found

    def _inspect(
        self, key: str, digest: Digest, check: Callable[[bytes], str] | None, limit: int | None
    ) -> tuple[str, str]:
        try:
            data = self.read(key, limit)
        except (NotFoundError, TooLargeError) as error:
            return _problem(error, key), ""
        if digest_of(data) != digest:
            return f"is damaged ({len(data)} bytes)", ""
        return "", check(data) if check else ""


def _problem(error: Exception, key: str) -> str:
    if isinstance(error, NotFoundError):
        return "is missing"
    if isinstance(error, TooLargeError):
        return "has more bytes than were ever written there"
    return str(error).removeprefix(f"{key} ").partition("; restore")[0]
