"""What FedEdge asks of a store; `tests/store` holds every adapter to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import NamedTuple


class Tagged(NamedTuple):
    """A value and the tag that a `replace` of it must name."""

    data: bytes
    tag: str


class Entry(NamedTuple):
    """A value in a listing; `written_at` is of the store's own clock, in UTC, and within the write."""

    key: str
    size: int
    written_at: datetime


class Store(ABC):
    """Keys and values, with conditional writes.

    Keys are relative paths of at most 900 bytes. A write that returned is durable. A write that failed, or whose
    process was killed, has either happened whole or not at all. Every method can raise `StoreUnavailableError`.
    """

    @property
    @abstractmethod
    def url(self) -> str:
        """What `open_store` opens this store from; holds no secret."""

    @abstractmethod
    def check(self) -> None:
        """Make sure that the store can be read and written, and leave nothing behind.

        Raises:
          StoreUnavailableError: it cannot; the message says what to do.
        """

    @abstractmethod
    def now(self) -> datetime:
        """Read the store's own clock, the one that every `written_at` is of, in UTC.

        What is written after this returned has no earlier `written_at`. So one clock decides what was in time,
        whatever the clocks of those who write say.
        """

    @abstractmethod
    def get(self, key: str, limit: int | None = None) -> Tagged:
        """Read a value.

        Raises:
          NotFoundError: there is none.
          TooLargeError: it has more bytes than `limit`; they were not all read.
        """

    @abstractmethod
    def create(self, key: str, data: bytes) -> None:
        """Write a value that is not there yet. Of several that race, the first wins.

        Writing the bytes that are there already succeeds, so a write can be tried again when its answer was lost.

        Raises:
          ExistsError: the key holds other bytes.
        """

    @abstractmethod
    def replace(self, key: str, data: bytes, tag: str) -> None:
        """Write a value if the present one still has `tag`. Writing the bytes that are there succeeds.

        Raises:
          ConflictError: somebody wrote since, or removed it.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a value, if it is there."""

    @abstractmethod
    def entries(self, prefix: str) -> list[Entry]:
        """List the values whose keys start with `prefix`, which is empty or ends with a slash, sorted by key."""

    def keys(self, prefix: str) -> list[str]:
        """List the keys that start with `prefix`, which is empty or ends with a slash, sorted."""
        return [entry.key for entry in self.entries(prefix)]

    @abstractmethod
    def sweep(self, older_than: timedelta) -> int:
        """Remove what writers that were killed left behind, and return how many pieces.

        Args:
          older_than: longer than any write takes; what is younger may belong to one that is under way.
        """
