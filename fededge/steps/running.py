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

_LINE_LENGTH = 300


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
    except Exception as error:  # of the user's own code, most likely: told in a line, and raised for the log
        emit("failed", phase, training=training, ok=False, detail=f"{phase} failed: {in_a_line(error)}", exit_code=1)
        raise
    emit("finished", phase, training=training, seconds=round(time.monotonic() - begun, 3))


def in_a_line(error: Exception) -> str:
    """Tell what kind of error it is and its last line, which is where frameworks put the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"[:_LINE_LENGTH]


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
