"""SIGTERM, which is how Kubernetes ends a pod and people a program, as an exception."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

TERMINATED = 128 + signal.SIGTERM  # the exit code that shells give a program that SIGTERM ended


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM raise `SystemExit` inside, so that what has to be cleaned up is."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
