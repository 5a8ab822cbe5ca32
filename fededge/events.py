"""What the steps tell whoever watches a run.

One JSON object a line, appended to the file that `FEDEDGE_EVENTS` names; nothing where it is not set. Each is
also a plain line on standard output, which is a pod's log.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fededge.monitoring import logs

VARIABLE = "FEDEDGE_EVENTS"

Kind = Literal["opened", "started", "finished", "client", "progress", "evaluated", "published", "failed"]


class Event(BaseModel):
    """One thing that happened.

    Attributes:
      time: seconds since 1970, of the machine that did it.
      kind: what happened; decides which of the other fields are set.
      phase: the step: distribute, train, aggregate, evaluate, version.
      seconds: how long it took.
      reason: of what is not ok, in a word for machines.
      detail: a line for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: float
    kind: Kind
    phase: str
    training: str = ""
    round: int = 0
    version: str = ""
    clients: int = 0
    client: str = ""
    ok: bool = True
    seconds: float = 0.0
    metric: str = ""
    value: float = 0.0
    reason: str = ""
    detail: str = ""
    exit_code: int = 0


def emit(kind: Kind, phase: str, **fields: Any) -> None:
    """Append an event, whole or not at all."""
    event = Event(time=time.time(), kind=kind, phase=phase, **fields)
    line = event.model_dump_json(exclude_defaults=True)
    _log(event, line)
    path = os.environ.get(VARIABLE)
    if path:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line.encode() + b"\n")  # one write: lines of two processes never mix
        finally:
            os.close(descriptor)


def _log(event: Event, line: str) -> None:
    """Write an event to standard output, which is a pod's log."""
    if logs.is_json():
        level = "error" if event.kind == "failed" else "info" if event.ok else "warning"
        fields = event.model_dump(exclude={"time", "phase", "detail", "ok"}, exclude_defaults=True)
        told = event.detail or " ".join(filter(None, (event.phase, event.kind, event.version, event.metric)))
        logs.write(level, told, step=event.phase, **fields)
    else:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class Tail:
    """Reads events as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def __iter__(self) -> Iterator[Event]:
        """Yield the events since the last time; a line that is not whole yet waits for the next time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                try:
                    yield Event.model_validate_json(line)
                except ValidationError:
                    continue
