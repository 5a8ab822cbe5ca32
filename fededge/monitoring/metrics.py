"""The metrics of a training: what there is, and how each is computed from the store's documents.

All are gauges about the current version and the latest round, so that whoever sends them need remember nothing. None
has a client in its labels: their number stays small, however many clients there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from fededge.core.headers import data_size
from fededge.core.parts import CONTROL
from fededge.core.robust import precondition
from fededge.core.updates import ExclusionReason
from fededge.monitoring.history import History, Try
from fededge.monitoring.phases import phase_seconds
from fededge.records import GIVEN_UP, Closing
from fededge.settings import RoundSettings

COMMON = ("training", "workload")


class Metric(NamedTuple):
    """What a metric is.

    Attributes:
      labels: beside `COMMON`.
    """

    name: str
    labels: tuple[str, ...]
    unit: str
    help: str


class Sample(NamedTuple):
    """One value; labels that are empty are none."""

    name: str
    labels: Mapping[str, str]
    value: float


METRICS = (
    Metric("fededge_version_number", (), "", "Number of the round that made the current version."),
    Metric("fededge_version_timestamp_seconds", (), "seconds since 1970", "When the current version was made."),
    Metric("fededge_interval_seconds", (), "seconds", "Between the rounds of its schedule; none without one."),
    Metric("fededge_version_metric", ("metric",), "the metric's own", "What the current version scores on the test."),
    Metric("fededge_round_number", (), "", "Number of the latest round."),
    Metric("fededge_round_succeeded", (), "1 or 0", "Whether the latest round has made a version."),
    Metric("fededge_round_attempts", (), "attempts", "Attempts at the latest round."),
    Metric("fededge_round_failed_attempts", ("reason",), "attempts", "Those of them that failed."),
    Metric("fededge_round_runs", (), "runs", "Runs that have worked on the latest attempt."),
    Metric("fededge_round_phase_seconds", ("phase",), "seconds", "How long a phase of the latest attempt took."),
    Metric("fededge_round_clients", ("outcome", "reason"), "clients", "Clients of the latest attempt's cohort."),
    Metric("fededge_round_quorum_margin", (), "clients", "Updates that count, less those that the round needs."),
    Metric("fededge_round_bytes", ("direction",), "bytes", "Tensors to the cohort, and of the updates that count."),
)
# Of an exporter, about itself; without labels.
STORE_UP = Metric("fededge_store_up", (), "1 or 0", "Whether the store could be read.")


class Outcome(StrEnum):
    """What became of a client of the cohort."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # it delivered, and its update does not count
    FAILED = "failed"  # it delivered nothing
    NOT_NEEDED = "not_needed"  # the target was reached before it began


class WhyFailed(StrEnum):
    """Why an attempt made no version."""

    QUORUM = "quorum"  # too few usable updates
    NON_FINITE = "non_finite"  # the new model, or its metric, was NaN or infinite
    GIVEN_UP = "given_up"  # by hand
    OTHER = "other"


def samples(history: History) -> Iterator[Sample]:
    """Compute all metrics of a training."""
    version = history.version
    common = {"training": version.training, "workload": version.settings.workload}
    yield Sample("fededge_version_number", common, version.round)
    yield Sample("fededge_version_timestamp_seconds", common, history.made_at.timestamp())
    if history.tries and history.tries[-1].plan.interval_s > 0:
        yield Sample("fededge_interval_seconds", common, history.tries[-1].plan.interval_s)
    for metric, value in sorted(version.metrics.items()):
        yield Sample("fededge_version_metric", {**common, "metric": metric}, value)
    if history.tries:
        for name, labels, value in _round(history):
            yield Sample(f"fededge_round_{name}", {**common, **labels}, value)


def quorum(how: RoundSettings) -> int:
    """Return how many updates a round needs: `min_clients`, or more if its aggregation rule does."""
    enough = range(how.min_clients, how.min_clients + 2 * how.attackers + 4)
    met = (n for n in enough if not precondition(how.aggregation, n, how.attackers))
    return next(met, how.min_clients)


def _round(history: History) -> Iterator[Sample]:
    latest = history.tries[-1]
    yield Sample("number", {}, latest.plan.round)
    yield Sample("succeeded", {}, history.succeeded)
    yield Sample("attempts", {}, latest.plan.number)
    failed = Counter(_why(one) for one in history.tries if one.failed)
    for reason in WhyFailed:
        yield Sample("failed_attempts", {"reason": reason}, failed[reason])
    yield Sample("runs", {}, len(history.written["sittings"]))
    for phase, seconds in phase_seconds(history).items():
        yield Sample("phase_seconds", {"phase": phase}, seconds)
    if latest.closing:
        yield from _closed(history, latest, latest.closing)


def _closed(history: History, latest: Try, closing: Closing) -> Iterator[Sample]:
    delivered = history.written["updates"]
    yield Sample("clients", {"outcome": Outcome.ACCEPTED}, len(closing.accepted))
    left_out = Counter((_outcome(one.reason, one.client in delivered), one.reason) for one in closing.excluded)
    for (outcome, reason), count in sorted(left_out.items()):
        yield Sample("clients", {"outcome": outcome, "reason": reason}, count)
    yield Sample("quorum_margin", {}, len(closing.accepted) - quorum(latest.plan.settings))
    update = latest.plan.update_signature
    control = {name: kind for name, kind in update.items() if name.startswith(CONTROL)}
    down = data_size(history.version.signature) + data_size(control)
    yield Sample("bytes", {"direction": "down"}, down * len(latest.plan.cohort))
    yield Sample("bytes", {"direction": "up"}, data_size(update) * len(closing.accepted))


def _outcome(reason: ExclusionReason, delivered: bool) -> Outcome:
    if reason is ExclusionReason.NOT_NEEDED:
        return Outcome.NOT_NEEDED
    return Outcome.REFUSED if delivered else Outcome.FAILED


def _why(failed: Try) -> WhyFailed:
    """Tell why an attempt failed by what it has come to; the record has a sentence."""
    if failed.failed and failed.failed.reason == GIVEN_UP:
        return WhyFailed.GIVEN_UP
    if failed.closing is None:
        return WhyFailed.OTHER
    how, accepted = failed.plan.settings, len(failed.closing.accepted)
    unmet = accepted < how.min_clients or precondition(how.aggregation, accepted, how.attackers)
    return WhyFailed.QUORUM if unmet else WhyFailed.NON_FINITE
