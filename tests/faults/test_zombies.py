"""A run that sleeps while its lease ends, and wakes when another has finished its round: it publishes nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from fededge.errors import LeaseError
from fededge.store import Store
from fededge.store.folder import FolderStore
from fededge.store.trainings import TrainingStore
from tests.faults.pipeline_run import NAME, PipelineRun
from tests.faults.processes import TOO_LONG, await_stop, start
from tests.faults.rounds import assert_whole, settings

SETTINGS = settings(server_momentum=0.9, deadline_s=2, finish_s=1)


@pytest.fixture(scope="module")
def sleeper() -> Iterator[subprocess.Popen[str]]:
    """One process for all: what takes its time is to import TensorFlow."""
    with start("rounds") as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    PipelineRun(str(folder / "store"), folder, SETTINGS.model_copy(update={"deadline_s": 60})).go()
    return TrainingStore(FolderStore(folder / "store"), NAME).version().model


@pytest.mark.parametrize(
    "writes",
    [
        ["updates/p7.json"],
        ["closing.json"],
        ["aggregate.json"],
        ["versions/v1.json"],
        ["versions/v1.json", "current.json"],
    ],
    ids=lambda writes: writes[-1],
)
def test_a_run_that_was_taken_over_publishes_nothing(
    store: Store, tmp_path: Path, sleeper: subprocess.Popen[str], expected: str, writes: list[str]
) -> None:
    trainings = TrainingStore(store, NAME)
    _run_until(sleeper, store, writes)
    _await_end_of_lease(trainings)
    assert PipelineRun(store.url, tmp_path / "out", SETTINGS, "the next").go() == "v1"
    before = {key: store.get(key).data for key in store.keys("trainings/")}
    sleeper.send_signal(signal.SIGCONT)
    ended = json.loads(_stream(sleeper.stdout).readline())
    assert ended["code"] == LeaseError.exit_code, ended
    assert ended["said"].count("\n") == 1
    assert "taken over" in ended["said"] or "stale" in ended["said"]
    assert {key: store.get(key).data for key in store.keys("trainings/")} == before
    assert trainings.version().model == expected
    assert_whole(store)


def _run_until(sleeper: subprocess.Popen[str], store: Store, writes: list[str]) -> None:
    """Have a run go on until it comes to the last of these writes, and stop there."""
    stdin = _stream(sleeper.stdin)
    stdin.write(json.dumps([store.url, SETTINGS.model_dump(mode="json"), "the sleeper", writes]) + "\n")
    stdin.flush()
    await_stop(sleeper.pid)


def _await_end_of_lease(trainings: TrainingStore) -> None:
    end = time.monotonic() + TOO_LONG
    while lease := trainings.lease.active():
        assert lease.holder == "the sleeper"
        assert time.monotonic() < end
        time.sleep(0.05)


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
