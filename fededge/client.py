"""FedEdge in a notebook: runs on Kubeflow, and what they have made.

    from fededge import client

    kubeflow = client.connect()
    run = client.submit(kubeflow, "fl_training", {"training": "digits"}, registry="harbor.example.org/fededge")
    client.wait(kubeflow, run.id)
    for version in client.open_training("digits", "s3://models/fededge").versions():
        print(version.version, version.metrics)

What a name takes, returns and raises is said where it is defined. All errors are `fededge.errors.FedEdgeError`.
"""

from __future__ import annotations

from fededge.kubeflow.client import Kubeflow, connect
from fededge.kubeflow.driver import News, train
from fededge.kubeflow.goal import Goal
from fededge.kubeflow.runs import Run, get, stop, wait, watch
from fededge.kubeflow.schedule import Schedule, delete, pause, resume, schedule, schedules
from fededge.kubeflow.submit import Package, package, submit
from fededge.kubeflow.upload import Uploaded, upload
from fededge.store import open_store
from fededge.store.trainings import TrainingStore, training_names

__all__ = [
    "Goal",
    "Kubeflow",
    "News",
    "Package",
    "Run",
    "Schedule",
    "Uploaded",
    "connect",
    "delete",
    "get",
    "open_training",
    "package",
    "pause",
    "resume",
    "schedule",
    "schedules",
    "stop",
    "submit",
    "train",
    "trainings",
    "upload",
    "wait",
    "watch",
]


def open_training(name: str, store: str = "") -> TrainingStore:
    """Open a training, to read its versions.

    Args:
      name: of it.
      store: `s3://bucket/prefix` or a folder; empty for `FEDEDGE_STORE`.
    """
    return TrainingStore(open_store(store, hurried=True), name)


def trainings(store: str = "") -> list[str]:
    """List the trainings of a store, by name."""
    return training_names(open_store(store, hurried=True))
