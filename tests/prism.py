"""Prism, which holds what a client and a server say to each other against the server's published Swagger.

    with prism_proxy(contracts / "harbor" / "swagger.yaml", fake.url) as url: …   # both sides are checked
    with prism_mock(contracts / "harbor" / "swagger.yaml") as url: …              # answers are examples of the Swagger

Paths are served without the Swagger's basePath. A request that breaks it gets 422 (or 400) with the reason in the
header `sl-violations`; behind `prism_proxy` an answer that breaks it becomes a 500 that says so.

Needs Node.js with npm, which installs Prism once into FEDEDGE_TEST_PRISM_DIR, by default ~/.cache/fededge/prism. Tests
are skipped where that cannot be; FEDEDGE_REQUIRE_PRISM=1 makes it an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

VERSION = "5.14.2"
PACKAGE = f"@stoplight/prism-cli@{VERSION}"
START_SECONDS = 60  # two, on a machine with nothing else to do
INSTALL_SECONDS = 300

_LISTENS = re.compile(r"Prism is listening on (http://127\.0\.0\.1:\d+)")


@contextlib.contextmanager
def prism_proxy(swagger: Path, upstream: str) -> Iterator[str]:
    """Yield the URL of a proxy that refuses requests and answers which are not as the Swagger says.

    Args:
      swagger: of the server.
      upstream: URL of what answers, a fake or a real server; its paths are without the Swagger's basePath.
    """
    with _running("proxy", "--errors", str(swagger), upstream) as url:
        yield url


@contextlib.contextmanager
def prism_mock(swagger: Path) -> Iterator[str]:
    """Yield the URL of a server that answers with what the Swagger has as examples, or could."""
    with _running("mock", str(swagger)) as url:
        yield url


@contextlib.contextmanager
def _running(*arguments: str) -> Iterator[str]:
    command = ["node", str(_program()), arguments[0], "--host", "127.0.0.1", "--port", "0", *arguments[1:]]
    # A file, not a pipe: it writes a line for each request, and nobody would read them.
    with tempfile.NamedTemporaryFile(prefix="prism-", suffix=".log") as log:
        environment = {name: value for name, value in os.environ.items() if name.lower() != "http_proxy"}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            yield _address(process, Path(log.name))
        finally:
            process.kill()  # it has no state to save
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while not (match := _LISTENS.search(log.read_text())):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"Prism does not start: {log.read_text()[-2000:]}")
        time.sleep(0.1)
    return match[1]


def _program() -> Path:
    """Return Prism's program, installed; skip the test where it cannot be."""
    folder = Path(os.environ.get("FEDEDGE_TEST_PRISM_DIR") or Path.home() / ".cache" / "fededge" / "prism") / VERSION
    if reason := _lacking(folder):
        if os.environ.get("FEDEDGE_REQUIRE_PRISM") == "1":
            pytest.fail(f"FEDEDGE_REQUIRE_PRISM=1, but {reason}")
        pytest.skip(f"Prism: {reason}")
    return folder / "node_modules" / "@stoplight" / "prism-cli" / "dist" / "index.js"


@functools.cache
def _lacking(folder: Path) -> str | None:
    """Install Prism into a folder that has none, and say why not if it cannot be."""
    if absent := [name for name in ("node", "npm") if not shutil.which(name)]:
        return f"not installed: {' and '.join(absent)}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return None if (folder / "complete").exists() else _install(folder)


def _install(folder: Path) -> str | None:
    command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"npm did not install {PACKAGE} in {INSTALL_SECONDS} s"
    if done.returncode != 0:
        return f"npm cannot install {PACKAGE}: {done.stderr.strip()[-300:]}"
    (folder / "complete").touch()
    return None
