"""Who takes part in a round, and which clients share a pod."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def client_order(client: str) -> bytes:
    """Return the sort key of clients: the UTF-8 bytes of the id, the same on every machine and locale."""
    return client.encode()


def sample_cohort(population: Sequence[str], size: int, seed: int, attempt: int = 1) -> list[str]:
    """Draw a cohort uniformly, without replacement.

    A later attempt draws other clients, as far as there are any: the round shuffles the population once, and each
    attempt takes the next `size` of it, beginning anew at its end.

    Args:
      population: all client ids, distinct, in any order.
      size: how many to draw; 0 draws everybody.
      seed: of this round's cohort stream.
      attempt: from 1.

    Returns:
      The cohort in client order, whatever the order of `population`.

    Raises:
      ValueError: `size` is negative or exceeds the population.
    """
    ordered = sorted(population, key=client_order)
    if size == 0:
        return ordered
    if not 0 < size <= len(ordered):
        raise ValueError(f"cannot draw {size} clients from {len(ordered)}")
    shuffled = np.random.default_rng(seed).permutation(len(ordered))
    drawn = np.roll(shuffled, -size * (attempt - 1))[:size]
    return [ordered[i] for i in sorted(drawn)]


def batch_clients(cohort: Sequence[str], clients_per_batch: int) -> list[list[str]]:
    """Cut a cohort into batches; each batch is trained by one pod, one client after the other.

    Args:
      cohort: client ids in client order.
      clients_per_batch: at least 1; the last batch may be smaller.
    """
    return [list(cohort[i : i + clients_per_batch]) for i in range(0, len(cohort), clients_per_batch)]
