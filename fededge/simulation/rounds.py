"""Which step comes when: a training's rounds, one after the other, on the workers of one machine.

distribute_model ─► train_clients, for each batch on whichever worker is free ─► aggregate_updates
                 ─► evaluate_model ─► version_model ─► the next round
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fededge.environments import Environment, link_library
from fededge.events import Event, Tail
from fededge.run_folder import RunFolder
from fededge.settings import Placement, RoundSettings
from fededge.signals import terminable
from fededge.simulation.workers import Task, Worker, end, perform
from fededge.store.trainings import TrainingStore

_BATCHES_A_WORKER = 4  # so that nobody waits long for the worker that has the large clients
_PICTURE_SECONDS = 10.0  # between two drawings of the learning curve, which take longer than a quick round


@dataclass(frozen=True)
class Simulation:
    """What to simulate.

    Attributes:
      trainings: to begin or go on with.
      settings: of the rounds.
      own_batches: whether to cut batches as suits the workers, whatever clients_per_pod is.
      rounds: how many.
      workers: how many processes train clients, at most.
      client: the environment with the workload's library.
      server: that with the server's optimizers; may be the same.
    """

    trainings: TrainingStore
    settings: RoundSettings
    own_batches: bool
    rounds: int
    workers: int
    client: Environment
    server: Environment


def simulate(what: Simulation, folder: RunFolder, holder: str) -> Generator[Event, None, None]:
    """Run the rounds, and yield what the steps tell, as they tell it.

    However this ends – the last round, an exception, Ctrl-C, SIGTERM – no process of it is left.

    Args:
      what: to simulate, in environments that are made.
      folder: of the run.
      holder: names the run to others that want the training.

    Raises:
      RunError: a step failed, or a worker ended.
    """
    crew = _Crew(what, folder, holder)
    try:
        with terminable():
            yield from crew.begin()
            for left in reversed(range(what.rounds)):
                yield from crew.round(is_last=left == 0)
    finally:
        end(crew.workers)
        shutil.rmtree(folder.temporary, ignore_errors=True)


def curve_of(folder: RunFolder) -> Path:
    """Say where the learning curve is, of the last round at the end."""
    return folder.path / "learning_curve.html"


def report_of(folder: RunFolder) -> Path:
    """Say where the round's report is, of the last one at the end."""
    return folder.path / "round_report.md"


@dataclass
class _Crew:
    """The workers, and how far they are."""

    what: Simulation
    folder: RunFolder
    holder: str
    workers: list[Worker] = field(default_factory=list)
    version: str = "current"
    drawn: float = -math.inf

    def __post_init__(self) -> None:
        self.folder.temporary.mkdir()
        self._library = link_library(self.folder.path)
        self._tail = Tail(self.folder.events)
        self._store = self.what.trainings.store.url
        self._cohort = 0

    def begin(self) -> Generator[Event, None, None]:
        """Start the workers that there is work for, and have all load their frameworks at once."""
        what, how = self.what, self.what.settings
        first = self._start(what.client)
        population = yield from self._do(first, "count_clients", workload=how.workload, clients=how.clients)
        counted = how.of_population(population, at_most=True)  # if that is an error, the first step tells
        self._cohort = counted.cohort_size
        useful = self._cohort if what.own_batches else counted.batch_count
        self._clients = [first, *(self._start(what.client) for _ in range(1, min(what.workers, useful)))]
        tasks = [Task([worker], "prepare_clients", {"workload": how.workload}) for worker in self._clients]
        self._server = first
        if what.server != what.client:
            self._server = self._start(what.server)
            tasks.append(Task([self._server], "prepare_server", {}))
        yield from perform(tasks, self._tail)

    def round(self, is_last: bool) -> Generator[Event, None, None]:
        first, store = self._clients[0], self._store
        attempt, plan = yield from self._do(
            first,
            "distribute_model",
            store=store,
            training=self.what.trainings.name,
            base_version=self.version,
            initial_model="",
            max_batches=0,
            settings=self._settings().model_dump(mode="json"),
            placement=Placement().model_dump(mode="json"),
            run=self.folder.name,
        )
        batches = [Task(self._clients, "train_clients", {"store": store, "batch": entry["batch"]}) for entry in plan]
        reports = yield from perform(batches, self._tail)
        model, _ = yield from self._do(self._server, "aggregate_updates", store=store, attempt=attempt, reports=reports)
        is_drawn = is_last or time.monotonic() - self.drawn > _PICTURE_SECONDS
        curve, report = (curve_of(self.folder), report_of(self.folder)) if is_drawn else ("", "")
        yield from self._do(first, "evaluate_model", store=store, attempt=attempt, model=model, curve_path=str(curve))
        self.version, _ = yield from self._do(
            first,
            "version_model",
            store=store,
            attempt=attempt,
            model=model,
            model_path=str(self.folder.temporary / "global_model.json"),
            report_path=str(report),
        )
        if is_drawn:
            self.drawn = time.monotonic()

    def _settings(self) -> RoundSettings:
        """Return the settings of the next round: of one that was cut short, its batches are those it began with."""
        if not self.what.own_batches:
            return self.what.settings
        size = _open_batches(self.what.trainings) or math.ceil(self._cohort / (_BATCHES_A_WORKER * len(self._clients)))
        return self.what.settings.model_copy(update={"clients_per_pod": size})

    def _start(self, environment: Environment) -> Worker:
        variables = {**environment.variables(self._library), **self.folder.variables(self.holder)}
        self.workers.append(Worker(environment, variables, self.folder.log))
        return self.workers[-1]

    def _do(self, worker: Worker, step: str, **arguments: Any) -> Generator[Event, None, Any]:
        (result,) = yield from perform([Task([worker], step, arguments)], self._tail)
        return result


def _open_batches(trainings: TrainingStore) -> int:
    """Return clients_per_pod of the attempt that the next run goes on with; 0 if there is none."""
    ref = trainings.unfinished()
    return trainings.attempt(ref).settings.clients_per_pod if ref else 0
