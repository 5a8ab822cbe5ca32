"""The processes that do a simulation's steps, each in the environment of its image."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fededge.environments import Environment
from fededge.errors import RunError
from fededge.events import Event

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0


class Worker:
    """One process of `fededge.steps.worker`. It ends itself when this process is gone.

    Args:
      environment: of the image that it stands for.
      variables: of its process, beside those of this one.
      log: gets what it prints.
    """

    def __init__(self, environment: Environment, variables: Mapping[str, str], log: Path) -> None:
        self._log = log
        self._doing = ""
        read, write = os.pipe()
        command = [str(environment.python), "-m", "fededge.steps.worker", str(write)]
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603
                command, env={**os.environ, **variables}, stdin=subprocess.PIPE, stdout=output,
                stderr=subprocess.STDOUT, pass_fds=[write], start_new_session=True,
            )  # fmt: skip
        os.close(write)
        self._answers = open(read, "rb")  # noqa: PTH123, SIM115

    def fileno(self) -> int:
        """Return the descriptor that can be read when the worker has answered, or has ended."""
        return self._answers.fileno()

    def give(self, step: str, arguments: Mapping[str, Any]) -> None:
        """Have it do a step; it does one at a time."""
        self._doing = f"{step} {arguments.get('batch', '')}".rstrip()
        assert self._process.stdin  # noqa: S101
        with contextlib.suppress(BrokenPipeError):  # it has ended, which `answer` tells
            self._process.stdin.write(json.dumps({"step": step, "arguments": arguments}).encode() + b"\n")
            self._process.stdin.flush()

    def answer(self) -> Any:
        """Return what the step returned.

        Raises:
          RunError: the step failed, which an event has told in more words; or the worker has ended.
        """
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise RunError(self._obituary())
        answer, done, self._doing = json.loads(line), self._doing, ""
        if "result" not in answer:
            raise RunError(f"{done} failed; the log is {self._log}")
        return answer["result"]

    def signal(self, number: int) -> None:
        """Send a signal to the worker, and to all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def close(self) -> None:
        self._answers.close()
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def _obituary(self) -> str:
        self.wait(_GRACE_SECONDS)
        code, memory = self._process.returncode or 0, ""
        if code == -signal.SIGKILL:
            memory = "; if memory ran out, fewer --workers need less"
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"a worker {how} while it did {self._doing or 'nothing'}{memory}; the log is {self._log}"


class Task(NamedTuple):
    """A step to be done.

    Attributes:
      workers: who may do it.
      step: its name, of `fededge.steps.worker.JOBS`.
      arguments: of the step.
    """

    workers: Sequence[Worker]
    step: str
    arguments: Mapping[str, Any]


def perform(tasks: Sequence[Task], happening: Iterable[Event]) -> Generator[Event, None, list[Any]]:
    """Have tasks done, each by the first of its workers that is free, and yield what happens meanwhile.

    Args:
      tasks: of workers that all are free.
      happening: yields the events since the last time.

    Returns:
      What each step returned, in the order of the tasks.

    Raises:
      RunError: a step failed, or its worker has ended; others may be in the middle of theirs.
    """
    waiting, busy, results = list(range(len(tasks))), dict[Worker, int](), dict[int, Any]()
    with selectors.DefaultSelector() as selector:
        for worker in {worker for task in tasks for worker in task.workers}:
            selector.register(worker, selectors.EVENT_READ, worker)
        while len(results) < len(tasks):
            for index in list(waiting):
                task = tasks[index]
                if free := next((worker for worker in task.workers if worker not in busy), None):
                    free.give(task.step, task.arguments)
                    busy[free] = index
                    waiting.remove(index)
            answered: list[Worker] = [key.data for key, _ in selector.select(_POLL_SECONDS)]
            yield from happening
            for worker in answered:
                answer = worker.answer()
                results[busy.pop(worker)] = answer
    return [results[index] for index in range(len(tasks))]


def end(workers: Sequence[Worker]) -> None:
    """End workers and all that they have started, first asking."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for worker in workers:
            worker.signal(number)
        until = time.monotonic() + _GRACE_SECONDS
        for worker in workers:
            worker.wait(max(0.0, until - time.monotonic()))
    for worker in workers:
        worker.close()
