"""The devices that clients live on: nodes of the cluster, or what a file or a ConfigMap says.

A device is a node with the label `fededge.io/device`. An entry of a file looks like

    - name: gateway-7
      node: gateway-7
      clients: [building-12, building-13]
      claim: data-of-gateway-7

and has the fields of `Device`; what `fededge devices --json` prints is such a file.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from fededge.cluster.api import Cluster, connect
from fededge.cluster.nodes import Node, list_nodes
from fededge.core.quantities import quantity
from fededge.errors import ClusterError, InputError
from fededge.settings import Placement

LABEL = "fededge.io/device"
CLIENTS = "fededge.io/clients"
CLAIM = "fededge.io/claim"
TIER = "fededge.io/tier"
NODES = "nodes"
ARCHITECTURES = "FEDEDGE_ARCHITECTURES"  # whoever builds a clients' image for others than ours is for says so there
OURS = ("amd64",)
_CONFIGMAP = "configmap:"
_KEYS = ("devices.yaml", "devices.json")  # of the ConfigMap, the first that is there
_DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_LONGEST = 63  # characters of such a label
_NOT_FOUND = 404


def _amount(value: object) -> object:
    return value if value is None else float(quantity(str(value)))


Amount = Annotated[float, BeforeValidator(_amount)]


class Device(BaseModel):
    """What clients live on.

    Attributes:
      name: of the device, a DNS label.
      node: of the cluster.
      clients: that live on it.
      claim: the PersistentVolumeClaim with their data, whose volume is on this node.
      architecture: such as amd64, arm64; empty if unknown.
      system: KubeEdge or K3s, if one of them runs the node.
      cpu_free: cores that no pod has requested; None if unknown.
      memory_free: bytes that no pod has requested; None if unknown.
      ready: whether pods can start on it.
      why_not: why they cannot.
      tier: the class of devices that it belongs to; reserved.
      labels: of the node; like the next two for people, and for what reads `fededge devices --json`.
      taints: of the node, as kubectl takes them, gpu=yes:NoSchedule.
      conditions: of the node, the status of each by its type.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=_DNS_LABEL)
    node: str = ""
    clients: list[Annotated[str, Field(min_length=1)]] = []
    claim: str = Field("", pattern=rf"{_DNS_LABEL}|^$")
    architecture: str = ""
    system: str = ""
    cpu_free: Amount | None = None
    memory_free: Amount | None = None
    ready: bool = True
    why_not: str = ""
    tier: str = ""
    labels: dict[str, str] = {}
    taints: list[str] = []
    conditions: dict[str, str] = {}

    @field_validator("clients")
    @classmethod
    def _distinct(cls, clients: list[str]) -> list[str]:
        if twice := _repeated(clients):
            raise ValueError(f"the client {twice} is there twice")
        return clients

    @model_validator(mode="after")
    def _has_a_claim(self) -> Device:
        if self.clients and self.ready and not self.claim:
            raise ValueError(f"device {self.name} has clients, and no claim with their data")
        return self

    def trouble(self, architectures: Collection[str] = OURS) -> str:
        """Say why no pod can train here, whatever it requests; empty if one can.

        Args:
          architectures: that the clients' image has.
        """
        if not self.ready:
            return self.why_not or "is not ready"
        if self.architecture and self.architecture not in architectures:
            return (
                f"is {self.architecture}, and the clients' image is for {', '.join(architectures)}: "
                f"{ARCHITECTURES} names those of an image of your own"
            )
        return ""

    def lacks(self, where: Placement, architectures: Collection[str] = OURS) -> str:
        """Say why a pod with these requests cannot train here; empty if it can."""
        if trouble := self.trouble(architectures):
            return f"device {self.name} {trouble}"
        for what, free, asked in (
            ("CPUs", self.cpu_free, where.cpu_request),
            ("bytes of memory", self.memory_free, where.memory_request),
        ):
            if free is not None and free < quantity(asked):
                return f"device {self.name} has no room: {max(free, 0):,.6g} {what} are free, {asked} are requested"
        return ""


def find_devices(
    source: str,
    login: Callable[[], AbstractContextManager[Cluster]] = connect,
    selector: str = "",
    say: Callable[[str], None] = lambda _: None,
    found: Callable[[int], None] = lambda _: None,
    others: bool = False,
) -> list[Device]:
    """Find devices where a user says they are.

    Args:
      source: `nodes`, `configmap:NAME`, or the path of a file; empty for no devices.
      login: makes the way to the cluster, if it is needed.
      selector: of labels, in addition; for nodes.
      say: gets a line where something is not as usual.
      found: is told how many nodes there are so far.
      others: take the nodes that are no devices, too, as devices without clients that are not ready.

    Returns:
      The devices, in the order of their names.

    Raises:
      InputError: what is there does not describe devices, or has no others.
      ClusterError: the cluster refuses, or does not answer.
      SetupError: there is no cluster to ask.
    """
    if others and source != NODES:
        raise InputError(f"{source or 'no devices'}: only among {NODES} are there some that are no devices")
    if not source:
        return []
    if source == NODES or source.startswith(_CONFIGMAP):
        with login() as cluster:
            if source != NODES:
                return _from_config_map(cluster, source.removeprefix(_CONFIGMAP))
            label = "" if others else LABEL
            nodes = list_nodes(cluster, ",".join(filter(None, (label, selector))), say, found)
        devices = _checked((_of_node(node) for node in nodes if LABEL in node.labels), "the nodes")
        # What is no device may have the name of one.
        rest = [_no_device(node) for node in nodes if LABEL not in node.labels]
        return sorted([*devices, *rest], key=lambda device: device.name) if rest else devices
    return _from_file(Path(source))


