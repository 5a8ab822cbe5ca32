from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Iterator
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fededge.core.admission import largest_summand
from fededge.core.aggregation import NoUpdatesError, Weighted, weighted_mean

reproducible = settings(derandomize=True, deadline=None)
finite = st.floats(-1e6, 1e6, width=32)


def _update(weight: int, **delta: object) -> Weighted:
    return Weighted({name: np.array(value, np.float32) for name, value in delta.items()}, weight)


def _mean_of(*values: float, counts: tuple[int, ...] = ()) -> float:
    updates = [_update(count, w=value) for value, count in zip(values, counts or (1,) * len(values), strict=True)]
    return float(weighted_mean(updates)["w"])


def test_updates_weigh_as_much_as_their_examples() -> None:
    mean = weighted_mean(
        [
            _update(1, kernel=[[1, 2], [3, 4]], bias=[10.0]),
            _update(3, kernel=[[5, -2], [0.5, 0]], bias=[-2.0]),
        ]
    )
    assert mean["kernel"].tolist() == [[4.0, -1.0], [1.125, 1.0]]
    assert mean["bias"].tolist() == [1.0]


def test_names_shapes_and_dtype_stay() -> None:
    shapes = {"z": (2, 3), "a": (), "empty": (0, 4)}
    delta = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    mean = weighted_mean(Weighted(delta, 2) for _ in range(2))
    assert {name: value.shape for name, value in mean.items()} == shapes
    assert list(mean) == ["z", "a", "empty"]
    assert all(isinstance(value, np.ndarray) and value.dtype == np.float32 for value in mean.values())


def test_one_update_is_its_own_mean_but_for_rounding() -> None:
    assert _mean_of(0.5, counts=(3,)) == 0.5
    third = np.float32(1 / 3)
    assert _mean_of(float(third), counts=(7,)) == np.float32(third * np.float32(7)) / np.float32(7)


def test_there_is_no_mean_of_nothing() -> None:
    with pytest.raises(NoUpdatesError, match="no updates"):
        weighted_mean([])
    with pytest.raises(NoUpdatesError):
        weighted_mean(iter(()))


def test_the_sum_is_in_float32_and_in_the_order_given() -> None:
    assert _mean_of(1e8, 1, -1e8) == 0.0  # 1e8 + 1 is 1e8 in float32; in float64 this were 1/3
    assert _mean_of(1e8, -1e8, 1) == np.float32(1) / np.float32(3)


def test_examples_are_counted_as_integers() -> None:
    # Summed in float32, 2**24 + 1 + 1 stays at 2**24, and the mean of ones were 1.
    mean = _mean_of(1, 1, 1, counts=(2**24, 1, 1))
    assert mean == np.float32(2**24) / np.float32(2**24 + 2) < 1


def test_a_weight_is_a_float32() -> None:
    assert _mean_of(1, 0, counts=(2**24 + 1, 2**24 - 1)) == 0.5


@pytest.mark.parametrize("count", [3, np.int64(3), np.int32(3)])
def test_no_scalar_makes_the_mean_a_float64(count: int) -> None:
    mean = weighted_mean([_update(count, w=[1.0, 2.0], b=1.0)] * 2)
    assert {value.dtype for value in mean.values()} == {np.dtype(np.float32)}


def test_updates_are_not_changed() -> None:
    first, second = _update(2, w=[1.0, 2.0]), _update(1, w=[3.0, 4.0])
    mean = weighted_mean([first, second])
    mean["w"] += 1
    assert first.delta["w"].tolist() == [1.0, 2.0]
    assert second.delta["w"].tolist() == [3.0, 4.0]


def _left_to_right(values: list[np.ndarray], counts: list[int]) -> np.ndarray:
    """Compute the mean one float32 operation after the other, on scalars."""

    def mean(*column: np.float32) -> np.float32:
        products = [np.float32(value * np.float32(count)) for value, count in zip(column, counts, strict=True)]
        return np.float32(reduce(lambda a, b: np.float32(a + b), products) / np.float32(sum(counts)))

    return np.array([mean(*column) for column in zip(*values, strict=True)], np.float32)


@reproducible
@given(st.lists(st.tuples(hnp.arrays(np.float32, 4, elements=finite), st.integers(1, 10**6)), min_size=1, max_size=12))
def test_the_mean_is_the_float32_sum_from_left_to_right(updates: list[tuple[np.ndarray, int]]) -> None:
    values, counts = [value for value, _ in updates], [count for _, count in updates]
    mean = weighted_mean(_update(count, w=value) for value, count in updates)
    assert mean["w"].tobytes() == _left_to_right(values, counts).tobytes()


@reproducible
@given(st.lists(st.tuples(st.floats(-100, 100, width=32), st.integers(1, 1000)), min_size=1, max_size=12))
def test_the_mean_lies_between_the_updates(updates: list[tuple[float, int]]) -> None:
    values = [value for value, _ in updates]
    mean = _mean_of(*values, counts=tuple(count for _, count in updates))
    assert min(values) - 1e-3 <= mean <= max(values) + 1e-3


class Clients:
    """Makes updates when asked, and watches how many of them are kept."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.made: list[weakref.ref[np.ndarray]] = []
        self.most_alive = 0

    def __iter__(self) -> Iterator[Weighted]:
        for number in range(self.number):
            gc.collect(0)
            alive = sum(1 for delta in self.made if delta() is not None)
            self.most_alive = max(self.most_alive, alive)
            yield self._make(number)

    def _make(self, number: int) -> Weighted:
        delta = np.full(1000, number, np.float32)
        self.made.append(weakref.ref(delta))
        return Weighted({"w": delta}, 1)


def test_no_update_is_kept_beyond_the_next() -> None:
    clients = Clients(50)
    assert weighted_mean(clients)["w"][0] == 24.5
    assert len(clients.made) == 50
    assert clients.most_alive == 1


def test_the_watch_would_notice_updates_that_are_kept() -> None:
    clients = Clients(50)
    weighted_mean(list(clients))
    assert clients.most_alive == 49


def test_updates_are_asked_for_once_and_one_by_one() -> None:
    asked: list[int] = []

    def updates() -> Iterator[Weighted]:
        for number in range(5):
            asked.append(number)
            yield _update(1, w=number)
            assert asked[-1] == number

    assert weighted_mean(updates())["w"] == 2.0
    assert asked == [0, 1, 2, 3, 4]


def _peak_of_the_mean(clients: int) -> int:
    tracemalloc.start()
    weighted_mean(Weighted({"w": np.full(100_000, number, np.float32)}, 1) for number in range(clients))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_invariant_12_aggregation_memory_does_not_grow_with_the_clients() -> None:
    _peak_of_the_mean(3)
    assert _peak_of_the_mean(200) < _peak_of_the_mean(3) + 100_000


limits = np.finfo(np.float32)


@pytest.mark.parametrize("clients", [1, 2, 3, 7, 1000])
def test_a_cohort_of_the_largest_updates_that_are_admitted_has_a_finite_mean(clients: int) -> None:
    largest = np.float32(largest_summand(clients))
    if float(largest) > largest_summand(clients):
        largest = np.nextafter(largest, np.float32(0))
    assert float(largest) > float(limits.max) / clients * 0.9999
    updates = [_update(1, w=[largest, -largest])] * clients
    assert np.isfinite(weighted_mean(updates)["w"]).all()


def test_a_finite_update_can_have_an_infinite_mean() -> None:
    with np.errstate(over="ignore"):
        assert np.isinf(weighted_mean([_update(2, w=limits.max)])["w"])
        assert np.isinf(weighted_mean([_update(1, w=limits.max)] * 2)["w"])
