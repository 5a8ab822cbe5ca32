"""Closes the round: decides which updates count, averages them, and makes the next model."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from fededge.core.aggregation import weighted_mean
from fededge.core.cohorts import client_order
from fededge.core.tensors import non_finite, signature
from fededge.core.updates import ClientUpdate, ExclusionReason, inspect_update
from fededge.errors import CorruptError, NonFiniteModelError, NotFoundError, QuorumError
from fededge.learners.server import apply_update, server_runtime
from fededge.records import Accepted, Aggregate, Attempt, Closing, Digest, Excluded, Failed, Update
from fededge.steps.running import open_attempt, running
from fededge.store.blobs import get_tensors, put_tensors
from fededge.store.port import Store
from fededge.store.trainings import TrainingStore


def aggregate_updates(store: str, attempt: str, reports: Sequence[Mapping[str, int | str]]) -> Digest:
    """Make the next model from the round's updates.

    Args:
      store: as in `open_store`.
      attempt: as `distribute_model` named it.
      reports: what `train_clients` returned for each batch. Only told: which updates count, the store decides.

    Returns:
      The new model's digest.

    Raises:
      QuorumError: fewer usable updates than `min_clients`; the current version stays.
      NonFiniteModelError: the new model would hold NaN or infinite weights; the current version stays.
    """
    with running("aggregate"):
        for report in reports:
            sys.stdout.write(f"{dict(report)}\n")
        trainings, plan = open_attempt(store, attempt)
        if done := trainings.aggregate(plan.ref):
            return done.model
        closing = trainings.closing(plan.ref) or trainings.close(plan.ref, _judge(trainings, plan))
        _require_quorum(trainings, plan, closing)
        return trainings.put_aggregate(plan.ref, _aggregate(trainings, plan, closing)).model


def _judge(trainings: TrainingStore, plan: Attempt) -> Closing:
    """Decide about each client of the cohort."""
    model = signature(get_tensors(trainings.store, plan.base_model))
    verdicts = [_judge_client(trainings, plan, client, model) for client in sorted(plan.cohort, key=client_order)]
    return Closing(
        accepted=[verdict for verdict in verdicts if isinstance(verdict, Accepted)],
        excluded=[verdict for verdict in verdicts if isinstance(verdict, Excluded)],
    )


def _judge_client(trainings: TrainingStore, plan: Attempt, client: str, model: dict[str, str]) -> Accepted | Excluded:
    update = trainings.update(plan.ref, client)
    if update is None:
        failure = trainings.failure(plan.ref, client)
        if failure is None:
            return Excluded(client=client, reason=ExclusionReason.NO_UPDATE, detail="nothing arrived")
        return Excluded(client=client, reason=failure.reason, detail=failure.detail)
    if not _belongs(update, plan):
        detail = f"made from {update.base_model} for round {update.round}"
        return Excluded(client=client, reason=ExclusionReason.WRONG_BASE, detail=detail)
    try:
        delta = get_tensors(trainings.store, update.delta)
    except (CorruptError, NotFoundError) as error:
        return Excluded(client=client, reason=ExclusionReason.CORRUPT, detail=str(error))
    if refusal := inspect_update(delta, update.num_examples, model):
        return Excluded(client=client, reason=refusal.reason, detail=refusal.detail)
    return Accepted(client=client, delta=update.delta, num_examples=update.num_examples, metrics=update.metrics)


def _belongs(update: Update, plan: Attempt) -> bool:
    """Whether an update was made for this attempt, from the model that it distributed."""
    made_for = (update.training, update.version, update.attempt, update.round, update.base_model)
    return made_for == (plan.training, plan.version, plan.number, plan.round, plan.base_model)


def _require_quorum(trainings: TrainingStore, plan: Attempt, closing: Closing) -> None:
    if len(closing.accepted) >= plan.settings.min_clients:
        return
    reasons = Counter(excluded.reason.value for excluded in closing.excluded)
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    example = f" ({closing.excluded[0].client}: {closing.excluded[0].detail})" if closing.excluded else ""
    failed = Failed(
        reason=f"{len(closing.accepted)} of {len(plan.cohort)} clients delivered, "
        f"min_clients={plan.settings.min_clients}: {counted}{example}"
    )
    trainings.fail_attempt(plan.ref, failed)
    raise QuorumError(
        f"round {plan.round} of {plan.training} failed, {plan.base_version} stays current: {failed.reason}"
    )


def _aggregate(trainings: TrainingStore, plan: Attempt, closing: Closing) -> Aggregate:
    store = trainings.store
    weights = get_tensors(store, plan.base_model)
    state = get_tensors(store, plan.base_server_state) if plan.base_server_state else None
    mean = weighted_mean(_updates(store, closing))
    new_weights, new_state = apply_update(plan.settings, weights, mean, state)
    # A state that overflowed would make the next model NaN.
    if bad := non_finite(new_weights) or [f"server state {name}" for name in non_finite(new_state)]:
        trainings.fail_attempt(plan.ref, Failed(reason=f"NaN or infinity in {', '.join(bad)}"))
        raise NonFiniteModelError(
            f"round {plan.round} of {plan.training} failed, {plan.base_version} stays current: there is "
            f"NaN or infinity in {', '.join(bad)}; a smaller server_learning_rate may help"
        )
    return Aggregate(
        model=put_tensors(store, new_weights), server_state=put_tensors(store, new_state), runtime=server_runtime()
    )


def _updates(store: Store, closing: Closing) -> Iterator[ClientUpdate]:
    for update in closing.accepted:
        delta = get_tensors(store, update.delta)
        yield ClientUpdate(update.client, delta, update.num_examples, update.metrics)
