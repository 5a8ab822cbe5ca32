"""Ends a pod's work at its deadline."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


class TimeUpError(BaseException):
    """The deadline has come. No `Exception`, so that a workload that bears everything does not bear this."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeUpError` inside after so many seconds.

    The signal is handled between two instructions of Python: a library call that does not come back is not ended by
    it, but by the pod's own time limit.
    """
    if seconds <= 0:
        raise TimeUpError
    before = signal.signal(signal.SIGALRM, _time_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _time_up(*_: object) -> None:
    raise TimeUpError
