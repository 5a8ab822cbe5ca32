"""Takes named files out of an archive: a .tar.gz, or a .zip that may hold another one."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO

_LARGEST = 200_000_000  # bytes of a member; the largest that is wanted has 4 million
# What a damaged archive raises; ValueError and RuntimeError are for headers that are nonsense, or encrypted.
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError)


def members(archive: Path, names: Collection[str], *, tar: bool) -> dict[str, bytes]:
    """Read the files of the given names, wherever in the archive they are; their paths are not trusted with anything.

    Args:
      tar: it is a .tar.gz.

    Returns:
      Their content by name; of several with one name, the first.

    Raises:
      any of `BROKEN`: the archive is damaged, or a member too large.
    """
    found: dict[str, bytes] = {}
    for name, content in _tar(archive, names) if tar else _zip(archive, names):
        found.setdefault(name, content)
    return found


def _tar(archive: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive, "r:gz") as file:
        for member in file:
            name = PurePosixPath(member.name).name
            if name in names and member.isfile() and (content := file.extractfile(member)):
                yield name, _read(content)


def _zip(archive: Path | IO[bytes], names: Collection[str], depth: int = 0) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            name = PurePosixPath(info.filename).name
            if name in names and not info.is_dir():
                yield name, _read(file.open(info))
            elif name.endswith(".zip") and depth == 0:
                yield from _zip(BytesIO(_read(file.open(info))), names, depth=1)


def _read(content: IO[bytes]) -> bytes:
    with content:
        data = content.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"a member has more than {_LARGEST:,} bytes")
    return data
