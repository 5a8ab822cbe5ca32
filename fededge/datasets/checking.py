"""Tells whether a data set is there, can be read, and is what its publisher has."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from fededge.datasets.catalogue import DataSet, File
from fededge.datasets.files import find
from fededge.errors import WorkloadError

State = Literal["complete", "other", "damaged", "missing"]

_CHUNK = 1 << 20
# What reading a file raises that is cut off, garbled or out of reach.
UNREADABLE = (OSError, EOFError, zlib.error)


class Found(NamedTuple):
    """A file of a data set on this machine.

    Attributes:
      path: None if it is missing.
      sha256: of its content, as `File.sha256`; empty if it is missing or cannot be read.
    """

    file: File
    path: Path | None
    sha256: str

    @property
    def is_publishers(self) -> bool:
        return self.sha256 == self.file.sha256


class Finding(NamedTuple):
    """What there is of a data set.

    Attributes:
      state: complete, with the publisher's very bytes; other, readable but not the publisher's complete files; damaged,
        unreadable or missing in part; missing altogether.
      clients: that can be read, or examples where a data set has no clients.
      problem: why it is damaged or missing; one line.
    """

    data_set: DataSet
    state: State
    clients: int
    files: list[Found]
    problem: str


def check(data_set: DataSet, folder: Path) -> Finding:
    """Read everything of a data set in a folder of data sets, and compare it with what its publisher has."""
    files = look(data_set, folder)
    try:
        clients = data_set.count(folder)
    except WorkloadError as error:
        return Finding(data_set, "damaged" if any(file.path for file in files) else "missing", 0, files, str(error))
    return Finding(data_set, "complete" if all(f.is_publishers for f in files) else "other", clients, files, "")


def look(data_set: DataSet, folder: Path) -> list[Found]:
    """Find the files of a data set where its loader does, and digest them."""
    return [_found(data_set, file, folder) for file in data_set.files]


def _found(data_set: DataSet, file: File, folder: Path) -> Found:
    try:
        path = find(folder, data_set.name, file.path, *file.also).path
    except WorkloadError:
        return Found(file, None, "")
    try:
        return Found(file, path, content_sha256(path, rows_only=file.rows_only, packed=path.suffix == ".gz"))
    except UNREADABLE:
        return Found(file, path, "")


def content_sha256(path: Path, *, rows_only: bool, packed: bool) -> str:
    """Digest what is in a file.

    Args:
      rows_only: as in `File`.
      packed: it is a gzip file.

    Raises:
      OSError, EOFError, zlib.error: it is cut off, garbled or out of reach; `UNREADABLE`.
    """
    with gzip.open(path) if packed else path.open("rb") as file:
        return _sha256(_rows(file) if rows_only else iter(lambda: file.read(_CHUNK), b""))


def _sha256(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _rows(file: Iterable[bytes]) -> Iterator[bytes]:
    """Read the lines of an ARFF file that are not of its header, each in one form."""
    for line in file:
        text = re.sub(rb"[\"'\r]", b"", line).strip()
        if text and not text.startswith(b"@"):
            yield text + b"\n"
