"""Closes the round: decides which updates count, combines them, and makes the next model."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np

from fededge.core.admission import Admitted, Claim, Gate, clip, common_schema
from fededge.core.aggregation import Weighted, weighted_mean
from fededge.core.cohorts import client_order
from fededge.core.parts import CONTROL, STATISTICS, Parts, over_coverage, split, under
from fededge.core.robust import Rule, precondition
from fededge.core.statistics import pooled_statistics
from fededge.core.tensors import Tensors, non_finite
from fededge.core.updates import POD_REASONS, ExclusionReason, Refusal
from fededge.core.weights import capped_weights
from fededge.errors import UNREADABLE, NonFiniteModelError, QuorumError, TooLargeError
from fededge.events import emit
from fededge.learners.server import apply_update, server_runtime
from fededge.records import Accepted, Aggregate, ClosedBecause, Closing, Digest, Excluded, Update
from fededge.reports.round_report import exclusions
from fededge.settings import RoundSettings
from fededge.steps.running import Work, fail_round, working
from fededge.steps.spool import robust_mean
from fededge.store.blobs import get_bytes, get_tensors, put_tensors

_CUT_OFF = {ExclusionReason.DEADLINE, ExclusionReason.LATE}
_LOST = {ExclusionReason.NO_UPDATE, *POD_REASONS}


class Aggregated(NamedTuple):
    """The new model, and how many clients count.

    Attributes:
      model: its digest.
      clients: `accepted`, `excluded`, and how many for each reason.
    """

    model: Digest
    clients: dict[str, int]


def aggregate_updates(store: str, attempt: str, reports: Sequence[Mapping[str, int | str]]) -> Aggregated:
    """Make the next model from the round's updates.

    Args:
      store: as in `open_store`.
      attempt: as `distribute_model` named it.
      reports: what `train_clients` returned for each batch. Only told: which updates count, the store decides.

    Raises:
      QuorumError: fewer usable updates than `min_clients`, or too few for the aggregation rule; the current version
        stays.
      NonFiniteModelError: the new model would hold NaN or infinite weights; the current version stays.
    """
    with working("aggregate", store, attempt) as work:
        for report in reports:
            sys.stdout.write(f"{dict(report)}\n")
        closing = work.trainings.closing(work.ref) or _close(work)
        _tell_refused(work, closing)
        reasons = Counter(excluded.reason.value for excluded in closing.excluded)
        clients = {"accepted": len(closing.accepted), "excluded": len(closing.excluded), **reasons}
        done = work.trainings.aggregate(work.ref)
        if done is None:
            _require_quorum(work, closing)
            done = work.trainings.put_aggregate(work.ref, _aggregate(work, closing))
        return Aggregated(done.model, clients)


def _close(work: Work) -> Closing:
    """Decide about each client of the cohort. From here on the round is a function of what this records."""
    plan, trainings = work.plan, work.trainings
    arrivals = trainings.arrivals(work.ref)
    cohort = sorted(plan.cohort, key=client_order)
    gate = _gate(work, plan.data_schema or _common_schema(work, cohort))
    verdicts = [_judge(work, gate, client, arrivals) for client in cohort]
    accepted = [verdict for verdict in verdicts if isinstance(verdict, Accepted)]
    excluded = [verdict for verdict in verdicts if isinstance(verdict, Excluded)]
    weights = capped_weights([update.num_examples for update in accepted], plan.settings.max_client_share)
    closing = Closing(
        because=_because(excluded),
        accepted=[a.model_copy(update={"weight": w}) for a, w in zip(accepted, weights, strict=True)],
        excluded=excluded,
        repeats=trainings.repeats(work.ref),
        data_schema=dict(gate.data_schema or {}),
    )
    work.renew()  # a run that was taken over while it judged must not close
    return trainings.close(work.ref, closing)


def _read(work: Work, client: str) -> Update | Excluded:
    """Find a client's update, or why there is none."""
    try:
        if update := work.trainings.update(work.ref, client):
            return update
        failure = work.trainings.failure(work.ref, client)
    except TooLargeError as error:
        return Excluded(client=client, reason=ExclusionReason.TOO_LARGE, detail=str(error))
    except UNREADABLE as error:
        return Excluded(client=client, reason=ExclusionReason.CORRUPT, detail=str(error))
    if failure is None:
        return Excluded(client=client, reason=ExclusionReason.NO_UPDATE, detail="nothing arrived")
    return Excluded(client=client, reason=failure.reason, detail=failure.detail)


