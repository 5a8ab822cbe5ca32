"""Makes trainings in a store as the steps do, without training anything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from fededge.core.tensors import Tensors, signature
from fededge.core.updates import ExclusionReason
from fededge.records import (
    Accepted,
    Aggregate,
    Attempt,
    ClosedBecause,
    Closing,
    Digest,
    Evaluation,
    Excluded,
    Failure,
    Runtime,
    SittingRef,
    Training,
    Update,
    Version,
    digest_of,
)
from fededge.settings import RoundSettings
from fededge.store import Store, keys
from fededge.store.blobs import put_tensors
from fededge.store.trainings import TrainingStore

SETTINGS = RoundSettings(clients=3)
RUNTIME = Runtime(
    fededge="0.1.0",
    python="3.11.9",
    machine="x86_64",
    cpu_features="avx2",
    threads=1,
    libraries={"numpy": "1.25.2"},
    packages=digest_of(b"numpy==1.25.2"),
)
START = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = {"x": "float32[8]", "y": "int64[]"}
COUNTS = {"client-000000": 30, "client-000001": 10}  # examples of those that deliver
BAD = "client-000002"
BROKEN = "NaN or infinity in 0000/w"


def weights(round_number: int) -> Tensors:
    return {"0000/w": np.full((2, 3), round_number, np.float32), "0001/b": np.zeros(3, np.float32)}


def begin_training(store: Store, name: str) -> TrainingStore:
    """Begin a training."""
    trainings = TrainingStore(store, name)
    model = put_tensors(store, weights(0))
    training = Training(
        name=name, settings=SETTINGS, signature=signature(weights(0)), initial_model=model, created_at=START
    )
    trainings.create(training, _initial(training))
    return trainings


def make_training(store: Store, name: str = "digits") -> TrainingStore:
    """Begin a training and publish v1 to v3; roll back to v1, and publish v2-b1."""
    trainings = begin_training(store, name)
    for _ in range(3):
        publish_round(trainings)
    trainings.rollback("v1")
    publish_round(trainings)
    return trainings


def publish_round(trainings: TrainingStore) -> Version:
    """Make the next version, as a run does from beginning to end."""
    plan, token = open_round(trainings, "run 1")
    closing = close_round(trainings, plan)
    version = trainings.publish(make_manifest(trainings, plan, closing), token)
    trainings.lease.release(token)
    return version


def open_round(
    trainings: TrainingStore, holder: str, settings: RoundSettings = SETTINGS, seconds: float = 3600
) -> tuple[Attempt, int]:
    """Open the next attempt at the next round, or go on with the open one; also return the lease's token.

    Args:
      trainings: has begun.
      holder: the run; it holds the lease from now on.
      settings: of the round.
      seconds: how long it holds the lease.
    """
    token = trainings.lease.acquire(holder, trainings.store.now() + timedelta(seconds=seconds))
    trainings.fence(token)
    base, branch = trainings.version(), trainings.head().pointer.branch
    version = keys.version_name(base.round + 1, branch)
    past = trainings.attempts(version)
    if past and not trainings.failed(past[-1]):
        plan = trainings.attempt(past[-1])
    else:
        plan = trainings.open_attempt(_plan(trainings, base, version, len(past) + 1, settings))
    trainings.begin_sitting(SittingRef(attempt=plan.ref, token=token))
    return plan, token


def close_round(trainings: TrainingStore, plan: Attempt) -> Closing:
    """Have the clients answer, and close the round."""
    updates = [deliver(trainings, plan, client) for client in COUNTS]
    trainings.report_failure(plan.ref, Failure(client=BAD, reason=ExclusionReason.NON_FINITE, detail=BROKEN))
    closing = Closing(
        because=ClosedBecause.ALL_ANSWERED,
        accepted=[_accepted(update) for update in updates],
        excluded=[Excluded(client=BAD, reason=ExclusionReason.NON_FINITE, detail=BROKEN)],
        repeats=[],
        data_schema=SCHEMA,
        closed_at=_made_at(plan),
    )
    return trainings.close(plan.ref, closing)


def deliver(trainings: TrainingStore, plan: Attempt, client: str, reused_from: int | None = None) -> Update:
    """Deliver a client's update."""
    return trainings.deliver(
        plan.ref,
        Update(
            training=plan.training,
            version=plan.version,
            attempt=plan.number,
            round=plan.round,
            client=client,
            base_model=plan.base_model,
            delta=put_tensors(trainings.store, weights(plan.round)),
            num_examples=COUNTS.get(client, 20),
            metrics={"loss": 0.25},
            data_schema=SCHEMA,
            seconds=1.5,
            work=digest_of(f"{client} {plan.base_model}".encode()),
            reused_from=reused_from,
            runtime=RUNTIME,
        ),
    )


