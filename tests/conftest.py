"""Shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from fededge.store import Store
from fededge.store.folder import FolderStore


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in a folder, empty."""
    return FolderStore(tmp_path / "store")
