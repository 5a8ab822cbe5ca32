"""Makes trainings in a store as the steps do, without training anything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from fededge.core.tensors import Tensors, signature
from fededge.core.updates import ExclusionReason
from fededge.records import Accepted, Digest, Excluded, Runtime, Training, Version
from fededge.settings import RoundSettings
from fededge.store import Store, keys
from fededge.store.blobs import put_tensors
from fededge.store.trainings import TrainingStore

SETTINGS = RoundSettings(clients=3)
RUNTIME = Runtime(
    fededge="0.1.0", python="3.11.9", machine="x86_64", cpu_features="avx2", threads=1, libraries={"numpy": "1.25.2"}
)
START = datetime(2026, 1, 1, tzinfo=UTC)


def weights(round_number: int) -> Tensors:
    return {"0000/w": np.full((2, 3), round_number, np.float32), "0001/b": np.zeros(3, np.float32)}


def make_training(store: Store, name: str = "digits") -> TrainingStore:
    """Begin a training and publish v1 to v3; roll back to v1, and publish v2-b1."""
    trainings = TrainingStore(store, name)
    initial = _version(store, name, "v0", None)
    training = Training(
        name=name, settings=SETTINGS, signature=initial.signature, initial_model=initial.model, created_at=START
    )
    trainings.create(training, initial)
    for version, parent in (("v1", "v0"), ("v2", "v1"), ("v3", "v2")):
        trainings.publish(_version(store, name, version, parent))
    trainings.rollback("v1")
    trainings.publish(_version(store, name, "v2-b1", "v1"))
    return trainings


def _version(store: Store, training: str, version: str, parent: str | None) -> Version:
    number = keys.version_round(version)
    model = put_tensors(store, weights(number))
    first = parent is None
    return Version(
        training=training,
        version=version,
        round=number,
        parent=parent,
        attempt=0 if first else 1,
        model=model,
        server_state=None,
        signature=signature(weights(0)),
        settings=SETTINGS,
        accepted=[] if first else _accepted(model),
        excluded=[] if first else _excluded(),
        metric="accuracy",
        metrics={} if first else {"accuracy": number / 10, "loss": 1 - number / 10},
        data_schema={},
        runtime=RUNTIME,
        created_at=START + timedelta(minutes=number, hours=int(version.partition("-b")[2] or 0)),
    )


def _accepted(delta: Digest) -> list[Accepted]:
    counts = {"client-000000": 30, "client-000001": 10}
    return [Accepted(client=c, delta=delta, num_examples=n, metrics={"loss": 0.25}) for c, n in counts.items()]


def _excluded() -> list[Excluded]:
    return [Excluded(client="client-000002", reason=ExclusionReason.NON_FINITE, detail="NaN or infinity in 0000/w")]
