"""What a model, an update or an optimizer state is made of: named arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Tensors = dict[str, Array]


def signature(tensors: Mapping[str, Array]) -> dict[str, str]:
    """Describe each tensor, as `{"0000/dense/kernel": "float32[64,10]"}`, sorted by name."""
    return {name: f"{a.dtype.name}[{','.join(map(str, a.shape))}]" for name, a in sorted(tensors.items())}


def non_finite(tensors: Mapping[str, Array]) -> list[str]:
    """Name the tensors that hold a NaN or an infinity."""
    return [name for name, a in sorted(tensors.items()) if not np.isfinite(a).all()]
