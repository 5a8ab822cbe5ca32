"""Reads IDX, the format of MNIST and its kin, plain or gzipped.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits", section "file formats".
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fededge.datasets.files import find

_UNSIGNED_BYTE = 8


def read_idx(folder: Path, name: str) -> npt.NDArray[np.uint8]:
    """Read `name`, or `name.gz`, from a folder or a folder inside it.

    Returns:
      The array, uint8, shaped as the file says.

    Raises:
      WorkloadError: the file is missing, truncated, or of another format; the message names it.
    """
    file = find(folder, "mnist", name)
    data = file.content()
    try:
        zeros, kind, rank = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{rank}I", data, 4)
    except struct.error as error:
        raise file.error("it is cut off in its header") from error
    values = data[4 + 4 * rank :]
    if zeros or kind != _UNSIGNED_BYTE or len(values) != math.prod(shape):
        raise file.error("it is no IDX file of bytes, or is cut off")
    return np.frombuffer(values, np.uint8).reshape(shape)
