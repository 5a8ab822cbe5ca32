"""What a step prints: lines for people, or with `FEDEDGE_LOG=json` one JSON object a line.

    {"time": "2026-01-01T00:00:00.000Z", "level": "error", "message": "…", "run": "…", "training": "digits",
     "round": 4, "attempt": 1, "step": "train", "client": "client-000003", "reason": "NO_DATA"}

Inside `lines` that holds for all that Python prints: by `print`, on standard error, through `logging`. What native
libraries write themselves does not come by here; TensorFlow is told to keep to what is fatal.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TextIO

VARIABLE = "FEDEDGE_LOG"
_context: dict[str, object] = {}  # of the process, which does one step at a time, and so of all its threads
_END = re.compile(r"[\r\n]")  # progress bars end their lines with a carriage return


def is_json() -> bool:
    """Whether lines are for machines."""
    return os.environ.get(VARIABLE, "").lower() == "json"


@contextlib.contextmanager
def about(**fields: object) -> Iterator[None]:
    """Put fields on each line inside, beside those that are on it already; an empty one is not known."""
    before = dict(_context)
    learn(**fields)
    try:
        yield
    finally:
        _end_lines()
        _context.clear()
        _context.update(before)


def learn(**fields: object) -> None:
    """Put fields on each line from now on, to the end of what `about` or `lines` surrounds."""
    _context.update(_known(fields))


def _known(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value not in ("", 0, None)}


def line(level: str, message: str, **fields: object) -> str:
    """Make the line for machines."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    known = {"time": time, "level": level, "message": message, **_context, **_known(fields)}
    return json.dumps(known, ensure_ascii=False, default=str)


def write(level: str, message: str, **fields: object) -> None:
    """Write a line for machines."""
    out = sys.stdout.out if isinstance(sys.stdout, _Lines) else sys.stdout
    out.write(line(level, message, **fields) + "\n")
    out.flush()


def warn(message: str) -> None:
    """Tell of something that does not stop the step."""
    if is_json():
        write("warning", message)
    else:
        sys.stderr.write(f"warning: {message}\n")


def print_traceback() -> None:
    """Tell where the error that is being handled comes from."""
    if is_json():
        write("error", str(sys.exception()) or "no message", traceback=traceback.format_exc())
    else:
        traceback.print_exc()


@contextlib.contextmanager
def lines(**fields: object) -> Iterator[None]:
    """Have all that is printed inside be lines for machines, if that is what is wanted."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(about(**fields))
        if is_json():
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            out = sys.stdout
            stack.enter_context(_logging(_Handler()))
            stack.enter_context(contextlib.redirect_stdout(_Lines("info", out)))
            stack.enter_context(contextlib.redirect_stderr(_Lines("warning", out)))
            stack.callback(_end_lines)
        yield


class _Lines(io.TextIOBase):
    """A stream of text that becomes lines for machines."""

    def __init__(self, level: str, out: TextIO) -> None:
        self.out = out
        self._level = level
        self._rest = ""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:  # for processes that are started with this stream
        return self.out.fileno()

    def write(self, text: str) -> int:
        *whole, self._rest = _END.split(self._rest + text)
        for message in whole:
            if message.strip():
                self.out.write(line(self._level, message) + "\n")
        return len(text)

    def flush(self) -> None:
        self.out.flush()

    def end(self) -> None:
        """Write what is left of a line without an end."""
        self.write("\n")
        self.flush()


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        told = {"traceback": "".join(traceback.format_exception(*record.exc_info))} if record.exc_info else {}
        write(record.levelname.lower(), record.getMessage(), logger=record.name, **told)


def _end_lines() -> None:
    """Write what has been printed so far, while it is known what it is about."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, _Lines):
            stream.end()


@contextlib.contextmanager
def _logging(handler: logging.Handler) -> Iterator[None]:
    """Give all of `logging` to one handler."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, [handler]
    try:
        yield
    finally:
        root.handlers = before
