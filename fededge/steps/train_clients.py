"""Trains the clients of one batch, one after the other, and delivers their updates to the store."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fededge.core.admission import common_schema
from fededge.core.parts import CONTROL, split
from fededge.core.seeds import Purpose, derive_seed
from fededge.core.tensors import Tensors
from fededge.core.updates import ExclusionReason
from fededge.errors import UNREADABLE, FedEdgeError, InputError, LeaseError, StoreError, UpdateError
from fededge.events import emit
from fededge.learners import ClientSeeds, Examples, Learner
from fededge.monitoring import logs
from fededge.records import AttemptRef, Digest, Failure, Update, digest_of
from fededge.steps.controls import ClientControls, Variates
from fededge.steps.running import Work, in_a_line, working
from fededge.steps.time_limit import TimeUpError, time_limit
from fededge.store.blobs import get_bytes, get_tensors, put_tensors
from fededge.workloads import Workload, learner_of, load_workload


class _ChangedDataError(InputError):
    """A round is taken up again with data of another schema than it began with: nobody's failure but the user's."""


def train_clients(store: str, batch: str, *, ends_run: bool = True) -> dict[str, int | str]:
    """Train a batch of clients.

    A client that fails is reported and the others go on: in Kubeflow one failed iteration would fail the loop. At
    the round's deadline the step reports who is not done, and ends. Only a store that fails, or another run that
    has taken over, makes the step fail, because then nothing can be reported either.

    Args:
      store: as in `open_store`.
      batch: as the plan names it: the attempt and the batch.
      ends_run: whether the run is over if this step fails, as in `working`.

    Returns:
      The batch's name and how many clients `delivered` and `failed`; the reports themselves are in the store.
    """
    attempt, _, name = batch.rpartition("/")
    with working("train", store, attempt, ends_run=ends_run) as work:
        if name not in work.plan.batches:
            raise InputError(f"attempt {attempt} has no batch {name}")
        trainer = _Trainer(work)
        clients = work.plan.batches[name]
        answered: dict[str, bool] = {}
        try:
            with time_limit((work.deadline - work.store.now()).total_seconds()):
                for client in clients:
                    with logs.about(client=client):
                        answered[client] = _answer(trainer, client)
        except TimeUpError:
            for client in clients[len(answered) :]:
                answered[client] = _late(trainer, client)
        delivered = sum(answered.values())
        return {"batch": batch, "delivered": delivered, "failed": len(clients) - delivered}


@dataclass(frozen=True)
class _Trainer:
    """What the clients of a batch share; made when the first of them needs it."""

    work: Work

    @cached_property
    def workload(self) -> Workload:
        return load_workload(self.work.plan.settings.workload)

    @cached_property
    def learner(self) -> Learner:
        return learner_of(self.work.plan.settings.workload)

    @cached_property
    def weights(self) -> Tensors:
        return get_tensors(self.work.store, self.work.plan.base_model)

    def prepare(self) -> None:
        """Load what training needs, or the first client would seem slower than the others."""
        if "weights" not in vars(self):
            self.learner.prepare()
            _ = self.weights

    @cached_property
    def controls(self) -> ClientControls:
        return ClientControls(self.work.trainings, self.work.plan.base_version)

    @cached_property
    def server_control(self) -> Tensors:
        """The server's control variate of all that is trained; empty where the algorithm has none."""
        plan = self.work.plan
        names = [name.removeprefix(CONTROL) for name in plan.update_signature if name.startswith(CONTROL)]
        state = get_tensors(self.work.store, plan.base_server_state) if names and plan.base_server_state else {}
        known = split(state).control
        return {name: known.get(name, np.zeros_like(self.weights[name])) for name in names}

    def variates(self, client: str) -> Variates | None:
        if not self.server_control:
            return None
        return Variates(self.server_control, self.controls.current(client, self.server_control))

    @cached_property
    def earlier(self) -> list[AttemptRef]:
        """The attempts at this round that failed before this one, the newest first."""
        plan = self.work.plan
        if plan.number == 1:
            return []
        return [ref for ref in self.work.trainings.attempts(plan.version) if ref.number < plan.number][::-1]

    @cached_property
    def begun_with(self) -> dict[str, str]:
        """The data schema of an attempt that is taken up again: of its base, or of most that has arrived; or empty."""
        work = self.work
        if not work.is_resumed:
            return {}
        return work.plan.data_schema or common_schema(update.data_schema for update in _arrived(work)) or {}


