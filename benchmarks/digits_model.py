"""The model of the workload `digits`, trained in numpy, where a client takes milliseconds.

`check` compares it with the workload's own learner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fededge.core.seeds import Purpose, derive_seed
from fededge.core.tensors import Array, Tensors, signature
from fededge.learners import ClientSeeds, Examples
from fededge.settings import LocalTraining
from fededge.workloads.digits import workload

Floats = npt.NDArray[np.float32]
Batches = Sequence[npt.NDArray[np.int64]]

SHAPES: dict[str, tuple[int, ...]] = {  # of the workload's model
    "0000/hidden/kernel": (64, 64),
    "0001/hidden/bias": (64,),
    "0002/digit/kernel": (64, 10),
    "0003/digit/bias": (10,),
}


def train(weights: Tensors, examples: Examples, batches: Batches, how: LocalTraining) -> Tensors:
    """Train as `KerasLearner` does, in numpy, and return client model − global model.

    Softmax cross-entropy, averaged over a batch; SGD whose velocity is v ← momentum · v + gradient.

    Args:
      weights: of the model, float32.
      examples: the client's.
      batches: which of them make each step, over all local epochs.
      how: learning rate and momentum.
    """
    start = _flat(weights)
    model, velocity, gradient = start.copy(), np.zeros_like(start), np.empty_like(start)
    views, into = _views(model), _views(gradient)
    for batch in batches:
        _write_gradient(views, into, examples.x[batch], examples.y[batch])
        velocity *= np.float32(how.client_momentum)
        velocity += gradient
        model -= np.float32(how.client_learning_rate) * velocity
    return dict(zip(SHAPES, _views(model - start), strict=True))


def _write_gradient(model: Sequence[Floats], into: Sequence[Floats], x: Array, y: Array) -> None:
    hidden = _hidden(model, x)
    error = _softmax(hidden @ model[2] + model[3])
    error[np.arange(len(y)), y] -= 1
    error /= np.float32(len(y))
    back = (error @ model[2].T) * (hidden > 0)
    np.matmul(x.T, back, out=into[0])
    np.sum(back, axis=0, out=into[1])
    np.matmul(hidden.T, error, out=into[2])
    np.sum(error, axis=0, out=into[3])


def _hidden(model: Sequence[Floats], x: Array) -> Floats:
    hidden: Floats = np.maximum(x.astype(np.float32, copy=False) @ model[0] + model[1], np.float32(0))
    return hidden


def _softmax(logits: Floats) -> Floats:
    powers: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def _flat(tensors: Tensors) -> Floats:
    return np.concatenate([tensors[name].reshape(-1) for name in SHAPES]).astype(np.float32, copy=False)


def _views(flat: Floats) -> list[Floats]:
    sizes = [math.prod(shape) for shape in SHAPES.values()]
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, SHAPES.values(), strict=True)]


def initial_weights(seed: int) -> Tensors:
    """Draw weights as Keras does: Glorot-uniform kernels, biases of zero."""
    rng = np.random.default_rng(derive_seed(seed, Purpose.INIT))
    limits = {name: math.sqrt(6 / sum(shape)) if len(shape) == 2 else 0.0 for name, shape in SHAPES.items()}
    return {name: rng.uniform(-limits[name], limits[name], shape).astype(np.float32) for name, shape in SHAPES.items()}


def accuracy(weights: Tensors, examples: Examples) -> float:
    model = _views(_flat(weights))
    logits = _hidden(model, examples.x) @ model[2] + model[3]
    return float(np.mean(logits.argmax(axis=1) == examples.y))


def check(clients: int = 3) -> Mapping[str, tuple[float, float]]:
    """Compare updates with those of the workload's learner, given its weights, seeds and order of examples.

    Returns:
      For each client the cosine of the two updates and their largest difference in any coordinate.
    """
    learner, how = workload.learner(), LocalTraining()
    weights = learner.initial_weights(derive_seed(0, Purpose.INIT))
    if signature(weights) != signature(initial_weights(0)):
        raise AssertionError(f"the workload's model has {signature(weights)}")
    return {
        client: _compare(learner, client, weights, workload.train_data(client, 20), how)
        for client in workload.population(20)[:clients]
    }


def _compare(
    learner: Any, client: str, weights: Tensors, examples: Examples, how: LocalTraining
) -> tuple[float, float]:
    seeds = ClientSeeds(derive_seed(0, Purpose.SHUFFLE, 1, client), derive_seed(0, Purpose.DROPOUT, 1, client))
    theirs = _flat(learner.train(client, weights, examples, how, seeds).delta).astype(np.float64)
    numbered = Examples(examples.x, np.arange(len(examples), dtype=np.int32))
    batches = [np.asarray(numbers) for _, numbers in learner.dataset(numbered, how, seeds.shuffle)]
    ours = _flat(train(weights, examples, batches, how)).astype(np.float64)
    cosine = float(ours @ theirs / (np.linalg.norm(ours) * np.linalg.norm(theirs)))
    return cosine, float(np.abs(ours - theirs).max())
