"""Starts the real Prometheus and Pushgateway, of Debian's packages `prometheus` and `prometheus-pushgateway`.

FEDEDGE_REQUIRE_PROMETHEUS=1 makes it an error that this machine lacks them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

_SECONDS = 30.0


def require(program: str) -> str:
    """Find a program, or skip the test."""
    found = shutil.which(program)
    if found is None:
        reason = f"{program} is not installed"
        if os.environ.get("FEDEDGE_REQUIRE_PROMETHEUS") == "1":
            pytest.fail(f"FEDEDGE_REQUIRE_PROMETHEUS=1, but {reason}")
        pytest.skip(reason)
    return found


def promtool(*arguments: str, given: str = "") -> str:
    """Run promtool and return what it says."""
    command = [require("promtool"), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def pushgateway() -> Iterator[str]:
    """Start a Pushgateway and yield its URL."""
    with _started("prometheus-pushgateway", []) as url:
        yield url


@contextlib.contextmanager
def prometheus(folder: Path, target: str, rules: dict[str, Any]) -> Iterator[str]:
    """Start a Prometheus that reads one target each second, and yield its URL."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    scrape = {
        "job_name": "any",
        "honor_labels": True,
        "static_configs": [{"targets": [target.removeprefix("http://")]}],
    }
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config = {"global": every, "rule_files": ["rules.yaml"], "scrape_configs": [scrape]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    options = [f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with _started("prometheus", options) as url:
        yield url


def ask(url: str, query: str) -> list[dict[str, Any]]:
    """Ask Prometheus for the present values of an expression."""
    with urlopen(f"{url}/api/v1/query?{urlencode({'query': query})}") as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result


def read(url: str) -> str:
    with urlopen(f"{url}/metrics") as answer:
        text: bytes = answer.read()
        return text.decode()


@contextlib.contextmanager
def _started(program: str, options: Sequence[str]) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    command = [require(program), f"--web.listen-address={address}", "--log.level=error", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait(process, f"http://{address}")
        yield f"http://{address}"
    finally:
        process.kill()
        process.communicate()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + _SECONDS
    while True:
        try:
            with urlopen(f"{url}/-/ready"):
                return
        except OSError:
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < until, "it does not get ready"
            time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
