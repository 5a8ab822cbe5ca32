"""Robust rules need all updates side by side: they wait on this pod's own disk, so that memory does not grow."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fededge.core.robust import Rule, robust_aggregate
from fededge.core.tensors import Array, Tensors

_ITEM = 4  # bytes of a float32


def robust_mean(rule: Rule, attackers: int, deltas: Iterable[Tensors]) -> tuple[Tensors, list[int]]:
    """Combine updates by a rule that looks at all of them at once.

    Args:
      rule: other than the mean.
      attackers: how many of the clients may lie.
      deltas: in client order; float32, all named and shaped alike. One at a time is in memory; on disk they take
        as many bytes as they have.

    Returns:
      As `robust_aggregate`.
    """
    with tempfile.TemporaryDirectory() as folder:
        shapes: dict[str, tuple[int, ...]] = {}
        clients = 0
        for delta in deltas:
            shapes = {name: delta[name].shape for name in sorted(delta)}
            with _file(folder, clients).open("wb") as file:
                for name in shapes:
                    file.write(np.ascontiguousarray(delta[name]).tobytes())
            clients += 1
        offsets = _offsets(shapes)

        def read(client: int, name: str, part: slice) -> Array:
            begin, end = part.start or 0, part.stop
            return np.fromfile(
                _file(folder, client), np.float32, count=end - begin, offset=offsets[name] + begin * _ITEM
            )

        return robust_aggregate(rule, attackers, clients, read, shapes)


def _file(folder: str, client: int) -> Path:
    return Path(folder, f"{client:06d}")


def _offsets(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Return where each tensor begins in a client's file, in bytes."""
    offsets, end = {}, 0
    for name, shape in shapes.items():
        offsets[name] = end
        end += int(np.prod(shape, dtype=np.int64)) * _ITEM
    return offsets
