"""Real SIGKILLs of real processes, and the same command again: as if nothing had happened.

Two trainings are at v1, with a server optimizer that has a state by now. In one the whole run is killed again and
again on its way through the next round, in the other one step's process at a time. The moments are an event that the
run has told, and a random while after it.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fededge.events import Tail
from fededge.store import keys
from fededge.store.trainings import TrainingStore
from tests.faults.rounds import assert_whole, delivered, essence
from tests.pipeline.conftest import fededge, store_in

_TOO_LONG = 120.0
_TINY = Path(__file__).parents[1] / "steps" / "tiny.py"
_TRAINING = 0.5  # seconds that each client takes at least
_SLOW = f"""
import time


class SlowWorkload(TinyWorkload):
    def train_data(self, client: str, clients: int) -> Examples:
        time.sleep({_TRAINING})
        return super().train_data(client, clients)

    def test_data(self) -> Examples:
        time.sleep(1)
        return super().test_data()


slow = SlowWorkload()
"""


@dataclass(frozen=True)
class Moment:
    """When to kill.

    Attributes:
      kind: of the event that is waited for.
      phase: of the event.
      count: how many of such events there must have been.
      within: seconds after it, at most; less than what is then going on takes.
      step: the one whose process is killed; that of the event's phase.
    """

    kind: str
    phase: str
    count: int = 1
    within: float = 0.3
    step: str = ""


RUN_MOMENTS = [
    Moment("opened", "distribute"),
    Moment("client", "train", 4),
    Moment("started", "aggregate"),
    Moment("finished", "aggregate"),
]
STEP_MOMENTS = [
    Moment("client", "train", 2, step="train_clients"),
    Moment("started", "aggregate", step="aggregate_updates"),
    Moment("started", "evaluate", within=0.9, step="evaluate_model"),
]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """One round with clients that take half a second, so that there is time to kill."""
    package = tmp_path_factory.mktemp("package")
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "slow"\nversion = "1"\n[tool.hatch.build.targets.wheel]\ninclude = ["slow.py"]\n'
    )
    (package / "slow.py").write_text(_TINY.read_text() + _SLOW)
    return ("run", "tiny", "--workload", "slow:slow", "--with", str(package), "--rounds", "1", "--clients", "8",
            "--clients-per-pod", "4", "--server-momentum", "0.9")  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(command: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A store after one round, and what the second must make."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = fededge(folder, *command)
    assert done.code == 0, done.err
    shutil.copytree(store_in(folder).url, folder / "after-one")
    done = fededge(folder, *command)
    assert done.code == 0, done.err
    return folder / "after-one", essence(_trainings(folder), "v2")


def test_invariant_05_kill_the_whole_run_and_give_the_command_again(
    command: tuple[str, ...], undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _resume_until_done(command, undisturbed, tmp_path, RUN_MOMENTS, seed=1)


def test_invariant_05_kill_one_step_and_give_the_command_again(
    command: tuple[str, ...], undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _resume_until_done(command, undisturbed, tmp_path, STEP_MOMENTS, seed=2)


def _resume_until_done(
    command: tuple[str, ...], undisturbed: tuple[Path, dict[str, Any]], folder: Path, moments: list[Moment], seed: int
) -> None:
    before, expected = undisturbed
    shutil.copytree(before, store_in(folder).url)
    trainings, rng = _trainings(folder), random.Random(seed)
    updates: dict[str, bytes] = {}
    for moment in moments:
        written, known = _written(folder), delivered(trainings, "v2")
        with _running(command, folder) as run:
            _await(folder, moment)
            time.sleep(rng.uniform(0, moment.within))
            _kill(run, folder, moment)
        assert _written(folder) != written
        _assert_untrained(folder, known)
        assert trainings.version().version == "v1"
        assert_whole(trainings.store)
        updates |= _updates(trainings)
    known = delivered(trainings, "v2")
    saved = [trainings.update(trainings.attempts("v2")[0], client) for client in known]
    done = fededge(folder, *command)
    assert done.code == 0, done.err
    assert essence(trainings, "v2") == expected
    _assert_untrained(folder, known)
    assert {key: trainings.store.get(key).data for key in updates} == updates
    assert_whole(trainings.store)
    seconds = sum(update.seconds for update in saved if update)
    sys.stdout.write(f"{len(moments)} kills; the last run did not train {len(saved)} clients again: {seconds:.1f} s\n")


@contextlib.contextmanager
def _running(command: tuple[str, ...], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Give the command; if nobody has killed it until the end, it is no longer needed."""
    arguments = [sys.executable, "-P", "-m", "fededge", *command]
    before = len(_runs(folder))
    with subprocess.Popen(arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        try:
            _wait(lambda: len(_runs(folder)) > before)
            yield run
        finally:
            run.kill()


def _await(folder: Path, moment: Moment) -> None:
    """Wait until the newest run has told what the moment is after."""
    tail, told = Tail(_runs(folder)[-1] / "events.jsonl"), []

    def has_come() -> bool:
        told.extend(event for event in tail if (event.kind, event.phase) == (moment.kind, moment.phase))
        return len(told) >= moment.count

    _wait(has_come)


def _kill(run: subprocess.Popen[str], folder: Path, moment: Moment) -> None:
    """Kill, and see that what was killed had not finished."""
    process = _process_of(_runs(folder)[-1], moment.step) if moment.step else run.pid
    os.kill(process, signal.SIGKILL)
    _, said = run.communicate(timeout=_TOO_LONG)
    if moment.step:
        assert run.returncode == 1, said
        assert "the pipeline failed" in said
    else:
        assert run.returncode == -signal.SIGKILL
    assert "Traceback" not in said


def _process_of(run: Path, step: str) -> int:
    """Find the process in which a step of a run works."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"kfp.dsl.executor_main" in words and step.encode() in words and str(run).encode() in b" ".join(words):
                return int(process.name)
    raise AssertionError(f"no process of {step}")


def _assert_untrained(folder: Path, clients: set[str]) -> None:
    """The newest run has not trained these; where it looked at one, that was quicker than training is."""
    told = [event for event in Tail(_runs(folder)[-1] / "events.jsonl") if event.client in clients]
    assert all(event.ok and event.seconds < _TRAINING for event in told), told


def _runs(folder: Path) -> list[Path]:
    return sorted((folder / ".fededge" / "runs").glob("*"))


def _updates(trainings: TrainingStore) -> dict[str, bytes]:
    """Read the documents that clients have delivered in the round."""
    (ref,) = trainings.attempts("v2")
    return {key: trainings.store.get(key).data for key in trainings.store.keys(keys.update_folder(ref))}


def _written(folder: Path) -> dict[str, str]:
    """Everything in the store but who works on it."""
    store = store_in(folder)
    return {key: store.get(key).tag for key in store.keys("") if key != keys.lease("tiny")}


def _trainings(folder: Path) -> TrainingStore:
    return TrainingStore(store_in(folder), "tiny")


def _wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + _TOO_LONG
    while not until():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
