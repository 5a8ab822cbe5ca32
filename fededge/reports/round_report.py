"""What happened in one round: who took part, who was left out and why. Short, however many clients there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from fededge.core.robust import Rule
from fededge.records import Accepted, ClosedBecause, Excluded, Version
from fededge.reports.markdown import cell, names, number, table
from fededge.reports.participation import participation, shares
from fededge.settings import RoundSettings

HISTORY = 50  # versions that a report looks back on
ROWS = 20  # clients that a table names

BECAUSE = {
    ClosedBecause.ALL_ANSWERED: "every client had answered",
    ClosedBecause.TARGET_REACHED: "its target was reached, and clients that had not begun were no longer needed",
    ClosedBecause.DEADLINE: "its deadline had passed",
    ClosedBecause.TASKS_ENDED: "all its tasks had ended; some clients did not deliver",
}


def round_report(version: Version, lineage: Sequence[Version]) -> str:
    """Describe the round that made a version, in Markdown.

    Args:
      version: to describe.
      lineage: the version, then its ancestors; at most `HISTORY`.
    """
    sections = [
        f"# Round {version.round} of {version.training}: {version.version}",
        _origin(version),
        f"Model `{version.model}`",
        *(_clients(version, lineage) if version.parent else []),
        "## Settings",
        settings_table(version.settings),
        _computed(version),
    ]
    return "\n\n".join(sections) + "\n"


def accepted_table(accepted: Sequence[Accepted], share: Mapping[str, float]) -> str:
    """Show the updates that count; of many, those that weigh most, and the range of all.

    Args:
      accepted: in client order.
      share: of the round's weight, by client.
    """
    if not accepted:
        return "Nobody."
    heaviest = sorted(accepted, key=lambda update: -share[update.client])[:ROWS]
    shown = accepted if len(accepted) <= ROWS else heaviest
    columns = ("client", "#examples", "#weight", "#share", "#norm", "#seconds", "#training loss")
    drawn = table(columns, (_row(update, share[update.client]) for update in shown))
    if len(shown) == len(accepted):
        return drawn
    rest, weight = len(accepted) - len(shown), 1 - sum(share[update.client] for update in shown)
    more = f"and {rest:,} more, which weigh {weight:.1%} together. Of all {len(accepted):,}:"
    return "\n\n".join([drawn, more, _ranges(accepted, share)])


def exclusions(excluded: Sequence[Excluded]) -> str:
    """Show who was left out and why, by reason, the most frequent first; of many, some for each reason."""
    if not excluded:
        return "Nobody."
    reasons = [reason for reason, _ in Counter(one.reason for one in excluded).most_common()]
    most = len(excluded) if len(excluded) <= ROWS else max(1, ROWS // len(reasons))
    by_reason = {reason: [one for one in excluded if one.reason == reason] for reason in reasons}
    rows = [(cell(e.client), reason.value, cell(e.detail)) for reason in reasons for e in by_reason[reason][:most]]
    drawn = table(("client", "reason", "detail"), rows)
    rest = {reason.value: len(found) - most for reason, found in by_reason.items() if len(found) > most}
    if not rest:
        return drawn
    counted = ", ".join(f"{count:,} {reason}" for reason, count in rest.items())
    return f"{drawn}\n\nand {sum(rest.values()):,} more: {counted}."


def settings_table(settings: RoundSettings) -> str:
    return table(("setting", "value"), ((name, cell(str(value))) for name, value in settings))


def _origin(version: Version) -> str:
    if version.parent is None:
        return "The model that the training began with."
    metrics = ", ".join(f"{name} **{value:.4f}**" for name, value in sorted(version.metrics.items()))
    return f"Made from {version.parent} in attempt {version.attempt}. On the test data: {metrics}."


def _clients(version: Version, lineage: Sequence[Version]) -> list[str]:
    share = shares(version.settings, version.accepted, version.counted)
    rounds = sum(1 for ancestor in lineage if ancestor.parent)
    accepted = len(version.accepted)
    return [
        f"## Took part: {accepted:,} of {accepted + len(version.excluded):,} clients",
        " ".join(_told(version)),
        accepted_table(version.accepted, share),
        f"## Left out: {len(version.excluded):,}",
        exclusions(version.excluded),
        f"## Who completes, in the last {rounds} rounds" if rounds > 1 else "## Who completes",
        participation(lineage),
    ]


def _told(version: Version) -> list[str]:
    """Say in sentences how the round ended and what was done with the updates."""
    told = [_quorum(version)]
    if version.because:
        told.insert(0, f"The round closed because {BECAUSE[version.because]}.")
    if clipped := sum(update.clipped for update in version.accepted):
        told.append(f"{clipped:,} were scaled down to the norm {version.settings.clip_norm} (clip_norm).")
    if version.settings.aggregation is not Rule.MEAN:
        told.append(_rule(version))
    elif capped := [update for update in version.accepted if update.weight < update.num_examples]:
        share = version.settings.max_client_share
        told.append(f"{len(capped):,} claimed more examples than may weigh and were capped (max_client_share={share}).")
    if reused := sum(update.reused_from is not None for update in version.accepted):
        told.append(f"{reused:,} were trained in an earlier attempt.")
    if version.repeats:
        told.append(f"Delivered again, and something else, of which the first counts: {names(version.repeats, ROWS)}.")
    return told


def _quorum(version: Version) -> str:
    accepted, how = len(version.accepted), version.settings
    missing = how.target - accepted
    target = f"{missing:,} fewer than the target of {how.target:,}" if missing > 0 else "the target was reached"
    return f"Updates that count: {accepted:,}, {accepted - how.min_clients:,} more than min_clients asks for; {target}."


def _rule(version: Version) -> str:
    rule, used = version.settings.aggregation.value, len(version.counted)
    if used == len(version.accepted):
        return f"They were combined by {rule}, all alike, whatever they claim."
    chosen = names(version.counted, ROWS)
    return f"They were combined by {rule}, which used {used:,} of {len(version.accepted):,}, all alike: {chosen}."


def _row(update: Accepted, share: float) -> tuple[str, ...]:
    loss = update.metrics.get("loss")
    return (
        cell(update.client),
        f"{update.num_examples:,}",
        f"{update.weight:,}{' (capped)' if update.weight < update.num_examples else ''}",
        f"{share:.1%}",
        f"{number(update.norm)}{' (clipped)' if update.clipped else ''}",
        f"{update.seconds:.1f}",
        "" if loss is None else f"{loss:.4f}",
    )


def _ranges(accepted: Sequence[Accepted], share: Mapping[str, float]) -> str:
    values: dict[str, list[float]] = {
        "examples": [update.num_examples for update in accepted],
        "weight": [update.weight for update in accepted],
        "share, %": [100 * share[update.client] for update in accepted],
        "norm": [update.norm for update in accepted],
        "seconds": [update.seconds for update in accepted],
        "training loss": [update.metrics["loss"] for update in accepted if "loss" in update.metrics],
    }
    rows = ((n, *(number(pick(found)) for pick in (min, median, max))) for n, found in values.items() if found)
    return table(("", "#least", "#median", "#most"), rows)


def _computed(version: Version) -> str:
    runtime = version.runtime
    libraries = ", ".join(f"{name} {number}" for name, number in runtime.libraries.items())
    threads = f"{runtime.threads} thread{'s' * (runtime.threads > 1)}"
    return (
        f"Computed by FedEdge {runtime.fededge} with Python {runtime.python}, {libraries} on {runtime.machine} "
        f"({runtime.cpu_features}), {threads}; packages `{runtime.packages}`"
    )
