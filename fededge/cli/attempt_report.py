"""All about one attempt, for people and for scripts."""

from __future__ import annotations

import json
from typing import Any

from fededge.cli.attempt_view import Attempts, AttemptView, failures, spent_seconds
from fededge.records import Closing, Lease
from fededge.reports.markdown import cell, names, table
from fededge.reports.participation import shares
from fededge.reports.round_report import BECAUSE, ROWS, accepted_table, exclusions, settings_table
from fededge.store.trainings import TrainingStore


def details(attempts: Attempts, view: AttemptView) -> dict[str, Any]:
    """Tell all about an attempt, for scripts."""
    closing, lease = view.closing, attempts.lease
    return {
        **view.as_json(),
        "because": closing.because.value if closing else None,
        "clients": {
            "delivered": {client: at.isoformat() for client, at in view.arrivals.items()},
            "accepted": [json.loads(one.model_dump_json()) for one in closing.accepted] if closing else None,
            "excluded": [json.loads(one.model_dump_json()) for one in closing.excluded] if closing else None,
            "failing": [json.loads(one.model_dump_json()) for one in failures(attempts.trainings, view)],
            "silent": [] if closing else view.silent,
            "repeats": attempts.trainings.repeats(view.plan.ref),
        },
        "deadline": {
            "seconds": view.plan.settings.deadline_s,
            "spent": round(spent_seconds(attempts, view), 1),
        },
        "lease": {"holder": lease.holder, "expires_at": lease.expires_at.isoformat()} if lease else None,
        "plan": json.loads(view.plan.model_dump_json()),
    }


def attempt_report(attempts: Attempts, view: AttemptView) -> str:
    """Tell about an attempt in Markdown; short, however many clients there are."""
    plan = view.plan
    sections = [
        f"# {plan.training} {plan.version}, attempt {plan.number}: {cell(view.status)}",
        *([f"**It failed: {cell(view.failed.reason)}**"] if view.failed else []),
        _progress(attempts, view),
        *(_closed(attempts.trainings, view, view.closing) if view.closing else _so_far(attempts.trainings, view)),
        "## Plan",
        f"Round {plan.round}, from {plan.base_version}.",
        table(("batch", "#clients", "who"), _batches(view)),
        settings_table(plan.settings),
    ]
    return "\n\n".join(sections) + "\n"


def _progress(attempts: Attempts, view: AttemptView) -> str:
    plan, how = view.plan, view.plan.settings
    lines = [
        f"opened {plan.opened_at.astimezone():%d %b %H:%M:%S}",
        f"{spent_seconds(attempts, view):,.0f} of {how.deadline_s:,} s of the deadline spent",
        f"clients: {len(plan.cohort):,} drawn, {how.min_clients:,} needed, {how.target:,} wanted",
        _held(attempts.lease),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _held(lease: Lease | None) -> str:
    if lease is None:
        return "no run holds the training"
    return f"{cell(lease.holder)} holds the training, until {lease.expires_at.astimezone():%d %b %H:%M:%S} at most"


def _closed(trainings: TrainingStore, view: AttemptView, closing: Closing) -> list[str]:
    aggregate = trainings.aggregate(view.plan.ref)
    counted = aggregate.counted if aggregate else [update.client for update in closing.accepted]
    repeats = [f"Delivered again, and something else: {names(closing.repeats, ROWS)}."] if closing.repeats else []
    return [
        f"The round closed because {BECAUSE[closing.because]}.",
        f"## Took part: {len(closing.accepted):,}",
        accepted_table(closing.accepted, shares(view.plan.settings, closing.accepted, counted)),
        *repeats,
        f"## Left out: {len(closing.excluded):,}",
        exclusions(closing.excluded),
    ]


def _so_far(trainings: TrainingStore, view: AttemptView) -> list[str]:
    return [
        f"## Delivered: {len(view.arrivals):,}",
        names(sorted(view.arrivals), ROWS) or "Nobody.",
        f"## Failed: {len(view.failing):,}",
        exclusions(failures(trainings, view)),
        f"## Not heard of: {len(view.silent):,}",
        names(view.silent, ROWS) or "Nobody.",
    ]


def _batches(view: AttemptView) -> list[tuple[str, str, str]]:
    batches = list(view.plan.batches.items())
    rows = [(name, f"{len(clients):,}", names(clients, 5)) for name, clients in batches[:ROWS]]
    more = sum(len(clients) for _, clients in batches[ROWS:])
    return [*rows, (f"and {len(batches) - ROWS:,} more", f"{more:,}", "")] if more else rows
