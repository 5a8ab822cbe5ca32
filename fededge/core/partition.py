"""Splits a data set that has no natural clients among made-up ones, with label skew."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def dirichlet_partition(
    labels: npt.NDArray[np.integer], clients: int, alpha: float, seed: int
) -> list[npt.NDArray[np.int64]]:
    """Split example indices among clients so that each client has its own mix of labels.

    For every label, the shares of the clients are drawn from Dirichlet(alpha): a small alpha gives clients that
    hold few labels. A client left with nothing is given one example of the largest client.

    Args:
      labels: one label an example, shape [examples].
      clients: how many clients; at least 1, at most the number of examples.
      alpha: concentration, positive and finite.
      seed: of the split; the same seed gives the same split.

    Returns:
      For each client the sorted indices of its examples, dtype int64. Together they are a partition.

    Raises:
      ValueError: `clients` is out of range, or `alpha` is not positive and finite.

    Source: Hsu, Qi, Brown 2019, arXiv:1909.06335, section 3.1.
    """
    if not 1 <= clients <= len(labels):
        raise ValueError(f"clients must be between 1 and {len(labels)} (the number of examples), not {clients}")
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be positive and finite, not {alpha}")
    rng = np.random.default_rng(seed)
    owners = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(clients, alpha))
        cuts = np.floor(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for client, part in enumerate(np.split(members, cuts)):
            owners[part] = client
    _fill_empty(owners, clients)
    return [np.flatnonzero(owners == client) for client in range(clients)]


def proportional_partition(
    labels: npt.NDArray[np.integer], shares: Sequence[npt.NDArray[np.integer]]
) -> list[npt.NDArray[np.int64]]:
    """Share examples out so that each client gets the same part of every label that it has elsewhere.

    Args:
      labels: one label an example, shape [examples].
      shares: for each client the labels of the examples that it has, shape [its examples].

    Returns:
      For each client the sorted indices of its examples, dtype int64. Of a label, a client has its exact part rounded
      up or down, and none without any in `shares`. Examples of a label that nobody has are left over.
    """
    owners = np.full(len(labels), -1, np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ends = np.cumsum([np.count_nonzero(share == label) for share in shares])
        if not ends[-1]:
            continue
        cuts = ends * len(members) // ends[-1]
        owners[members] = np.searchsorted(cuts, np.arange(len(members)), side="right")
    return [np.flatnonzero(owners == client) for client in range(len(shares))]


def _fill_empty(owners: npt.NDArray[np.int64], clients: int) -> None:
    sizes = np.bincount(owners, minlength=clients)
    for client in np.flatnonzero(sizes == 0):
        largest = int(np.argmax(sizes))
        owners[np.flatnonzero(owners == largest)[0]] = client
        sizes[largest] -= 1
        sizes[client] += 1
