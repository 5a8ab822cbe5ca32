"""`fededge simulate`: the pipeline's versions, made by processes that live on from round to round."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fededge.core.updates import ExclusionReason
from fededge.events import Tail
from fededge.store.trainings import TrainingStore
from tests.faults.rounds import essence
from tests.pipeline.conftest import Outcome, fededge, store_in
from tests.pipeline.test_interrupt import await_no_process

# Each library's workload, and how it is named.
_LINEAR = ("--with", str(Path(__file__).parent / "linear"))
WORKLOADS = {
    "tensorflow": ("--workload", "digits"),
    "torch": ("--workload", "linear:torch", "--library", "torch", *_LINEAR),
    "sklearn": ("--workload", "linear:sklearn", "--library", "sklearn", *_LINEAR),
}
# The server's optimizer has a state, and the learning rate changes: both go from round to round.
SETTINGS = ("same", "--clients", "4", "--local-epochs", "1", "--learning-rate-decay", "0.9", "--server-momentum", "0.5")
_ROUNDS = 3
_TOO_LONG = 120.0


@dataclass(frozen=True)
class Made:
    """What the pipeline has made in a folder, with which arguments."""

    arguments: tuple[str, ...]
    folder: Path


@pytest.fixture(scope="module", params=WORKLOADS)
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    arguments = (*SETTINGS, *WORKLOADS[request.param], "--rounds", str(_ROUNDS))
    made = Made(arguments, tmp_path_factory.mktemp("pipeline"))
    done = fededge(made.folder, "run", *made.arguments, "--clients-per-pod", "4")
    assert done.code == 0, done.err
    return made


def test_versions_are_the_pipelines_bit_for_bit(pipeline: Made, tmp_path: Path) -> None:
    """With other batches, stopped by Ctrl-C in the first round, and gone on with by fewer workers."""
    stopped = _stopped(tmp_path, signal.SIGINT, *pipeline.arguments, "--workers", "2")
    assert stopped.code == 130
    assert "interrupted: nothing of it runs any more" in stopped.err
    assert "Traceback" not in stopped.err
    done = fededge(tmp_path, "simulate", *pipeline.arguments, "--workers", "1", "--json").json
    versions = [f"v{number}" for number in range(1, _ROUNDS + 1)]
    assert [made["version"] for made in done["rounds"]] == versions
    theirs, ours = (TrainingStore(store_in(folder), "same") for folder in (pipeline.folder, tmp_path))
    for version in versions:
        assert _essence(ours, version) == _essence(theirs, version)
    assert f"<td>{_ROUNDS}</td>" in Path(done["learning_curve"]).read_text()
    assert f"Round {_ROUNDS} of same" in Path(done["report"]).read_text()


def test_the_next_run_goes_on_after_sigkill(tiny: tuple[str, ...], tmp_path: Path) -> None:
    stopped = _stopped(tmp_path, signal.SIGKILL, *tiny, "--rounds", "50")
    assert stopped.code == -signal.SIGKILL
    trainings = TrainingStore(store_in(tmp_path), "tiny")
    rounds = trainings.version().round
    done = fededge(tmp_path, "simulate", *tiny, "--rounds", "1", "--json")
    assert done.json["version"] == f"v{rounds + 1}"
    assert len(trainings.attempts(f"v{rounds + 1}")) == 1


def test_a_worker_that_is_killed_ends_the_simulation(tiny: tuple[str, ...], tmp_path: Path) -> None:
    """As the kernel does when memory runs out."""
    with _simulating(tmp_path, *tiny, "--rounds", "1000", "--workers", "2") as run:
        _await_client(tmp_path)
        os.kill(_workers(tmp_path)[0], signal.SIGKILL)
        _, said = run.communicate(timeout=_TOO_LONG)
    assert run.returncode == 1
    assert "error: a worker was ended by SIGKILL while it did " in said
    assert "fewer --workers need less; the log is " in said
    assert "simulation.log" in said
    assert "Traceback" not in said
    await_no_process(tmp_path)


def test_a_client_that_fails_is_left_out_and_its_worker_lives_on(tiny_package: Path, tmp_path: Path) -> None:
    done = fededge(
        tmp_path, "simulate", "faulty", "--workload", "tiny:faulty", "--with", str(tiny_package), "--clients", "8",
        "--rounds", "2", "--workers", "1", "--json",
    )  # fmt: skip
    assert [(made["delivered"], made["failed"]) for made in done.json["rounds"]] == [(2, 6), (2, 6)]
    for version in TrainingStore(store_in(tmp_path), "faulty").versions()[1:]:
        assert {excluded.client: excluded.reason for excluded in version.excluded} == {
            "p7": ExclusionReason.NON_FINITE,
            "p14": ExclusionReason.WRONG_TENSORS,
            "p21": ExclusionReason.WRONG_TENSORS,
            "p28": ExclusionReason.BAD_COUNT,
            "p35": ExclusionReason.TRAINING_FAILED,
            "p42": ExclusionReason.NO_DATA,
        }


def _essence(trainings: TrainingStore, version: str) -> dict[str, Any]:
    """Everything of a version but times and how its clients were batched."""
    found = essence(trainings, version)
    assert found["manifest"]["settings"].pop("clients_per_pod")
    return found


def _stopped(folder: Path, number: signal.Signals, *arguments: str) -> Outcome:
    """Simulate until a client has delivered, and see that nothing is left after the signal."""
    with _simulating(folder, *arguments) as run:
        _await_client(folder)
        run.send_signal(number)
        out, err = run.communicate(timeout=_TOO_LONG)
    await_no_process(folder)
    return Outcome(run.returncode, out, err)


def _simulating(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "fededge", "simulate", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _await_client(folder: Path) -> None:
    end = time.monotonic() + _TOO_LONG
    while time.monotonic() < end:
        for path in folder.glob(".fededge/runs/*/events.jsonl"):
            if any(event.kind == "client" for event in Tail(path)):
                return
        time.sleep(0.02)
    raise AssertionError("no client delivered")


def _workers(folder: Path) -> list[int]:
    """Find the processes that do the steps of a simulation in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, place = (process / "cmdline").read_bytes(), (process / "cwd").readlink()
        except OSError:
            continue
        if b"fededge.steps.worker" in words and place == folder:
            found.append(int(process.name))
    return sorted(found)
