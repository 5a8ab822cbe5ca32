from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fededge.core.partition import dirichlet_partition, proportional_partition

reproducible = settings(derandomize=True, deadline=None)
labels_of_examples = st.lists(st.integers(-3, 9), min_size=1, max_size=80).map(np.array)
alphas = st.sampled_from([1e-3, 0.1, 0.5, 1.0, 100.0, 1e6])
seeds = st.integers(0, 2**31 - 1)


@reproducible
@given(labels_of_examples, alphas, seeds, st.data())
def test_a_partition_is_one(labels: np.ndarray, alpha: float, seed: int, data: st.DataObject) -> None:
    clients = data.draw(st.integers(1, len(labels)))
    before = labels.copy()
    parts = dirichlet_partition(labels, clients, alpha, seed)
    assert len(parts) == clients
    for part in parts:
        assert part.dtype == np.int64
        assert part.size > 0
        assert (np.diff(part) > 0).all()
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert (labels == before).all()
    again = dirichlet_partition(labels, clients, alpha, seed)
    assert all(np.array_equal(part, same) for part, same in zip(parts, again, strict=True))


def _shares(labels: np.ndarray, clients: int, alpha: float) -> np.ndarray:
    """Return the share of each client's own examples that have its commonest label."""
    parts = dirichlet_partition(labels, clients, alpha, seed=0)
    return np.array([np.bincount(labels[part]).max() / len(part) for part in parts])


def test_a_small_alpha_skews_the_labels_and_a_large_one_does_not() -> None:
    labels = np.repeat(np.arange(10), 200)
    assert _shares(labels, 5, alpha=0.01).mean() > 0.4
    assert _shares(labels, 5, alpha=1e6).max() < 0.11


def test_a_large_alpha_gives_every_client_the_same_number_of_each_label() -> None:
    labels = np.tile(np.arange(4), 250)
    for part in dirichlet_partition(labels, 5, alpha=1e9, seed=0):
        assert np.abs(np.bincount(labels[part]) - 50).max() <= 1


def test_one_client_has_everything() -> None:
    (part,) = dirichlet_partition(np.array([1, 0, 1, 0]), clients=1, alpha=0.1, seed=0)
    assert part.tolist() == [0, 1, 2, 3]


def test_as_many_clients_as_examples_have_one_each() -> None:
    parts = dirichlet_partition(np.zeros(20, np.int64), clients=20, alpha=1e-3, seed=0)
    assert sorted(part.item() for part in parts) == list(range(20))


def test_a_client_left_with_nothing_is_given_an_example_of_the_largest() -> None:
    parts = dirichlet_partition(np.zeros(100, np.int64), clients=4, alpha=1e-3, seed=0)
    assert sorted(len(part) for part in parts) == [1, 1, 1, 97]


def test_another_seed_gives_another_split() -> None:
    labels = np.repeat(np.arange(10), 20)
    splits = {str([part.tolist() for part in dirichlet_partition(labels, 5, 1.0, seed)]) for seed in range(20)}
    assert len(splits) == 20


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    labels = np.repeat(np.arange(10), 20)
    np.random.seed(1)
    first = dirichlet_partition(labels, 5, 1.0, seed=3)
    np.random.seed(2)
    before = np.random.get_state()[1].tolist()
    second = dirichlet_partition(labels, 5, 1.0, seed=3)
    assert np.random.get_state()[1].tolist() == before
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("clients", [-1, 0, 4])
def test_the_number_of_clients_must_be_possible(clients: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 3 .* not {clients}"):
        dirichlet_partition(np.array([0, 1, 2]), clients, alpha=1.0, seed=0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_alpha_must_be_positive(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be positive"):
        dirichlet_partition(np.array([0, 1, 2]), 2, alpha, seed=0)


@reproducible
@given(labels_of_examples, labels_of_examples, alphas, seeds, st.data())
def test_held_out_labels_are_shared_out_in_proportion(
    train: np.ndarray, held_out: np.ndarray, alpha: float, seed: int, data: st.DataObject
) -> None:
    clients = data.draw(st.integers(1, len(train)))
    shares = [train[part] for part in dirichlet_partition(train, clients, alpha, seed)]
    parts = proportional_partition(held_out, shares)
    assert len(parts) == clients
    owned = np.concatenate(parts)
    assert len(set(owned.tolist())) == len(owned)
    assert set(owned.tolist()) == set(np.flatnonzero(np.isin(held_out, train)).tolist())
    for part, share in zip(parts, shares, strict=True):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
        for label in np.unique(held_out):
            exact = np.count_nonzero(share == label) * np.count_nonzero(held_out == label)
            whole = max(1, np.count_nonzero(train == label))
            assert abs(np.count_nonzero(held_out[part] == label) - exact / whole) < 1
            assert exact or not np.count_nonzero(held_out[part] == label)


def test_held_out_labels_by_hand() -> None:
    held_out = np.array([0, 0, 0, 0, 1, 1, 2])
    shares = [np.array([0, 0, 0, 1]), np.array([0]), np.array([1])]
    assert [part.tolist() for part in proportional_partition(held_out, shares)] == [[0, 1, 2, 4], [3], [5]]
