"""Reads IDX, the format of MNIST and its kin, plain or gzipped.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits", section "file formats".
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fededge.errors import WorkloadError

_UNSIGNED_BYTE = 8


def read_idx(folder: Path, name: str) -> npt.NDArray[np.uint8]:
    """Read `name`, or `name.gz`, from a folder or a folder inside it.

    Returns:
      The array, uint8, shaped as the file says.

    Raises:
      WorkloadError: the file is missing, truncated, or of another format; the message names it.
    """
    path = _find(folder, name)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, rank = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{rank}I", data, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise WorkloadError(f"{path} is damaged ({error}); fetch it again") from error
    values = data[4 + 4 * rank :]
    if zeros or kind != _UNSIGNED_BYTE or len(values) != math.prod(shape):
        raise WorkloadError(f"{path} is no IDX file of bytes, or is truncated; fetch it again")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    for wanted in (name, f"{name}.gz"):
        for path in (folder / wanted, *sorted(folder.glob(f"*/{wanted}"))):
            if path.is_file():
                return path
    raise WorkloadError(f"no {name} or {name}.gz in {folder}; put the publisher's file there")
