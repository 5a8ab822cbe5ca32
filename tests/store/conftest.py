from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from fededge.store import Store, open_store
from tests.store.line import Line

if TYPE_CHECKING:
    from tests.store.ceph import S3Server


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture(
    params=["folder", pytest.param("s3", marks=pytest.mark.s3), pytest.param("s3_tls", marks=pytest.mark.s3)]
)
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store, of each kind in turn."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def store(url: str) -> Store:
    return open_store(url)


@pytest.fixture
def folder_store(folder: str) -> Store:
    return open_store(folder)


@pytest.fixture
def line(s3: str, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """The way that `s3` is reached by."""
    with contextlib.closing(Line(server.endpoint)) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.endpoint)
        yield line


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds between retries, which are not waited."""
    seconds: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time", SimpleNamespace(sleep=seconds.append))
    return seconds
