"""How clients are batched into pods, in which order pods finish and what CPU they get changes no bit.

With a model that has dropout, each batch trained by a process of its own.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fededge.environments import Environment
from fededge.records import AttemptRef, SittingRef
from fededge.settings import Placement, RoundSettings
from fededge.store.folder import FolderStore
from fededge.store.trainings import TrainingStore

ROOT = Path(__file__).parents[2]
SETTINGS = RoundSettings(workload="tests.pipeline.dropout:workload", clients=10, local_epochs=1)
DISTRIBUTE = """
import json, sys
from fededge.steps.distribute_model import distribute_model
store, settings, placement = sys.argv[1:]
distribute_model(store, "dropout", "current", "", 0, json.loads(settings), json.loads(placement), "a-run")
"""
TRAIN = "import sys; from fededge.steps.train_clients import train_clients; train_clients(*sys.argv[1:])"
AGGREGATE = (
    "import sys; from fededge.steps.aggregate_updates import aggregate_updates; aggregate_updates(*sys.argv[1:], [])"
)


@pytest.fixture(scope="module")
def models(
    tensorflow: tuple[Environment, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[int, str]:
    """The digest of the aggregated model by clients in a pod."""
    folder = tmp_path_factory.mktemp("batching")
    return {size: _aggregated(tensorflow, folder / str(size), size) for size in (10, 5, 1)}


def test_invariant_04_batches_of_10_5_and_1_give_the_same_model(models: Mapping[int, str]) -> None:
    assert len(models) == 3
    assert len(set(models.values())) == 1


def _aggregated(tensorflow: tuple[Environment, dict[str, str]], store: Path, clients_per_pod: int) -> str:
    settings = SETTINGS.model_copy(update={"clients_per_pod": clients_per_pod})
    _step(tensorflow, DISTRIBUTE, str(store), settings.model_dump_json(), Placement().model_dump_json())
    trainings = TrainingStore(FolderStore(store), "dropout")
    ref = AttemptRef(training="dropout", version="v1", number=1)
    sitting = SittingRef(attempt=ref, token=1)
    batches = [f"{sitting}/{name}" for name in trainings.attempt(ref).batches]
    random.Random(clients_per_pod).shuffle(batches)
    cpus = sorted(os.sched_getaffinity(0))
    with ThreadPoolExecutor(len(cpus)) as pool:
        started = [
            pool.submit(_step, tensorflow, TRAIN, str(store), batch, cpus=cpus[: 1 + i % len(cpus)])
            for i, batch in enumerate(batches)
        ]
        for done in started:
            done.result()
    _step(tensorflow, AGGREGATE, str(store), str(sitting))
    aggregate = trainings.aggregate(ref)
    closing = trainings.closing(ref)
    assert aggregate is not None
    assert closing is not None
    assert len(closing.accepted) == 10
    return aggregate.model


def _step(
    tensorflow: tuple[Environment, dict[str, str]], program: str, *arguments: str, cpus: list[int] | None = None
) -> None:
    wanted, variables = tensorflow
    limit = ["taskset", "--cpu-list", ",".join(map(str, cpus))] if cpus else []
    path = os.pathsep.join([variables["PYTHONPATH"], str(ROOT)])
    done = subprocess.run(
        [*limit, str(wanted.python), "-c", program, *arguments],
        env={**os.environ, **variables, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
