"""Makes versions of which only the clients matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fededge.core.updates import ExclusionReason
from fededge.records import Accepted, ClosedBecause, Excluded, Runtime, Version, digest_of
from fededge.settings import RoundSettings

DIGEST = digest_of(b"")
RUNTIME = Runtime(
    fededge="0.1.0", python="3.11.9", machine="x86_64", cpu_features="avx2", threads=1, libraries={}, packages=DIGEST
)


def update(client: str, examples: int = 10, seconds: float = 1.0, **changes: Any) -> Accepted:
    """Make an accepted update, not capped and not clipped."""
    made = Accepted(
        client=client,
        update=DIGEST,
        delta=DIGEST,
        num_examples=examples,
        weight=examples,
        norm=1.0,
        clipped=False,
        metrics={"loss": 0.5},
        seconds=seconds,
    )
    return made.model_copy(update=changes)


def left_out(client: str, reason: ExclusionReason = ExclusionReason.NO_UPDATE, detail: str = "") -> Excluded:
    return Excluded(client=client, reason=reason, detail=detail)


def version(
    accepted: Sequence[Accepted],
    excluded: Sequence[Excluded] = (),
    settings: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Version:
    """Make version v3 of a training, whose aggregation used all accepted updates."""
    clients = len(accepted) + len(excluded)
    made = Version(
        training="digits",
        version="v3",
        round=3,
        parent="v2",
        parent_manifest=DIGEST,
        attempt=2,
        model=DIGEST,
        server_state=None,
        signature={},
        settings=RoundSettings(**{"clients": max(1, clients), **(settings or {})}),
        because=ClosedBecause.ALL_ANSWERED,
        accepted=list(accepted),
        excluded=list(excluded),
        repeats=[],
        counted=[one.client for one in accepted],
        metric="accuracy",
        metrics={"accuracy": 0.9},
        data_schema={},
        documents={},
        runtime=RUNTIME,
    )
    return made.model_copy(update=changes)
