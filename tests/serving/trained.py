"""Trains versions of a workload and keeps what its learner says of the test data; runs where the clients' steps run.

python -m tests.serving.trained STORE WORKLOAD FOLDER
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

from fededge.core.tensors import Tensors
from fededge.learners import ClientSeeds, Learner
from fededge.settings import RoundSettings
from fededge.store import Store, open_store
from fededge.store.blobs import put_tensors
from fededge.store.trainings import TrainingStore
from fededge.workloads import learner_of, load_workload
from tests.trainings import begin_training, close_round, make_manifest, open_round

NAME = "digits"
VERSIONS = ("v1", "v2")


def train(store: Store, workload: str, folder: Path) -> None:
    """Publish two versions, each of one client's work."""
    learner, test = learner_of(workload), load_workload(workload).test_data()
    learner.prepare()
    trainings, weights = begin_training(store, NAME), learner.initial_weights(1)
    for number, version in enumerate(VERSIONS):
        weights = _trained(learner, weights, workload, number)
        publish(trainings, weights, workload, test.schema())
        np.save(folder / f"{version}.npy", learner.predict(weights, test.x))
        np.save(folder / f"{version}-first.npy", learner.predict(weights, test.x[:1]))
    np.save(folder / "x.npy", test.x)


def publish(trainings: TrainingStore, weights: Tensors, workload: str, schema: dict[str, str]) -> None:
    plan, token = open_round(trainings, "run 1")
    manifest = make_manifest(trainings, plan, close_round(trainings, plan))
    settings = RoundSettings(workload=workload)
    own = {"model": put_tensors(trainings.store, weights), "settings": settings, "data_schema": schema}
    trainings.publish(manifest.model_copy(update=own), token)
    trainings.lease.release(token)


def _trained(learner: Learner, weights: Tensors, workload: str, number: int) -> Tensors:
    client = f"client-{number:06d}"
    examples, how = load_workload(workload).train_data(client, 10), RoundSettings(local_epochs=2).in_round(1)
    update = learner.train(client, weights, examples, how, ClientSeeds(shuffle=number, dropout=number))
    return {name: array + update.delta.get(name, 0) for name, array in weights.items()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    train(open_store(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
