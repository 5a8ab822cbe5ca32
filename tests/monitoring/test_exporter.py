"""`fededge metrics`, and the exporter, which reads the store at each scrape."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fededge.monitoring import exporter
from fededge.store import Store, keys
from fededge.store.folder import FolderStore
from tests.cli.command import Command
from tests.conftest import REPOSITORY
from tests.monitoring.programs import free_port, promtool, read
from tests.trainings import begin_training, publish_round

EXPORTER = ("fededge.monitoring.exporter",)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


def test_the_command_prints_what_prometheus_reads(store: Store, command: Command) -> None:
    publish_round(begin_training(store, "digits"))
    begin_training(store, "other")
    shown = command.works("metrics", "digits", "--store", store.url)
    assert promtool("check", "metrics", given=shown) == ""
    assert 'fededge_version_number{training="digits",workload="digits"} 1.0\n' in shown
    assert 'training="other"' not in shown
    assert 'fededge_version_number{training="other",workload="digits"} 0.0\n' in command.works(
        "metrics", "--store", store.url
    )


def test_json_has_the_same(store: Store, command: Command) -> None:
    publish_round(begin_training(store, "digits"))
    found = json.loads(command.works("metrics", "digits", "--json", "--store", store.url))
    common = {"training": "digits", "workload": "digits"}
    assert {"name": "fededge_version_number", "labels": common, "value": 1} in found


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nobody"], 4, "no training nobody"),
        (["--serve", "9100"], 0, ""),
        (["--serve", ":none"], 2, "':none' is no address to listen on"),
        (["--serve", ":0"], 2, "':0' is no address to listen on"),
        (["--serve", ":70000"], 2, "':70000' is no address to listen on"),
        (["nobody", "--serve", ":9100"], 4, "no training nobody"),
    ],
)
def test_what_is_asked_wrongly_is_a_line(
    store: Store, command: Command, arguments: list[str], code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fededge.cli.metrics.serve", lambda *_: None)
    begin_training(store, "digits")
    if code:
        assert words in command.fails(code, "metrics", *arguments, "--store", store.url)
    else:
        command.works("metrics", *arguments, "--store", store.url)


def test_a_taken_port_is_a_line(store: Store, command: Command) -> None:
    begin_training(store, "digits")
    with _serving(store.url, "-m", *EXPORTER) as (_, address):
        line = command.fails(2, "metrics", "--serve", address, "--store", store.url)
    assert line == f"error: cannot listen on {address}: Address already in use; choose another port"


@contextlib.contextmanager
def _serving(store: str, *program: str, log: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a program that serves metrics, on the address given after it, and yield the address too."""
    address = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "FEDEDGE_STORE": store, "FEDEDGE_LOG": log, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, *program, address], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        _wait(process, address)
        yield process, address
    finally:
        process.kill()
        process.communicate()


def _wait(process: subprocess.Popen[str], address: str) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError):
            read(f"http://{address}")
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    raise AssertionError("it does not answer")


def _value(shown: str, name: str) -> list[str]:
    return [line.rpartition(" ")[2] for line in shown.splitlines() if line.startswith(name)]


@pytest.mark.parametrize(
    ("program", "number", "code"),
    [
        (("-m", *EXPORTER), signal.SIGTERM, 143),
        (("-m", "fededge", "metrics", "--serve"), signal.SIGINT, 130),
    ],
)
def test_each_scrape_reads_the_store_anew(
    store: Store, program: Sequence[str], number: signal.Signals, code: int
) -> None:
    trainings = begin_training(store, "digits")
    with _serving(store.url, *program) as (process, address):
        assert _value(read(f"http://{address}"), "fededge_version_number") == ["0.0"]
        publish_round(trainings)
        shown = read(f"http://{address}")
        assert _value(shown, "fededge_version_number") == ["1.0"]
        assert _value(shown, "fededge_store_up") == ["1.0"]
        assert promtool("check", "metrics", given=shown) == ""
        process.send_signal(number)
        _, error = process.communicate(timeout=20)
    assert process.returncode == code, error
    assert "Traceback" not in error


def test_the_whole_store_is_listed_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, listed = FolderStore(tmp_path), list[str]()
    monkeypatch.setattr(store, "entries", lambda prefix: listed.append(prefix) or FolderStore.entries(store, prefix))
    monkeypatch.setattr(exporter.time, "monotonic", lambda: clock)
    shown = exporter._Trainings(store, [])

    def numbers() -> list[float]:
        found = {metric.name: metric for metric in shown.collect()}
        return [sample.value for sample in found["fededge_version_number"].samples]

    clock = 1e6
    first = begin_training(store, "digits")
    assert numbers() == [0]
    publish_round(first)
    begin_training(store, "other")
    assert numbers() == [1]
    assert listed.count(keys.TRAININGS) == 1
    clock += exporter._KNOWN_SECONDS
    assert numbers() == [1, 0]


def test_a_store_that_cannot_be_read_is_a_metric_and_a_line(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    begin_training(store, "digits")
    begin_training(store, "sound")
    begin_training(store, "cut-short")
    store.delete(keys.pointer("cut-short"))  # and nothing is wrong with that
    with _serving(str(tmp_path / "store"), "-m", *EXPORTER, log="json") as (process, address):
        assert _value(read(f"http://{address}"), "fededge_store_up") == ["1.0"]
        (tmp_path / "store" / "trainings" / "digits" / "current.json").write_text("{")
        shown = read(f"http://{address}")
        process.terminate()
        out, error = process.communicate(timeout=20)
    assert _value(shown, "fededge_store_up") == ["0.0"]
    assert re.findall(r'fededge_version_number{training="([a-z-]+)"', shown) == ["sound"]
    line = json.loads(out.splitlines()[-1])
    assert (line["level"], line["step"]) == ("warning", "metrics")
    assert "is no FedEdge document" in line["message"]
    assert error == ""
