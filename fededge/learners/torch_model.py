"""PyTorch and its models: set up, seeded, checked; tensors from numpy's arrays and back."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from fededge.core.tensors import Array
from fededge.errors import WorkloadError
from fededge.learners import needing

THREADS = 1  # a convolution's gradient has other bits with 2 threads; parallelism is across clients


def pytorch() -> Any:
    """Import PyTorch, set up so that the same program gives the same bits. Both settings are the whole process's."""
    with needing("PyTorch", "torch"):
        import torch

    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(THREADS)
    return torch


def seed_everything(seed: int) -> None:
    """Seed the process's generators: whatever a model or loss may draw from."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def require_usable_model(model: Any) -> None:
    """Make sure that a model can be trained, sent and built again.

    Raises:
      WorkloadError: it cannot; the message says why.
    """
    import torch

    if not isinstance(model, torch.nn.Module):
        raise WorkloadError(f"the workload's model is {type(model).__name__}: it must be a torch.nn.Module")
    if getattr(model, "_built_for_fededge", False):
        raise WorkloadError("the workload gives the same model object twice: it must build a new one at each call")
    model._built_for_fededge = True
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if lazy := [name for name, tensor in tensors if torch.nn.parameter.is_lazy(tensor)]:
        raise WorkloadError(
            f"the shapes of {', '.join(lazy[:3])} are not known before the first input: use Linear with its sizes in "
            "place of LazyLinear, and so on"
        )
    if odd := [f"{name} is {p.dtype}" for name, p in model.named_parameters() if p.dtype is not torch.float32]:
        raise WorkloadError(
            f"parameters must be torch.float32, and {', '.join(odd[:3])}: build the model with .float()"
        )
    if not trained_parameters(model):
        raise WorkloadError("the model has no parameter to train")


def trained_parameters(model: Any) -> dict[str, Any]:
    """Return the parameters that are trained; a shared one comes once, under its first name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def outputs(model: Any, x: Any) -> Any:
    """Run a model.

    Raises:
      WorkloadError: it gives no tensor with a row for each example.
    """
    import torch

    given = model(x)
    if not isinstance(given, torch.Tensor) or given.shape[:1] != x.shape[:1]:
        what = described(given) if isinstance(given, torch.Tensor) else type(given).__name__
        raise WorkloadError(f"the model gives {what} for {described(x)}: it must be one tensor, shape [examples, …]")
    return given


def tensor_of(array: Array) -> Any:
    """Copy an array to a tensor: float32 if it is of any floating dtype, else of its own.

    PyTorch aligns its own memory always alike, numpy does not, and MKL promises the same bits for one alignment only.
    """
    import torch

    tensor = torch.tensor(np.asarray(array, order="C"))
    return tensor.float() if tensor.is_floating_point() else tensor


def array_of(tensor: Any) -> Array:
    return np.asarray(tensor.detach().numpy())


def described(values: Any) -> str:
    """Describe an array or a tensor, as `float32[64,10]`."""
    return f"{str(values.dtype).removeprefix('torch.')}[{','.join(map(str, values.shape))}]"


def other_than(these: Mapping[str, str], those: Mapping[str, str]) -> dict[str, str]:
    """Pick what those have and these have not, or have otherwise."""
    return {name: what for name, what in those.items() if these.get(name) != what}


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
