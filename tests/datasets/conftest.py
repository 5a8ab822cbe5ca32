from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.datasets.server import Server, serving


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of files, without a proxy before it, and quick to be asked again."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("fededge.datasets.download._PAUSE", 0.01)
    with serving() as server:
        yield server