def _initial(training: Training) -> Version:
    return Version(
        training=training.name,
        version="v0",
        round=0,
        parent=None,
        parent_manifest=None,
        attempt=0,
        model=training.initial_model,
        server_state=None,
        signature=training.signature,
        settings=SETTINGS,
        because=None,
        accepted=[],
        excluded=[],
        repeats=[],
        counted=[],
        metric="accuracy",
        metrics={},
        data_schema={},
        documents={keys.training(training.name): training.digest},
        runtime=RUNTIME,
        created_at=START,
    )


def _plan(trainings: TrainingStore, base: Version, version: str, number: int, settings: RoundSettings) -> Attempt:
    return Attempt(
        training=trainings.name,
        version=version,
        round=base.round + 1,
        number=number,
        base_version=base.version,
        base_model=base.model,
        base_server_state=base.server_state,
        settings=settings,
        batches={"b000": [f"client-{i:06d}" for i in range(settings.clients)]},
        update_signature={},
        data_schema=base.data_schema,
        code=digest_of(b"the workload"),
        runtime=RUNTIME,
        opened_at=START + _since_start(version, base.round + 1) + timedelta(seconds=number),
    )


def make_manifest(trainings: TrainingStore, plan: Attempt, closing: Closing) -> Version:
    """Make the manifest of a closed round's version, and what is between."""
    model = put_tensors(trainings.store, weights(plan.round))
    counted = [update.client for update in closing.accepted]
    aggregate = Aggregate(model=model, server_state=_server_state(trainings), counted=counted, runtime=RUNTIME)
    metrics = {"accuracy": plan.round / 10, "loss": 1 - plan.round / 10}
    evaluation = Evaluation(model=model, metric="accuracy", metrics=metrics, num_examples=100, data_schema=SCHEMA)
    trainings.put_aggregate(plan.ref, aggregate)
    trainings.put_evaluation(plan.ref, evaluation)
    return Version(
        training=trainings.name,
        version=plan.version,
        round=plan.round,
        parent=plan.base_version,
        parent_manifest=trainings.version(plan.base_version).digest,
        attempt=plan.number,
        model=model,
        server_state=aggregate.server_state,
        signature=signature(weights(0)),
        settings=plan.settings,
        because=closing.because,
        accepted=closing.accepted,
        excluded=closing.excluded,
        repeats=closing.repeats,
        counted=counted,
        metric=evaluation.metric,
        metrics=evaluation.metrics,
        data_schema=closing.data_schema,
        documents={
            keys.attempt(plan.ref): plan.digest,
            keys.closing(plan.ref): closing.digest,
            keys.aggregate(plan.ref): aggregate.digest,
            keys.evaluation(plan.ref): evaluation.digest,
        },
        runtime=RUNTIME,
        created_at=_made_at(plan),
    )


def _server_state(trainings: TrainingStore) -> Digest:
    return put_tensors(trainings.store, {})


def _accepted(update: Update) -> Accepted:
    return Accepted(
        client=update.client,
        update=update.digest,
        delta=update.delta,
        num_examples=update.num_examples,
        weight=update.num_examples,
        norm=2.5,
        clipped=False,
        metrics=update.metrics,
        seconds=update.seconds,
    )


def _made_at(plan: Attempt) -> datetime:
    return START + _since_start(plan.version, plan.round) + timedelta(seconds=30)


def _since_start(version: str, round_number: int) -> timedelta:
    return timedelta(minutes=round_number, hours=int(version.partition("-b")[2] or 0))