def _gate(work: Work, data_schema: Mapping[str, str] | None) -> Gate:
    plan = work.plan
    return Gate(
        training=plan.training,
        version=plan.version,
        round=plan.round,
        attempt=plan.number,
        base_model=plan.base_model,
        signature=plan.update_signature,
        cohort_size=len(plan.cohort),
        data_schema=data_schema,
        max_norm=plan.settings.max_update_norm,
        clip_norm=plan.settings.clip_norm,
    )


def _common_schema(work: Work, cohort: Sequence[str]) -> dict[str, str] | None:
    found = (_read(work, client) for client in cohort)
    return common_schema(update.data_schema for update in found if isinstance(update, Update))


def _judge(work: Work, gate: Gate, client: str, arrivals: Mapping[str, datetime]) -> Accepted | Excluded:
    update = _read(work, client)
    if isinstance(update, Excluded):
        return update
    verdict = _admit(work, gate, client, update, arrivals)
    if isinstance(verdict, Refusal):
        return Excluded(client=client, reason=verdict.reason, detail=verdict.detail)
    return Accepted(
        client=client,
        update=update.digest,
        delta=update.delta,
        num_examples=verdict.num_examples,
        weight=verdict.num_examples,
        norm=verdict.norm,
        clipped=verdict.clipped,
        metrics=update.metrics,
        seconds=update.seconds,
        reused_from=update.reused_from,
    )


def _admit(work: Work, gate: Gate, client: str, update: Update, arrivals: Mapping[str, datetime]) -> Admitted | Refusal:
    late = (arrivals[client] - work.deadline).total_seconds() if client in arrivals else 0
    if late > 0:
        return Refusal(ExclusionReason.LATE, f"arrived {late:.0f} s after the deadline")
    claim = Claim(
        client=update.client,
        training=update.training,
        version=update.version,
        round=update.round,
        attempt=update.attempt,
        base_model=update.base_model,
        num_examples=update.num_examples,
        data_schema=update.data_schema,
    )
    if refusal := gate.check_claim(client, claim):
        return refusal
    try:
        return gate.admit(client, claim, get_bytes(work.store, update.delta, gate.max_bytes))
    except TooLargeError as error:
        return Refusal(ExclusionReason.TOO_LARGE, str(error))
    except UNREADABLE as error:
        return Refusal(ExclusionReason.CORRUPT, str(error))


def _because(excluded: Sequence[Excluded]) -> ClosedBecause:
    reasons = {client.reason for client in excluded}
    if reasons & _CUT_OFF:
        return ClosedBecause.DEADLINE
    if ExclusionReason.NOT_NEEDED in reasons:
        return ClosedBecause.TARGET_REACHED
    return ClosedBecause.TASKS_ENDED if reasons & _LOST else ClosedBecause.ALL_ANSWERED


def _tell_refused(work: Work, closing: Closing) -> None:
    """Tell which clients delivered and are left out; of the others their own steps have told."""
    delivered = work.trainings.arrivals(work.ref)
    for excluded in closing.excluded:
        if excluded.client in delivered:
            detail = f"is left out: {excluded.reason}: {excluded.detail}"
            emit("client", "aggregate", training=work.plan.training, round=work.plan.round, client=excluded.client,
                 ok=False, reason=excluded.reason, detail=detail)  # fmt: skip


