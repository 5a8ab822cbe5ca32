"""BatchNorm layers of a PyTorch model: by which statistics they normalize, and how those are measured."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from fededge.core.aggregation import Weighted
from fededge.core.parts import STATISTICS
from fededge.core.statistics import pooled_statistics
from fededge.core.tensors import Tensors
from fededge.errors import WorkloadError
from fededge.learners.batch_norm import BatchNorm, refused

_BATCH = 256  # examples; of small batches the inputs of the later layers are noisy
_ORDER_SEED = 0


def require_policy(model: Any, batch_norm: BatchNorm) -> None:
    """Make sure that nothing in the model keeps statistics that this way of learning would lose.

    Raises:
      WorkloadError: a layer does; the message names it, and what to take in its place.
    """
    if odd := _unsupported(model):
        raise WorkloadError(
            f"the model's {', '.join(odd[:3])} keeps statistics in a way that no setting allows: use BatchNorm1d, 2d "
            "or 3d themselves with track_running_stats=True, InstanceNorm without it, or GroupNorm"
        )
    if batch_norm is BatchNorm.REFUSED and (layers := batch_norms(model)):
        raise refused(list(layers))


def batch_norms(model: Any) -> dict[str, Any]:
    """Find the layers whose statistics can be measured, by the names of their modules."""
    return {name: module for name, module in model.named_modules() if _is_supported(module)}


def statistics_of(model: Any) -> Tensors:
    """Read the statistics that a model holds: `statistics/<module>/mean` and `…/variance`, float32[channels]."""
    return {name: buffer.numpy().copy() for name, buffer in _buffers(model)}


def normalize_by_statistics(model: Any, statistics: Tensors) -> None:
    """Have the layers normalize by these, as they do in eval mode, whoever is in the batch."""
    import torch

    for layer in batch_norms(model).values():
        vars(layer).pop("forward", None)
    for name, buffer in _buffers(model):
        if name in statistics:
            buffer.copy_(torch.tensor(statistics[name]))


def normalize_by_batch(model: Any, seen: list[Weighted] | None = None) -> None:
    """Have the layers normalize by what is in a batch, in eval mode too, and keep nothing of it.

    Args:
      model: changed in place.
      seen: gets the mean and variance of each input of each layer, if given.
    """
    for name, layer in batch_norms(model).items():
        layer.forward = partial(_by_batch, layer, name, seen)


def measured_statistics(model: Any, x: Any) -> Tensors:
    """Measure the inputs of each layer over examples, in a pass of its own, normalizing by batch on the way.

    Leaves the model in eval mode, normalizing by batch.

    Args:
      model: with the weights to measure with.
      x: a tensor, shape [examples, …].

    Returns:
      `statistics/<module>/mean` and `…/variance` (population variance), float32[channels], of the layers that are used.

    Source: Wu, Johnson 2021, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, §3 (PreciseBN).
    """
    import torch

    seen: list[Weighted] = []
    normalize_by_batch(model, seen)
    model.eval()
    # Neighbours may be alike, as where examples are sorted by class; equal parts, or the last could be a single one.
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(_ORDER_SEED))
    with torch.no_grad():
        for batch in order.tensor_split(max(1, math.ceil(len(x) / _BATCH))):
            model(x[batch])
    normalize_by_batch(model)
    with np.errstate(over="ignore"):  # a model that diverged; who asked finds the infinities
        return pooled_statistics(seen) if seen else {}


def _by_batch(layer: Any, name: str, seen: list[Weighted] | None, x: Any) -> Any:
    """Compute a layer as in training, but without its running statistics.

    One value for each channel gives the bias, as in Keras; PyTorch's layer would refuse a last batch of one example.
    """
    import torch

    layer._check_input_dim(x)
    if seen is not None and x.numel():
        seen.append(_moments(name, x))
    return torch.batch_norm(x, layer.weight, layer.bias, None, None, True, 0.0, layer.eps, False)


def _moments(name: str, x: Any) -> Weighted:
    import torch

    over = [axis for axis in range(x.ndim) if axis != 1]
    variance, mean = torch.var_mean(x.double(), over, correction=0)
    measured = {f"{STATISTICS}{name}/mean": mean.numpy(), f"{STATISTICS}{name}/variance": variance.numpy()}
    return Weighted(measured, x.numel() // x.shape[1])


def _buffers(model: Any) -> list[tuple[str, Any]]:
    return [
        (f"{STATISTICS}{name}/{what}", buffer)
        for name, layer in batch_norms(model).items()
        for what, buffer in (("mean", layer.running_mean), ("variance", layer.running_var))
    ]


def _is_supported(module: Any) -> bool:
    from torch import nn

    # A class derived from these may compute something else, as SyncBatchNorm does.
    return type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) and module.running_mean is not None


def _unsupported(model: Any) -> list[str]:
    """Name the layers that keep statistics, or have none to predict with, in ways of their own."""
    from torch import nn

    batch = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    instance = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    return [
        f"{name or 'model'} ({type(module).__name__})"
        for name, module in model.named_modules()
        if (isinstance(module, batch) and not _is_supported(module))
        or (isinstance(module, instance) and module.running_mean is not None)
    ]
