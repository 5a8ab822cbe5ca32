"""Tensors of the Open Inference Protocol, and ours.

Source: Open Inference Protocol 2.0, "Tensor Data".
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from mlserver.codecs.numpy import to_datatype
from mlserver.errors import InferenceError
from mlserver.types import Datatype, InferenceRequest, MetadataTensor, RequestInput, ResponseOutput

from fededge.core.tensors import Array
from fededge.serving.served import Spec

INPUT, OUTPUT = "x", "predictions"
_KINDS = {"f": "numbers", "b": "booleans"}  # by numpy's letter; any other is integers


def described(name: str, spec: Spec) -> MetadataTensor:
    """Describe a tensor to those who ask for metadata; -1 is the batch."""
    return MetadataTensor(name=name, datatype=to_datatype(np.dtype(spec.dtype)), shape=[-1, *spec.shape])


def decode(request: InferenceRequest, spec: Spec) -> Array:
    """Read the input of a request.

    Args:
      request: with one input.
      spec: what that must be.

    Returns:
      Examples, shape [examples, …].

    Raises:
      InferenceError: it is something else; the caller gets the message with HTTP 400.
    """
    tensor = _only_input(request, spec)
    _require_outputs(request)
    wanted = described(INPUT, spec)
    if tensor.datatype != wanted.datatype:
        raise InferenceError(f"input {INPUT} is {_name(tensor)}: it must be {_name(wanted)}")
    if len(tensor.shape) != len(wanted.shape) or tensor.shape[1:] != wanted.shape[1:] or tensor.shape[0] < 1:
        raise InferenceError(
            f"input {INPUT} has the shape {tensor.shape}: it must be {_shape(wanted)}, one row or more"
        )
    values = _values(tensor.data.root, np.dtype(spec.dtype))
    if values.size != prod(tensor.shape):
        count = prod(tensor.shape)
        raise InferenceError(f"input {INPUT} has {values.size} values: its shape {tensor.shape} needs {count}")
    return values.reshape(tensor.shape)


def encode(answer: Array) -> ResponseOutput:
    """Write an answer.

    Raises:
      InferenceError: it is not finite, which JSON cannot tell, and no answer.
    """
    if not np.isfinite(answer).all():
        raise InferenceError("the model has no finite answer to this input")
    return ResponseOutput(
        name=OUTPUT,
        datatype=to_datatype(answer.dtype),
        shape=list(answer.shape),
        data=answer.ravel().tolist(),
    )


def _only_input(request: InferenceRequest, spec: Spec) -> RequestInput:
    if [tensor.name for tensor in request.inputs] != [INPUT]:
        wanted, got = described(INPUT, spec), ", ".join(tensor.name for tensor in request.inputs) or "none"
        raise InferenceError(f"the inputs are {got}: there must be one, {INPUT}, {_name(wanted)} {_shape(wanted)}")
    return request.inputs[0]


def _require_outputs(request: InferenceRequest) -> None:
    if unknown := {output.name for output in request.outputs or []} - {OUTPUT}:
        raise InferenceError(f"there is no output {', '.join(sorted(unknown))}: the only one is {OUTPUT}")


def _values(data: Any, dtype: np.dtype[Any]) -> Array:
    """Read numbers, flat or nested. null is NaN, a value that is missing."""
    try:
        given = np.array(data).ravel()
        if given.dtype == object and all(value is None or type(value) in (int, float) for value in given):
            given = given.astype(np.float64)
    except (ValueError, TypeError, OverflowError) as error:  # ragged, or an integer of hundreds of digits
        raise InferenceError(f"the data of input {INPUT} are no tensor of numbers: {error}") from error
    allowed = {"f": "fiu", "b": "b"}.get(dtype.kind, "iu")
    if given.size and given.dtype.kind not in allowed:
        raise InferenceError(f"the data of input {INPUT} are not all {_KINDS.get(dtype.kind, 'integers')}")
    with np.errstate(over="ignore"):
        values = given.astype(dtype)
    if not _fits(given, values):
        raise InferenceError(f"a value of input {INPUT} is too large for {dtype.name}")
    return values


def _fits(given: Array, values: Array) -> bool:
    if values.dtype.kind == "f":
        return bool((np.isinf(values) == np.isinf(given)).all())
    return bool((values == given).all())


def _name(tensor: RequestInput | MetadataTensor) -> str:
    return str(Datatype(tensor.datatype).value)  # MLServer keeps a string in some places, a member in others


def _shape(tensor: MetadataTensor) -> str:
    return str(tensor.shape)
