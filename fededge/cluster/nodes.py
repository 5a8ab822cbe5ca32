"""Nodes as the API server tells of them: whether pods can start there, and what is free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from fededge.cluster.api import Cluster, Document
from fededge.core.quantities import quantity
from fededge.errors import ClusterError

EDGE = "node-role.kubernetes.io/edge"  # on KubeEdge's nodes; pods that train tolerate it as a taint
_TOLERATED = ((EDGE, "NoSchedule"),)
_KEEPS_PODS_OUT = ("NoSchedule", "NoExecute")
_TROUBLES = ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")
_UNFINISHED = "status.phase!=Succeeded,status.phase!=Failed"
_K3S = "k3s.io/node-args"  # K3s annotates each of its nodes with how it was started
_FORBIDDEN = 403


class Resources(NamedTuple):
    """An amount of what a node has.

    Attributes:
      cpu: cores.
      memory: bytes.
      pods: how many.
    """

    cpu: Decimal = Decimal(0)
    memory: Decimal = Decimal(0)
    pods: Decimal = Decimal(0)

    def plus(self, other: Resources) -> Resources:
        return Resources(self.cpu + other.cpu, self.memory + other.memory, self.pods + other.pods)

    def minus(self, other: Resources) -> Resources:
        return Resources(self.cpu - other.cpu, self.memory - other.memory, self.pods - other.pods)

    def or_more(self, other: Resources) -> Resources:
        return Resources(*map(max, self, other))


class Node(NamedTuple):
    """What matters of a node.

    Attributes:
      name: its own.
      labels: also KubeEdge's and K3s's own.
      annotations: of FedEdge alone; others are long.
      taints: as kubectl takes them, gpu=yes:NoSchedule.
      conditions: the status of each, by its type: True, False or Unknown.
      architecture: such as amd64, arm64.
      system: KubeEdge or K3s, if one of them runs it.
      allocatable: what pods may request in all.
      free: what no pod has requested; None where pods may not be listed.
      why_not: why no pod of ours can start there; empty if it can.
    """

    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    taints: tuple[str, ...]
    conditions: Mapping[str, str]
    architecture: str
    system: str
    allocatable: Resources
    free: Resources | None
    why_not: str


def list_nodes(
    cluster: Cluster,
    selector: str = "",
    say: Callable[[str], None] = lambda _: None,
    found: Callable[[int], None] = lambda _: None,
) -> list[Node]:
    """List nodes with what is free on them, in the order of their names.

    Asks for the nodes and for the pods of the whole cluster, each page by page.

    Args:
      cluster: to ask.
      selector: of labels; empty for all.
      say: gets a line if it may not list the pods: what is free is then unknown.
      found: is told how many nodes there are so far.

    Raises:
      ClusterError: refused, or no answer.
    """
    nodes = cluster.read_all(
        cluster.core.list_node, resource="nodes", read=_read_node, found=found, label_selector=selector
    )
    requested = _requested(cluster, {node.name for node in nodes}, say) if nodes else {}
    if requested is not None:
        none = Resources()
        nodes = [node._replace(free=node.allocatable.minus(requested.get(node.name, none))) for node in nodes]
    return sorted(nodes, key=lambda node: node.name)


def count_nodes(cluster: Cluster) -> int:
    """Count the nodes on which pods of ours can start, be there room or not.

    Raises:
      ClusterError: refused, or no answer.
    """
    return sum(cluster.read_all(cluster.core.list_node, resource="nodes", read=lambda node: not _why_not(node)))


def pod_requests(spec: Document) -> Resources:
    """Add up what a pod reserves on its node.

    Containers and sidecars run together; before them run the init containers, one after the other, each beside the
    sidecars that are before it.
    """
    running, peak = Resources(), Resources()
    for container in spec.get("initContainers") or []:
        needs = _of_container(container)
        if container.get("restartPolicy") == "Always":
            running = running.plus(needs)
            peak = peak.or_more(running)
        else:
            peak = peak.or_more(running.plus(needs))
    for container in spec.get("containers") or []:
        running = running.plus(_of_container(container))
    total = _of_pod(spec, running.or_more(peak))
    return total.plus(_resources(spec.get("overhead") or {}))._replace(pods=Decimal(1))


def _of_container(container: Document) -> Resources:
    return _resources((container.get("resources") or {}).get("requests") or {})


def _of_pod(spec: Document, of_containers: Resources) -> Resources:
    """Take what is requested for the pod as a whole, where it is."""
    whole = (spec.get("resources") or {}).get("requests") or {}
    asked = _resources(whole)
    return Resources(
        asked.cpu if "cpu" in whole else of_containers.cpu, asked.memory if "memory" in whole else of_containers.memory
    )


def _resources(amounts: Mapping[str, Any]) -> Resources:
    cpu, memory, pods = (quantity(str(amounts.get(name, "0"))) for name in ("cpu", "memory", "pods"))
    return Resources(cpu, memory, pods)


def _requested(cluster: Cluster, nodes: set[str], say: Callable[[str], None]) -> dict[str, Resources] | None:
    """Add up the requests of the pods on each node; None where they may not be listed."""
    try:
        pods = cluster.read_all(
            cluster.core.list_pod_for_all_namespaces,
            resource="pods",
            read=lambda pod: _read_pod(pod, nodes),
            field_selector=_UNFINISHED,
        )
    except ClusterError as error:
        if error.status != _FORBIDDEN:
            raise
        say(f"what is free on the nodes is not known: {error}")
        return None
    total: dict[str, Resources] = {}
    for node, requests in filter(None, pods):
        total[node] = total.get(node, Resources()).plus(requests)
    return total


def _read_pod(pod: Document, nodes: set[str]) -> tuple[str, Resources] | None:
    node = pod["spec"].get("nodeName")
    return (node, pod_requests(pod["spec"])) if node in nodes else None


def _read_node(node: Document) -> Node:
    metadata, status = node["metadata"], node.get("status") or {}
    annotations = metadata.get("annotations") or {}
    info = status.get("nodeInfo") or {}
    labels = metadata.get("labels") or {}
    return Node(
        name=metadata["name"],
        labels=labels,
        annotations={name: text for name, text in annotations.items() if name.startswith("fededge.io/")},
        taints=tuple(map(_written, (node.get("spec") or {}).get("taints") or [])),
        conditions={condition["type"]: condition["status"] for condition in status.get("conditions") or []},
        architecture=info.get("architecture") or labels.get("kubernetes.io/arch", ""),
        system=_system(info.get("kubeletVersion", ""), labels, annotations),
        allocatable=_resources(status.get("allocatable") or {}),
        free=None,
        why_not=_why_not(node),
    )


def _system(version: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> str:
    """Recognize who runs a node: by its kubelet's version, as v1.31.2+k3s1 or v1.30.7-kubeedge-v1.21.0, or labels."""
    if "kubeedge" in version:
        return "KubeEdge"
    by_label = labels.get("node.kubernetes.io/instance-type") == "k3s"  # another one where a cloud provider sets it
    if "+k3s" in version or _K3S in annotations or by_label:
        return "K3s"  # also where an administrator calls it an edge
    return "KubeEdge" if EDGE in labels else ""


