"""Ctrl-C and SIGKILL in the middle of a run: nothing is left running, and the next run ends at the same model."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fededge.events import Tail
from fededge.store.trainings import TrainingStore
from tests.pipeline.conftest import fededge, store_in

_TOO_LONG = 120.0


def model_of(folder: Path) -> str:
    return TrainingStore(store_in(folder), "tiny").version().model


@pytest.fixture(scope="module")
def undisturbed(tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = fededge(folder, "run", *tiny, "--rounds", "1")
    assert done.code == 0, done.err
    return model_of(folder)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_ended_run_leaves_nothing_and_can_be_taken_up(
    number: signal.Signals, code: int, tiny: tuple[str, ...], undisturbed: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "fededge", "run", *tiny, "--rounds", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        _await_first_delivery(tmp_path)
        run.send_signal(number)
        _, said = run.communicate(timeout=_TOO_LONG)
    assert run.returncode == code
    assert "Traceback" not in said
    assert ("interrupted: " in said) == (number == signal.SIGINT)
    await_no_process(tmp_path)
    trainings = TrainingStore(store_in(tmp_path), "tiny")
    assert trainings.version().version == "v0"  # it had begun and had not finished
    done = fededge(tmp_path, "run", *tiny, "--rounds", "1")
    assert done.code == 0, done.err
    assert trainings.version().version == "v1"
    assert len(trainings.attempts("v1")) == 1
    assert model_of(tmp_path) == undisturbed


def _await_first_delivery(folder: Path) -> None:
    end = time.monotonic() + _TOO_LONG
    while time.monotonic() < end:
        for path in folder.glob(".fededge/runs/*/events.jsonl"):
            if any(event.kind == "client" for event in Tail(path)):
                return
        time.sleep(0.02)
    raise AssertionError("no client delivered")


def await_no_process(folder: Path) -> None:
    """Wait until no process has a file of the run open or in its arguments."""
    end = time.monotonic() + 10
    while left := _processes(folder):
        assert time.monotonic() < end, f"still running: {left}"
        time.sleep(0.05)


def _processes(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where = {
                str((process / "cwd").readlink()),
                (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(),
            }
        except OSError:
            continue
        if any(str(folder) in text for text in where):
            found.append(f"{process.name} {where}")
    return found
