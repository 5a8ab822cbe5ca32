"""The step that plans a round asks the cluster for devices, as a pod does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fededge.core.updates import ExclusionReason
from fededge.errors import ClusterError, SetupError
from fededge.records import Attempt, Failed
from fededge.store import Store
from tests.cluster.api_server import ApiServer
from tests.cluster.made import device, fill, node, pod
from tests.steps import round as a_round


@pytest.fixture
def edge(api_server: ApiServer, kubeconfig: Path) -> ApiServer:
    """Of the clients p0, p7, p14 and p21, two live on nodes."""
    api_server.put(device("edge-1", "p7"))
    api_server.put(device("edge-2", "p21", "of-another-workload"))
    api_server.put(node("server"))
    return api_server


def attempt(store: Store) -> Attempt:
    return a_round.trainings(store).attempt(a_round.trainings(store).attempts("v1")[-1])


def test_plans_by_the_nodes(store: Store, edge: ApiServer) -> None:
    plan = a_round.distribute(store, devices="nodes").plan
    assert attempt(store).batches == {"b000": ["p0", "p14"], "b001": ["p21"], "b002": ["p7"]}
    assert [entry["data_claim"] for entry in plan] == ["fededge-data", "data-edge-2", "data-edge-1"]
    assert {name: (home.device, home.node) for name, home in attempt(store).devices.items()} == {
        "b001": ("edge-2", "edge-2"),
        "b002": ("edge-1", "edge-1"),
    }


def test_leaves_out_whom_the_nodes_have_no_room_for(store: Store, edge: ApiServer) -> None:
    edge.put(pod("p", "edge-1", {"cpu": "3600m"}))
    edge.patch("nodes", "edge-2", {"spec": {"unschedulable": True}})
    a_round.distribute(store, devices="nodes")
    assert {one.client: one.detail[:40] for one in attempt(store).left_out} == {
        "p21": "device edge-2 is cordoned: `kubectl unco",
        "p7": "device edge-1 has no room: 0.4 CPUs are ",
    }


def test_leaves_out_whom_the_image_is_not_for(store: Store, edge: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    edge.put(device("edge-1", "p7", architecture="arm64"))
    a_round.distribute(store, devices="nodes")
    (left_out,) = attempt(store).left_out
    assert (left_out.client, left_out.reason) == ("p7", ExclusionReason.DEVICE_UNAVAILABLE)
    assert left_out.detail.startswith("device edge-1 is arm64, and the clients' image is for amd64: ")
    assert attempt(store).batches == {"b000": ["p0", "p14"], "b001": ["p21"]}
    monkeypatch.setenv("FEDEDGE_ARCHITECTURES", "amd64,arm64")
    trainings = a_round.trainings(store)
    trainings.fail_attempt(attempt(store).ref, Failed(reason="for the test"))
    a_round.distribute(store, devices="nodes")
    assert attempt(store).left_out == []


def test_plans_by_a_config_map(store: Store, edge: ApiServer) -> None:
    text = "- {name: gateway, clients: [p0, p14], claim: data-of-gateway}"
    edge.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ours"}, "data": {"devices.yaml": text}})
    assert a_round.distribute(store, devices="configmap:ours").plan[0]["data_claim"] == "data-of-gateway"


def test_bears_an_api_server_that_is_away_for_a_moment(
    store: Store, edge: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    edge.go_away(1)
    a_round.distribute(store, devices="nodes")
    assert len(attempt(store).devices) == 2
    assert "does not answer" in capsys.readouterr().err


def test_goes_on_without_knowing_what_is_free(
    store: Store, edge: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    edge.put(pod("p", "edge-1", {"cpu": "4"}))
    edge.forbid("list", "pods")
    a_round.distribute(store, devices="nodes")
    assert attempt(store).left_out == []
    assert "warning: what is free on the nodes is not known" in capsys.readouterr().err


def test_without_the_right_nothing_is_begun(store: Store, edge: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    edge.forbid("list", "nodes")
    with a_round.refused(
        capsys, ClusterError.exit_code, "list nodes at the cluster scope", "manifests/components/devices"
    ):
        a_round.distribute(store, devices="nodes")
    assert not Path(store.url).exists()


def test_without_a_cluster_nothing_is_begun(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with a_round.refused(capsys, SetupError.exit_code, "no cluster"):
        a_round.distribute(store, devices="nodes")
    assert not Path(store.url).exists()


def test_many_devices(store: Store, api_server: ApiServer, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(api_server, nodes=2000, devices=2000, clients=2)
    clients = [f"client-{i:06d}" for i in range(4000)]
    monkeypatch.setattr("tests.steps.tiny.TinyWorkload.population", lambda self, wanted: clients)
    begun = time.process_time()
    plan = a_round.distribute(store, devices="nodes", clients=4000).plan
    assert time.process_time() - begun < 10
    assert len({entry["data_claim"] for entry in plan}) == len(plan) == 2000
