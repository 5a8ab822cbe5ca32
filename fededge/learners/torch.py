"""PyTorch models, trained by plain SGD with momentum. Use it for any `torch.nn.Module` with a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fededge.core.metrics import classification_metrics, regression_metrics
from fededge.core.parts import STATISTICS
from fededge.core.tensors import Array, Tensors, non_finite, signature
from fededge.core.updates import ClientUpdate, ExclusionReason
from fededge.errors import UpdateError, WorkloadError
from fededge.learners import ClientSeeds, Examples, require_usable
from fededge.learners.batch_norm import BatchNorm
from fededge.learners.torch_batch_norm import (
    measured_statistics,
    normalize_by_batch,
    normalize_by_statistics,
    require_policy,
    statistics_of,
)
from fededge.learners.torch_files import read_tensors, scaled, take_state, write_program
from fededge.learners.torch_model import (
    THREADS,
    array_of,
    described,
    first_line,
    other_than,
    outputs,
    pytorch,
    require_usable_model,
    seed_everything,
    tensor_of,
    trained_parameters,
)
from fededge.learners.torch_sgd import Loss, diverged, fit
from fededge.records import Runtime
from fededge.runtime import describe_runtime
from fededge.settings import LocalTraining

__all__ = ["TorchLearner", "classifier", "pytorch", "regressor"]

_BATCH = 256  # examples, in predicting
_BUILD_SEED = 0  # of whatever a model draws when it is built, such as a fixed random projection


class TorchLearner:
    """Learns with a PyTorch model.

    Seeds the global random generators of Python, numpy and PyTorch whenever it builds or trains a model.

    Args:
      model: builds the model, a new one at each call, with float32 parameters of known sizes. What it predicts is one
        tensor, shape [examples, …]. Parameters without `requires_grad` are kept as they are and not sent.
      loss: of predictions and targets of a minibatch, as tensors; a scalar, the mean over the examples.
      metrics: of targets and predictions, as arrays; their names appear in reports.
      batch_norm: what becomes of the statistics of BatchNorm layers.
      input_shape: of one example, without the batch; for `export` alone.
      input_dtype: of the inputs, by numpy's name; for `export` alone. The model gets inputs and targets of any floating
        dtype as float32, integers as they are.
    """

    def __init__(
        self,
        model: Callable[[], Any],
        loss: Loss,
        metrics: Callable[[Array, Array], Mapping[str, float]],
        batch_norm: BatchNorm = BatchNorm.REFUSED,
        *,
        input_shape: tuple[int, ...] | None = None,
        input_dtype: str = "float32",
    ) -> None:
        self._model = model
        self._loss = loss
        self._metrics = metrics
        self._batch_norm = batch_norm
        self._input_shape = input_shape
        self._input_dtype = input_dtype

    def initial_weights(self, seed: int) -> Tensors:
        return self._weights_of(self._build(seed=seed))

    def load_weights(self, path: Path) -> Tensors:
        model, found = self._build(), read_tensors(path)
        if signature(found) == signature(self._weights_of(model)):
            return found
        take_state(model, found, path.name)
        return self._weights_of(model)

    def prepare(self) -> None:
        pytorch()

    def update_signature(self, weights: Tensors, how: LocalTraining) -> dict[str, str]:  # noqa: ARG002
        trained = trained_parameters(self._build(weights))
        return signature({name: weights[name] for name in weights if name in trained or name.startswith(STATISTICS)})

    def train(
        self,
        client: str,
        weights: Tensors,
        examples: Examples,
        how: LocalTraining,
        seeds: ClientSeeds,
        correction: Tensors | None = None,
    ) -> ClientUpdate:
        require_usable(examples)
        model = self._build(weights)
        normalize_by_batch(model)
        x, y = tensor_of(examples.x), tensor_of(examples.y)
        fitted = fit(model, self._loss, x, y, how, seeds, correction)
        delta = {name: array_of(now - tensor_of(weights[name])) for name, now in trained_parameters(model).items()}
        _require_finite(delta)
        if self._batch_norm is BatchNorm.FEDERATED:
            delta |= statistics_of(model) | measured_statistics(model, x)
            _require_finite(delta)
        return ClientUpdate(client=client, delta=delta, num_examples=fitted.examples, metrics={"loss": fitted.loss})

    def predict(self, weights: Tensors, x: Array) -> Array:
        model, inputs = self._build(weights), tensor_of(x)
        model.eval()
        try:
            if self._batch_norm is BatchNorm.LOCAL:
                normalize_by_statistics(model, measured_statistics(model, inputs))
            with pytorch().no_grad():
                return array_of(pytorch().cat([outputs(model, part) for part in inputs.split(_BATCH)]))
        except (IndexError, RuntimeError, ValueError) as error:
            raise WorkloadError(f"the model fails on inputs {described(x)}: {first_line(error)}") from error

    def evaluate(self, weights: Tensors, examples: Examples) -> Mapping[str, float]:
        return self._metrics(examples.y, self.predict(weights, examples.x))

    def export(self, weights: Tensors, path: Path, scaling: tuple[Array, Array] | None = None) -> None:
        """Write a `.pt2` file that `torch.export.load` reads; `.module()` of that is the model, for any batch.

        One with local BatchNorm statistics normalizes by those of the batch that it is given.

        Args:
          weights: the model's.
          path: of the file.
          scaling: mean and scale of the inputs, which broadcast to one example. If given, what is written takes inputs
            as they are, and the model gets (x − mean) / scale, and 0 where that is NaN.

        Raises:
          WorkloadError: `input_shape` is not known, or PyTorch cannot write this model.
        """
        if self._input_shape is None:
            raise WorkloadError(
                "the learner was made without input_shape, and PyTorch writes a model along an example: give "
                "classifier, regressor or TorchLearner the shape of one input, such as input_shape=(64,)"
            )
        model = self._build(weights)
        if self._batch_norm is BatchNorm.LOCAL:
            normalize_by_batch(model)
        example = tensor_of(np.zeros((2, *self._input_shape), self._input_dtype))  # 1 would become a constant
        write_program(scaled(model, *scaling) if scaling else model, example, path)

    def runtime(self) -> Runtime:
        return describe_runtime(("torch", "numpy"), THREADS)

    def _build(self, weights: Tensors | None = None, seed: int = _BUILD_SEED) -> Any:
        pytorch()
        seed_everything(seed)
        model = self._model()
        require_usable_model(model)
        require_policy(model, self._batch_norm)
        if weights is not None:
            self._set_weights(model, weights)
        return model

    def _weights_of(self, model: Any) -> Tensors:
        weights = {name: array_of(parameter).copy() for name, parameter in model.named_parameters()}
        return weights | (statistics_of(model) if self._batch_norm is BatchNorm.FEDERATED else {})

    def _set_weights(self, model: Any, weights: Tensors) -> None:
        ours, theirs = signature(self._weights_of(model)), signature(weights)
        if ours != theirs:
            raise WorkloadError(
                f"the workload's model has weights {other_than(theirs, ours)}, the version has "
                f"{other_than(ours, theirs)}: begin another training for the changed model, with `fededge run --new`"
            )
        for name, parameter in model.named_parameters():
            parameter.data.copy_(tensor_of(weights[name]))
        normalize_by_statistics(model, weights)


def classifier(
    model: Callable[[], Any],
    batch_norm: BatchNorm = BatchNorm.REFUSED,
    *,
    input_shape: tuple[int, ...] | None = None,
    input_dtype: str = "float32",
) -> TorchLearner:
    """Make the learner of a model that gives one logit for each class; targets are class numbers.

    Its metrics are those of `core.metrics.classification_metrics`; the arguments are `TorchLearner`'s.
    """
    return TorchLearner(
        model, _cross_entropy, _class_metrics, batch_norm, input_shape=input_shape, input_dtype=input_dtype
    )


def regressor(
    model: Callable[[], Any],
    loss: Loss | None = None,
    batch_norm: BatchNorm = BatchNorm.REFUSED,
    *,
    input_shape: tuple[int, ...] | None = None,
    input_dtype: str = "float32",
) -> TorchLearner:
    """Make the learner of a model that gives numbers; by default the loss is their mean squared error.

    The loss gets predictions shaped like the targets, and both are float32. Metrics are those of
    `core.metrics.regression_metrics`; the other arguments are `TorchLearner`'s.
    """

    def shaped_loss(predictions: Any, y: Any) -> Any:
        import torch

        # Of [n, 1] and [n] PyTorch would make [n, n], and a loss of that.
        if [side for side in predictions.shape[1:] if side != 1] != [side for side in y.shape[1:] if side != 1]:
            raise UpdateError(
                ExclusionReason.BAD_DATA, f"the model gives {described(predictions)}, the targets are {described(y)}"
            )
        return (loss or torch.nn.functional.mse_loss)(predictions.reshape(y.shape), y.float())

    return TorchLearner(
        model, shaped_loss, regression_metrics, batch_norm, input_shape=input_shape, input_dtype=input_dtype
    )


def _require_finite(delta: Tensors) -> None:
    if non_finite(delta):
        raise diverged()


def _cross_entropy(logits: Any, y: Any) -> Any:
    import torch

    if why := _no_classes(y.numpy(), tuple(logits.shape)):
        raise UpdateError(ExclusionReason.BAD_DATA, why)
    return torch.nn.functional.cross_entropy(logits, y.long())


def _class_metrics(targets: Array, logits: Array) -> Mapping[str, float]:
    if why := _no_classes(targets, logits.shape):
        raise WorkloadError(why)
    return classification_metrics(targets, logits)


def _no_classes(targets: Array, logits: tuple[int, ...]) -> str:
    """Say why targets are no classes of a model whose logits have this shape; empty if they are."""
    if len(logits) != 2:
        return f"a classifier's logits have shape [examples, classes], the model's have {list(logits)}"
    if targets.ndim != 1 or targets.dtype.kind not in "iub":
        return f"targets must be class numbers, one integer for each example, and are {described(targets)}"
    classes = targets.astype(np.int64)
    if len(wrong := classes[(classes < 0) | (classes >= logits[1])]):
        return f"class {wrong[0]} is not among the model's {logits[1]}, 0 to {logits[1] - 1}"
    return ""
