"""Aggregates that a few clients with arbitrary updates cannot carry away.

Use them where clients may lie. Unlike the mean they are unweighted: they ignore example counts, which a liar would
make up. Each needs to be told how many attackers there may be.

They need all updates side by side, so tensors are cut into chunks of coordinates: memory grows neither with the
model nor with the number of clients. (Krum keeps n² distances beside them, and at most a thousand clients.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from fededge.core.aggregation import NoUpdatesError
from fededge.core.tensors import Array, Tensors

Distances = npt.NDArray[np.float64]
Read = Callable[[int, str, slice], Array]
Shapes = Mapping[str, tuple[int, ...]]

MAX_KRUM_CLIENTS = 1000  # each is compared with each other
CHUNK_BYTES = 64 * 2**20  # of all clients' coordinates at a time, float32
BLOCK = 4096  # coordinates whose squared differences are summed at a time


class Rule(StrEnum):
    """How updates become one."""

    MEAN = "mean"
    MEDIAN = "median"
    TRIMMED_MEAN = "trimmed_mean"
    KRUM = "krum"
    MULTI_KRUM = "multi_krum"


def precondition(rule: Rule, clients: int, attackers: int) -> str | None:
    """Say why a rule cannot hold off that many attackers, or None if it can.

    Args:
      rule: any; the mean holds off nobody and so needs nothing but a client.
      clients: how many updates there are.
      attackers: how many of them may be anything.
    """
    if clients < 1 or attackers < 0:
        return f"{rule} needs at least one client and no negative number of attackers, not {clients} and {attackers}"
    lying = f"{attackers} attacker{'s' * (attackers != 1)}"
    if rule in (Rule.MEDIAN, Rule.TRIMMED_MEAN) and clients <= 2 * attackers:
        return f"{rule} needs at least {2 * attackers + 1} clients against {lying}, there are {clients}"
    if rule in (Rule.KRUM, Rule.MULTI_KRUM) and clients < 2 * attackers + 3:
        return f"{rule} needs at least {2 * attackers + 3} clients against {lying}, there are {clients}"
    if rule in (Rule.KRUM, Rule.MULTI_KRUM) and clients > MAX_KRUM_CLIENTS:
        return f"{rule} compares each client with each: at most {MAX_KRUM_CLIENTS} clients, there are {clients}"
    return None


def robust_aggregate(rule: Rule, attackers: int, clients: int, read: Read, shapes: Shapes) -> tuple[Tensors, list[int]]:
    """Combine the updates of all clients by a rule other than the mean.

    Args:
      rule: median, trimmed mean, Krum or multi-Krum. Multi-Krum takes the mean of n − f − 2 clients: as many as a
        score looks at, and so few that all can be honest.
      attackers: f, how many clients may send anything.
      clients: n, how many updates there are.
      read: gives a client's coordinates, (index from 0 in client order, name of the tensor, slice of the tensor as
        if it were flat) → float32, finite, one dimension. Krum asks for most of them twice.
      shapes: of the model's tensors, by name.

    Returns:
      The aggregate, named and shaped as `shapes` says, float32; and the indices of the clients that count in it:
      all, or those that Krum chose.

    Raises:
      ValueError: `precondition` is not met, the rule is the mean, or `read` gives another dtype or size.

    Source: Yin et al. 2018, arXiv:1803.01498, of median and trimmed mean; Blanchard et al. 2017, arXiv:1703.02757,
    of Krum and multi-Krum.
    """
    if problem := precondition(rule, clients, attackers):
        raise ValueError(problem)
    match rule:
        case Rule.MEDIAN:
            return _by_coordinate(median, clients, read, shapes), [*range(clients)]
        case Rule.TRIMMED_MEAN:
            return _by_coordinate(lambda c: trimmed_mean(c, attackers), clients, read, shapes), [*range(clients)]
        case Rule.KRUM | Rule.MULTI_KRUM:
            keep = 1 if rule is Rule.KRUM else clients - attackers - 2
            chosen = krum_choice(_distances(clients, read, shapes), attackers, keep)
            return _mean_of(chosen, clients, read, shapes), chosen
        case Rule.MEAN:
            raise ValueError("the mean is weighted: weighted_mean computes it")


def median(chunk: Array) -> Array:
    """Take the median of each coordinate; of an even number, halfway between the two in the middle.

    With fewer attackers than half of the clients it lies between values of honest clients.

    Args:
      chunk: float32, [clients, coordinates], finite; in any order of clients.

    Returns:
      float32, [coordinates]. Halfway is computed in float64, where it cannot overflow, and rounded once.
    """
    low, high = (len(chunk) - 1) // 2, len(chunk) // 2
    ordered = np.sort(chunk, axis=0)
    return _rounded(np.add(ordered[low], ordered[high], dtype=np.float64) / 2)


def trimmed_mean(chunk: Array, attackers: int) -> Array:
    """Average each coordinate without its largest and its smallest values.

    What is left lies between values of honest clients, if there are no more attackers than that.

    Args:
      chunk: float32, [clients, coordinates], finite; in any order of clients.
      attackers: how many values are dropped at either end; fewer than half of the clients.

    Returns:
      float32, [coordinates]. Summed in float64, from the smallest value to the largest: the order of the clients
      changes no bit.
    """
    kept = np.sort(chunk, axis=0)[attackers : len(chunk) - attackers]
    total = np.zeros(chunk.shape[1], np.float64)
    for row in kept:
        total += row
    return _rounded(total / len(kept))


def add_distances(distances: Distances, chunk: Array) -> None:
    """Add the squared differences of some coordinates to the squared distances between clients.

    Plain differences, one client against the later ones, in float64. The usual way, by a matrix product, loses
    digits where clients are close, and its bits depend on the number of threads.

    Args:
      distances: float64, [clients, clients], changed in place; symmetric, zero on the diagonal.
      chunk: float32, [clients, coordinates]. Where a tensor is cut, it must be at a multiple of `BLOCK`, by which
        sums go: then it makes no difference to a bit where.
    """
    for begin in range(0, chunk.shape[1], BLOCK):
        block = chunk[:, begin : begin + BLOCK]
        for client in range(len(block) - 1):
            difference = np.subtract(block[client + 1 :], block[client], dtype=np.float64)
            distances[client, client + 1 :] += np.square(difference, out=difference).sum(axis=1)
    upper = np.triu(distances, 1)
    distances[...] = upper + upper.T


def krum_scores(distances: Distances, attackers: int) -> Distances:
    """Score each client by how far it is from those nearest to it; the lower the better.

    Args:
      distances: squared, float64, [clients, clients].
      attackers: f, of n ≥ 2 f + 3 clients.

    Returns:
      float64, [clients]: the sum of the n − f − 2 smallest squared distances to others.

    Source: Blanchard et al. 2017, arXiv:1703.02757, section 4.
    """
    others = distances.copy()
    np.fill_diagonal(others, np.inf)
    nearest = np.sort(others, axis=1)[:, : len(others) - attackers - 2]
    return np.asarray(nearest.sum(axis=1), np.float64)


def krum_choice(distances: Distances, attackers: int, keep: int) -> list[int]:
    """Choose the clients with the smallest scores; of equal ones, the earlier.

    Args:
      distances: squared, float64, [clients, clients].
      attackers: f, of n ≥ 2 f + 3 clients.
      keep: how many to choose: 1 is Krum, 2 to n − f − 2 is multi-Krum.

    Returns:
      Their indices, ascending.
    """
    best = np.argsort(krum_scores(distances, attackers), kind="stable")[:keep]
    return sorted(int(client) for client in best)


def plain_mean(rows: Iterable[Array]) -> Array:
    """Average without weights. Streams: holds one accumulator; sums in float32 and in the order given.

    Args:
      rows: float32, [coordinates] each, in client order, so small that their sum is finite.

    Raises:
      NoUpdatesError: there are no rows.
    """
    total: npt.NDArray[np.float32] | None = None
    clients = 0
    for row in rows:
        total = np.array(row, np.float32) if total is None else np.add(total, row, out=total, dtype=np.float32)
        clients += 1
    if total is None:
        raise NoUpdatesError("no updates to average")
    return np.divide(total, np.float32(clients), dtype=np.float32)


def _by_coordinate(combine: Callable[[Array], Array], clients: int, read: Read, shapes: Shapes) -> Tensors:
    aggregate = _empty(shapes)
    for name, part in _parts(clients, shapes):
        aggregate[name].reshape(-1)[part] = combine(_chunk(clients, read, name, part))
    return aggregate


def _mean_of(chosen: Sequence[int], clients: int, read: Read, shapes: Shapes) -> Tensors:
    aggregate = _empty(shapes)
    for name, part in _parts(clients, shapes):
        aggregate[name].reshape(-1)[part] = plain_mean(_row(read, client, name, part) for client in chosen)
    return aggregate


def _distances(clients: int, read: Read, shapes: Shapes) -> Distances:
    distances = np.zeros((clients, clients), np.float64)
    for name, part in _parts(clients, shapes):
        add_distances(distances, _chunk(clients, read, name, part))
    return distances


def _parts(clients: int, shapes: Shapes) -> Iterator[tuple[str, slice]]:
    """Cut the tensors so that all clients' coordinates of a part have at most CHUNK_BYTES, or are one each."""
    most = max(1, CHUNK_BYTES // (4 * clients))
    length = most // BLOCK * BLOCK or most  # Krum never has so many clients that a block does not fit
    for name, shape in shapes.items():
        size = math.prod(shape)
        for begin in range(0, size, length):
            yield name, slice(begin, min(begin + length, size))


def _chunk(clients: int, read: Read, name: str, part: slice) -> Array:
    chunk = np.empty((clients, part.stop - part.start), np.float32)
    for client in range(clients):
        chunk[client] = _row(read, client, name, part)
    return chunk


def _row(read: Read, client: int, name: str, part: slice) -> Array:
    row = read(client, name, part)
    if row.dtype != np.float32 or row.shape != (part.stop - part.start,):
        raise ValueError(f"{name} of client {client} is {row.dtype}{list(row.shape)} at {part.start}:{part.stop}")
    return row


def _empty(shapes: Shapes) -> Tensors:
    return {name: np.empty(shape, np.float32) for name, shape in shapes.items()}


def _rounded(values: npt.NDArray[np.float64]) -> Array:
    """Round to float32. Zeros come out as +0: of equal values, which is in the middle would depend on the machine."""
    return values.astype(np.float32) + np.float32(0)
