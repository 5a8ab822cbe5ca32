"""Makes trainings that have been through something, without training: every delta and model is another one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from fededge.core.tensors import signature
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
    Failed,
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
from fededge.store.blobs import put_bytes, put_tensors
from fededge.store.trainings import TrainingStore
from tests.store.faulty import FaultyStore

CLIENTS = [f"client {i}/ü" for i in range(5)]
SETTINGS = RoundSettings(clients=len(CLIENTS), max_attempts=9)
SCHEMA = {"x": "float32[8]", "y": "int64[]"}
RUNTIME = Runtime(
    fededge="0", python="3.11", machine="x", cpu_features="", threads=1, libraries={}, packages=digest_of(b"")
)
SIGNATURE = {"0000/w": "float32[3]"}


class Later(FaultyStore):
    """The same store, later."""

    def __init__(self, inner: Store, by: timedelta) -> None:
        super().__init__(inner)
        self._by = by

    def now(self) -> datetime:
        return super().now() + self._by


class History:
    """Goes through rounds, and keeps count of what is needed.

    Attributes:
      published: digests of blobs that versions need, and the training.
      open: of those that the open round needs.
      refused: of updates that were left out; they are needed as long as the round is open.
    """

    def __init__(self, store: Store, seed: int = 0, name: str = "digits") -> None:
        self.trainings = TrainingStore(store, name)
        self.published: set[Digest] = set()
        self.open: set[Digest] = set()
        self.everything: set[Digest] = set()
        self._rng = random.Random(seed)
        self._token = 0

    @property
    def store(self) -> Store:
        return self.trainings.store

    def tensors(self) -> Digest:
        values = {name: np.array([self._rng.random() for _ in range(3)], np.float32) for name in SIGNATURE}
        assert signature(values) == SIGNATURE
        return self._kept(put_tensors(self.store, values))

    def file(self) -> Digest:
        return self._kept(put_bytes(self.store, self._rng.randbytes(99)))

    def _kept(self, digest: Digest) -> Digest:
        self.everything.add(digest)
        return digest

    def begin(self, *, with_file: bool = False) -> None:
        training = Training(
            name=self.trainings.name,
            settings=SETTINGS,
            signature=SIGNATURE,
            initial_model=self.tensors(),
            initial_file=self.file() if with_file else None,
        )
        self.published |= {training.initial_model, *filter(None, [training.initial_file])}
        initial = Version(
            training=training.name, version="v0", round=0, parent=None, parent_manifest=None, attempt=0,
            model=training.initial_model, server_state=None, signature=SIGNATURE, settings=SETTINGS, because=None,
            accepted=[], excluded=[], repeats=[], counted=[], metric="accuracy", metrics={}, data_schema={},
            documents={keys.training(training.name): training.digest}, runtime=RUNTIME,
        )  # fmt: skip
        self.trainings.create(training, initial)

    def sit(self) -> Attempt:
        """Open the next attempt, or go on with the open one."""
        trainings = self.trainings
        self._token = trainings.lease.acquire(f"run {self._rng.random()}", self.store.now() + timedelta(hours=1))
        trainings.fence(self._token)
        base, branch = trainings.version(), trainings.head().pointer.branch
        version = keys.version_name(base.round + 1, branch)
        past = trainings.attempts(version)
        if past and not trainings.failed(past[-1]):
            plan = trainings.attempt(past[-1])
        else:
            plan = trainings.open_attempt(
                Attempt(
                    training=trainings.name, version=version, round=base.round + 1, number=len(past) + 1,
                    base_version=base.version, base_model=base.model, base_server_state=base.server_state,
                    settings=SETTINGS, batches={"b000": CLIENTS}, update_signature={}, data_schema=base.data_schema,
                    code=digest_of(b"code"), runtime=RUNTIME,
                )
            )  # fmt: skip
        trainings.begin_sitting(SittingRef(attempt=plan.ref, token=self._token))
        return plan

    def rise(self) -> None:
        self.trainings.lease.release(self._token)

    def deliver(
        self, plan: Attempt, client: str, delta: Digest | None = None, reused_from: int | None = None
    ) -> Update:
        update = self._update(plan, client, delta or self.tensors(), reused_from)
        self.open.add(update.delta)
        return self.trainings.deliver(plan.ref, update)

    def repeat(self, plan: Attempt, client: str) -> None:
        """Deliver again, and something else: nobody needs it."""
        self.trainings.deliver(plan.ref, self._update(plan, client, self.tensors(), None))

    def _update(self, plan: Attempt, client: str, delta: Digest, reused_from: int | None) -> Update:
        return Update(
            training=plan.training, version=plan.version, attempt=plan.number, round=plan.round, client=client,
            base_model=plan.base_model, delta=delta, num_examples=20, metrics={"loss": self._rng.random()},
            data_schema=SCHEMA, seconds=1.5, work=digest_of(client.encode()), reused_from=reused_from, runtime=RUNTIME,
        )  # fmt: skip

    def report(self, plan: Attempt, client: str, reason: ExclusionReason = ExclusionReason.NO_DATA) -> None:
        self.trainings.report_failure(plan.ref, Failure(client=client, reason=reason, detail=f"{self._rng.random()}"))

    def fail(self, plan: Attempt) -> None:
        self.trainings.fail_attempt(plan.ref, Failed(reason=f"{self._rng.random()}"))

    def close(self, plan: Attempt, refused: Sequence[str] = ()) -> Closing:
        """Close the round: all that delivered count, but for some."""
        accepted, excluded = [], []
        for client in CLIENTS:
            update, failure = self.trainings.update(plan.ref, client), self.trainings.failure(plan.ref, client)
            if update and client not in refused:
                accepted.append(_accepted(update))
            elif update:
                excluded.append(Excluded(client=client, reason=ExclusionReason.NON_FINITE, detail="NaN"))
            elif failure:
                excluded.append(Excluded(client=client, reason=failure.reason, detail=failure.detail))
            else:
                excluded.append(Excluded(client=client, reason=ExclusionReason.NO_UPDATE, detail="nothing arrived"))
        return self.trainings.close(
            plan.ref,
            Closing(
                because=ClosedBecause.TASKS_ENDED, accepted=accepted, excluded=excluded,
                repeats=self.trainings.repeats(plan.ref), data_schema=SCHEMA,
            ),
        )  # fmt: skip

    def aggregate(self, plan: Attempt) -> Aggregate:
        counted = [accepted.client for accepted in self._closing(plan).accepted]
        made = Aggregate(model=self.tensors(), server_state=self.tensors(), counted=counted, runtime=RUNTIME)
        self.open |= {made.model, made.server_state}
        return self.trainings.put_aggregate(plan.ref, made)

    def evaluate(self, plan: Attempt) -> Evaluation:
        made = self.trainings.aggregate(plan.ref)
        assert made
        metrics = {"accuracy": self._rng.random()}
        evaluation = Evaluation(
            model=made.model, metric="accuracy", metrics=metrics, num_examples=9, data_schema=SCHEMA
        )
        return self.trainings.put_evaluation(plan.ref, evaluation)

    def publish(self, plan: Attempt) -> Version:
        trainings, closing = self.trainings, self._closing(plan)
        aggregate, evaluation = trainings.aggregate(plan.ref), trainings.evaluation(plan.ref)
        assert aggregate
        assert evaluation
        version = Version(
            training=trainings.name, version=plan.version, round=plan.round, parent=plan.base_version,
            parent_manifest=trainings.version(plan.base_version).digest, attempt=plan.number, model=aggregate.model,
            server_state=aggregate.server_state, signature=SIGNATURE, settings=plan.settings, because=closing.because,
            accepted=closing.accepted, excluded=closing.excluded, repeats=closing.repeats, counted=aggregate.counted,
            metric=evaluation.metric, metrics=evaluation.metrics, data_schema=closing.data_schema, runtime=RUNTIME,
            documents={
                keys.attempt(plan.ref): plan.digest, keys.closing(plan.ref): closing.digest,
                keys.aggregate(plan.ref): aggregate.digest, keys.evaluation(plan.ref): evaluation.digest,
            },
        )  # fmt: skip
        made = trainings.publish(version, self._token)
        assert made.server_state
        self.published |= {made.model, made.server_state, *(accepted.delta for accepted in made.accepted)}
        self.open.clear()
        self.rise()
        return made

    def rollback(self, version: str) -> None:
        self.trainings.rollback(version)
        self.open.clear()  # nobody goes on with that round

    def round(self, clients: Sequence[str] = CLIENTS, refused: Sequence[str] = ()) -> Version:
        """Make the next version."""
        plan = self.sit()
        for client in CLIENTS:
            if client in clients:
                self.deliver(plan, client)
        self.close(plan, refused)
        self.aggregate(plan)
        self.evaluate(plan)
        return self.publish(plan)

    def _closing(self, plan: Attempt) -> Closing:
        closing = self.trainings.closing(plan.ref)
        assert closing
        return closing


def _accepted(update: Update) -> Accepted:
    return Accepted(
        client=update.client, update=update.digest, delta=update.delta, num_examples=update.num_examples,
        weight=update.num_examples, norm=2.5, clipped=False, metrics=update.metrics, seconds=update.seconds,
    )  # fmt: skip


def long_history(store: Store, stage: str = "evaluated") -> History:
    """Go through all that a training can, up to an open round.

    v0 ─► v1 ─► v2 ─► v3, and a round after it that nobody goes on with
           └──► v2-b1 ─► a round that is open, at its second attempt

    Args:
      store: empty.
      stage: how far the open round is: training, closed, aggregated or evaluated.
    """
    history = History(store)
    history.begin(with_file=True)
    _round_with_all_kinds_of_answers(history)
    _round_in_two_attempts(history)
    history.round()
    plan = history.sit()
    history.deliver(plan, CLIENTS[0])
    history.rise()
    history.rollback("v1")
    history.round(CLIENTS[1:4])
    _open_round(history, stage)
    return history


def _round_with_all_kinds_of_answers(history: History) -> None:
    plan = history.sit()
    for client in CLIENTS[:3]:
        history.deliver(plan, client)
    history.repeat(plan, CLIENTS[1])
    history.report(plan, CLIENTS[3])
    history.close(plan, refused=[CLIENTS[2]])
    history.aggregate(plan)
    history.evaluate(plan)
    history.publish(plan)


def _round_in_two_attempts(history: History) -> None:
    plan = history.sit()
    update = history.deliver(plan, CLIENTS[0])
    history.deliver(plan, CLIENTS[4])
    history.report(plan, CLIENTS[1])
    history.close(plan)
    history.fail(plan)
    history.rise()
    plan = history.sit()
    history.deliver(plan, CLIENTS[0], update.delta, reused_from=1)
    history.deliver(plan, CLIENTS[2])
    history.close(plan)
    history.aggregate(plan)
    history.evaluate(plan)
    history.publish(plan)


def _open_round(history: History, stage: str) -> None:
    plan = history.sit()
    update = history.deliver(plan, CLIENTS[0])
    history.fail(plan)
    history.rise()
    plan = history.sit()
    history.deliver(plan, CLIENTS[0], update.delta, reused_from=1)
    history.report(plan, CLIENTS[3])
    history.rise()
    plan = history.sit()
    history.deliver(plan, CLIENTS[1])
    history.deliver(plan, CLIENTS[2])
    history.repeat(plan, CLIENTS[2])
    if stage != "training":
        history.close(plan, refused=[CLIENTS[1]])
    if stage in ("aggregated", "evaluated"):
        history.aggregate(plan)
    if stage == "evaluated":
        history.evaluate(plan)
    history.rise()


def random_history(store: Store, seed: int, name: str = "digits") -> History:
    """Go through rounds at random, and stop somewhere."""
    rng = random.Random(seed)
    history = History(store, seed, name)
    history.begin(with_file=rng.random() < 0.5)
    for _ in range(rng.randint(1, 6)):
        for client in rng.sample(CLIENTS, 2) * (rng.random() < 0.3):
            history.deliver(plan := history.sit(), client)
            history.fail(plan)
            history.rise()
        made = history.round(rng.sample(CLIENTS, rng.randint(2, 5)), refused=rng.sample(CLIENTS, rng.randint(0, 1)))
        if rng.random() < 0.3:
            _cut_short(history, rng)
        if rng.random() < 0.3:
            history.rollback(rng.choice([v.version for v in history.trainings.lineage(made.version)][1:]))
    _cut_short(history, rng)
    history.file()  # which nothing names
    return history


def _cut_short(history: History, rng: random.Random) -> None:
    """Leave a round open; what there was of it already stays as it is."""
    plan = history.sit()
    steps = rng.randint(0, 3)
    for client in rng.sample(CLIENTS, rng.randint(1, 3)):
        if not history.trainings.update(plan.ref, client):
            history.deliver(plan, client)
    if steps > 0:
        history.close(plan)
    if steps > 1 and not history.trainings.aggregate(plan.ref):
        history.aggregate(plan)
    if steps > 2:
        history.evaluate(plan)
    history.rise()


def path_of(store: Store, key: str) -> Path:
    return Path(store.url, key)
