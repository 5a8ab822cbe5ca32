"""Combines the updates of a round into one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fededge.core.tensors import Tensors
from fededge.core.updates import ClientUpdate


class NoUpdatesError(ValueError):
    """There is nothing to average."""


def weighted_mean(updates: Iterable[ClientUpdate]) -> Tensors:
    """Average client updates, weighted by example count.

    Streams: holds one accumulator, never all updates. Sums in float32 and in the order given, because that is
    what TFF does; any other order or width gives other bits.

    Args:
      updates: in client order and admitted: float32, all named and shaped alike, finite, `num_examples` > 0.

    Returns:
      The mean delta: same names and shapes, float32.

    Raises:
      NoUpdatesError: `updates` is empty.

    Source: McMahan et al. 2017, arXiv:1602.05629, Algorithm 1.
    """
    total: Tensors = {}
    examples = 0
    for update in updates:
        # A numpy < 2 scalar of float64 would be cast silently; name the dtype.
        weight = np.float32(update.num_examples)
        for name, delta in update.delta.items():
            weighted = np.multiply(delta, weight, dtype=np.float32)
            total[name] = np.add(total[name], weighted, dtype=np.float32) if name in total else weighted
        examples += update.num_examples
    if not total:
        raise NoUpdatesError("no updates to average")
    return {name: np.divide(value, np.float32(examples), dtype=np.float32) for name, value in total.items()}
