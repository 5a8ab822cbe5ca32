"""Nodes and pods as real clusters have them."""

from __future__ import annotations

from typing import Any

from tests.cluster.api_server import ApiServer
from tests.cluster.objects import Document

CONDITIONS = ("MemoryPressure", "DiskPressure", "PIDPressure")


def node(name: str, **changed: Any) -> Document:
    """Make a node that is Ready.

    `changed` are: labels, annotations, taints, unschedulable, conditions (statuses by type), allocatable, version,
    architecture.
    """
    allocatable = {"cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": "100Gi"}
    conditions = {"Ready": "True", **dict.fromkeys(CONDITIONS, "False"), **changed.get("conditions", {})}
    architecture = changed.get("architecture", "amd64")
    spec: Document = {"podCIDR": "10.42.0.0/24"}
    if taints := changed.get("taints"):
        spec["taints"] = taints
    if changed.get("unschedulable"):
        spec["unschedulable"] = True
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/arch": architecture, **changed.get("labels", {})},
            "annotations": {"node.alpha.kubernetes.io/ttl": "0", **changed.get("annotations", {})},
        },
        "spec": spec,
        "status": {
            "allocatable": {**allocatable, **changed.get("allocatable", {})},
            "capacity": allocatable,
            "conditions": [_condition(kind, status) for kind, status in conditions.items()],
            "nodeInfo": _info(architecture, changed.get("version", "v1.32.4")),
        },
    }


def device(name: str, *clients: str, claim: str = "", **changed: Any) -> Document:
    """Make a node that is a device."""
    annotations = {"fededge.io/clients": ",".join(clients), "fededge.io/claim": claim or f"data-{name}"}
    changed["annotations"] = {**annotations, **changed.get("annotations", {})}
    changed["labels"] = {"fededge.io/device": "", **changed.get("labels", {})}
    return node(name, **changed)


def pod(name: str, on: str, *containers: Document, phase: str = "Running", **spec: Any) -> Document:
    """Make a pod on a node; each container is given by its requests."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": spec.pop("namespace", "kube-system")},
        "spec": {"nodeName": on, "containers": [container(f"c{i}", one) for i, one in enumerate(containers)], **spec},
        "status": {"phase": phase},
    }


def container(name: str, requests: Document, **more: Any) -> Document:
    return {"name": name, "image": "registry.example.org/image:1", "resources": {"requests": requests}, **more}


def fill(server: ApiServer, nodes: int, devices: int, clients: int = 1) -> None:
    """Put many nodes on a cluster, some of them devices, and two pods on each."""
    for i in range(nodes):
        name = f"edge-{i:05d}"
        residents = [f"client-{i * clients + k:06d}" for k in range(clients)]
        server.put(device(name, *residents) if i < devices else node(name))
        server.put(pod(f"agent-{i:05d}", name, {"cpu": "100m", "memory": "64Mi"}))
        server.put(pod(f"work-{i:05d}", name, {"cpu": "1", "memory": "1Gi"}, namespace="fededge"))


def _info(architecture: str, version: str) -> Document:
    return {
        "architecture": architecture,
        "bootID": "ec0c2c12-6a0e-4d5c-8f3a-25a8d5a41d3c",
        "containerRuntimeVersion": "containerd://1.7.23-k3s2",
        "kernelVersion": "6.1.0-26",
        "kubeProxyVersion": version,
        "kubeletVersion": version,
        "machineID": "7d4f1f5c9f5b4b5f8f9d0d3c2b1a0987",
        "operatingSystem": "linux",
        "osImage": "Debian GNU/Linux 12 (bookworm)",
        "systemUUID": "7d4f1f5c-9f5b-4b5f-8f9d-0d3c2b1a0987",
    }


def _condition(kind: str, status: str) -> Document:
    messages = {"Ready": {"Unknown": "Kubelet stopped posting node status.", "False": "container runtime is down"}}
    message = messages.get(kind, {}).get(status, "as it should be")
    return {"type": kind, "status": status, "reason": "Kubelet", "message": message}