def _why_not(node: Document) -> str:
    """Say why no pod of ours can start on a node: the first reason, for one brings others with it."""
    spec, status = node.get("spec") or {}, node.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    ready = conditions.get("Ready") or {"status": "Unknown", "message": "it has never reported"}
    if ready["status"] != "True":
        return f"is not Ready: {_in_a_line(ready.get('message') or ready.get('reason') or ready['status'])}"
    if troubles := [name for name in _TROUBLES if conditions.get(name, {}).get("status") == "True"]:
        return f"has {', '.join(troubles)}"
    if spec.get("unschedulable"):
        return f"is cordoned: `kubectl uncordon {node['metadata']['name']}` lets pods in again"
    if taint := _taint(spec.get("taints") or []):
        return f"has the taint {taint}, which pods that train do not tolerate"
    return "is being deleted" if node["metadata"].get("deletionTimestamp") else ""


def _taint(taints: Iterable[Document]) -> str:
    """Name a taint that keeps our pods out; empty if there is none."""
    for taint in taints:
        if taint["effect"] in _KEEPS_PODS_OUT and (taint["key"], taint["effect"]) not in _TOLERATED:
            return _written(taint)
    return ""


def _written(taint: Document) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"


def _in_a_line(text: str) -> str:
    return " ".join(str(text).split())[:150]
