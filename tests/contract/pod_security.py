"""The rules of Kubernetes' pod security standard `restricted`, one by one.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Node = dict[str, Any]

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"
}  # fmt: skip
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def pod_specs(document: Node) -> Iterator[Node]:
    """Yield the pod that a core object is or makes."""
    spec = document.get("spec", {})
    if document["kind"] == "Pod":
        yield spec
    elif document["kind"] == "CronJob":
        yield spec["jobTemplate"]["spec"]["template"]["spec"]
    elif document["kind"] in ("DaemonSet", "Deployment", "Job", "ReplicaSet", "StatefulSet"):
        yield spec["template"]["spec"]


def violations(pod: Node) -> list[str]:
    """List what of a pod's spec a namespace with `enforce: restricted` refuses."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    found += [
        f"volume {volume['name']}"
        for volume in pod.get("volumes", [])
        if not volume.keys() & VOLUMES and volume.keys() != {"name"}
    ]
    context = pod.get("securityContext", {})
    found += [f"sysctl {sysctl['name']}" for sysctl in context.get("sysctls", []) if sysctl["name"] not in SYSCTLS]
    found += [f"pod: {wrong}" for wrong in _identity(context)]
    for container in containers(pod):
        found += [f"{container['name']}: {wrong}" for wrong in _container(container, context)]
    return found


def containers(pod: Node) -> list[Node]:
    return [
        container for kind in ("initContainers", "containers", "ephemeralContainers") for container in pod.get(kind, [])
    ]


def _identity(context: Node) -> Iterator[str]:
    """Rules for a pod's security context and a container's alike."""
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "hostProcess"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type", "") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined":
        yield "appArmorProfile"
    if context.get("runAsUser") == 0:
        yield "runAsUser is root"


def _container(container: Node, pod: Node) -> Iterator[str]:
    context = container.get("securityContext", {})
    yield from _identity(context)
    if context.get("privileged"):
        yield "privileged"
    if context.get("procMount", "Default") != "Default":
        yield "procMount"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities are not dropped"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities are added"
    if not context.get("runAsNonRoot", pod.get("runAsNonRoot")):
        yield "runAsNonRoot is not true"
    profile = context.get("seccompProfile", pod.get("seccompProfile", {}))
    if profile.get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile is not RuntimeDefault"
    yield from _network(container)


def _network(container: Node) -> Iterator[str]:
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPort"
    handlers = [*(container.get(probe, {}) for probe in PROBES), *container.get("lifecycle", {}).values()]
    if any(handler.get(kind, {}).get("host") for handler in handlers for kind in ("httpGet", "tcpSocket")):
        yield "a probe of another host"
