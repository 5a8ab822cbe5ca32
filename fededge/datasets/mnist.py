"""MNIST: pictures of handwritten digits. It has no clients of its own.

Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86(11), 1998.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fededge.datasets.files import data_folder
from fededge.datasets.idx import read_idx
from fededge.errors import WorkloadError


class Digits(NamedTuple):
    """Pictures and what they show.

    Attributes:
      images: grey, 0 to 255, uint8 [images, 28, 28].
      labels: 0 to 9, uint8 [images].
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


def read_train(folder: Path | None = None) -> Digits:
    """Read the 60,000 pictures to learn from.

    Args:
      folder: that has the files, or a folder inside that does; without it, `FEDEDGE_DATA`.

    Raises:
      SetupError: `FEDEDGE_DATA` names no folder.
      WorkloadError: a file is missing, damaged, or of another format, or there are not as many pictures as labels.
    """
    return _read(folder or data_folder(), "train")


def read_test(folder: Path | None = None) -> Digits:
    """Read the 10,000 pictures to test on; otherwise as `read_train`."""
    return _read(folder or data_folder(), "t10k")


def _read(folder: Path, part: str) -> Digits:
    digits = Digits(read_idx(folder, f"{part}-images-idx3-ubyte"), read_idx(folder, f"{part}-labels-idx1-ubyte"))
    if digits.images.shape[1:] != (28, 28) or digits.labels.ndim != 1 or len(digits.images) != len(digits.labels):
        raise WorkloadError(
            f"{folder} has {part} images {digits.images.shape} and labels {digits.labels.shape}, which do not belong "
            "together; fetch both again with `fededge data fetch mnist`"
        )
    return digits
