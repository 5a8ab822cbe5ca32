"""What a launcher reads from its own pod."""

from __future__ import annotations

from typing import Any

import pytest

from fededge.cluster.api import Cluster
from fededge.cluster.own_pod import own_pod
from tests.cluster.api_server import ApiServer
from tests.cluster.kubelet import POD

INJECT, NATIVE = "sidecar.istio.io/inject", "sidecar.istio.io/nativeSidecar"
OUT = {"labels": {INJECT: "false"}, "annotations": {}}


@pytest.mark.parametrize(
    ("metadata", "mesh"),
    [
        ({}, OUT),
        ({"labels": {}, "annotations": {INJECT: "false"}}, OUT),
        ({"labels": {INJECT: "false"}, "annotations": {NATIVE: "true"}}, OUT),
        ({"labels": {INJECT: "true"}}, {"labels": {INJECT: "true"}, "annotations": {}}),
        (
            {"labels": {INJECT: "true"}, "annotations": {NATIVE: "true", INJECT: "false"}},
            {"labels": {INJECT: "true"}, "annotations": {NATIVE: "true"}},
        ),
    ],
)
def test_jobs_are_in_a_mesh_only_if_their_launcher_is(
    cluster: Cluster,
    api_server: ApiServer,
    monkeypatch: pytest.MonkeyPatch,
    metadata: dict[str, Any],
    mesh: dict[str, Any],
) -> None:
    """A namespace that puts every pod into the mesh would put them there too, where the policies cut them off."""
    monkeypatch.setenv("FEDEDGE_POD", "launcher")
    api_server.put({**POD, "metadata": {"name": "launcher", **metadata}})
    assert own_pod(cluster).mesh == mesh
