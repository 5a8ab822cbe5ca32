from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.monitoring import programs


@pytest.fixture(scope="session")
def gateway() -> Iterator[str]:
    """A real Pushgateway."""
    with programs.pushgateway() as url:
        yield url
