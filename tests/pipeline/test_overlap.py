"""Rounds of the same training that overlap: one works, the others say who does, and nothing is published twice."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fededge.environments import environment, link_library, make
from fededge.errors import LeaseError
from fededge.records import Lease
from fededge.settings import RoundSettings
from fededge.store import keys
from fededge.store.trainings import TrainingStore
from tests.faults.processes import TOO_LONG, await_stop, start
from tests.faults.rounds import assert_whole, essence
from tests.pipeline.conftest import Outcome, fededge, store_in

ELSEWHERE = "edge-7:/home/ann/.fededge/runs/20260101-120000-000000"
SHORT = {"deadline_s": 2, "finish_s": 1}


@pytest.fixture(scope="module")
def alone(tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a round makes that nobody disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    done = fededge(folder, "run", *tiny, "--rounds", "1")
    assert done.code == 0, done.err
    return essence(_trainings(folder), "v1")


def test_of_runs_at_once_one_works_and_the_others_say_who_does(
    tiny: tuple[str, ...], alone: dict[str, Any], tmp_path: Path
) -> None:
    command = [sys.executable, "-P", "-m", "fededge", "run", *tiny, "--rounds", "1"]
    running = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    _await(lambda: any(run.poll() is not None for run in running))
    running.sort(key=lambda run: run.poll() is None)
    late = fededge(tmp_path, "run", *tiny, "--rounds", "1")
    loser, winner = (Outcome(*_ended(run)) for run in running)
    assert winner.code == 0, winner.err
    for refused in (loser, late):
        _assert_refused(refused, f"{socket.gethostname()}:{tmp_path}/.fededge/runs/")
    trainings = _trainings(tmp_path)
    assert essence(trainings, "v1") == alone
    assert_whole(trainings.store)
    assert trainings.lease.active() is None


def test_a_holder_on_another_machine_is_waited_for(tiny: tuple[str, ...], tmp_path: Path) -> None:
    """Nothing tells here whether it is dead; until when it may hold the training, and how to end that, is told."""
    store = store_in(tmp_path)
    lease = Lease(token=4, holder=ELSEWHERE, expires_at=store.now() + timedelta(hours=1))
    store.create(keys.lease("tiny"), lease.dump())
    done = fededge(tmp_path, "run", *tiny, "--rounds", "1")
    until = f"{lease.expires_at:%Y-%m-%d %H:%M:%S} UTC"
    _assert_refused(done, ELSEWHERE, until, "`fededge rounds release tiny`")
    assert store.keys("") == [keys.lease("tiny")]
    assert store.get(keys.lease("tiny")).data == lease.dump()
    done = fededge(tmp_path, "rounds", "release", "tiny", "--yes")
    assert done.code == 0, done.err
    assert _trainings(tmp_path).lease.active() is None


def test_a_run_that_wakes_after_another_took_over_publishes_nothing(
    tiny: tuple[str, ...], tiny_package: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    """It was about to move the pointer."""
    wanted = environment("tensorflow", [str(tiny_package)])
    make(wanted, print)
    store, trainings = store_in(tmp_path), _trainings(tmp_path)
    variables = wanted.variables(link_library(tmp_path))
    settings = RoundSettings(workload="tiny:workload", clients=4, clients_per_pod=2, server_momentum=0.5, **SHORT)
    line = [store.url, settings.model_dump(mode="json"), ELSEWHERE, ["versions/v1.json", "current.json"]]
    options = [text for name, value in SHORT.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    with start("rounds", python=str(wanted.python), variables=variables) as sleeper:
        try:
            assert sleeper.stdin is not None
            sleeper.stdin.write(json.dumps(line) + "\n")
            sleeper.stdin.flush()
            await_stop(sleeper.pid)
            _await(lambda: trainings.lease.active() is None)
            done = fededge(tmp_path, "run", *tiny, "--rounds", "1", *options)
            assert done.code == 0, done.err
            before = {key: store.get(key).data for key in store.keys("trainings/")}
            sleeper.send_signal(signal.SIGCONT)
            ended = json.loads(sleeper.communicate(timeout=TOO_LONG)[0])
        finally:
            sleeper.kill()
    assert ended["code"] == LeaseError.exit_code, ended
    assert ended["said"].count("\n") == 1
    assert "taken over" in ended["said"]
    assert {key: store.get(key).data for key in store.keys("trainings/")} == before
    assert trainings.head().pointer.version == "v1"
    assert trainings.version().model == alone["manifest"]["model"]
    assert_whole(store)


def _assert_refused(done: Outcome, *words: str) -> None:
    assert done.code == LeaseError.exit_code, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.err.splitlines()[-1] == line
    for word in words:
        assert word in line


def _ended(run: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = run.communicate(timeout=TOO_LONG)
    return run.returncode, out, err


def _trainings(folder: Path) -> TrainingStore:
    return TrainingStore(store_in(folder), "tiny")


def _await(until: Callable[[], bool]) -> None:
    end = time.monotonic() + TOO_LONG
    while not until():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
