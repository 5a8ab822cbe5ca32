from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from fededge.store import Store, open_store
from tests.frameworks import HAVE_TENSORFLOW
from tests.store.line import Line

if TYPE_CHECKING:
    from tests.store.ceph import S3Server
    from tests.store.owner import Owner

collect_ignore = [] if HAVE_TENSORFLOW else ["test_s3_rounds.py"]


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
def each_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for the number of its process gets another one, as when each is a command of its own."""
    numbers = itertools.count(1000)
    monkeypatch.setattr("os.getpid", lambda: next(numbers))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds between retries, which are not waited."""
    seconds: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time", SimpleNamespace(sleep=seconds.append))
    return seconds


@pytest.fixture
def owner(server: S3Server, line: Line, monkeypatch: pytest.MonkeyPatch) -> Owner:
    """A user with a bucket, whose credentials `open_store` finds, over the line."""
    from tests.store.owner import UTCNOW, Owner

    owner = Owner.new(server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", owner.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", owner.secret_key)
    monkeypatch.setattr("minio.time.utcnow", UTCNOW)  # puts back what a trouble sets
    return owner


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process has written is in the system's memory: syncing would prove nothing, and take long."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
