"""Makes the models of one batch of a comparison, and measures them. Of the data, only scores leave it.

    the version as it is                   federated    ─► the reported test, and every test client
    v0 ─► the data of all clients          centralized  ─► the same
    v0 ─► one client's data                local        ─► the client's held-out examples, or the reported test
    the version ─► one client's data       fine_tuned   ─► the same

One batch is an arm of one model, or some clients of the others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar

import numpy as np

from fededge.core.comparison import Arm
from fededge.core.seeds import Purpose, derive_seed
from fededge.core.tensors import Tensors
from fededge.core.updates import ExclusionReason
from fededge.errors import InputError, StoreError, UpdateError
from fededge.events import emit
from fededge.learners import ClientSeeds, Examples, Learner
from fededge.learners.alone import parts_of, train_parts
from fededge.monitoring import logs
from fededge.records import ArmBatch, ArmResult, ArmScore, Comparison, ComparisonRef, Excluded
from fededge.steps.running import in_a_line, running
from fededge.steps.time_limit import TimeUpError, time_limit
from fededge.store import Store, open_store
from fededge.store.blobs import get_tensors
from fededge.store.comparisons import ComparisonStore
from fededge.store.trainings import TrainingStore
from fededge.workloads import HasClientTests, Workload, load_workload
from fededge.workloads.evaluation import measure, tested_clients

R = TypeVar("R")

_SEEDS = {
    Arm.CENTRALIZED: (Purpose.CENTRALIZED_SHUFFLE, Purpose.CENTRALIZED_DROPOUT),
    Arm.LOCAL: (Purpose.LOCAL_SHUFFLE, Purpose.LOCAL_DROPOUT),
    Arm.FINE_TUNED: (Purpose.FINE_TUNED_SHUFFLE, Purpose.FINE_TUNED_DROPOUT),
}


def train_arm(store: str, batch: str) -> dict[str, int | str]:
    """Train and measure one batch of a comparison, unless that was done before.

    A client that fails is recorded and the others go on; so is who is not done after `deadline_s`.

    Args:
      store: as in `open_store`.
      batch: as the plan names it: the comparison and the batch.

    Returns:
      The batch's name and how many clients were `scored` and `failed`; the scores are in the store.
    """
    with running("train"):
        opened = open_store(store)
        comparisons = ComparisonStore(opened)
        reference, _, name = batch.rpartition("/")
        ref = ComparisonRef.parse(reference)
        comparison = comparisons.comparison(ref)
        if name not in comparison.batches:
            raise InputError(f"comparison {ref} has no batch {name}")
        result = comparisons.result(ref, name)
        if result is None:
            result = comparisons.put(ref, _Batch(opened, comparison, name).run())
        return {"batch": batch, "scored": len(result.scores), "failed": len(result.failures)}


@dataclass
class _Batch:
    """One batch, while it is worked on."""

    store: Store
    comparison: Comparison
    name: str
    official: dict[str, float] = field(default_factory=dict)
    scores: list[ArmScore] = field(default_factory=list)
    failures: list[Excluded] = field(default_factory=list)
    problem: str = ""
    raw_bytes: int = 0

    @cached_property
    def workload(self) -> Workload:
        return load_workload(self.comparison.settings.workload)

    @cached_property
    def learner(self) -> Learner:
        learner = self.workload.learner()
        learner.prepare()
        return learner

    @cached_property
    def schema(self) -> dict[str, str]:
        """Of the data that the version was made from."""
        return TrainingStore(self.store, self.comparison.training).version(self.comparison.version).data_schema

    @property
    def plan(self) -> ArmBatch:
        return self.comparison.batches[self.name]

    def run(self) -> ArmResult:
        begun = time.monotonic()
        try:
            with time_limit(self.comparison.deadline_s):
                self._work()
        except TimeUpError:
            self._cut_off()
        return ArmResult(
            batch=self.name,
            arm=self.plan.arm,
            official=self.official,
            scores=self.scores,
            failures=self.failures,
            problem=self.problem,
            raw_bytes=self.raw_bytes,
            seconds=round(time.monotonic() - begun, 3),
            runtime=self.learner.runtime(),
        )

    def _work(self) -> None:
        match self.plan.arm:
            case Arm.FEDERATED:
                self._measure(get_tensors(self.store, self.comparison.model))
            case Arm.CENTRALIZED:
                weights = self._attempt("", self._centralized)
                if weights is not None:
                    self._measure(weights)
            case arm:
                start = self.comparison.model if arm is Arm.FINE_TUNED else self.comparison.initial_model
                weights = get_tensors(self.store, start)
                for client in self.plan.clients:
                    self._attempt(client, partial(self._alone, client, weights))

    def _cut_off(self) -> None:
        """Record who is not done; of an arm with one model, that it is not."""
        detail = f"not done after {self.comparison.deadline_s} s"
        if not self.plan.clients:
            self.problem = self.problem or detail
        known = {score.client for score in self.scores} | {failure.client for failure in self.failures}
        for client in self.plan.clients:
            if client not in known:
                self._fail(client, ExclusionReason.DEADLINE, detail)

    def _centralized(self) -> Tensors:
        """Train from v0 on the data of all clients.

        Raises:
          UpdateError: fewer than two clients' data can be used, or training gave nothing usable.
        """
        gathered = [self._attempt(client, partial(self._examples, client)) for client in self.comparison.population]
        found = [examples for examples in gathered if examples is not None]
        if len(found) < 2:
            raise UpdateError(ExclusionReason.NO_DATA, f"the data of {len(found)} clients can be used, 2 are needed")
        self.raw_bytes = sum(examples.x.nbytes + examples.y.nbytes for examples in found)
        together = Examples(np.concatenate([e.x for e in found]), np.concatenate([e.y for e in found]))
        return self._trained("", get_tensors(self.store, self.comparison.initial_model), together)

    def _alone(self, client: str, weights: Tensors) -> None:
        """Train a client's own model, and measure it."""
        self._score(client, self._trained(client, weights, self._examples(client)))

    def _trained(self, client: str, weights: Tensors, examples: Examples) -> Tensors:
        budget, arm = self.comparison.budget, self.plan.arm
        if arm is Arm.FINE_TUNED:
            parts = [self.comparison.fine_tuning]
        else:
            parts = parts_of(self.comparison.settings, budget.epochs, len(examples), budget.rounds)
        return train_parts(self.learner, weights, client or arm, examples, parts, partial(self._seeds, client))

    def _seeds(self, client: str, part: int) -> ClientSeeds:
        seed, (shuffle, dropout) = self.comparison.settings.seed, _SEEDS[self.plan.arm]
        return ClientSeeds(derive_seed(seed, shuffle, part, client), derive_seed(seed, dropout, part, client))

    def _examples(self, client: str) -> Examples:
        examples = self.workload.train_data(client, self.comparison.settings.clients)
        if not len(examples):
            raise UpdateError(ExclusionReason.NO_DATA, "the client has no examples")
        if (schema := examples.schema()) != self.schema and self.schema:
            raise UpdateError(ExclusionReason.WRONG_SCHEMA, f"the data are {schema}, the version's were {self.schema}")
        return examples

    def _measure(self, weights: Tensors) -> None:
        """Measure an arm's one model: on the reported test, and for every client with a test of its own."""
        metric = self.comparison.metric
        self.official = _finite(measure(self.workload, self.learner, weights).metrics)
        if metric not in self.official:
            self.problem = f"the model's {metric} is not finite"
            return
        for client in self._tested:
            self._attempt(client, partial(self._score_own, client, weights))
        value = self.official[metric]
        emit("evaluated", "train", training=self.comparison.training, metric=metric, value=value, detail=self.plan.arm)

    @cached_property
    def _tested(self) -> Sequence[str]:
        return tested_clients(self.workload, self.comparison.settings.clients)

    def _score_own(self, client: str, weights: Tensors) -> None:
        if test := self._own_test(client):
            self._keep(client, len(test), self.learner.evaluate(weights, test), own=True)

    def _score(self, client: str, weights: Tensors) -> None:
        """Measure a client's model on its own test; without one, on the test that is reported."""
        if client in self._tested and self._own_test(client):
            self._score_own(client, weights)
        else:
            measured = measure(self.workload, self.learner, weights)
            self._keep(client, measured.examples, measured.metrics, own=False)

    def _own_test(self, client: str) -> Examples | None:
        if not isinstance(self.workload, HasClientTests):
            return None
        test = self.workload.client_test_data(client, self.comparison.settings.clients)
        return test if len(test) else None

    def _keep(self, client: str, examples: int, metrics: Mapping[str, float], *, own: bool) -> None:
        """Keep a score.

        Raises:
          UpdateError: the metric is not finite.
        """
        metric, kept = self.comparison.metric, _finite(metrics)
        if metric not in kept:
            raise UpdateError(ExclusionReason.NON_FINITE_TRAINING, f"the model's {metric} is not finite")
        self.scores.append(ArmScore(client=client, own=own, examples=examples, metrics=kept))

    def _attempt(self, client: str, work: Callable[[], R]) -> R | None:
        """Do a client's work, or the arm's own; what fails is recorded, and None returned."""
        begun = time.monotonic()
        try:
            done = work()
        except StoreError:
            raise
        except UpdateError as error:
            self._fail(client, ExclusionReason(error.reason), error.detail)
        except Exception as error:  # whatever a client's data or model does must not end the others
            logs.print_traceback()
            self._fail(client, ExclusionReason.TRAINING_FAILED, in_a_line(error))
        else:
            if client in self.plan.clients:
                self._tell(client, begun)
            return done
        return None

    def _fail(self, client: str, reason: ExclusionReason, detail: str) -> None:
        """Record a failure, of a client or of the arm's one model."""
        if client:
            self.failures.append(Excluded(client=client, reason=reason, detail=detail))
        else:
            self.problem = f"{reason}: {detail}"
        told = f"{self.plan.arm}: {reason}: {detail}"
        emit("client", "train", training=self.comparison.training, client=client, ok=False, detail=told)

    def _tell(self, client: str, begun: float) -> None:
        value = self.scores[-1].metrics[self.comparison.metric]
        told = f"{self.plan.arm}: {self.comparison.metric} {value:.4f}"
        seconds = round(time.monotonic() - begun, 3)
        emit("client", "train", training=self.comparison.training, client=client, seconds=seconds, detail=told)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
