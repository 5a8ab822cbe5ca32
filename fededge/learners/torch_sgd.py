"""A PyTorch client's own training: minibatches and SGD with momentum, FedProx's term and SCAFFOLD's."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from fededge.core.tensors import Tensors
from fededge.core.updates import ExclusionReason
from fededge.errors import UpdateError, WorkloadError
from fededge.learners import ClientSeeds
from fededge.learners.torch_model import described, first_line, outputs, seed_everything, tensor_of, trained_parameters
from fededge.settings import LocalTraining

Loss = Callable[[Any, Any], Any]


class Fitted(NamedTuple):
    """What a training says of itself.

    Attributes:
      loss: the mean over the last epoch, or over as many of the last minibatches.
      examples: trained on, summed over the minibatches.
    """

    loss: float
    examples: int


def fit(
    model: Any, loss: Loss, x: Any, y: Any, how: LocalTraining, seeds: ClientSeeds, correction: Tensors | None
) -> Fitted:
    """Train a model in place.

    Args:
      model: with the weights to begin with.
      loss: of predictions and targets; a scalar tensor.
      x: inputs, a tensor, shape [examples, …].
      y: targets, a tensor, shape [examples, …].
      how: as in `Learner.train`.
      seeds: `shuffle` of a generator of its own, `dropout` of the process's.
      correction: as in `Learner.train`.

    Raises:
      UpdateError: the model does not take the data, or training diverges.
      WorkloadError: the loss is no scalar, or training changes what is no parameter.
    """
    step = _Sgd(trained_parameters(model), how, correction).step
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    last: deque[tuple[float, int]] = deque(maxlen=math.ceil(len(x) / how.batch_size))
    examples = 0
    model.train()
    seed_everything(seeds.dropout)
    for batch in _minibatches(len(x), how, seeds.shuffle):
        value = _loss_of(model, loss, x[batch], y[batch])
        last.append((value.item(), len(batch)))
        if not math.isfinite(value.item()):
            raise diverged()
        step(value)
        examples += len(batch)
    _require_unchanged(model, buffers)
    return Fitted(sum(value * size for value, size in last) / sum(size for _, size in last), examples)


def diverged() -> UpdateError:
    return UpdateError(
        ExclusionReason.NON_FINITE_TRAINING, "training diverged; a smaller client_learning_rate may help"
    )


class _Sgd:
    """SGD with momentum as torch.optim.SGD has it, without dampening and Nesterov's; the momentum begins at 0.

    Minimizes loss(w) + <correction, w> + mu/2 |w − start|².

    Source: Li et al. 2020, arXiv:1812.06127 (FedProx); Karimireddy et al. 2020, arXiv:1910.06378 (SCAFFOLD).
    """

    def __init__(self, parameters: Mapping[str, Any], how: LocalTraining, correction: Tensors | None) -> None:
        import torch

        self._how = how
        self._parameters = list(parameters.values())
        self._start = [parameter.detach().clone() for parameter in self._parameters]
        self._velocity = [torch.zeros_like(start) for start in self._start]
        self._correction = [
            torch.zeros_like(start) if correction is None else tensor_of(correction[name])
            for name, start in zip(parameters, self._start, strict=True)
        ]

    def step(self, loss: Any) -> None:
        import torch

        # What the loss does not depend on has a gradient of 0: the other terms hold for it too.
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        rows = zip(self._parameters, self._velocity, gradients, self._correction, self._start, strict=True)
        with torch.no_grad():
            for parameter, velocity, gradient, correction, start in rows:
                velocity.mul_(self._how.client_momentum).add_(gradient).add_(correction)
                velocity.add_(parameter - start, alpha=self._how.proximal_mu)
                parameter.add_(velocity, alpha=-self._how.client_learning_rate)


def _minibatches(examples: int, how: LocalTraining, seed: int) -> Iterator[Any]:
    """Yield the indices of each minibatch; every epoch has another order."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    endless = (
        batch
        for _ in itertools.count()
        for batch in torch.randperm(examples, generator=generator).split(how.batch_size)
    )
    return itertools.islice(endless, how.steps(examples))


def _loss_of(model: Any, loss: Loss, x: Any, y: Any) -> Any:
    try:
        value = loss(outputs(model, x), y)
    except (IndexError, RuntimeError, ValueError) as error:
        raise UpdateError(
            ExclusionReason.BAD_DATA,
            f"the model or its loss fails on inputs {described(x)} and targets {described(y)}: {first_line(error)}",
        ) from error
    if getattr(value, "shape", None) != ():
        raise WorkloadError("the workload's loss must give a scalar tensor, such as the mean over the examples")
    return value


def _require_unchanged(model: Any, buffers: Mapping[str, Any]) -> None:
    if changed := [name for name, buffer in model.named_buffers() if not buffer.equal(buffers[name])]:
        raise WorkloadError(
            f"training changes {', '.join(changed[:3])}, buffers that are not sent with the weights: use layers that "
            "keep nothing outside their parameters"
        )
