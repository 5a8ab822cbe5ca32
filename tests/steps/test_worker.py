"""The process that does a simulation's steps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest

TINY = "tests.steps.tiny:workload"
_TOO_LONG = 60.0


class Running:
    """A worker, and the end of the pipe on which it answers."""

    def __init__(self, process: subprocess.Popen[str], answers: TextIO) -> None:
        self.process = process
        self.answers = answers

    def ask(self, step: str, **arguments: Any) -> Any:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"step": step, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.answers.readline())


@contextmanager
def worker(log: Path) -> Iterator[Running]:
    read, write = os.pipe()
    with log.open("wb") as output, os.fdopen(read, encoding="utf-8") as answers:
        process = subprocess.Popen(
            [sys.executable, "-m", "fededge.steps.worker", str(write)], stdin=subprocess.PIPE, stdout=output,
            stderr=output, pass_fds=[write], start_new_session=True, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        os.close(write)
        try:
            yield Running(process, answers)
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with worker(tmp_path / "log") as found:
        yield found


def test_jobs_are_answered_one_after_the_other(running: Running) -> None:
    assert running.ask("count_clients", workload=TINY, clients=3) == {"result": 3}
    assert running.ask("prepare_clients", workload=TINY) == {"result": None}
    assert running.ask("count_clients", workload=TINY, clients=70) == {"result": 70}


def test_a_step_that_fails_is_answered_with_its_exit_code_and_the_worker_lives_on(
    running: Running, tmp_path: Path
) -> None:
    assert running.ask("count_clients", workload="no_such_package:workload", clients=3) == {"exit_code": 2}
    assert running.ask("train_clients", store=str(tmp_path / "store"), batch="nobody/v1/1/1/b000") == {"exit_code": 4}
    assert running.ask("count_clients", workload=TINY, clients="three") == {"exit_code": 1}
    assert running.ask("count_clients", workload=TINY, clients=3) == {"result": 3}
    log = (tmp_path / "log").read_text()
    assert "No module named 'no_such_package'" in log
    assert "TypeError" in log


def test_it_ends_with_whoever_gives_the_jobs(running: Running) -> None:
    assert running.ask("count_clients", workload=TINY, clients=3) == {"result": 3}
    assert running.process.stdin
    running.process.stdin.close()
    assert running.process.wait(_TOO_LONG) == -signal.SIGKILL


def test_sigterm_ends_it(running: Running) -> None:
    assert running.ask("count_clients", workload=TINY, clients=3) == {"result": 3}
    running.process.terminate()
    assert running.process.wait(_TOO_LONG) == -signal.SIGTERM


def test_what_a_workload_starts_reads_no_jobs(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert running.ask("count_clients", workload=TINY, clients=3) == {"result": 3}
    assert Path(f"/proc/{running.process.pid}/fd/0").readlink() == Path(os.devnull)
