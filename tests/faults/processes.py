"""Starts processes of these tests, and waits for them to stop."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOO_LONG = 120.0
OURS = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def start(*arguments: str, python: str = sys.executable, variables: Mapping[str, str] = OURS) -> subprocess.Popen[str]:
    """Start a program of `tests.faults.program`, in this interpreter's environment or another."""
    path = os.pathsep.join([variables["PYTHONPATH"], str(ROOT)])
    return subprocess.Popen(
        [python, "-m", "tests.faults.program", *arguments],
        env={**os.environ, **variables, "PYTHONPATH": path}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def side_by_side(*commands: tuple[str, ...]) -> list[str]:
    """Run programs at the same time, and return what each said on standard output."""
    running = [start(*command) for command in commands]
    said = []
    for process in running:
        out, err = process.communicate(timeout=TOO_LONG)
        assert process.returncode == 0, err
        said.append(out)
    return said


def await_stop(process: int) -> None:
    """Wait until a process is stopped, as by SIGSTOP."""
    end = time.monotonic() + TOO_LONG
    while _state(process) != "T":
        assert time.monotonic() < end, _state(process)
        time.sleep(0.01)


def _state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0]
