"""Compares tiny trainings in this process, step by step.

`workload` has clients with held-out examples of their own, and cold ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fededge.core.comparison import Arm
from fededge.learners import Examples
from fededge.records import ArmResult, Comparison, ComparisonRef
from fededge.reports.comparison_figures import Figures
from fededge.settings import ComparisonSettings, Placement
from fededge.steps.compare_arms import compare_arms
from fededge.steps.plan_comparison import Planned, plan_comparison
from fededge.steps.train_arm import train_arm
from fededge.store import Store
from fededge.store.comparisons import ComparisonStore
from tests.steps.round import NAME, run_round
from tests.steps.tiny import TinyWorkload, _examples

WORKLOAD = "tests.steps.comparing:workload"
COLD = ("newcomer-a", "newcomer-b")


class TestedWorkload(TinyWorkload):
    """Clients p0, p7, … with held-out examples, but the last has none; and newcomers that have nothing else."""

    __test__ = False

    def test_clients(self, clients: int) -> Sequence[str]:
        return [*self.population(clients)[:-1], *COLD]

    def client_test_data(self, client: str, clients: int) -> Examples:
        return _examples(1000 + self.test_clients(clients).index(client), 20)


class SpoiledWorkload(TestedWorkload):
    """At p7 there is nothing any more, p14's disk is gone, p21's data have another schema; p0 diverges."""

    def train_data(self, client: str, clients: int) -> Examples:
        data = super().train_data(client, clients)
        match client:
            case "p0":
                return Examples(data.x * 1e30, data.y)
            case "p7":
                return Examples(data.x[:0], data.y[:0])
            case "p14":
                raise OSError("the disk of this device is gone")
            case "p21":
                return Examples(data.x.astype("float64"), data.y)
        return data


class FineTuned(TestedWorkload):
    fine_tuning = {"local_epochs": 3, "client_learning_rate": 0.05}  # noqa: RUF012


workload = TestedWorkload()
spoiled = SpoiledWorkload()
tuned = FineTuned()
plain = TinyWorkload()


def train_rounds(store: Store, folder: Path, rounds: int = 2, **changed: Any) -> str:
    version = ""
    for _ in range(rounds):
        version = run_round(store, folder, **{"workload": WORKLOAD, **changed})
    return version


def plan(store: Store, version: str = "current", training: str = NAME, **changed: Any) -> Planned:
    placement = {**Placement().model_dump(), **changed.pop("placement", {})}
    max_batches = changed.pop("max_batches", 0)
    settings = {**ComparisonSettings(clients_per_pod=3).model_dump(), **changed}
    return plan_comparison(store.url, training, version, max_batches, settings, placement)


def train_arms(store: Store, planned: Planned) -> list[dict[str, int | str]]:
    return [train_arm(store.url, entry["batch"]) for entry in planned.plan]


def compare(store: Store, folder: Path, planned: Planned) -> Figures:
    page, figures = folder / "page.html", folder / "figures.json"
    compare_arms(store.url, planned.comparison, [], str(page), str(figures))
    return Figures.model_validate(json.loads(figures.read_text()))


def comparison(store: Store, planned: Planned) -> Comparison:
    return ComparisonStore(store).comparison(ComparisonRef.parse(planned.comparison))


def results(store: Store, planned: Planned, arm: Arm) -> list[ArmResult]:
    found = comparison(store, planned)
    comparisons = ComparisonStore(store)
    return [
        result
        for name, batch in found.batches.items()
        if batch.arm is arm and (result := comparisons.result(found.ref, name))
    ]
