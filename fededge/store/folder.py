"""The store in a local folder: one file a key."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from fededge.errors import ConflictError, ExistsError, NotFoundError, StoreUnavailableError
from fededge.store.port import Tagged

_WRITING = ".writing-"  # prefix of files that are not yet values


class FolderStore:
    """Writes to a file beside the key, syncs it, and links or renames it into place."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def url(self) -> str:
        return str(self._root)

    def check(self) -> None:
        with self._trouble():
            self._root.mkdir(parents=True, exist_ok=True)
            with self._written(self._root / "check", b""):
                pass

    def get(self, key: str) -> Tagged:
        try:
            with self._trouble():
                data = self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFoundError(f"no {key} in {self.url}") from error
        return Tagged(data, hashlib.sha256(data).hexdigest())

    def create(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with self._trouble(), self._written(path, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                if path.read_bytes() != data:
                    raise ExistsError(f"{key} is already in {self.url}") from None
            _sync_folder(path.parent)

    def replace(self, key: str, data: bytes, tag: str) -> None:
        path = self._path(key)
        with self._trouble(), self._written(path, data) as temporary, _locked(path.parent):
            present = path.read_bytes() if path.exists() else None
            if present == data:
                return
            if present is None or hashlib.sha256(present).hexdigest() != tag:
                raise ConflictError(f"{key} in {self.url} has changed meanwhile")
            os.replace(temporary, path)
            _sync_folder(path.parent)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._trouble():
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                _sync_folder(path.parent)

    def keys(self, prefix: str) -> list[str]:
        with self._trouble():
            files = [path for path in self._path(prefix).rglob("*") if path.is_file()]
        return sorted(f.relative_to(self._root).as_posix() for f in files if not f.name.startswith("."))

    def _path(self, key: str) -> Path:
        return self._root / key

    @contextlib.contextmanager
    def _written(self, path: Path, data: bytes) -> Iterator[Path]:
        """Hold the data, durable, in a file beside `path` that is gone afterwards."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{_WRITING}{uuid.uuid4().hex}"
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
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise
        except OSError as error:
            raise StoreUnavailableError(f"the store {self.url} {_remedy(error)}") from error


def _remedy(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "cannot be written: give this user the right to, or choose another with --store"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "is full: free some space and run again; what was written is kept"
    return f"failed: {error.strerror or error}"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Exclude other writers of this folder; the kernel frees the lock of a process that dies."""
    descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o666)
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
