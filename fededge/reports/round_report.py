"""What happened in one round: who took part, who was left out and why."""

from __future__ import annotations

from fededge.records import Version


def round_report(version: Version) -> str:
    """Describe the round that made a version, in Markdown."""
    metrics = ", ".join(f"{name} **{value:.4f}**" for name, value in sorted(version.metrics.items()))
    origin = f"Made from {version.parent} in attempt {version.attempt}. On the test data: {metrics}."
    if version.parent is None:
        origin = "The model that the training began with."
    runtime = version.runtime
    libraries = ", ".join(f"{name} {number}" for name, number in runtime.libraries.items())
    return f"""# Round {version.round} of {version.training}: {version.version}

{origin}

Model `{version.model}`

## Took part: {len(version.accepted)} of {len(version.accepted) + len(version.excluded)} clients

{_accepted(version)}

## Left out: {len(version.excluded)}

{_excluded(version)}

## Settings

{_settings(version)}

Computed with {libraries} on {runtime.machine} ({runtime.cpu_features}), {runtime.threads} thread a client.
"""


def _accepted(version: Version) -> str:
    total = sum(update.num_examples for update in version.accepted) or 1
    rows = [
        f"| {_cell(update.client)} | {update.num_examples} | {update.num_examples / total:.1%} "
        f"| {_number(update.metrics.get('loss'))} |"
        for update in version.accepted
    ]
    return "\n".join(["| client | examples trained on | weight | training loss |", "|---|---:|---:|---:|", *rows])


def _excluded(version: Version) -> str:
    if not version.excluded:
        return "Nobody."
    rows = [f"| {_cell(e.client)} | {e.reason.value} | {_cell(e.detail)} |" for e in version.excluded]
    return "\n".join(["| client | reason | detail |", "|---|---|---|", *rows])


def _settings(version: Version) -> str:
    return "\n".join(
        ["| setting | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in version.settings)]
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
