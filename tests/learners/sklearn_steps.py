"""scikit-learn's training steps in plain numpy, float64: what the learner is compared with."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fededge.core.tensors import Tensors

Batch = tuple[np.ndarray, np.ndarray]


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def network_gradient(weights: Tensors, x: np.ndarray, targets: np.ndarray, last: str, alpha: float) -> Tensors:
    """Differentiate the loss of a network with one hidden layer of ReLU.

    Args:
      weights: coefs_/0, intercepts_/0, coefs_/1, intercepts_/1.
      x: shape [examples, inputs].
      targets: shape [examples, outputs]: one-hot, 0 or 1, or numbers.
      last: the last activation: softmax or sigmoid with cross-entropy, identity with half the squared error.
      alpha: of the L2 penalty alpha / (2 examples) |coefs|².
    """
    w0, b0, w1, b1 = (weights[n].astype(np.float64) for n in ("coefs_/0", "intercepts_/0", "coefs_/1", "intercepts_/1"))
    hidden = np.maximum(x @ w0 + b0, 0)
    out = {"softmax": _softmax, "sigmoid": _sigmoid, "identity": lambda z: z}[last](hidden @ w1 + b1)
    d1 = (out - targets) / len(x)
    d0 = (d1 @ w1.T) * (hidden > 0)
    return {
        "coefs_/0": x.T @ d0 + alpha / len(x) * w0,
        "intercepts_/0": d0.sum(axis=0),
        "coefs_/1": hidden.T @ d1 + alpha / len(x) * w1,
        "intercepts_/1": d1.sum(axis=0),
    }


def train_network(
    weights: Tensors,
    batches: Iterable[Batch],
    last: str,
    rate: float,
    *,
    alpha: float = 0.0,
    momentum: float = 0.0,
    mu: float = 0.0,
    correction: Tensors | None = None,
) -> Tensors:
    """Return how weights change over some minibatches of SGD."""
    now = {name: value.astype(np.float64) for name, value in weights.items()}
    velocity = {name: np.zeros_like(value) for name, value in now.items()}
    for x, targets in batches:
        gradient = network_gradient(now, x, targets, last, alpha)
        for name in now:
            total = gradient[name] + mu * (now[name] - weights[name])
            total = total + (correction[name] if correction else 0)
            velocity[name] = momentum * velocity[name] - rate * total
        now = {name: now[name] + velocity[name] for name in now}
    return {name: now[name] - weights[name] for name in now}


def train_linear(weights: Tensors, x: np.ndarray, y: np.ndarray, loss: str, rate: float, alpha: float = 0.0) -> Tensors:
    """Return how a linear model changes by one step for each example, in the order given.

    Args:
      weights: coef_ [inputs] or [1, inputs], intercept_ [1].
      x: shape [examples, inputs].
      y: 0 or 1 for log_loss, −1 or 1 for hinge, numbers for squared_error.
      loss: which one.
      rate: the learning rate.
      alpha: of the L2 penalty alpha / 2 |coef|².
    """
    coef, intercept = weights["coef_"].astype(np.float64).ravel(), float(weights["intercept_"][0])
    for row, target in zip(x.astype(np.float64), y, strict=True):
        z = float(row @ coef + intercept)
        if loss == "log_loss":
            slope = 1 / (1 + np.exp(-z)) - target
        elif loss == "hinge":
            slope = -target if target * z <= 1 else 0.0
        else:
            slope = z - target
        coef = coef * (1 - rate * alpha) - rate * slope * row
        intercept -= rate * slope
    return {
        "coef_": coef.reshape(weights["coef_"].shape) - weights["coef_"],
        "intercept_": np.array([intercept]) - weights["intercept_"],
    }


def lloyd(centers: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Move each center to the mean of the examples nearest to it; one without any stays."""
    nearest = np.square(x[:, np.newaxis].astype(np.float64) - centers).sum(axis=2).argmin(axis=1)
    return np.array([x[nearest == j].mean(axis=0) if (nearest == j).any() else c for j, c in enumerate(centers)])
