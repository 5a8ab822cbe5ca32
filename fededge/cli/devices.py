"""`fededge devices`: what clients live on, and whether they can train there."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from fededge.cli.output import JsonOption, console, errors, print_json, say

if TYPE_CHECKING:
    from fededge.cluster.devices import Device

_GIB = 2**30


def devices(
    source: Annotated[
        str, typer.Option("--from", help="nodes, configmap:NAME, or a YAML or JSON file.", metavar="WHERE")
    ] = "nodes",
    selector: Annotated[
        str, typer.Option("--selector", "-l", help="Only nodes with these labels, as site=north.")
    ] = "",
    others: Annotated[bool, typer.Option("--all", help="Show nodes that are no devices, too.")] = False,
    context: Annotated[str, typer.Option(help="Of the kubeconfig; its current one if not said.")] = "",
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Of the ConfigMap; the context's if not said.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List the devices that clients live on: their nodes, claims, what is free, and why one cannot train.

    A device is a node with the label fededge.io/device. Rounds leave clients out whose device cannot train when they
    begin. What --json prints can be kept as a file, and given to --from, or to a pipeline's input `devices`.

    For example:

    - `fededge devices`
    - `fededge devices --context factory --selector site=north`
    - `fededge devices --all`
    - `fededge devices --from configmap:our-devices --namespace my-team`
    - `fededge devices --from devices.yaml --json`
    """
    from fededge.cluster.api import HURRY, connect
    from fededge.cluster.devices import find_devices, image_architectures

    login = functools.partial(connect, context, namespace=namespace, patience=HURRY, say=say)
    with errors.status("asking the cluster") as status:
        found = find_devices(
            source,
            login,
            selector,
            say,
            lambda count: status.update(f"{count:,} nodes so far, and their pods"),
            others,
        )
    if as_json:
        print_json([device.model_dump() for device in found])
    elif found:
        ours = image_architectures()
        console.print(_table(found, ours))
        console.print(_summary(found, ours, others), soft_wrap=True)
    if not found:
        say(_none(source, selector, others))


def _table(found: Sequence[Device], ours: Sequence[str]) -> Table:
    table = Table(
        Column("device", overflow="fold"),
        Column("node", overflow="fold"),
        "runs",
        Column("clients", justify="right"),
        Column("claim", overflow="fold"),
        Column("CPUs free", justify="right"),
        Column("GiB free", justify="right"),
        Column("state", overflow="fold"),
    )
    for one in found:
        runs = " ".join(filter(None, (one.system, one.architecture)))
        cpu, memory = _amount(one.cpu_free, 1), _amount(one.memory_free, _GIB)
        state = one.trouble(ours) or "ready"
        table.add_row(one.name, one.node, runs, f"{len(one.clients):,}", one.claim, cpu, memory, state)
    return table


def _amount(free: float | None, unit: int) -> str:
    return "?" if free is None else f"{free / unit:,.1f}"


def _summary(found: Sequence[Device], ours: Sequence[str], others: bool) -> str:
    from fededge.cluster.devices import LABEL

    devices = [one for one in found if LABEL in one.labels] if others else found
    clients, ready = sum(len(one.clients) for one in devices), sum(not one.trouble(ours) for one in devices)
    many = "s" * (len(devices) != 1), "s" * (clients != 1)
    text = f"{len(devices):,} device{many[0]} with {clients:,} client{many[1]}, {ready:,} of them ready"
    return f"{text}; nodes that are none: {len(found) - len(devices):,}" if others else text


def _none(source: str, selector: str, others: bool) -> str:
    from fededge.cluster.devices import CLAIM, CLIENTS, LABEL, NODES

    if source != NODES:
        return f"{source} names no devices"
    if others:
        return f"there is no node{f' with {selector}' if selector else ''}"
    among = f" among those with {selector}" if selector else ""
    return (
        f"no node has the label {LABEL}{among}; make one a device with `kubectl label node NODE {LABEL}=` and "
        f"`kubectl annotate node NODE {CLIENTS}=CLIENT,CLIENT {CLAIM}=NAME`"
    )
