"""Fetches data sets from their publishers, or from a mirror, and checks every file before it gets its name.

    server ──> name.partial ──> (unpacked) ──> SHA-256 ──> name

A fetch that is cut off leaves `name.partial`, and the next one goes on from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import urllib3

from fededge.datasets import archives
from fededge.datasets.catalogue import DataSet, Download, File
from fededge.datasets.checking import UNREADABLE, content_sha256
from fededge.datasets.download import download, open_pool
from fededge.errors import InputError, SetupError

# Told the name of a file, its bytes that are here and, where it is known, those that there are.
Watch = Callable[[str, int, int | None], None]
# An address, or a file or folder here.
Place = str | Path


class _WrongError(Exception):
    """What arrived is not the publisher's file."""


class Fetched(NamedTuple):
    """What a fetch did.

    Attributes:
      files: that were fetched; none if all were here.
      set_aside: files that were in the way and are not the publisher's, by the names that they have now.
    """

    files: list[Path]
    set_aside: list[Path]


def fetch(data_set: DataSet, folder: Path, mirror: str = "", watch: Watch = lambda *_: None) -> Fetched:
    """Fetch the files of a data set that are not here yet.

    Args:
      folder: of the data sets; this one gets a folder of its own inside.
      mirror: the http(s) address or the folder of other people's copy of such a folder; without it, the publisher's.

    Raises:
      InputError: the mirror is none.
      SetupError: a file cannot be had, is not the publisher's, or cannot be written; how to get it by hand is said.
    """
    source = _mirror(mirror)
    target = folder / data_set.folder
    try:
        with open_pool(source if isinstance(source, str) else data_set.downloads[0].url) as pool:
            return _Fetch(data_set, target, source, watch, pool).run()
    except SetupError as error:
        raise SetupError(f"{error}; {_by_hand(data_set, target)}") from error
    except OSError as error:
        raise SetupError(f"{error.filename or target}: {error.strerror or error}") from error


def _mirror(mirror: str) -> Place | None:
    if not mirror:
        return None
    with contextlib.suppress(ValueError):  # which an address raises that is none
        if mirror.startswith(("http://", "https://")) and urlsplit(mirror).hostname:
            return mirror.rstrip("/")
    if not Path(mirror).is_dir():
        raise InputError(f"--from {mirror} is neither a folder nor an address as https://example.org/data")
    return Path(mirror)


def _by_hand(data_set: DataSet, target: Path) -> str:
    names = [file.path for file in data_set.files]
    several = f"{names[0]} and {len(names) - 1} more" if len(names) > 4 else ", ".join(names)
    return f"to get it by hand, put {several} from {data_set.page} into {target}"


