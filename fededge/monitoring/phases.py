"""How long the phases of a round took, from when its documents were written.

    distribute   the plan is recorded ─► the first client begins: pods are placed, images pulled, libraries loaded
    train        ─► the last client has answered
    aggregate    ─► the new model is in the store
    evaluate     ─► its evaluation is
    version      ─► its manifest is

So they follow each other without a gap, by one clock, the store's. The time between two runs that work on the same
attempt belongs to none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from fededge.monitoring.history import History
from fededge.records import GIVEN_UP

PHASES = ("distribute", "train", "aggregate", "evaluate", "version")


def phase_seconds(history: History) -> dict[str, float]:
    """Return the seconds of the latest attempt's phases, up to the one that is under way or in which it failed."""
    failed = history.tries[-1].failed
    stopped = history.written[""].get("failed") if failed and failed.reason != GIVEN_UP else None
    gaps, marks, found = _gaps(history), _marks(history), dict[str, float]()
    for phase, (begun, ended) in zip(PHASES, itertools.pairwise(marks), strict=True):
        end = ended or stopped
        if begun is None or end is None:
            break
        found[phase] = max(0.0, _worked(begun, end, gaps).total_seconds())
    return found


def _marks(history: History) -> list[datetime | None]:
    """Say when the first phase began and when each one ended; None for what has not happened."""
    documents = history.written[""]
    made = history.made_at if history.succeeded else None
    ends = [*_training(history), documents.get("aggregate"), documents.get("evaluation"), made]
    return [documents["attempt"], *ends]


def _training(history: History) -> tuple[datetime | None, datetime | None]:
    """Say when the first client began, and when the last one of those that the round waited for had answered."""
    closed, arrived = history.written[""].get("closing"), history.written["updates"]
    heard = [*arrived.values(), *history.written["failures"].values()]
    answers = [at for at in heard if not closed or at <= closed]
    if not answers:
        return closed, closed
    closing = history.tries[-1].closing
    begun = [
        arrived[one.client] - timedelta(seconds=one.seconds)
        for one in (closing.accepted if closing else [])
        if one.client in arrived and one.reused_from is None
    ]
    opened = history.written[""]["attempt"]
    return max(opened, min([*begun, *answers])), max(answers) if closed else None


def _gaps(history: History) -> list[tuple[datetime, datetime]]:
    """Find the times between sittings: from the last that was heard of a run to the beginning of the next."""
    times = sorted(at for folder in history.written.values() for at in folder.values())
    later = sorted(history.written["sittings"].values())[1:]
    return [(max((at for at in times if at < begun), default=begun), begun) for begun in later]


def _worked(begun: datetime, ended: datetime, gaps: Sequence[tuple[datetime, datetime]]) -> timedelta:
    return ended - begun - sum(_overlaps(begun, ended, gaps), timedelta())


def _overlaps(begun: datetime, ended: datetime, gaps: Sequence[tuple[datetime, datetime]]) -> Iterator[timedelta]:
    for since, until in gaps:
        yield max(timedelta(), min(until, ended) - max(since, begun))
