from __future__ import annotations

import subprocess
import sys
import time
from decimal import Decimal
from typing import Any

import pytest

from fededge.cluster.api import PAGE, Cluster
from fededge.cluster.nodes import EDGE, Node, list_nodes, pod_requests
from fededge.errors import ClusterError
from tests.cluster.api_server import ApiServer
from tests.cluster.made import container, fill, node, pod

GIB = 2**30


def one(cluster: Cluster) -> Node:
    (found,) = list_nodes(cluster)
    return found


def test_free_is_what_pods_have_not_requested(api_server: ApiServer, cluster: Cluster) -> None:
    api_server.put(node("a"))
    api_server.put(pod("one", "a", {"cpu": "500m", "memory": "1Gi"}, {"cpu": "1"}))
    api_server.put(pod("two", "a", {"memory": "512Mi"}, namespace="default", phase="Pending"))
    api_server.put(pod("done", "a", {"cpu": "4"}, phase="Succeeded"))
    api_server.put(pod("failed", "a", {"cpu": "4"}, phase="Failed"))
    api_server.put(pod("elsewhere", "b", {"cpu": "4"}))
    free = one(cluster).free
    assert free == (Decimal("2.5"), Decimal("6.5") * GIB, 108)


@pytest.mark.parametrize(
    ("init", "cpu"),
    [
        ([], "1.5"),
        ([container("i", {"cpu": "1"})], "1.5"),  # is over before the others begin
        ([container("i", {"cpu": "2"})], "2"),
        ([container("s", {"cpu": "1"}, restartPolicy="Always")], "2.5"),  # a sidecar goes on beside them
        ([container("s", {"cpu": "1"}, restartPolicy="Always"), container("i", {"cpu": "2"})], "3"),
        ([container("i", {"cpu": "2"}), container("s", {"cpu": "1"}, restartPolicy="Always")], "2.5"),
    ],
)
def test_init_containers_and_sidecars(init: list[dict[str, Any]], cpu: str) -> None:
    spec = pod("p", "a", {"cpu": "1"}, {"cpu": "500m"}, initContainers=init)["spec"]
    assert pod_requests(spec) == (Decimal(cpu), 0, 1)


def test_the_pods_own_requests_and_overhead() -> None:
    spec = pod("p", "a", {"cpu": "1", "memory": "1Gi"}, resources={"requests": {"cpu": "3"}}, overhead={"cpu": "250m"})
    assert pod_requests(spec["spec"]) == (Decimal("3.25"), GIB, 1)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"conditions": {"Ready": "Unknown"}}, "is not Ready: Kubelet stopped posting node status."),
        ({"conditions": {"Ready": "False"}}, "is not Ready: container runtime is down"),
        ({"conditions": {"MemoryPressure": "True", "DiskPressure": "True"}}, "has MemoryPressure, DiskPressure"),
        ({"conditions": {"NetworkUnavailable": "True"}}, "has NetworkUnavailable"),
        ({"unschedulable": True}, "is cordoned: `kubectl uncordon a`"),
        ({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}, "has the taint gpu=yes:NoSchedule,"),
        ({"taints": [{"key": "x", "effect": "NoExecute"}]}, "has the taint x:NoExecute,"),
        ({"taints": [{"key": EDGE, "effect": "NoExecute"}]}, f"has the taint {EDGE}:NoExecute,"),
    ],
)
def test_why_nothing_can_start_on_a_node(
    api_server: ApiServer, cluster: Cluster, changed: dict[str, Any], words: str
) -> None:
    api_server.put(node("a", **changed))
    assert words in one(cluster).why_not


@pytest.mark.parametrize(
    "taint",
    [{"key": EDGE, "effect": "NoSchedule"}, {"key": "slow", "effect": "PreferNoSchedule"}],
)
def test_taints_that_let_pods_in(api_server: ApiServer, cluster: Cluster, taint: dict[str, str]) -> None:
    api_server.put(node("a", taints=[taint]))
    assert one(cluster).why_not == ""


