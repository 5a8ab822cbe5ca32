"""The store in a local folder: one file a key."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fededge.errors import ConflictError, ExistsError, NotFoundError, StoreUnavailableError, TooLargeError
from fededge.store.port import Entry, Store, Tagged

_LOCK = ".lock"
_WRITING = re.compile(r"\.writing-[0-9a-f]{32}")
_OURS = re.compile(rf"\.lock|{_WRITING.pattern}")  # files that are no values; no key ends like this
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class FolderStore(Store):
    """Writes to a file beside the key, syncs it, and links or renames it into place."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def url(self) -> str:
        return str(self._root)

    def check(self) -> None:
        with self._trouble(), self._written(self._root / "check", b"check") as temporary:
            linked = _temporary(self._root)
            os.link(temporary, linked)  # not every file system can
            linked.unlink()

    def now(self) -> datetime:
        with self._trouble(), self._written(self._root / "now", b"") as temporary:
            return _written_at(temporary.stat())

    def get(self, key: str, limit: int | None = None) -> Tagged:
        with self._trouble():
            try:
                data = _read(self._path(key), limit)
            except _ABSENT as error:
                raise NotFoundError(f"no {key} in {self.url}") from error
        if data is None:
            raise TooLargeError(f"{key} in {self.url} has more than {limit} bytes")
        return Tagged(data, hashlib.sha256(data).hexdigest())

    def create(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with self._trouble(), self._written(path, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                if _read(path, len(data)) != data:
                    raise ExistsError(f"{key} is already in {self.url}") from None
            _sync_folder(path.parent)

    def replace(self, key: str, data: bytes, tag: str) -> None:
        path = self._path(key)
        with self._trouble(), self._written(path, data) as temporary, _locked(path.parent):
            present = path.read_bytes() if path.exists() else None
            if present != data:
                if present is None or hashlib.sha256(present).hexdigest() != tag:
                    raise ConflictError(f"{key} in {self.url} has changed meanwhile")
                temporary.replace(path)
            _sync_folder(path.parent)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._trouble():
            if not path.parent.is_dir():
                return
            with _locked(path.parent):  # a `replace` that has read the value must not bring it back
                path.unlink(missing_ok=True)
                _sync_folder(path.parent)

    def entries(self, prefix: str) -> list[Entry]:
        with self._trouble():
            if self._root.is_file():  # which would look like an empty folder
                raise NotADirectoryError(errno.ENOTDIR, "no folder", self.url)
            return sorted(
                Entry(path.relative_to(self._root).as_posix(), status.st_size, _written_at(status))
                for path, status in _files(self._path(prefix))
                if not _OURS.fullmatch(path.name)
            )

    def sweep(self, older_than: timedelta) -> int:
        end = self.now() - older_than
        with self._trouble():
            unfinished = ((path, status) for path, status in _files(self._root) if _WRITING.fullmatch(path.name))
            stale = [path for path, status in unfinished if _written_at(status) <= end]
            for path in stale:
                path.unlink(missing_ok=True)
        return len(stale)

    def _path(self, key: str) -> Path:
        return self._root / key

    @contextlib.contextmanager
    def _written(self, path: Path, data: bytes) -> Iterator[Path]:
        """Hold the data, durable, in a file beside `path` that is gone afterwards."""
        _make_folder(path.parent)
        temporary = _temporary(path.parent)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        """Say in one line what the file system refused."""
        try:
            yield
        except OSError as error:
            raise StoreUnavailableError(f"the store {self.url} {_remedy(error)}") from error


def _remedy(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "may not be read and written by this user: give it the right to, or choose another with --store"
    if error.errno == errno.EROFS:
        return "is on a read-only file system: choose another with --store"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "is full: free some space and run again; what was written is kept"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return "is no folder: choose another with --store"
    return f"failed: {error.strerror or error}"


def _read(path: Path, limit: int | None = None) -> bytes | None:
    """Read a file, or nothing of one that has more bytes than the limit."""
    with path.open("rb") as file:
        if limit is not None and os.fstat(file.fileno()).st_size > limit:
            return None
        return file.read()  # it has its last size: files are written before they get the name of a key


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Walk all files below a folder but those that go away meanwhile."""
    for place, _, names in os.walk(folder, onerror=_raise_unless_absent):
        for path in (Path(place, name) for name in names):
            try:
                status = path.stat()
            except _ABSENT:
                continue
            yield path, status


def _written_at(status: os.stat_result) -> datetime:
    return datetime.fromtimestamp(status.st_mtime, UTC)


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, _ABSENT):
        raise error


def _temporary(folder: Path) -> Path:
    return folder / f".writing-{uuid.uuid4().hex}"


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each durable."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Exclude other writers of this folder; the kernel frees the lock of a process that dies."""
    descriptor = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
