"""A store that dies at a chosen write, to see what a process that dies there leaves behind."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NoReturn

from fededge.store.folder import FolderStore
from fededge.store.port import Entry, Store, Tagged

Phase = Literal["before", "during", "after"]
PHASES: tuple[Phase, ...] = ("before", "during", "after")


class Killed(BaseException):
    """Passes all that would handle an error, as a death does."""


def die() -> NoReturn:
    raise Killed


class FaultyStore(Store):
    """Passes everything on to a store, until a write it dies at.

    Args:
      inner: the store.
      at: the number of the write, from 1; 0 for none, to count how many there are. Of several threads' writes, the
        numbers are in no order.
      phase: before the write has done anything; during it, with half of the value written where a folder's writer has
        it before it gets its key (in S3 a PUT that ends early leaves nothing); or after it, before the caller knows.
      die: what then happens; whoever catches it finds every later write die too.

    Attributes:
      writes: how many there were, with the one that died.
    """

    def __init__(self, inner: Store, at: int = 0, phase: Phase = "before", die: Callable[[], NoReturn] = die) -> None:
        self.inner = inner
        self.writes = 0
        self._at = at
        self._phase = phase
        self._die = die

    @property
    def url(self) -> str:
        return self.inner.url

    def check(self) -> None:
        self.inner.check()

    def now(self) -> datetime:
        return self.inner.now()

    def get(self, key: str, limit: int | None = None) -> Tagged:
        return self.inner.get(key, limit)

    def entries(self, prefix: str) -> list[Entry]:
        return self.inner.entries(prefix)

    def sweep(self, older_than: timedelta) -> int:
        return self.inner.sweep(older_than)

    def create(self, key: str, data: bytes) -> None:
        self._write(key, data, lambda: self.inner.create(key, data))

    def replace(self, key: str, data: bytes, tag: str) -> None:
        self._write(key, data, lambda: self.inner.replace(key, data, tag))

    def delete(self, key: str) -> None:
        self._write(key, b"", lambda: self.inner.delete(key))

    def _write(self, key: str, data: bytes, write: Callable[[], None]) -> None:
        self.writes += 1
        alive = self._at < 1 or self.writes < self._at
        dying = self.writes == self._at
        if alive or (dying and self._phase == "after"):
            write()
        if dying and self._phase == "during":
            self._tear(key, data)
        if not alive:
            self._die()

    def _tear(self, key: str, data: bytes) -> None:
        if data and isinstance(self.inner, FolderStore):
            torn = Path(self.inner.url, key).parent / f".writing-{uuid.uuid4().hex}"
            torn.parent.mkdir(parents=True, exist_ok=True)
            torn.write_bytes(data[: len(data) // 2])