def image_architectures() -> tuple[str, ...]:
    """Name the architectures that the clients' image has: those that the environment says, or those of our images."""
    named = (name.strip() for name in os.environ.get(ARCHITECTURES, "").split(","))
    return tuple(filter(None, named)) or OURS


def homes_of(devices: Iterable[Device]) -> dict[str, Device]:
    """Say on which device each client lives."""
    return {client: device for device in devices for client in device.clients}


def _of_node(node: Node) -> Device:
    """Make a device of a node; what is missing on one node is its own trouble, and keeps no other from working."""
    name = node.labels[LABEL] or node.name.replace(".", "-")
    listed = (client.strip() for client in node.annotations.get(CLIENTS, "").split(","))
    clients = list(dict.fromkeys(filter(None, listed)))
    claim = node.annotations.get(CLAIM) or node.labels.get(CLAIM, "")
    why_not = node.why_not
    if clients and not claim:
        why_not = f"has no claim: `kubectl annotate node {node.name} {CLAIM}=NAME` says which one has its data"
    if node.free and node.free.pods < 1:
        why_not = why_not or "has as many pods as it may have"
    own = {"name": name, "clients": clients, "claim": claim, "tier": node.labels.get(TIER, ""), "why_not": why_not}
    return _parsed(_seen(node) | own | {"ready": not why_not}, f"node {node.name}")


def _no_device(node: Node) -> Device:
    """Show a node that nobody has made a device, whatever else it says of itself."""
    name = node.name.replace(".", "-")[:_LONGEST].rstrip("-")
    why_not = f"is no device: `kubectl label node {node.name} {LABEL}=` makes it one"
    return Device(**_seen(node), name=name, ready=False, why_not="; ".join(filter(None, (why_not, node.why_not))))


def _seen(node: Node) -> dict[str, Any]:
    """Take over what a node's own system tells of it."""
    return {
        "node": node.name,
        "architecture": node.architecture,
        "system": node.system,
        "cpu_free": max(float(node.free.cpu), 0.0) if node.free else None,
        "memory_free": max(float(node.free.memory), 0.0) if node.free else None,
        "labels": dict(node.labels),
        "taints": list(node.taints),
        "conditions": dict(node.conditions),
    }


def _from_config_map(cluster: Cluster, name: str) -> list[Device]:
    where = f"the ConfigMap {name} of {cluster.namespace}"
    core = cluster.core
    try:
        found = cluster.call(
            core.read_namespaced_config_map, name, cluster.namespace, verb="get", resource="configmaps"
        )
    except ClusterError as error:
        if error.status != _NOT_FOUND:
            raise
        how = f"`kubectl create configmap {name} --from-file=devices.yaml --namespace {cluster.namespace}`"
        raise InputError(f"there is no ConfigMap {name} in {cluster.namespace}: make it with {how}") from error
    data = found.data or {}
    key = next((key for key in _KEYS if key in data), None)
    if key is None:
        raise InputError(f"{where} has no key {' or '.join(_KEYS)}")
    return _read(data[key], where)


def _from_file(path: Path) -> list[Device]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        hint = f"it is neither `{NODES}` nor `{_CONFIGMAP}NAME`, so it must be a file"
        raise InputError(f"devices in {path} cannot be read ({reason}): {hint}") from error
    return _read(text, str(path))


def _read(text: str, where: str) -> list[Device]:
    """Read what a file or a ConfigMap says, in YAML or JSON."""
    document = _document(text, where)
    entries = document.get("devices") if isinstance(document, dict) and set(document) == {"devices"} else document
    if not isinstance(entries, list):
        raise InputError(f"{where} must be a list of devices, or have one under `devices`, and nothing else")
    return _checked((_parsed(entry, f"{where}, device {i}") for i, entry in enumerate(entries, 1)), where)


def _document(text: str, where: str) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(text)  # is YAML, too, and read some fifty times as fast
    import yaml

    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    except yaml.YAMLError as error:
        raise InputError(f"{where} is neither YAML nor JSON: {' '.join(str(error).split())}") from error


def _parsed(entry: Any, where: str) -> Device:
    try:
        return Device.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(Device.model_fields)
            raise InputError(f"{where}: there is no field {name}; there are {known}") from error
        value = f"{name}={first['input']!r}: " if name and first["type"] != "missing" else f"{name}: " if name else ""
        raise InputError(f"{where}: {value}{_plain(first['msg'])}") from error


def _plain(message: str) -> str:
    if "should match pattern" in message:
        return "must be a DNS label: at most 63 lower-case letters, digits and hyphens, as in gateway-7"
    return message.removeprefix("Value error, ")


def _checked(devices: Iterable[Device], where: str) -> list[Device]:
    """Put devices in order.

    Raises:
      InputError: two have one name, or claim one client.
    """
    ordered = sorted(devices, key=lambda device: device.name)
    if twice := _repeated([device.name for device in ordered]):
        raise InputError(f"{where}: two devices have the name {twice}")
    owners: dict[str, str] = {}
    for device in ordered:
        for client in device.clients:
            if other := owners.get(client):
                raise InputError(f"{where}: the devices {other} and {device.name} both claim the client {client}")
            owners[client] = device.name
    return ordered


def _repeated(names: Sequence[str]) -> str:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), "")  # type: ignore[func-returns-value]
