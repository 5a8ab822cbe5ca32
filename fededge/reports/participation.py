"""Who is drawn and who delivers, by speed and by size.

A sample is biased where some kinds of clients deliver less often than others, and a round that closes early makes it
so: the slow are drawn like all others and count for nothing. This shows it over the rounds that made a version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fededge.core.cohorts import client_order
from fededge.core.robust import Rule
from fededge.records import Accepted, Version
from fededge.reports.markdown import number, table
from fededge.settings import RoundSettings

_GROUPS = 5
_UNKNOWN = "unknown"
_LOOK_FOR = (
    "Look for a group that completes clearly less often, or weighs less for its number of clients, than the others: "
    "the model learns less from such clients, and a longer `deadline_s`, or no `close_at_target`, lets them in."
)


@dataclass(frozen=True)
class Participant:
    """A client that was drawn in a lineage.

    Attributes:
      selected: in how many rounds it was drawn.
      completed: in how many of them its update was accepted.
      weight: the sum over the rounds of its share of the round's weight.
      seconds: that its last accepted update took; None if it never completed.
      num_examples: of its last accepted update; None if it never completed.
    """

    client: str
    selected: int
    completed: int
    weight: float
    seconds: float | None
    num_examples: int | None


@dataclass(frozen=True)
class Group:
    """Clients of like speed or size.

    Attributes:
      least: of their values; None in the group of those whose value is unknown.
      most: of their values.
      share: of the weight of all rounds, each of which weighs alike.
    """

    least: float | None
    most: float | None
    clients: int
    selected: int
    completed: int
    share: float


def shares(settings: RoundSettings, accepted: Sequence[Accepted], counted: Sequence[str]) -> dict[str, float]:
    """Say which share of a round's weight each client has; the robust rules weigh all that they use alike.

    Args:
      settings: of the round.
      accepted: its updates.
      counted: the clients that the aggregation rule used.
    """
    used = set(counted)
    by_weight = settings.aggregation is Rule.MEAN
    weights = {a.client: (a.weight if by_weight else 1) if a.client in used else 0 for a in accepted}
    total = sum(weights.values()) or 1
    return {client: weight / total for client, weight in weights.items()}


def participants(lineage: Sequence[Version]) -> list[Participant]:
    """Count how often each client was drawn and completed, in client order.

    Args:
      lineage: versions, the latest first.
    """
    completed: Counter[str] = Counter()
    selected: Counter[str] = Counter()
    weight: dict[str, float] = {}
    last: dict[str, Accepted] = {}
    for version in lineage:
        share = shares(version.settings, version.accepted, version.counted)
        for update in version.accepted:
            completed[update.client] += 1
            weight[update.client] = weight.get(update.client, 0.0) + share[update.client]
            last.setdefault(update.client, update)
        selected.update(update.client for update in version.accepted)
        selected.update(excluded.client for excluded in version.excluded)
    return [
        Participant(
            client=client,
            selected=selected[client],
            completed=completed[client],
            weight=weight.get(client, 0.0),
            seconds=last[client].seconds if client in last else None,
            num_examples=last[client].num_examples if client in last else None,
        )
        for client in sorted(selected, key=client_order)
    ]


def fifths(everybody: Sequence[Participant], value: Callable[[Participant], float | None]) -> list[Group]:
    """Group clients into fifths by a value, from the least to the most, then those whose value is unknown.

    Clients of equal value are in the same group, so that groups differ in size where many are equal, and there are
    fewer than five of few clients. Empty groups are left out.

    Args:
      everybody: the clients.
      value: of a client, None if unknown.
    """
    known = sorted(found for p in everybody if (found := value(p)) is not None)
    below = {found: rank for rank, found in reversed(list(enumerate(known)))}  # of equal ones, the first's rank
    grouped: dict[int, list[Participant]] = {}
    for p in everybody:
        found = value(p)
        grouped.setdefault(_GROUPS if found is None else _GROUPS * below[found] // len(known), []).append(p)
    total = sum(p.weight for p in everybody) or 1.0
    return [_group(grouped[index], value, total) for index in sorted(grouped)]


def _group(members: Sequence[Participant], value: Callable[[Participant], float | None], total: float) -> Group:
    known = [found for p in members if (found := value(p)) is not None]
    return Group(
        least=min(known, default=None),
        most=max(known, default=None),
        clients=len(members),
        selected=sum(p.selected for p in members),
        completed=sum(p.completed for p in members),
        share=sum(p.weight for p in members) / total,
    )


def participation(lineage: Sequence[Version]) -> str:
    """Show by speed and by size who was drawn and who completed, as two Markdown tables.

    Args:
      lineage: versions, the latest first.
    """
    everybody = participants(lineage)
    if not everybody:
        return "Nobody has been drawn yet."
    by: Mapping[str, list[Group]] = {
        "seconds, fastest first": fifths(everybody, lambda p: p.seconds),
        "examples, fewest first": fifths(everybody, lambda p: p.num_examples),
    }
    return "\n\n".join([_LOOK_FOR, *(_draw(what, groups) for what, groups in by.items())])


def _draw(what: str, groups: Sequence[Group]) -> str:
    columns = (what, "#clients", "#times drawn", "#completed", "#completion", "#share of the weight")
    return table(columns, (_row(group) for group in groups))


def _row(group: Group) -> tuple[str, ...]:
    return (
        _range(group),
        number(group.clients),
        number(group.selected),
        number(group.completed),
        f"{group.completed / group.selected:.1%}",
        f"{group.share:.1%}",
    )


def _range(group: Group) -> str:
    if group.least is None or group.most is None:
        return f"{_UNKNOWN}, never completed"
    least, most = number(group.least), number(group.most)
    return least if least == most else f"{least} to {most}"
