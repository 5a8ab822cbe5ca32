"""Services on a real API server, with the kinds of KServe and Seldon, and a run's own rights; no operator is there."""

from __future__ import annotations

import pytest
import yaml

from fededge.cluster.api import connect
from fededge.errors import ClusterError, RolloutError
from fededge.rollout.kserve import KServe
from fededge.rollout.platform import Platform
from fededge.rollout.rollout import Rollout
from fededge.rollout.seldon import Seldon
from tests.contract.builds import build
from tests.live.conftest import Live, moved
from tests.rollout.test_rollout import NAME, V6


@pytest.mark.parametrize(("platform", "component"), [(KServe(), "kserve"), (Seldon(), "seldon")])
def test_kubernetes_takes_the_service_and_nothing_is_left_of_one_that_never_gets_ready(
    live: Live, platform: Platform, component: str
) -> None:
    told: list[str] = []
    with connect(patience=10) as cluster:
        rollout = Rollout(cluster, platform, NAME, "digits", told.append)
        with pytest.raises(ClusterError, match=f"manifests/components/{component}"):
            rollout.deploy(V6, 10, 5, 0, promote=True)
        documents = [moved(document, live.namespace) for document in build(f"components/{component}")]
        live.kubectl("apply", "--filename", "-", given=yaml.safe_dump_all(documents))
        with pytest.raises(RolloutError, match="not ready"):
            rollout.deploy(V6, 10, 5, 0, promote=True)
    assert live.listed(f"{platform.plural}.{platform.group}") == []