def _arrived(work: Work) -> Iterator[Update]:
    """Read the updates that are there, as far as they can be read."""
    for client in work.trainings.arrivals(work.ref):
        with contextlib.suppress(*UNREADABLE):
            if update := work.trainings.update(work.ref, client):
                yield update


def _answer(trainer: _Trainer, client: str) -> bool:
    """Train one client unless its update is there, and say whether it delivered."""
    begun = time.monotonic()
    work = trainer.work
    if _has_delivered(work, client):
        _tell(work, client, begun, detail="has delivered before")
        return True
    if work.has_enough:
        return _fail(work, Failure(client=client, reason=ExclusionReason.NOT_NEEDED, detail="the target was reached"))
    try:
        trainer.prepare()
        begun = time.monotonic()
        update = _train(trainer, client, begun)
    except (StoreError, _ChangedDataError):
        raise
    except UpdateError as error:
        failure = Failure(client=client, reason=ExclusionReason(error.reason), detail=error.detail)
    except FedEdgeError as error:  # says what is wrong with the client's data, model or device, and what to do
        failure = Failure(client=client, reason=ExclusionReason.TRAINING_FAILED, detail=str(error))
    except Exception as error:  # whatever a client's data or model does must not end the others
        logs.print_traceback()
        failure = Failure(client=client, reason=ExclusionReason.TRAINING_FAILED, detail=in_a_line(error))
    else:
        return _deliver(work, update, begun)
    return _fail(work, failure, begun)


def _has_delivered(work: Work, client: str) -> bool:
    """Whether a client's update is there.

    One that cannot be read is: the first one counts, and the gate judges it. If its tensors alone are damaged, training
    the client again makes the very same, and mends them.
    """
    try:
        update = work.trainings.update(work.ref, client)
    except UNREADABLE:
        return True
    return update is not None and _is_whole(work, update)


def _deliver(work: Work, update: Update, begun: float) -> bool:
    """Record an update, unless the round is over or another run's."""
    work.renew()
    if work.trainings.closing(work.ref):
        raise LeaseError(f"round {work.plan.round} is closed; what {update.client} trained is stale, and dropped")
    kept = work.trainings.deliver(work.ref, update)
    _tell(work, update.client, begun, detail=_remark(update, kept))
    return True


def _remark(update: Update, kept: Update) -> str:
    """Say what is not as usual with a delivery."""
    if kept.delta != update.delta:
        return "has delivered before, and something else: the first one counts"
    return f"has trained this in attempt {kept.reused_from}, which is used again" if kept.reused_from else ""


def _late(trainer: _Trainer, client: str) -> bool:
    work = trainer.work
    if _has_delivered(work, client):
        return True
    seconds = work.plan.settings.deadline_s
    return _fail(work, Failure(client=client, reason=ExclusionReason.DEADLINE, detail=f"not done after {seconds} s"))


def _fail(work: Work, failure: Failure, begun: float | None = None) -> bool:
    work.trainings.report_failure(work.ref, failure)
    begun = time.monotonic() if begun is None else begun
    detail = f"{failure.reason}: {failure.detail}"
    _tell(work, failure.client, begun, ok=False, reason=failure.reason, detail=detail)
    return False


