"""A run of the round's pipeline in this process. Needs no pytest: it is also run in processes that are killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fededge.settings import Placement, RoundSettings
from fededge.steps.aggregate_updates import aggregate_updates
from fededge.steps.distribute_model import Distribution, distribute_model
from fededge.steps.evaluate_model import evaluate_model
from fededge.steps.train_clients import train_clients
from fededge.steps.version_model import version_model

T = TypeVar("T")
NAME = "tiny"  # of the training


@dataclass
class PipelineRun:
    """One run.

    Attributes:
      folder: for the artifacts.
      name: of the run, and so of the lease's holder.
      returned: by tasks that have ended. As on a cluster they are not run again, and one that died can be.
    """

    store: str
    folder: Path
    settings: RoundSettings
    name: str = "first"
    returned: dict[str, Any] = field(default_factory=dict)

    def go(self) -> str:
        """Run the tasks that have not ended, and return the version."""
        attempt, plan = self.distribute()
        reports = [self._train(entry["batch"]) for entry in plan]
        model = self._task("aggregate", lambda: aggregate_updates(self.store, attempt, reports)).model
        self.folder.mkdir(exist_ok=True)
        self._task("evaluate", lambda: evaluate_model(self.store, attempt, model, str(self.folder / "curve.html")))
        paths = (str(self.folder / "model.json"), str(self.folder / "report.md"))
        return self._task("version", lambda: version_model(self.store, attempt, model, *paths)).version

    def distribute(self) -> Distribution:
        settings, placement = self.settings.model_dump(), Placement().model_dump()
        return self._task(
            "distribute",
            lambda: distribute_model(self.store, NAME, "current", "", 0, settings, placement, self.name),
        )

    def _train(self, batch: str) -> dict[str, int | str]:
        return self._task(batch, lambda: train_clients(self.store, batch))

    def _task(self, name: str, run: Callable[[], T]) -> T:
        if name not in self.returned:
            self.returned[name] = run()
        result: T = self.returned[name]
        return result
