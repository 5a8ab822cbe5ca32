"""Calls the command in this process, which takes milliseconds, as `main` does for a person."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import pytest

from fededge.cli import main


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Command:
    """The command `fededge`."""

    def __init__(self, capture: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capture = capture
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str) -> Done:
        self._monkeypatch.setattr("sys.argv", ["fededge", *arguments])
        self._capture.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = self._capture.readouterr()
        code = end.value.code
        assert code is None or isinstance(code, int)
        return Done(code or 0, out, err)

    def works(self, *arguments: str) -> str:
        """Return what it prints."""
        done = self(*arguments)
        assert done.code == 0, done.err
        return done.out

    def fails(self, code: int, *arguments: str) -> str:
        """Return the one line that it says, last, on standard error."""
        done = self(*arguments)
        return error_line(done, code)


def error_line(done: Done, code: int) -> str:
    """Return an error's line, and make sure that it is how errors are told."""
    assert "Traceback" not in done.out + done.err, done.err
    lines = done.err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], done.err
    assert done.code == code, done.err
    assert len(lines[-1]) > 30
    return lines[-1]


def snapshot(folder: Path) -> dict[str, str]:
    """Digest everything in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