class _Fetch:
    """One data set's fetch."""

    def __init__(
        self, data_set: DataSet, target: Path, source: Place | None, watch: Watch, pool: urllib3.PoolManager
    ) -> None:
        self._data_set, self._target, self._source, self._watch, self._pool = data_set, target, source, watch, pool
        self._done = Fetched([], [])

    def run(self) -> Fetched:
        for wanted in self._data_set.downloads:
            if not _is_here(self._target, wanted):
                self._fetch(wanted)
        return self._done

    def _fetch(self, wanted: Download) -> None:
        """Fetch a file or an archive; from a mirror that has no archive, what would be in it."""
        for place, path in self._places(wanted):
            with contextlib.suppress(FileNotFoundError):
                return self._receive(place, path, wanted)
        if self._source and wanted.is_archive:
            for file in wanted.files:
                self._fetch(Download("", file.path, (file,), file.also))
        elif any(file.sha256 for file in wanted.files):
            raise SetupError(f"there is no {wanted.path} at {self._source or wanted.url}")
        return None

    def _places(self, wanted: Download) -> Iterator[tuple[Place, Path]]:
        """Name where something may be, and what it is to be called here."""
        if self._source is None:
            yield wanted.url, self._target / wanted.path
            return
        own = f"{self._data_set.folder}/"
        # Several data sets have a readme.txt.
        folders = (own, "") if any(file.sha256 for file in wanted.files) else (own,)
        ends = ("",) if wanted.is_archive or wanted.path.endswith(".gz") else ("", ".gz")
        for name in [f"{folder}{path}" for folder in folders for path in (wanted.path, *wanted.also)]:
            for end in ends:
                yield _inside(self._source, name + end), self._target / f"{wanted.path}{end}"

    def _receive(self, place: Place, path: Path, wanted: Download) -> None:
        """Get what is at a place, and put it where it belongs if it is right."""
        with _partial(path) as partial:
            resumed = partial.stat().st_size > 0
            self._get(place, path.name, partial)
            try:
                return self._accept(partial, path, wanted)
            except _WrongError as error:
                partial.unlink()
                if not resumed:
                    raise SetupError(f"{place} {error}") from error
        # What was here may have been the beginning of another file than the server has now.
        return self._receive(place, path, wanted)

    def _get(self, place: Place, name: str, partial: Path) -> None:
        if isinstance(place, str):
            download(self._pool, place, partial, lambda here, total: self._watch(name, here, total))
            return
        with place.open("rb") as source, partial.open("wb") as file:
            shutil.copyfileobj(source, file)
        self._watch(name, partial.stat().st_size, partial.stat().st_size)

    def _accept(self, partial: Path, path: Path, wanted: Download) -> None:
        """Check a file and give it its name, or unpack an archive and do so with its files.

        Raises:
          _WrongError: it is not the publisher's.
        """
        if wanted.is_archive:
            self._unpack(partial, wanted)
            partial.unlink()
        else:
            _check(partial, wanted.files[0], packed=path.suffix == ".gz")
            self._name(partial, path, wanted.files[0])

    def _unpack(self, archive: Path, wanted: Download) -> None:
        files = {Path(file.path).name: file for file in wanted.files}
        try:
            contents = archives.members(archive, files.keys(), tar=wanted.path.endswith(".tar.gz"))
        except archives.BROKEN as error:
            raise _WrongError(f"is a damaged archive ({error})") from error
        for name, file in files.items():
            if name in contents and not _has(self._target, file):
                self._write(contents[name], file)
            elif name not in contents and file.sha256:
                raise _WrongError(f"holds no {name}")

    def _write(self, content: bytes, file: File) -> None:
        path = self._target / file.path
        partial = _partial_of(path)
        partial.write_bytes(content)
        try:
            _check(partial, file, packed=False)
        except _WrongError:
            partial.unlink()
            raise
        self._name(partial, path, file)

    def _name(self, partial: Path, path: Path, file: File) -> None:
        """Give a complete file its name; it is all there or not at all, also after a power cut."""
        for other in _existing(self._target, file):
            aside = other.with_name(f"{other.name}.old")
            other.rename(aside)
            self._done.set_aside.append(aside)
        with partial.open("rb") as opened:
            os.fsync(opened.fileno())
        partial.rename(path)
        self._done.files.append(path)


def _is_here(target: Path, wanted: Download) -> bool:
    files = [file for file in wanted.files if file.sha256] or wanted.files
    return all(_has(target, file) for file in files)


def _has(target: Path, file: File) -> bool:
    """Tell whether the file that the loader takes is the publisher's."""
    try:
        for path in _existing(target, file)[:1]:
            _check(path, file, packed=path.suffix == ".gz")
            return True
    except _WrongError:
        pass
    return False


def _existing(target: Path, file: File) -> list[Path]:
    """List the forms that a file has here, the one first that its loader takes."""
    return [path for path in (target / file.path, target / f"{file.path}.gz") if path.is_file()]


def _check(path: Path, file: File, *, packed: bool) -> None:
    """Compare a file's content with the publisher's.

    Raises:
      _WrongError: it is another, or unreadable.
    """
    try:
        found = content_sha256(path, rows_only=file.rows_only, packed=packed)
    except UNREADABLE as error:
        raise _WrongError(f"is damaged ({error})") from error
    if file.sha256 not in ("", found):
        raise _WrongError(f"has another {file.path} than the publisher had: SHA-256 {found}, not {file.sha256}")


def _inside(source: Place, name: str) -> Place:
    return source / name if isinstance(source, Path) else f"{source}/{quote(name)}"


def _partial_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """Make the file that is not complete yet, which two fetches must not write to at a time."""
    partial = _partial_of(path)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SetupError(f"{partial} is being fetched by another process: wait for it") from error
        try:
            yield partial
        finally:
            if partial.exists() and not partial.stat().st_size:
                partial.unlink()
