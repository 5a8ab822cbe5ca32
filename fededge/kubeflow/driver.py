"""Trains round after round on Kubeflow.

    store: which version is current? ─► goal reached? ─► yes: done
      ▲                                    │ no
      │                              a run of this round goes on? ─► yes: adopt it
      │                                    │ no: submit fl_round
      └──────────── wait for its end ◄─────┘

All state is the store's and Kubeflow's: a driver that is started again goes on where the last one was, and of two at
once both watch the same run, whose name is made of the training and the version that it makes.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from fededge.errors import NotFoundError, RunError
from fededge.kubeflow import EXPERIMENT, SERVICE_ACCOUNT, runs
from fededge.kubeflow import inputs as pipeline_inputs
from fededge.kubeflow.client import Kubeflow
from fededge.kubeflow.goal import Because, Goal
from fededge.kubeflow.runs import POLL_S, Run
from fededge.kubeflow.submit import Package, package
from fededge.records import Pointer, Version
from fededge.store import keys, open_store
from fededge.store.trainings import TrainingStore

RETRIES = 2
_SETTLED_S = 3.0  # until a run that was asked for in the same second is listed, too


class News(NamedTuple):
    """What a driver tells.

    Attributes:
      kind: a run was submitted, or found and adopted, has changed, failed and is tried again, or made a version; or
        the training has come to its end.
      making: the version that the round makes.
      run: that makes it.
      version: that was made, or is current at the end.
      because: of what the training has ended.
    """

    kind: Literal["submitted", "adopted", "changed", "failed", "made", "ended"]
    making: str
    run: Run | None = None
    version: Version | None = None
    because: Because | None = None


@dataclass(frozen=True)
class Driver:
    """What every round of a training on Kubeflow needs.

    Attributes:
      trainings: the store, as this machine sees it.
      package: the pipeline of one round.
      inputs: of each round.
      retries: how often a round whose run failed is started again, by this driver.
      seen: versions that were read.
    """

    kubeflow: Kubeflow
    trainings: TrainingStore
    package: Package
    inputs: Mapping[str, Any]
    experiment: str = EXPERIMENT
    service_account: str = SERVICE_ACCOUNT
    retries: int = RETRIES
    poll_s: float = POLL_S
    seen: dict[str, Version] = field(default_factory=dict)

    def train(self, goal: Goal) -> Generator[News, None, None]:
        """Run round after round until the goal is reached. Whoever stops listening leaves the run going.

        Raises:
          RunError: a round's run failed too often, or was ended by somebody, or made no version in this store.
          KubeflowError: Kubeflow refuses something, or is away for too long.
          StoreError: the store cannot be read.
        """
        failures = 0
        while True:
            lineage = self._lineage()
            if because := goal.reached(lineage):
                yield News("ended", lineage[-1].version, version=lineage[-1], because=because)
                return
            making = self._next_version()
            begun, adopted = self._begin(making, lineage[-1].version if lineage else "current")
            yield News("adopted" if adopted else "submitted", making, begun)
            run = begun
            for run in runs.watch(self.kubeflow, begun.id, self.poll_s):
                yield News("changed", making, run)
            made = next((version for version in self._lineage() if version.version == making), None)
            if made:
                failures = 0
                yield News("made", making, run, made)
                continue
            failures += 1
            _require_hope(run, making, self.trainings, failures > self.retries)
            yield News("failed", making, run)

    def _lineage(self) -> list[Version]:
        """Walk from version 0 to the current one; a version is read once, as it never changes."""
        pointer, lineage = self._pointer(), list[Version]()
        name = pointer.version if pointer else None
        while name is not None:
            if name not in self.seen:
                self.seen[name] = self.trainings.version(name)
            lineage.append(self.seen[name])
            name = lineage[-1].parent
        return lineage[::-1]

    def _next_version(self) -> str:
        pointer = self._pointer()
        return keys.next_version(pointer) if pointer else keys.version_name(1, 0)

    def _pointer(self) -> Pointer | None:
        try:
            return self.trainings.head().pointer
        except NotFoundError:  # the first round begins it
            return None

    def _begin(self, making: str, base: str) -> tuple[Run, bool]:
        """Find the run that makes a version, or start it; also tell whether it was found."""
        name = f"{self.trainings.name} {making}"
        experiment = runs.experiment_id(self.kubeflow, self.experiment)
        if going := self._going(name, experiment):
            return going[0], True
        values = pipeline_inputs.complete(
            self.package.document, {**self.inputs, "training": self.trainings.name, "base_version": base}
        )
        ours = runs.start(self.kubeflow, self.package.path, values, name, self.experiment, self.service_account)
        time.sleep(_SETTLED_S)
        first = (self._going(name, experiment) or [ours])[0]
        if first.id != ours.id:  # another driver was faster
            runs.stop(self.kubeflow, ours.id)
        return first, first.id != ours.id

    def _going(self, name: str, experiment: str) -> list[Run]:
        return [run for run in runs.find(self.kubeflow, name, experiment) if not run.finished]


def train(
    kubeflow: Kubeflow,
    training: str,
    goal: Goal,
    store: str,
    inputs: Mapping[str, Any] | None = None,
    *,
    pipeline: str = "fl_round",
    registry: str = "",
    client_image: str = "",
    library: str = "",
    digests: Mapping[str, str] | None = None,
    experiment: str = EXPERIMENT,
    service_account: str = SERVICE_ACCOUNT,
    retries: int = RETRIES,
    poll_s: float = POLL_S,
) -> Generator[News, None, None]:
    """Train round after round on Kubeflow, as `Driver.train` says.

    Args:
      kubeflow: from `connect`.
      training: to begin or go on with.
      goal: what ends it.
      store: of the runs, as this machine reaches it.
      inputs: of each round, as for `submit`.
      pipeline: that makes one round: fl_round, fl_round_job, or the path of a compiled one.
      registry: of our images.
      client_image: with a workload of your own, whole.
      library: of a workload of your own: tensorflow, torch or sklearn.
      digests: by image `name:tag`, from the push.
      experiment: that the runs belong to.
      service_account: of their pods.
      retries: how often a round whose run failed is started again.
      poll_s: seconds between looks at a run.
    """
    opened, given = open_store(store, hurried=True), dict(inputs or {})
    given = {**({"store": opened.url} if opened.url.startswith("s3://") else {}), **given}
    workload = str(given.get("workload", "digits"))
    ready = package(
        pipeline,
        workload=workload,
        registry=registry,
        client_image=client_image,
        library=library,
        digests=digests,
    )
    with ready as one_round:
        trainings = TrainingStore(opened, training)
        driver = Driver(kubeflow, trainings, one_round, given, experiment, service_account, retries, poll_s)
        yield from driver.train(goal)


def _require_hope(run: Run, making: str, trainings: TrainingStore, given_up: bool) -> None:
    """Make sure that starting a round again may help.

    Raises:
      RunError: it does not.
    """
    where = f" ({run.link})" if run.link else ""
    if run.succeeded:
        raise RunError(
            f"run {run.name} succeeded, and {trainings.store.url} has no {making}: is it the store of the runs, as in "
            "the ConfigMap fededge?"
        )
    if run.state == "CANCELED":
        raise RunError(f"run {run.name} was ended by somebody{where}; the same command starts the round again")
    if given_up:
        raise RunError(f"run {run.name} failed{where}: {run.error or 'Kubeflow does not say why'}")
