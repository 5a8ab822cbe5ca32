"""What an update is made of, told by how the names of its tensors begin.

    statistics/<what>/mean, …/variance, …/present   measured on the client's data, not trained: absolute, no difference
    control/<name>                                  the change of the client's SCAFFOLD control variate of a tensor
    coverage/<name>                                 the share of the client's examples that trained each coordinate
    anything else                                   client model − global model

A model holds statistics and trained tensors; the server's state holds its control variates; coverage is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fededge.core.tensors import Array, Tensors

STATISTICS = "statistics/"
CONTROL = "control/"
COVERAGE = "coverage/"


class Parts(NamedTuple):
    """Tensors by what they are, under their own names; those of control and coverage without the prefix."""

    trained: Tensors
    statistics: Tensors
    control: Tensors
    coverage: Tensors


def split(tensors: Mapping[str, Array]) -> Parts:
    """Sort the tensors of an update, a model or a server state by what they are."""
    parts = Parts({}, {}, {}, {})
    for name, value in tensors.items():
        if name.startswith(STATISTICS):
            parts.statistics[name] = value
        elif name.startswith(CONTROL):
            parts.control[name.removeprefix(CONTROL)] = value
        elif name.startswith(COVERAGE):
            parts.coverage[name.removeprefix(COVERAGE)] = value
        else:
            parts.trained[name] = value
    return parts


def is_trained(name: str) -> bool:
    return not name.startswith((STATISTICS, CONTROL, COVERAGE))


def under(prefix: str, tensors: Mapping[str, Array]) -> Tensors:
    """Put a prefix before each name."""
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def out_of_range(tensors: Mapping[str, Array]) -> str:
    """Say which shares are not between 0 and 1, or which variance is negative; empty if none. They must be finite."""
    for name, value in sorted(tensors.items()):
        is_share = name.startswith(COVERAGE) or (name.startswith(STATISTICS) and name.endswith("/present"))
        if is_share and (np.less(value, 0).any() or np.greater(value, 1).any()):
            return f"{name} has shares that are not between 0 and 1"
        if name.startswith(STATISTICS) and name.endswith("/variance") and np.less(value, 0).any():
            return f"{name} has a negative variance"
    return ""


def over_coverage(mean: Array, coverage: Array) -> Array:
    """Average each coordinate over the examples that trained it: Σ nₖ mₖ Δₖ / Σ nₖ mₖ.

    Args:
      mean: Σ nₖ mₖ Δₖ / Σ nₖ, float32.
      coverage: Σ nₖ mₖ / Σ nₖ, float32, of the same shape; 0 where nobody trained it, which stays.
    """
    trained = np.greater(coverage, 0)
    with np.errstate(over="ignore"):  # no honest client makes one, and no model with an infinity is published
        divided = np.divide(mean, np.where(trained, coverage, np.float32(1)), dtype=np.float32)
    return np.where(trained, divided, np.float32(0))
