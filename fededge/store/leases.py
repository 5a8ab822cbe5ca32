"""One run at a time works on a training: a lease with a fencing token.

A lease ends by itself when its holder does nothing more, and another run then takes over with a higher token. That
the old holder, waking later, publishes nothing is not the lease's doing but the pointer's: it carries the highest
token, and moves by compare-and-swap.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from fededge.errors import ConflictError, ExistsError, LeaseError, NotFoundError
from fededge.records import Lease
from fededge.store import keys
from fededge.store.port import Store, Tagged

HOLDER = "FEDEDGE_HOLDER"  # names the run to others; on a cluster its id does
PAST = datetime.fromtimestamp(0, UTC)


class Leases:
    """The lease of one training.

    Args:
      store: keeps it, and its clock decides when it ends.
      training: whose it is.
      key: of another lease than a training's.
    """

    def __init__(self, store: Store, training: str, key: str = "") -> None:
        self._store = store
        self._what = f"training {training}" if training else store.url
        self._key = key or keys.lease(training)
        self._remedy = f"; if that run is dead, `fededge rounds release {training}`" if training else ""

    def active(self) -> Lease | None:
        """Read the lease, if somebody holds it."""
        _, lease = self._read()
        return lease if lease and lease.expires_at > self._store.now() else None

    def held_by(self, lease: Lease) -> str:
        """Say who holds the lease, and what can be done."""
        until = f"{lease.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self._what} is being worked on by {lease.holder}, until {until} at most: wait for it{self._remedy}"

    def acquire(self, holder: str, expires_at: datetime, above: int = 0) -> int:
        """Take the lease, and return its token. The holder that has it keeps its token.

        Args:
          holder: names the run.
          expires_at: by the store's clock.
          above: a token that was seen; the lease's will be higher, even if its document was lost.

        Raises:
          LeaseError: another run holds it.
        """
        while True:
            value, lease = self._read()
            active = lease and lease.expires_at > self._store.now()
            if lease and active and lease.holder != holder:
                raise LeaseError(self.held_by(lease))
            token = lease.token if lease and active else max(lease.token if lease else 0, above) + 1
            if self._swap(value, Lease(token=token, holder=holder, expires_at=expires_at)):
                return token

    def renew(self, token: int, expires_at: datetime) -> None:
        """Make the lease last longer; one that would end later anyway is left alone.

        Raises:
          LeaseError: another run has taken over.
        """
        self._change(token, lambda lease: max(lease.expires_at, expires_at))

    def release(self, token: int, at: datetime = PAST) -> None:
        """End the lease, now or at a time before it would end.

        Raises:
          LeaseError: another run has taken over.
        """
        self._change(token, lambda lease: min(lease.expires_at, at))

    def revoke(self, token: int, by: str) -> int:
        """End a lease whose holder is dead, and make its token obsolete.

        Args:
          token: of the lease that was seen.
          by: who does; named to the holder, should it wake.

        Returns:
          The token that nobody holds, and that the holder's is older than.

        Raises:
          LeaseError: another run has taken over meanwhile.
        """
        while True:
            value, lease = self._read()
            if lease is None or lease.token != token:
                raise LeaseError(f"{lease.holder if lease else 'nobody'} has taken over {self._what} meanwhile")
            if self._swap(value, Lease(token=token + 1, holder=by, expires_at=PAST)):
                return token + 1

    def _change(self, token: int, expires_at: Callable[[Lease], datetime]) -> None:
        while True:
            value, lease = self._read()
            if lease is None or lease.token != token:
                by = lease.holder if lease else "somebody who removed the lease"
                raise LeaseError(f"{by} has taken over {self._what} from this run, which publishes nothing any more")
            changed = lease.model_copy(update={"expires_at": expires_at(lease)})
            if changed == lease or self._swap(value, changed):
                return

    def _read(self) -> tuple[Tagged | None, Lease | None]:
        try:
            value = self._store.get(self._key)
        except NotFoundError:
            return None, None
        return value, Lease.load(value.data, self._key)

    def _swap(self, before: Tagged | None, after: Lease) -> bool:
        """Write the lease unless somebody else has written since it was read; say whether it was written."""
        try:
            if before:
                self._store.replace(self._key, after.dump(), before.tag)
            else:
                self._store.create(self._key, after.dump())
        except (ConflictError, ExistsError):
            return False
        return True
