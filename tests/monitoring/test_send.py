"""Metrics get to a real Pushgateway, or into a file; and whatever is wrong there, the round is none the worse."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from fededge.monitoring import send
from fededge.store import Store
from tests.monitoring.programs import free_port, promtool, read
from tests.monitoring.rounds import fail_quorum, publish

WARNING = "warning: no metrics of digits were sent (FEDEDGE_PUSHGATEWAY): "


def _published(store: Store, folder: Path) -> bool:
    return publish(store, folder).version().version == "v1"


def test_the_last_step_pushes_a_group_for_the_training(
    store: Store, tmp_path: Path, gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(send.GATEWAY, gateway)
    publish(store, tmp_path)
    publish(store, tmp_path, "other")
    found = read(gateway)
    for name in ("digits", "other"):
        own = f'instance="",job="fededge",training="{name}",workload="digits"'
        assert f"fededge_version_number{{{own}}} 1\n" in found
        assert f'fededge_version_metric{{instance="",job="fededge",metric="accuracy",training="{name}"' in found
    assert "push_failure_time_seconds" in found


def test_a_round_that_fails_replaces_what_was_pushed(
    store: Store, gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(send.GATEWAY, f"{gateway}/")
    fail_quorum(store)
    fail_quorum(store)
    (line,) = [
        line for line in read(gateway).splitlines() if line.startswith("fededge_round_attempts") and '"tiny"' in line
    ]
    assert line.endswith(" 2")


def test_a_file_is_written_whole_for_each_training(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "textfile"
    monkeypatch.setenv(send.TEXTFILE, str(folder))
    publish(store, tmp_path)
    fail_quorum(store)
    assert sorted(path.name for path in folder.iterdir()) == ["fededge-digits.prom", "fededge-tiny.prom"]
    assert promtool("check", "metrics", given=(folder / "fededge-tiny.prom").read_text()) == ""
    assert "fededge_round_succeeded" in (folder / "fededge-digits.prom").read_text()


def test_nothing_is_said_where_nothing_is_set(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(send.GATEWAY, "")
    monkeypatch.delenv(send.TEXTFILE, raising=False)
    assert _published(store, tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://127.0.0.1:{port}", "Connection refused"),
        ("http://me:secret@gateway:9091", "cannot hold a password"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://127.0.0.1:many", "nonnumeric port"),
    ],
)
def test_a_gateway_that_is_not_there_is_a_warning(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    target: str,
    why: str,
) -> None:
    monkeypatch.setenv(send.GATEWAY, target.format(port=free_port()))
    assert _published(store, tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(WARNING)
    assert why in line
    assert "secret" not in line


def test_a_gateway_that_does_not_answer_is_given_up(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(send, "_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv(send.GATEWAY, f"127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        assert _published(store, tmp_path)
    assert time.monotonic() - begun < 3
    assert capsys.readouterr().err == f"{WARNING}timed out\n"


def test_a_gateway_that_refuses_is_a_warning(
    store: Store, tmp_path: Path, gateway: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(send.GATEWAY, f"{gateway}/nowhere")
    assert _published(store, tmp_path)
    assert capsys.readouterr().err == f"{WARNING}HTTP Error 404: Not Found\n"


def test_an_image_without_the_library_is_a_warning(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(send.GATEWAY, "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert _published(store, tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(WARNING)
    assert "prometheus_client" in line


def test_a_folder_that_cannot_be_written_is_a_warning(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(send.TEXTFILE, str(tmp_path / "file"))
    assert _published(store, tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: no metrics of digits were sent (FEDEDGE_METRICS_TEXTFILE): ")
    assert os.strerror(17) in line


def test_a_round_that_fails_says_why_first(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(send.GATEWAY, f"http://127.0.0.1:{free_port()}")
    trainings = fail_quorum(store)
    assert trainings.lease.active() is None
    warned, error = capsys.readouterr().err.splitlines()[-2:]
    assert warned.startswith("warning: ")
    assert error.startswith("error: round 1 of tiny failed, v0 stays current: 2 of 8 clients delivered")
