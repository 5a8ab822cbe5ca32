"""Workloads without a framework, to try steps quickly: linear regression by gradient descent in numpy.

`workload` has clients that all deliver; in `faulty` some do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fededge.core.tensors import Array, Tensors, signature
from fededge.core.updates import ClientUpdate, ExclusionReason
from fededge.errors import MissingDataError, UpdateError, WorkloadError
from fededge.learners import ClientSeeds, Examples
from fededge.records import Runtime
from fededge.runtime import describe_runtime
from fededge.settings import LocalTraining
from fededge.workloads import data_folder

TRUE_WEIGHTS = np.array([1.0, -2.0, 0.5], np.float32)


class TinyLearner:
    def initial_weights(self, seed: int) -> Tensors:
        rng = np.random.default_rng(seed)
        return {"0000/w": rng.normal(size=3).astype(np.float32), "0001/b": np.zeros(1, np.float32)}

    def load_weights(self, path: Path) -> Tensors:
        raise NotImplementedError

    def prepare(self) -> None:
        pass

    def update_signature(self, weights: Tensors, how: LocalTraining) -> dict[str, str]:
        return signature(weights)

    def train(
        self,
        client: str,
        weights: Tensors,
        examples: Examples,
        how: LocalTraining,
        seeds: ClientSeeds,
        correction: Tensors | None = None,
    ) -> ClientUpdate:
        if not len(examples):
            raise UpdateError(ExclusionReason.NO_DATA, "the client has no examples")
        correction = correction or {}
        w, b = weights["0000/w"].copy(), weights["0001/b"].copy()
        for _ in range(how.local_epochs):
            error = (examples.x @ w + b - examples.y).astype(np.float32)
            rate = np.float32(how.client_learning_rate)
            w -= rate * (examples.x.T @ error / np.float32(len(examples)) + correction.get("0000/w", 0))
            b -= rate * (error.mean(dtype=np.float32) + correction.get("0001/b", 0))
        delta: Tensors = {"0000/w": w - weights["0000/w"], "0001/b": b - weights["0001/b"]}
        loss = float(np.square(error).mean())
        return ClientUpdate(client, delta, how.local_epochs * len(examples), {"loss": loss})

    def predict(self, weights: Tensors, x: Array) -> Array:
        return np.asarray(x @ weights["0000/w"] + weights["0001/b"])

    def evaluate(self, weights: Tensors, examples: Examples) -> Mapping[str, float]:
        error = self.predict(weights, examples.x) - examples.y
        return {"error": float(np.square(error).mean())}

    def export(self, weights: Tensors, path: Path) -> None:
        raise NotImplementedError

    def runtime(self) -> Runtime:
        return describe_runtime(("numpy",), threads=1)


class TinyWorkload:
    """Clients p0, p7, p14, … with 5, 6, 7, … examples."""

    metric = "error"

    def population(self, clients: int) -> Sequence[str]:
        return [f"p{7 * i}" for i in range(clients or 4)]

    def train_data(self, client: str, clients: int) -> Examples:
        index = self.population(clients).index(client)
        return _examples(index, 5 + index)

    def test_data(self) -> Examples:
        return _examples(999, 50)

    def learner(self) -> TinyLearner:
        return TinyLearner()


class RealWorkload(TinyWorkload):
    """Clients are those that have a file in the data folder: p0, p7, … as above."""

    def population(self, clients: int) -> Sequence[str]:
        here = sorted(path.name for path in data_folder().iterdir())
        if not here:
            raise MissingDataError("nobody is here")
        if clients not in (0, len(here)):
            raise WorkloadError(f"clients={clients}, and the data have {len(here)}")
        return here

    def is_client(self, name: str) -> bool:
        return name.startswith("p")

    def train_data(self, client: str, clients: int) -> Examples:
        if not Path(data_folder(), client).exists():
            raise WorkloadError(f"there is no client {client} in the data")
        index = int(client[1:]) // 7
        return _examples(index, 5 + index)


class FaultyLearner(TinyLearner):
    """Some clients deliver what must not be used."""

    def train(
        self,
        client: str,
        weights: Tensors,
        examples: Examples,
        how: LocalTraining,
        seeds: ClientSeeds,
        correction: Tensors | None = None,
    ) -> ClientUpdate:
        good = super().train(client, weights, examples, how, seeds)
        spoiled: dict[str, ClientUpdate] = {
            "p7": ClientUpdate(client, {n: a * np.float32("nan") for n, a in good.delta.items()}, 5, {}),
            "p14": ClientUpdate(client, {n: a.astype(np.float64) for n, a in good.delta.items()}, 5, {}),
            "p21": ClientUpdate(client, {**good.delta, "0001/b": np.zeros((1, 1), np.float32)}, 5, {}),
            "p28": ClientUpdate(client, good.delta, -50, {}),
        }
        return spoiled.get(client, good)


class FaultyWorkload(TinyWorkload):
    def train_data(self, client: str, clients: int) -> Examples:
        data = super().train_data(client, clients)
        if client == "p35":
            raise OSError("the disk of this device is gone")
        return Examples(data.x[:0], data.y[:0]) if client == "p42" else data

    def learner(self) -> TinyLearner:
        return FaultyLearner()


def _examples(seed: int, count: int) -> Examples:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3)).astype(np.float32)
    return Examples(x, (x @ TRUE_WEIGHTS + rng.normal(scale=0.1, size=count)).astype(np.float32))


workload = TinyWorkload()
faulty = FaultyWorkload()
real = RealWorkload()
