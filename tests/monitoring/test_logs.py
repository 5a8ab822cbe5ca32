"""With FEDEDGE_LOG=json all that a step prints is one JSON object a line, which says what it is about."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fededge.monitoring import logs
from fededge.steps.batch_of_job import train_batch
from fededge.steps.evaluate_model import evaluate_model
from fededge.store import Store
from fededge.store.leases import HOLDER
from tests.conftest import REPOSITORY
from tests.monitoring.rounds import fail_quorum
from tests.serving.conftest import serving
from tests.serving.trained import NAME
from tests.steps import round as a_round

Line = dict[str, Any]
NOISY = {"workload": "tests.monitoring.noisy:workload", "clients": 2, "clients_per_pod": 2}


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.VARIABLE, "json")
    monkeypatch.setenv(HOLDER, "run 7e4a")


def _lines(capsys: pytest.CaptureFixture[str]) -> list[Line]:
    """Return all lines; there is nothing else on either stream."""
    out, error = capsys.readouterr()
    assert error == ""
    return [json.loads(line) for line in out.splitlines()]


def test_each_line_says_what_it_is_about(store: Store, as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    before = datetime.now(UTC)
    a_round.train(store, a_round.distribute(store, **NOISY))
    lines = _lines(capsys)
    assert all(before.timestamp() - 1 < datetime.fromisoformat(line["time"]).timestamp() for line in lines)
    assert all(line["time"].endswith("Z") for line in lines)
    opened = next(index for index, line in enumerate(lines) if line.get("kind") == "opened")
    about = {(line["run"], line["training"], line["round"], line["attempt"]) for line in lines[opened:]}
    assert about == {("run 7e4a", "tiny", 1, 1)}
    assert {line["step"] for line in lines} == {"distribute", "train"}
    assert {(line["run"], line["training"]) for line in lines} == {("run 7e4a", "tiny")}
    assert all({"time", "level", "message", "step"} <= line.keys() for line in lines)


def test_what_a_client_prints_is_its_own(store: Store, as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    distributed = a_round.distribute(store, **NOISY)
    capsys.readouterr()
    a_round.train(store, distributed)
    lines = _lines(capsys)
    told = [(line["level"], line["message"]) for line in lines if line.get("client") == "p0" and "kind" not in line]
    assert told == [
        ("info", "reading p0 …"),
        ("info", "50 %"),
        ("info", "100 %"),
        ("warning", "drift of 3"),
        ("warning", "half a line"),  # and its end is the client's
    ]
    assert next(line for line in lines if line["message"] == "drift of 3")["logger"] == "sensor"


def test_a_client_that_fails_is_a_line_with_its_traceback_and_one_with_the_reason(
    store: Store, as_json: None, capsys: pytest.CaptureFixture[str]
) -> None:
    distributed = a_round.distribute(store, **NOISY)
    capsys.readouterr()
    a_round.train(store, distributed)
    where, why = [line for line in _lines(capsys) if line.get("client") == "p7" and "sensor" in line["message"]]
    assert where["level"] == "error"
    assert where["traceback"].startswith("Traceback (most recent call last):")
    assert (why["level"], why["reason"]) == ("warning", "TRAINING_FAILED")
    assert why["message"] == "TRAINING_FAILED: RuntimeError: no such sensor"


def test_a_round_that_fails_is_one_line(store: Store, as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    fail_quorum(store)
    (line,) = [line for line in _lines(capsys) if line["level"] == "error" and line["step"] == "aggregate"]
    assert line["message"].startswith("round 1 of tiny failed, v0 stays current: 2 of 8 clients delivered")
    assert (line["reason"], line["exit_code"], line["round"], line["attempt"]) == ("QuorumError", 5, 1, 1)
    assert line["run"] == "run 7e4a"


def test_refused_clients_are_named_with_their_reason(
    store: Store, as_json: None, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_quorum(store)
    refused = {
        line["client"]: line["reason"]
        for line in _lines(capsys)
        if line["step"] == "aggregate" and line.get("kind") == "client"
    }
    assert refused == {"p7": "NON_FINITE", "p14": "WRONG_TENSORS", "p21": "WRONG_TENSORS", "p28": "BAD_COUNT"}


def test_an_error_before_the_work_is_known_is_one_line(
    store: Store, as_json: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        evaluate_model(store.url, "nonsense", "", "")
    (line,) = [line for line in _lines(capsys) if line["level"] == "error"]
    assert end.value.code == line["exit_code"] == 2
    assert line["reason"] == "InputError"
    assert "looks like digits/v4/1/7" in line["message"]


@pytest.mark.parametrize("index", [0, 9])
def test_a_pod_of_a_job_says_from_the_first_line_what_it_is_about(
    store: Store, as_json: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    attempt = a_round.distribute(store, **NOISY).attempt
    monkeypatch.delenv(HOLDER)
    monkeypatch.setenv("FEDEDGE_RUN", "7e4a")  # as Kubeflow's label says
    capsys.readouterr()
    with contextlib.nullcontext() if index == 0 else pytest.raises(SystemExit):
        train_batch(store.url, attempt, "0", index)
    lines = _lines(capsys)
    assert {(line["run"], line["training"], line["round"]) for line in lines} == {("run 7e4a", "tiny", 1)}


def test_a_server_too_writes_lines(as_json: None, tmp_path: Path) -> None:
    with serving("serving", tmp_path, "--store", str(tmp_path / "store")) as server:
        code = server.process.wait(60)
        lines = [json.loads(line) for line in server.log.splitlines()]
    assert {(line["step"], line["training"]) for line in lines} == {("serve", NAME)}
    assert {"mlserver.rest", "uvicorn.error"} <= {line.get("logger") for line in lines}
    (error,) = [line for line in lines if line["level"] == "error"]
    assert (error["exit_code"], error["reason"]) == (code, "NotFoundError")
    assert f"no trainings/{NAME}/current.json" in error["message"]


def test_a_warning_is_a_line_too(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    logs.warn("no metrics")
    (line,) = _lines(capsys)
    assert (line["level"], line["message"]) == ("warning", "no metrics")


PROGRAM = """
import sys
from tests.steps import round as a_round
from fededge.store.folder import FolderStore
from pathlib import Path
a_round.distribute(FolderStore(Path(sys.argv[1])), workload="tests.monitoring.noisy:broken")
"""


@pytest.mark.parametrize("log", ["json", ""])
def test_an_error_of_the_users_own_code_is_one_line_in_a_process_too(store: Store, log: str) -> None:
    environment = {**os.environ, logs.VARIABLE: log, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", PROGRAM, store.url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    if not log:
        assert "Traceback" in done.stderr
        return
    assert done.stderr == ""
    (line,) = [line for line in map(json.loads, done.stdout.splitlines()) if line["level"] == "error"]
    assert line["message"] == "distribute failed: RuntimeError: the directory service is down"
    assert line["reason"] == "RuntimeError"
    assert "the directory service is down" in line["traceback"]


def test_for_people_nothing_changes(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    a_round.train(store, a_round.distribute(store, **NOISY))
    out, error = capsys.readouterr()
    assert "reading p0 …\n50 %\r100 %\n" in out
    assert "half a line" in error
    assert sum(line.startswith('{"time":') for line in out.splitlines()) == 7  # the events
