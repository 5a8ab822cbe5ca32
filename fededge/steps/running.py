"""What every step does around its work."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from fededge.errors import FedEdgeError, RoundError
from fededge.events import emit
from fededge.records import Attempt, AttemptRef
from fededge.store import open_store
from fededge.store.trainings import TrainingStore


@contextlib.contextmanager
def running(phase: str, training: str = "") -> Iterator[None]:
    """Report the start and the end of a step, and turn an error of ours into one line and an exit code."""
    begun = time.monotonic()
    emit("started", phase, training=training)
    try:
        yield
    except FedEdgeError as error:
        emit("failed", phase, training=training, ok=False, detail=str(error), exit_code=error.exit_code)
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    emit("finished", phase, training=training, seconds=round(time.monotonic() - begun, 3))


def open_attempt(store: str, attempt: str) -> tuple[TrainingStore, Attempt]:
    """Find the attempt that a step was told to work on.

    Raises:
      RoundError: it was given up; its late steps must not go on.
    """
    ref = AttemptRef.parse(attempt)
    trainings = TrainingStore(open_store(store), ref.training)
    if failed := trainings.failed(ref):
        raise RoundError(f"attempt {ref} has failed ({failed.reason}); run again to open the next one")
    return trainings, trainings.attempt(ref)