def test_a_node_that_has_never_reported(api_server: ApiServer, cluster: Cluster) -> None:
    api_server.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "new"}})
    found = one(cluster)
    assert (found.why_not, found.free) == ("is not Ready: it has never reported", (0, 0, 0))


@pytest.mark.parametrize(
    ("changed", "system"),
    [
        (
            {"version": "v1.30.7-kubeedge-v1.21.0", "labels": {EDGE: "", "node-role.kubernetes.io/agent": ""}},
            "KubeEdge",
        ),
        ({"labels": {EDGE: ""}}, "KubeEdge"),  # a kubelet whose version does not say so
        ({"labels": {"node-role.kubernetes.io/agent": ""}}, ""),
        ({"version": "v1.31.2+k3s1"}, "K3s"),
        ({"version": "v1.31.2+k3s1", "labels": {EDGE: ""}}, "K3s"),  # an administrator's word for it
        ({"annotations": {"k3s.io/node-args": '["agent"]', "k3s.io/hostname": "a"}}, "K3s"),
        ({"labels": {"node.kubernetes.io/instance-type": "k3s"}}, "K3s"),
        ({"labels": {"node.kubernetes.io/instance-type": "m5.large"}}, ""),
    ],
)
def test_who_runs_a_node(api_server: ApiServer, cluster: Cluster, changed: dict[str, Any], system: str) -> None:
    api_server.put(node("a", architecture="arm64", **changed))
    found = one(cluster)
    assert (found.system, found.architecture) == (system, "arm64")


def test_only_some_nodes(api_server: ApiServer, cluster: Cluster) -> None:
    api_server.put(node("b", labels={"site": "north"}))
    api_server.put(node("a", labels={"site": "north"}))
    api_server.put(node("c"))
    assert [found.name for found in list_nodes(cluster, "site=north")] == ["a", "b"]


def test_no_nodes_ask_for_no_pods(api_server: ApiServer, cluster: Cluster) -> None:
    assert list_nodes(cluster) == []
    assert [asked.resource for asked in api_server.requests] == ["nodes"]


def test_pods_that_may_not_be_listed_leave_what_is_free_unknown(api_server: ApiServer, cluster: Cluster) -> None:
    api_server.put(node("a"))
    api_server.forbid("list", "pods")
    said: list[str] = []
    (found,) = list_nodes(cluster, say=said.append)
    assert (found.free, found.why_not, found.allocatable.cpu) == (None, "", 4)
    assert "what is free on the nodes is not known" in said[0]
    assert "list pods at the cluster scope" in said[0]


def test_nodes_that_may_not_be_listed(api_server: ApiServer, cluster: Cluster) -> None:
    api_server.forbid("list", "nodes")
    with pytest.raises(ClusterError, match=r"list nodes at the cluster scope .*manifests/components/devices grants it"):
        list_nodes(cluster)


def test_ten_thousand_nodes_and_their_pods_page_by_page(api_server: ApiServer, cluster: Cluster) -> None:
    fill(api_server, nodes=10_000, devices=10_000)
    told: list[int] = []
    begun = time.process_time()
    found = list_nodes(cluster, "fededge.io/device", found=told.append)
    assert time.process_time() - begun < 10  # of CPU, with that of the server; some 2 are usual
    assert [len(found), len({one.name for one in found})] == [10_000] * 2
    assert {one.free for one in found} == {(Decimal("2.9"), 8 * GIB - 1024**3 - 64 * 1024**2, 108)}
    assert told[0] == PAGE
    assert told[-1] == 10_000
    assert sum(asked.resource == "nodes" for asked in api_server.requests) == 10_000 / PAGE
    assert sum(asked.resource == "pods" for asked in api_server.requests) == 20_000 / PAGE


def test_a_step_without_devices_loads_no_kubernetes() -> None:
    code = (
        "import sys, fededge.steps.distribute_model, fededge.steps.worker, fededge.cli\n"
        "from fededge.steps.homes import find_homes\n"
        "assert find_homes('', {}, None, []) == ({}, {})\n"
        "print([name for name in ('kubernetes', 'fededge.cluster.nodes') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
