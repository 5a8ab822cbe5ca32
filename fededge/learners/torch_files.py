"""Weights that users bring for a PyTorch model, and the model as a file for others."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from fededge.core.tensors import Array, Tensors, signature
from fededge.errors import CorruptError, InputError, WorkloadError
from fededge.learners.torch_batch_norm import batch_norms
from fededge.learners.torch_model import array_of, first_line, other_than, pytorch, tensor_of
from fededge.store.blobs import decode_tensors

_WRITE_IT = "write it with torch.save(model.state_dict(), path)"


def read_tensors(path: Path) -> Tensors:
    """Read the tensors of a `.safetensors`, `.pt` or `.pth` file, without running what may be in it.

    Raises:
      InputError: it is no such file.
    """
    try:
        return decode_tensors(path.read_bytes(), path.name) if path.suffix == ".safetensors" else _read_state(path)
    except (CorruptError, OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError) as error:
        raise InputError(f"{path.name} does not fit this workload's model: {first_line(error)}") from error


def take_state(model: Any, found: Tensors, file: str) -> None:
    """Give a model all that a file has of its `state_dict`.

    Raises:
      InputError: the file is of another model.
    """
    before = {name: array_of(value).copy() for name, value in model.state_dict().items()}
    ours, theirs = signature(before), signature(found)
    if ours != theirs:
        raise InputError(
            f"{file} has {other_than(ours, theirs)}, this workload's model needs {other_than(theirs, ours)}"
        )
    model.load_state_dict({name: tensor_of(value) for name, value in found.items()})
    buffers, measured = dict(model.named_buffers()), _kept_by_batch_norm(model)
    for name, value in model.state_dict().items():
        if name in buffers and name not in measured and not np.array_equal(found[name], before[name]):
            raise InputError(f"{file} has another {name}, which is a constant of this workload's model")
        if name not in buffers and not np.array_equal(found[name], array_of(value)):
            raise InputError(f"{file} has two values of {name}, which is one parameter under two names in this model")


def write_program(model: Any, example: Any, path: Path) -> None:
    """Write a model that is called with one tensor, of any number of examples.

    Args:
      model: written in eval mode.
      example: an input, shape [2, …].
      path: of the file.

    Raises:
      WorkloadError: PyTorch cannot write this model.
    """
    torch = pytorch()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what PyTorch's own LSTM does
            program = torch.export.export(model.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # there is no class of its own for what cannot be written
        raise WorkloadError(f"PyTorch cannot export the workload's model: {first_line(error)}") from error
    torch.export.save(program, path)


def scaled(model: Any, mean: Array, scale: Array) -> Any:
    """Make the module that gives (x − mean) / scale to a model, and 0 where that is NaN."""
    import torch

    class Scaled(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.register_buffer("mean", tensor_of(mean))
            self.register_buffer("scale", tensor_of(scale))

        def forward(self, x: Any) -> Any:
            z = (x - self.mean) / self.scale
            return self.model(torch.where(torch.isnan(z), 0.0, z))

    return Scaled()


def _read_state(path: Path) -> Tensors:
    if path.suffix not in (".pt", ".pth"):
        raise ValueError("it must end in .safetensors, .pt or .pth")
    torch = pytorch()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its own message tells how to run what is in there
        raise ValueError(f"it is damaged or holds more than tensors: {_WRITE_IT}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"it is no state_dict: {_WRITE_IT}")
    return {name: array_of(value) for name, value in state.items()}


def _kept_by_batch_norm(model: Any) -> set[str]:
    return {
        f"{module}.{name}" if module else name
        for module, layer in batch_norms(model).items()
        for name, _ in layer.named_buffers()
    }
