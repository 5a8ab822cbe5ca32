"""Who holds a training on this machine, and whether that run still lives.

A run's process keeps a lock on a file in its folder, which the kernel frees when the process dies, however it does.
The lease in the store names machine and file.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
from collections.abc import Iterator
from pathlib import Path

from fededge.errors import LeaseError
from fededge.records import Lease
from fededge.store.trainings import TrainingStore

_FILE = "alive"


@contextlib.contextmanager
def holding(trainings: TrainingStore, folder: Path) -> Iterator[str]:
    """Name this run as holder while it lives; at the end, let go of the training.

    A run of this machine that died holding the training is taken over at once.

    Args:
      trainings: what the run works on.
      folder: of the run.

    Raises:
      LeaseError: another run works on it.
    """
    holder = f"{socket.gethostname()}:{folder}"
    with (folder / _FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if lease := end_dead(trainings):
            raise LeaseError(trainings.lease.held_by(lease))
        try:
            yield holder
        finally:
            lease = trainings.lease.active()
            if lease and lease.holder == holder:
                _release(trainings, lease.token)


def end_dead(trainings: TrainingStore) -> Lease | None:
    """End the lease of a run of this machine that died; return that of one that may live."""
    lease = trainings.lease.active()
    if lease is None or not _is_dead(lease.holder):
        return lease
    _release(trainings, lease.token)
    return None


def _release(trainings: TrainingStore, token: int) -> None:
    with contextlib.suppress(LeaseError):  # another run was faster
        trainings.lease.release(token)


def _is_dead(holder: str) -> bool:
    """Whether a run was of this machine and its process is gone; of others nothing is known."""
    host, _, folder = holder.partition(":")
    path = Path(folder, _FILE)
    if host != socket.gethostname() or not folder.startswith("/"):
        return False
    if not path.exists():
        return not path.parent.exists()
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
