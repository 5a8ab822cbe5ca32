"""Trains the clients of one batch, one after the other, and delivers their updates to the store."""

from __future__ import annotations

import time
import traceback

from fededge.core.seeds import Purpose, derive_seed
from fededge.core.tensors import Tensors
from fededge.core.updates import ExclusionReason
from fededge.errors import InputError, StoreError, UpdateError
from fededge.events import emit
from fededge.learners import ClientSeeds, Learner
from fededge.records import Attempt, Failure, Update
from fededge.steps.running import in_a_line, open_attempt, running
from fededge.store.blobs import get_tensors, put_tensors
from fededge.store.trainings import TrainingStore
from fededge.workloads import Workload, load_workload


def train_clients(store: str, batch: str) -> dict[str, int | str]:
    """Train a batch of clients.

    A client that fails is reported and the others go on: in Kubeflow one failed iteration would fail the loop. Only
    a store that fails ends the step, because then nothing can be reported either.

    Args:
      store: as in `open_store`.
      batch: as the plan names it: the attempt and the batch.

    Returns:
      The batch's name and how many clients `delivered` and `failed`; the reports themselves are in the store.
    """
    with running("train"):
        attempt, _, name = batch.rpartition("/")
        trainings, plan = open_attempt(store, attempt)
        if name not in plan.batches:
            raise InputError(f"attempt {attempt} has no batch {name}")
        workload = load_workload(plan.settings.workload)
        learner = workload.learner()
        weights = get_tensors(trainings.store, plan.base_model)
        clients = plan.batches[name]
        delivered = sum(_deliver(trainings, plan, client, workload, learner, weights) for client in clients)
        return {"batch": batch, "delivered": delivered, "failed": len(clients) - delivered}


def _deliver(
    trainings: TrainingStore, plan: Attempt, client: str, workload: Workload, learner: Learner, weights: Tensors
) -> bool:
    """Train one client unless its update is there, and say whether it delivered."""
    begun = time.monotonic()
    if trainings.update(plan.ref, client):
        _tell(plan, client, begun, ok=True)
        return True
    try:
        update = _train(trainings, plan, client, workload, learner, weights, begun)
    except StoreError:
        raise
    except UpdateError as error:
        failure = Failure(client=client, reason=ExclusionReason(error.reason), detail=error.detail)
    except Exception as error:  # whatever a client's data or model does must not end the others
        traceback.print_exc()
        failure = Failure(client=client, reason=ExclusionReason.TRAINING_FAILED, detail=in_a_line(error))
    else:
        trainings.deliver(plan.ref, update)
        _tell(plan, client, begun, ok=True)
        return True
    trainings.report_failure(plan.ref, failure)
    _tell(plan, client, begun, ok=False, detail=f"{failure.reason}: {failure.detail}")
    return False


def _train(
    trainings: TrainingStore,
    plan: Attempt,
    client: str,
    workload: Workload,
    learner: Learner,
    weights: Tensors,
    begun: float,
) -> Update:
    how = plan.settings
    examples = workload.train_data(client, how.clients)
    seeds = ClientSeeds(
        shuffle=derive_seed(how.seed, Purpose.SHUFFLE, plan.round, client),
        dropout=derive_seed(how.seed, Purpose.DROPOUT, plan.round, client),
    )
    trained = learner.train(client, weights, examples, how, seeds)
    return Update(
        training=plan.training,
        version=plan.version,
        attempt=plan.number,
        round=plan.round,
        client=client,
        base_model=plan.base_model,
        delta=put_tensors(trainings.store, trained.delta),
        num_examples=trained.num_examples,
        metrics=dict(trained.metrics),
        seconds=round(time.monotonic() - begun, 3),
        runtime=learner.runtime(),
    )


def _tell(plan: Attempt, client: str, begun: float, *, ok: bool, detail: str = "") -> None:
    seconds = round(time.monotonic() - begun, 3)
    emit(
        "client",
        "train",
        training=plan.training,
        round=plan.round,
        client=client,
        ok=ok,
        seconds=seconds,
        detail=detail,
    )
