"""Where a round's clients live, and who cannot take part for that."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from fededge.core.updates import ExclusionReason
from fededge.errors import InputError, MissingDataError, QuorumError, WorkloadError
from fededge.monitoring import logs
from fededge.records import Attempt, Excluded, Failed, Failure, OnDevice
from fededge.settings import Placement
from fededge.store.trainings import TrainingStore
from fededge.workloads import HasRealClients, Workload

if TYPE_CHECKING:
    from fededge.cluster.devices import Device


class Homes(NamedTuple):
    """Where clients live.

    Attributes:
      of: the device of each client that lives on one.
      unavailable: those of them that cannot train now, and why.
    """

    of: Mapping[str, OnDevice]
    unavailable: Mapping[str, str]

    @property
    def names(self) -> dict[str, str]:
        """The name of each client's device."""
        return {client: home.device for client, home in self.of.items()}

    def left_out(self, cohort: Sequence[str]) -> list[Excluded]:
        """Say who of a cohort cannot train, in its order."""
        return [
            Excluded(client=client, reason=ExclusionReason.DEVICE_UNAVAILABLE, detail=self.unavailable[client])
            for client in cohort
            if client in self.unavailable
        ]


def look_at_devices(source: str) -> Mapping[str, Device]:
    """Find the device of each client that lives on one, of this workload or another.

    A round without devices asks no cluster, and imports nothing that would.

    Args:
      source: as in `find_devices`; empty for no devices.

    Raises:
      InputError: they are described wrongly.
    """
    if not source:
        return {}
    from fededge.cluster.api import connect
    from fededge.cluster.devices import find_devices, homes_of

    return homes_of(find_devices(source, partial(connect, say=logs.warn), say=logs.warn))


def find_population(workload: Workload, clients: int, living: Mapping[str, Device]) -> Sequence[str]:
    """Name all clients: those in the data here, and those whose data are on their devices alone.

    Args:
      workload: whose clients they are.
      clients: how many there should be; 0 for any number.
      living: clients on devices.

    Raises:
      WorkloadError: there are none, or not so many, or two of the same name.
    """
    if not (living and isinstance(workload, HasRealClients)):
        return _distinct(workload.population(clients))
    here: Sequence[str] = []
    with contextlib.suppress(MissingDataError):
        here = _distinct(workload.population(0))
    away = (client for client in living if workload.is_client(client))
    population = [*dict.fromkeys([*here, *away])]
    if not population:
        raise WorkloadError("there is no client of the workload, neither in the data here nor on the devices")
    if clients not in (0, len(population)):
        raise WorkloadError(f"clients={clients}, and there are {len(population)}: leave it at 0 to take them all")
    return population


def _distinct(population: Sequence[str]) -> Sequence[str]:
    if len(set(population)) != len(population):
        twice = next(client for client in population if list(population).count(client) > 1)
        raise WorkloadError(f"the workload names the client {twice} twice: ids must be distinct")
    return population


def find_homes(source: str, living: Mapping[str, Device], where: Placement, population: Sequence[str]) -> Homes:
    """Say where the clients of a population live, and which of the devices can train them.

    Raises:
      InputError: there are devices, and no client lives on any.
    """
    if not source:
        return Homes({}, {})
    found = {client: living[client] for client in population if client in living}
    if not found:
        raise InputError(
            f"no client of the workload lives on a device of {source}, on which live {len(living)} others: "
            f"{population[0]} is one of the workload, and `fededge devices` lists the devices"
        )
    from fededge.cluster.devices import image_architectures

    ours = image_architectures()
    unavailable = {client: why for client, device in found.items() if (why := device.lacks(where, ours))}
    of = {client: OnDevice(device=d.name, node=d.node, claim=d.claim) for client, d in found.items()}
    return Homes(of, unavailable)


def placement_of(attempt: Attempt, batch: str, where: Placement) -> Placement:
    """Say where a batch runs: with the claim of its device, where it has one."""
    home = attempt.devices.get(batch)
    return where.model_copy(update={"data_claim": home.claim}) if home and home.claim else where


def report_left_out(trainings: TrainingStore, attempt: Attempt) -> None:
    """Report whom the plan leaves out, and end a round that cannot have enough clients.

    Raises:
      QuorumError: fewer clients are in the plan than `min_clients`.
    """
    for one in attempt.left_out:
        trainings.report_failure(attempt.ref, Failure(client=one.client, reason=one.reason, detail=one.detail))
    planned, needed = len(attempt.cohort) - len(attempt.left_out), attempt.settings.min_clients
    if attempt.left_out and planned < needed:
        first = attempt.left_out[0]
        reason = (
            f"{planned} of {len(attempt.cohort)} clients can train, min_clients={needed}: {len(attempt.left_out)} "
            f"{first.reason} ({first.client}: {first.detail})"
        )
        trainings.fail_attempt(attempt.ref, Failed(reason=reason))
        raise QuorumError(
            f"round {attempt.round} of {attempt.training} failed, {attempt.base_version} stays current: {reason}; "
            "`fededge devices` lists them"
        )
