"""What FedEdge asks of a store; `tests/store` holds every adapter to it."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Tagged(NamedTuple):
    """A value and the tag that a `replace` of it must name."""

    data: bytes
    tag: str


class Store(Protocol):
    """Keys and values, with conditional writes.

    Keys are relative paths of at most 900 bytes. A write that returned is durable. A write that failed, or whose
    process was killed, has either happened whole or not at all. Every method can raise `StoreUnavailableError`.
    """

    @property
    def url(self) -> str:
        """What `open_store` opens this store from; holds no secret."""

    def check(self) -> None:
        """Make sure that the store can be read and written, and leave nothing behind.

        Raises:
          StoreUnavailableError: it cannot; the message says what to do.
        """

    def get(self, key: str) -> Tagged:
        """Read a value.

        Raises:
          NotFoundError: there is none.
        """

    def create(self, key: str, data: bytes) -> None:
        """Write a value that is not there yet. Of several that race, the first wins.

        Writing the bytes that are there already succeeds, so a write can be tried again when its answer was lost.

        Raises:
          ExistsError: the key holds other bytes.
        """

    def replace(self, key: str, data: bytes, tag: str) -> None:
        """Write a value if the present one still has `tag`. Writing the bytes that are there succeeds.

        Raises:
          ConflictError: somebody wrote since, or removed it.
        """

    def delete(self, key: str) -> None:
        """Remove a value, if it is there."""

    def keys(self, prefix: str) -> list[str]:
        """List the keys that start with `prefix`, which ends with a slash, sorted."""
