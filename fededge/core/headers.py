"""Reads what an encoded update says it holds, before any of it is decoded.

The format is safetensors: eight bytes with the length of a JSON object, little-endian, the object, then the data.
Its own decoder lets pass what two readers may understand differently, such as a name given twice; here that is an
error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

PREFIX = 8  # bytes; the length of the header
_MAX_DIMENSIONS = 32  # of numpy < 2
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
# The dtypes that both numpy and safetensors have.
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "U64": "uint64",
    "I32": "int32",
    "U32": "uint32",
    "I16": "int16",
    "U16": "uint16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}


class HeaderError(ValueError):
    """The bytes do not begin with a header, or it does not fit what follows."""


def header_room(signature: Mapping[str, str]) -> int:
    """Return the most bytes that a header of tensors of this signature may have, however it is written.

    Args:
      signature: as `core.tensors.signature` gives it.
    """
    # JSON may write a character as \u0000, or as two of these; numbers have at most 20 digits.
    return 4096 + sum(12 * len(name) + 20 * described.count(",") + 256 for name, described in signature.items())


def data_size(signature: Mapping[str, str]) -> int:
    """Return how many bytes the tensors of this signature have."""
    return sum(map(_bytes_of, signature.values()))


def read_header(encoded: bytes, longest: int) -> dict[str, str]:
    """Describe the tensors that encoded bytes hold, by their header alone.

    Args:
      encoded: any bytes.
      longest: the most bytes that the header may have. What is parsed can take many times its memory.

    Returns:
      The signature, as `core.tensors.signature` gives it, sorted by name. A dtype that numpy lacks is
      `unknown` and the name that the header has for it.

    Raises:
      HeaderError: there is no header, or the data it describes are not exactly the bytes that follow it: a gap, an
        overlap, a tensor of another size than its shape has.
    """
    length = int.from_bytes(encoded[:PREFIX], "little")
    if len(encoded) < PREFIX or length > min(len(encoded) - PREFIX, longest):
        raise HeaderError(f"a header of {length} bytes in {len(encoded)}; it may have {longest}")
    header = _parse(encoded[PREFIX : PREFIX + length])
    _check_metadata(header.pop(_METADATA, {}))
    described = {name: _describe(name, header[name]) for name in sorted(header)}
    _check_offsets([header[name]["data_offsets"] for name in header], len(encoded) - PREFIX - length)
    return described


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:  # an integer of 5,000 digits is a ValueError too
        raise HeaderError(f"the header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise HeaderError("the header is no JSON object")
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(names := dict(pairs)) < len(pairs):
        raise HeaderError("a name is there twice")
    return names


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderError("metadata must be text")


def _describe(name: str, tensor: object) -> str:
    if not isinstance(tensor, dict) or tensor.keys() != _FIELDS or not isinstance(tensor["dtype"], str):
        raise HeaderError(f"{name} needs a dtype, a shape, data_offsets, and nothing else")
    dtype, shape, offsets = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise HeaderError(f"{name} has a shape or data_offsets that are no sizes")
    described = f"{_DTYPES.get(dtype, f'unknown {dtype}')}[{','.join(map(str, shape))}]"
    # The size of a dtype that we do not know cannot be checked; no signature of ours has one.
    if dtype in _DTYPES and offsets[1] - offsets[0] != _bytes_of(described):
        raise HeaderError(f"{name} is {described} and cannot have {offsets[1] - offsets[0]} bytes")
    return described


def _are_sizes(numbers: object) -> bool:
    if not isinstance(numbers, list) or len(numbers) > _MAX_DIMENSIONS:
        return False
    return all(type(number) is int and 0 <= number < 2**63 for number in numbers)


def _bytes_of(described: str) -> int:
    dtype, _, shape = described.rstrip("]").partition("[")
    return np.dtype(dtype).itemsize * math.prod(int(side) for side in shape.split(",") if side)


def _check_offsets(offsets: list[list[int]], size: int) -> None:
    """Check that the tensors lie one right after the other and fill the data."""
    end = 0
    for begin, stop in sorted(offsets):
        if begin != end or stop < begin:
            raise HeaderError(f"a tensor is at bytes {begin} to {stop}, the one before ends at {end}")
        end = stop
    if end != size:
        raise HeaderError(f"the header describes {end} bytes of data, there are {size}")
