"""Which clients share a batch, where some of them live on devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fededge.core.cohorts import batch_clients, client_order


class Batch(NamedTuple):
    """Clients that one pod trains.

    Attributes:
      device: where all of them live; empty for those that live on none.
      clients: in client order.
    """

    device: str
    clients: list[str]


def place_clients(cohort: Sequence[str], homes: Mapping[str, str], clients_per_batch: int) -> list[Batch]:
    """Cut a cohort into batches that never mix devices.

    Args:
      cohort: client ids in client order.
      homes: the device of each client that lives on one.
      clients_per_batch: at least 1; the last batch of a device may be smaller.

    Returns:
      The batches, in the order of their first clients.
    """
    groups: dict[str, list[str]] = {}
    for client in cohort:
        groups.setdefault(homes.get(client, ""), []).append(client)
    batches = [
        Batch(device, clients)
        for device, group in groups.items()
        for clients in batch_clients(group, clients_per_batch)
    ]
    return sorted(batches, key=lambda batch: client_order(batch.clients[0]))