def _require_quorum(work: Work, closing: Closing) -> None:
    plan, accepted = work.plan, len(closing.accepted)
    unmet = f"min_clients={plan.settings.min_clients}" if accepted < plan.settings.min_clients else ""
    if not unmet and plan.settings.aggregation is not Rule.MEAN:
        unmet = precondition(plan.settings.aggregation, accepted, plan.settings.attackers) or ""
    if not unmet:
        return
    sys.stdout.write(f"{exclusions(closing.excluded)}\n")
    reasons = Counter(excluded.reason.value for excluded in closing.excluded)
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    example = f" ({closing.excluded[0].client}: {closing.excluded[0].detail})" if closing.excluded else ""
    reason = f"{accepted} of {len(plan.cohort)} clients delivered, {unmet}"
    if counted:
        reason = f"{reason}: {counted}{example}"
    left = plan.settings.max_attempts - plan.number
    advice = f"; run again for attempt {plan.number + 1} of {plan.settings.max_attempts}" if left > 0 else ""
    fail_round(work, QuorumError, reason, f"{reason}{advice}")


def _aggregate(work: Work, closing: Closing) -> Aggregate:
    plan, store = work.plan, work.store
    model = split(get_tensors(store, plan.base_model))
    state = split(get_tensors(store, plan.base_server_state) if plan.base_server_state else {})
    mean, counted = _combine(work, closing)
    _require_finite(work, [f"the aggregate's {name}" for name in non_finite(mean)])
    trained, optimizer = _step(plan.settings, model.trained, split(mean), state.trained)
    statistics = {**model.statistics, **_statistics(work, closing)}
    new_model = {**trained, **statistics}
    new_state = {**optimizer, **under(CONTROL, _controls(work, split(mean).control, state.control, len(counted)))}
    # A state that overflowed would make the next model NaN.
    _require_finite(work, [*non_finite(new_model), *(f"server state {name}" for name in non_finite(new_state))])
    return Aggregate(
        model=put_tensors(store, new_model),
        server_state=put_tensors(store, new_state),
        counted=counted,
        runtime=server_runtime(),
    )


def _step(how: RoundSettings, weights: Tensors, mean: Parts, state: Tensors) -> tuple[Tensors, Tensors]:
    """Train the server's model a step; a round in which clients only measured trains nothing."""
    if not mean.trained:
        return weights, state
    over = {name: over_coverage(mean.trained[name], share) for name, share in mean.coverage.items()}
    return apply_update(how, weights, {**mean.trained, **over}, state)


def _statistics(work: Work, closing: Closing) -> Tensors:
    """Pool what the clients measured, if they did: another pass, for pooling is no mean."""
    if not any(name.startswith(STATISTICS) for name in work.plan.update_signature):
        return {}
    return pooled_statistics(_updates(work, closing))


def _controls(work: Work, mean: Tensors, before: Tensors, accepted: int) -> Tensors:
    """Move the server's SCAFFOLD control variate by its clients' share of the population.

    Source: Karimireddy et al. 2020, arXiv:1910.06378, Algorithm 1, line 17; the mean is weighted by examples here, as
    the model's is.
    """
    share = np.float32(accepted / work.plan.settings.clients)
    moved = {
        name: np.asarray(np.add(before.get(name, np.float32(0)), np.multiply(change, share), dtype=np.float32))
        for name, change in mean.items()
    }
    return {**before, **moved}


def _combine(work: Work, closing: Closing) -> tuple[Tensors, list[str]]:
    """Make one update of the accepted ones; also say whose it is made of."""
    how, clients = work.plan.settings, [update.client for update in closing.accepted]
    if how.aggregation is Rule.MEAN:
        return weighted_mean(_updates(work, closing)), clients
    mean, chosen = robust_mean(how.aggregation, how.attackers, (update.delta for update in _updates(work, closing)))
    return mean, [clients[index] for index in chosen]


def _updates(work: Work, closing: Closing) -> Iterator[Weighted]:
    for update in closing.accepted:
        delta = get_tensors(work.store, update.delta)
        yield Weighted(clip(delta, update.norm, work.plan.settings.clip_norm), update.weight)


def _require_finite(work: Work, bad: Sequence[str]) -> None:
    if bad:
        names = ", ".join(bad)
        told = f"there is NaN or infinity in {names}; a smaller server_learning_rate or clip_norm may help"
        fail_round(work, NonFiniteModelError, f"NaN or infinity in {names}", told)
