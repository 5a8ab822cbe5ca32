"""Reads objects of a training, and notes those that are not as they were written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from fededge.core.tensors import signature
from fededge.errors import UNREADABLE, CorruptError, NotFoundError, TooLargeError
from fededge.records import Digest, Record, digest_of
from fededge.store import keys
from fededge.store.blobs import decode_tensors
from fededge.store.port import Store

R = TypeVar("R", bound=Record)


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


class _Seen(NamedTuple):
    """A blob that was read.

    Attributes:
      problem: what is wrong with it; mostly nothing.
      tensors: their signature, empty if it holds none; None where nobody asked.
    """

    problem: str
    tensors: dict[str, str] | None = None


class CheckedReads:
    """Reads objects, each blob once, and notes in a report those that are wrong.

    Holds a digest for each blob, and one object at a time.

    Args:
      store: to read from.
      report: to note in.
      watch: told after each object that was read.
    """

    def __init__(self, store: Store, report: Report, watch: Watch) -> None:
        self.report = report
        self._store = store
        self._watch = watch
        self._blobs: dict[bytes, _Seen] = {}

    def read(self, key: str, limit: int | None = None) -> bytes:
        data = self._store.get(key, limit).data
        self.report.objects += 1
        self.report.size += len(data)
        self._watch(self.report)
        return data

    def document(self, kind: type[R], key: str, version: str = "", limit: int | None = None) -> R | None:
        """Read a document that must be there."""
        try:
            return kind.load(self.read(key, limit), key)
        except UNREADABLE as error:
            self.report.note(key, problem_of(error, key), version)
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
            self.report.note(key, seen.problem, version)
        return seen

    def _inspect(self, key: str, digest: Digest, limit: int | None, *, decode: bool) -> _Seen:
        try:
            data = self.read(key, limit)
        except UNREADABLE as error:
            return _Seen(problem_of(error, key))
        if digest_of(data) != digest:
            return _Seen(f"is damaged ({len(data)} bytes)")
        try:
            return _Seen("", signature(decode_tensors(data, key)) if decode else None)
        except CorruptError:
            return _Seen("", {})


def problem_of(error: Exception, key: str) -> str:
    """Say what is wrong with an object that could not be read, without its name."""
    if isinstance(error, NotFoundError):
        return "is missing"
    if isinstance(error, TooLargeError):
        return "has more bytes than it may have"
    return str(error).removeprefix(f"{key} ").partition("; restore")[0]
