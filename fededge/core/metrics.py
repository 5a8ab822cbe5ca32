"""What predictions are worth. Each takes targets and predictions of the same examples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fededge.core.tensors import Array


def classification_metrics(targets: Array, scores: Array) -> dict[str, float]:
    """Measure a classifier.

    Args:
      targets: class numbers, integers from 0, shape [examples].
      scores: shape [examples, classes]: logits, or logarithms of probabilities.

    Returns:
      `accuracy` (share of examples, 0 to 1), `macro_f1` (mean F1 of the classes that are among the targets or the
      predictions, 0 to 1), `loss` (cross-entropy, nats).

    Raises:
      ValueError: there is a target without a score, or not one target for each example.
    """
    values = scores.astype(np.float64)
    # [examples, 1] would be compared with each prediction, and class -1 be the last one, without an error.
    classes = targets.reshape(len(values)).astype(np.int64)
    if classes.size and not 0 <= classes.min() <= classes.max() < values.shape[1]:
        raise ValueError(f"targets are {classes.min()} to {classes.max()}, and there are {values.shape[1]} classes")
    predicted = values.argmax(axis=1)
    shifted = values - values.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    loss = log_sum - shifted[np.arange(len(classes)), classes]
    return {
        "accuracy": float(np.mean(predicted == classes)),
        "macro_f1": _macro_f1(classes, predicted),
        "loss": float(loss.mean()),
    }


def regression_metrics(targets: Array, predictions: Array) -> dict[str, float]:
    """Measure a regression.

    Args:
      targets: shape [examples, …].
      predictions: of as many values.

    Returns:
      `rmse` and `mae`, in the targets' unit; over all outputs together.
    """
    error = predictions.astype(np.float64).reshape(targets.shape) - targets.astype(np.float64)
    return {"rmse": float(np.sqrt(np.square(error).mean())), "mae": float(np.abs(error).mean())}


def _macro_f1(targets: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> float:
    scores = []
    for label in np.union1d(targets, predicted):
        hits = np.count_nonzero((targets == label) & (predicted == label))
        named = np.count_nonzero(targets == label) + np.count_nonzero(predicted == label)
        scores.append(2 * hits / named)
    return float(np.mean(scores))
