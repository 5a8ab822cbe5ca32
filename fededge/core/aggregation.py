"""Combines the updates of a round into one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from fededge.core.tensors import Tensors


class NoUpdatesError(ValueError):
    """There is nothing to average."""


class Weighted(NamedTuple):
    """An update and how much it counts.

    Attributes:
      delta: admitted: float32, finite, named and shaped like the global model.
      weight: what admission and capping made of the example count; positive.
    """

    delta: Tensors
    weight: int


def weighted_mean(updates: Iterable[Weighted]) -> Tensors:
    """Average client updates, weighted by example count.

    Streams: holds one accumulator, never all updates. Sums in float32 and in the order given, because that is
    what TFF does; any other order or width gives other bits.

    Args:
      updates: in client order, all named and shaped alike.

    Returns:
      The mean delta: same names and shapes, float32.

    Raises:
      NoUpdatesError: `updates` is empty.

    Source: McMahan et al. 2017, arXiv:1602.05629, Algorithm 1.
    """
    total: Tensors = {}
    total_weight = 0
    for update in updates:
        # A numpy < 2 scalar of float64 would be cast silently; name the dtype.
        weight = np.float32(update.weight)
        for name, delta in update.delta.items():
            weighted = np.multiply(delta, weight, dtype=np.float32)
            total[name] = np.add(total[name], weighted, dtype=np.float32) if name in total else weighted
        total_weight += update.weight
    if not total:
        raise NoUpdatesError("no updates to average")
    # Arithmetic on an array without dimensions gives a scalar that is no array.
    return {
        name: np.asarray(np.divide(value, np.float32(total_weight), dtype=np.float32)) for name, value in total.items()
    }
