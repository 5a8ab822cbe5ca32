from __future__ import annotations

from collections.abc import Iterator

import pytest

from fededge.rollout.kserve import KServe
from fededge.rollout.platform import Platform
from fededge.rollout.seldon import Seldon
from tests.cluster.api_server import ApiServer
from tests.rollout.operators import Operator


@pytest.fixture(params=[Seldon, KServe], ids=["seldon", "kserve"])
def platform(request: pytest.FixtureRequest) -> Platform:
    platform: Platform = request.param()
    return platform


@pytest.fixture
def operator(api_server: ApiServer) -> Iterator[Operator]:
    """An operator that makes every version ready."""
    operator = Operator(api_server)
    with operator.running():
        yield operator
