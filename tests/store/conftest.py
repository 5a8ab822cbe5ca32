from __future__ import annotations

from pathlib import Path

import pytest

from fededge.store import Store, open_store


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