def _train(trainer: _Trainer, client: str, begun: float) -> Update:
    work, plan = trainer.work, trainer.work.plan
    settings, how = plan.settings, plan.settings.in_round(plan.round)
    examples = trainer.workload.train_data(client, settings.clients)
    schema = examples.schema()
    _require_same_schema(trainer, client, schema)
    if plan.data_schema not in ({}, schema):
        raise UpdateError(
            ExclusionReason.WRONG_SCHEMA, f"the data are {schema}, those of {plan.base_version} were {plan.data_schema}"
        )
    seeds = ClientSeeds(
        shuffle=derive_seed(settings.seed, Purpose.SHUFFLE, plan.round, client),
        dropout=derive_seed(settings.seed, Purpose.DROPOUT, plan.round, client),
    )
    variates = trainer.variates(client)
    digest = _work_digest(trainer, client, examples, seeds, variates)
    if earlier := _find_earlier(trainer, client, digest):
        return earlier.model_copy(update={"attempt": plan.number, "reused_from": earlier.attempt})
    correction = variates.correction() if variates else None
    trained = trainer.learner.train(client, trainer.weights, examples, how, seeds, correction)
    if variates:
        variate, trained = variates.after(trained, how, len(examples))
    delta = put_tensors(work.store, trained.delta)
    if variates:
        trainer.controls.keep(client, plan.version, delta, variate)
    return Update(
        training=plan.training,
        version=plan.version,
        attempt=plan.number,
        round=plan.round,
        client=client,
        base_model=plan.base_model,
        delta=delta,
        num_examples=trained.num_examples,
        metrics=dict(trained.metrics),
        data_schema=schema,
        seconds=round(time.monotonic() - begun, 3),
        work=digest,
        runtime=trainer.learner.runtime(),
    )


def _require_same_schema(trainer: _Trainer, client: str, schema: dict[str, str]) -> None:
    """Refuse to go on with changed data; a client that was left out for them before is left out again."""
    work = trainer.work
    if trainer.begun_with in ({}, schema):
        return
    failure = work.trainings.failure(work.ref, client)
    if failure is None or failure.reason is not ExclusionReason.WRONG_SCHEMA:
        raise _ChangedDataError(
            f"round {work.plan.round} of {work.plan.training} was cut short with data {trainer.begun_with}, and those "
            f"of {client} are {schema}: finish it as it was begun, or give it up with `fededge rounds abandon "
            f"{work.plan.training}`"
        )


def _work_digest(
    trainer: _Trainer, client: str, examples: Examples, seeds: ClientSeeds, variates: Variates | None
) -> Digest:
    """Digest everything that decides what a client learns."""
    plan = trainer.work.plan
    how = plan.settings.in_round(plan.round)
    decisive = {
        "base_model": plan.base_model,
        "client": client,
        "seeds": [seeds.shuffle, seeds.dropout],
        "how": how.model_dump(mode="json"),
        "variates": variates.digest if variates else None,
        "workload": plan.settings.workload,
        "code": plan.code,
        "examples": examples.digest(),
        "runtime": trainer.learner.runtime().model_dump(),
    }
    return digest_of(json.dumps(decisive, sort_keys=True).encode())


def _find_earlier(trainer: _Trainer, client: str, digest: Digest) -> Update | None:
    """Find the update that a failed attempt at this round has of the very same work."""
    for ref in trainer.earlier:
        with contextlib.suppress(*UNREADABLE):
            update = trainer.work.trainings.update(ref, client)
            if update and update.work == digest:
                return update if _is_whole(trainer.work, update) else None
    return None


def _is_whole(work: Work, update: Update) -> bool:
    try:
        get_bytes(work.store, update.delta)
    except UNREADABLE:
        return False
    return True


def _tell(work: Work, client: str, begun: float, *, ok: bool = True, reason: str = "", detail: str = "") -> None:
    seconds = round(time.monotonic() - begun, 3)
    plan = work.plan
    emit(
        "client",
        "train",
        training=plan.training,
        round=plan.round,
        client=client,
        ok=ok,
        seconds=seconds,
        reason=reason,
        detail=detail,
    )
