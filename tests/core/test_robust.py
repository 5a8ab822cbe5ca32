from __future__ import annotations

import statistics
import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fededge.core import robust
from fededge.core.aggregation import NoUpdatesError, Weighted, weighted_mean
from fededge.core.robust import (
    BLOCK,
    MAX_KRUM_CLIENTS,
    Read,
    Rule,
    add_distances,
    krum_choice,
    krum_scores,
    median,
    plain_mean,
    precondition,
    robust_aggregate,
    trimmed_mean,
)
from fededge.core.tensors import Array, Tensors, signature

reproducible = settings(derandomize=True, deadline=None, max_examples=200)
ROBUST = [Rule.MEDIAN, Rule.TRIMMED_MEAN, Rule.KRUM, Rule.MULTI_KRUM]
MAX = float(np.finfo(np.float32).max)
numbers = st.floats(-1e6, 1e6, width=32)
anything = st.floats(allow_nan=False, allow_infinity=False, width=32)


def _chunk(*rows: object) -> Array:
    return np.array(rows, np.float32)


def _chunks(values: st.SearchStrategy[float], least: int = 1, most: int = 9) -> st.SearchStrategy[Array]:
    return hnp.arrays(np.float32, st.tuples(st.integers(least, most), st.integers(1, 5)), elements=values)


def _distances_of(chunk: Array) -> np.ndarray:
    distances = np.zeros((len(chunk), len(chunk)))
    add_distances(distances, chunk)
    return distances


def _reader(clients: list[Tensors]) -> Read:
    return lambda client, name, part: clients[client][name].reshape(-1)[part]


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in tensors.items()}


def _aggregate(rule: Rule, attackers: int, clients: list[Tensors]) -> tuple[Tensors, list[int]]:
    return robust_aggregate(rule, attackers, len(clients), _reader(clients), _shapes(clients[0]))


# The median


def test_medians_worked_out_by_hand() -> None:
    assert median(_chunk([1, -7], [5, 2], [3, 100])).tolist() == [3, 2]
    assert median(_chunk([1, 4], [2, 1], [10, 2], [3, 3])).tolist() == [2.5, 2.5]
    assert median(_chunk([4, 0.5])).tolist() == [4, 0.5]
    assert median(_chunk([4], [1])).tolist() == [2.5]


def test_halfway_is_computed_where_it_cannot_overflow_and_rounded_once() -> None:
    assert median(_chunk([MAX], [MAX])).tolist() == [MAX]
    assert median(_chunk([MAX], [-MAX])).tolist() == [0]
    assert median(_chunk([1e-45], [3e-45])).tolist() == [np.float32(3e-45)]  # 1.5 of the smallest steps, to even: 2
    one, next_one = np.float32(1), np.nextafter(np.float32(1), np.float32(2))
    assert median(_chunk([one], [next_one])).tolist() == [1]


@reproducible
@given(_chunks(anything))
def test_the_median_is_that_of_the_statistics_module(chunk: Array) -> None:
    expected = [np.float32(statistics.median(float(number) for number in column)) for column in chunk.T]
    assert median(chunk).dtype == np.float32
    assert np.array_equal(median(chunk), np.array(expected, np.float32))


# The trimmed mean


def test_trimmed_means_worked_out_by_hand() -> None:
    chunk = _chunk([1, 9], [2, -50], [3, 7], [100, 8], [-100, 1000])
    assert trimmed_mean(chunk, 1).tolist() == [2, 8]
    assert trimmed_mean(chunk, 2).tolist() == [2, 8]
    assert trimmed_mean(chunk, 0).tolist() == [np.float32(6 / 5), np.float32(974 / 5)]
    assert trimmed_mean(_chunk([1], [2], [4], [9]), 1).tolist() == [3]


def test_equal_values_are_dropped_one_by_one() -> None:
    assert trimmed_mean(_chunk([5], [5], [5], [1], [2]), 1).tolist() == [4]


def test_a_trimmed_mean_does_not_overflow() -> None:
    assert trimmed_mean(_chunk(*[[MAX]] * 5), 1).tolist() == [MAX]


@reproducible
@given(_chunks(numbers, least=3), st.data())
def test_the_trimmed_mean_is_a_naive_one(chunk: Array, data: st.DataObject) -> None:
    attackers = data.draw(st.integers(0, (len(chunk) - 1) // 2))
    columns = [sorted(float(number) for number in column)[attackers : len(chunk) - attackers] for column in chunk.T]
    expected = np.array([statistics.fmean(column) for column in columns], np.float32)
    assert trimmed_mean(chunk, attackers).dtype == np.float32
    assert np.allclose(trimmed_mean(chunk, attackers), expected, rtol=1e-6, atol=1e-6)


@reproducible
@given(_chunks(anything, least=3))
def test_as_much_trimming_as_can_be_is_the_median(chunk: Array) -> None:
    trimmed = trimmed_mean(chunk, (len(chunk) - 1) // 2)
    assert trimmed.tobytes() == median(chunk).tobytes()


# Both


COORDINATEWISE: list[Callable[[Array, int], Array]] = [lambda chunk, _: median(chunk), trimmed_mean]


@reproducible
@given(_chunks(anything, least=3), st.sampled_from(COORDINATEWISE), st.data())
def test_the_order_of_clients_changes_no_bit(
    chunk: Array, combine: Callable[[Array, int], Array], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(chunk))))
    attackers = data.draw(st.integers(0, (len(chunk) - 1) // 2))
    before = chunk.tobytes()
    assert combine(chunk[order], attackers).tobytes() == combine(chunk, attackers).tobytes()
    assert chunk.tobytes() == before


@reproducible
@given(_chunks(anything, least=2, most=7), st.sampled_from(COORDINATEWISE), st.data())
def test_attackers_cannot_push_a_coordinate_out_of_the_honest_range(
    honest: Array, combine: Callable[[Array, int], Array], data: st.DataObject
) -> None:
    attackers = data.draw(st.integers(1, len(honest) - 1))
    extreme = st.sampled_from([MAX, -MAX, 0.0, 2.0**99]) | anything
    lies = data.draw(hnp.arrays(np.float32, (attackers, honest.shape[1]), elements=extreme))
    result = combine(np.concatenate([honest, lies]), attackers)
    assert (honest.min(axis=0) <= result).all()
    assert (result <= honest.max(axis=0)).all()


def test_one_attacker_does_carry_away_the_mean() -> None:
    mean = weighted_mean(Weighted({"w": _chunk(value)}, 1) for value in (1, 1, 1, 1, 1e30))
    assert mean["w"] > 1e29


@pytest.mark.parametrize("combine", COORDINATEWISE)
def test_zeros_have_one_sign(combine: Callable[[Array, int], Array]) -> None:
    for rows in ([-0.0], [0.0], [-0.0]), ([-0.0], [-0.0], [-0.0]), ([0.0], [-0.0], [0.0], [-0.0]):
        assert not np.signbit(combine(_chunk(*rows), 1)).any()


# Krum


LINE = [[0.0], [1.0], [3.0], [4.0], [100.0]]


def test_distances_worked_out_by_hand() -> None:
    assert _distances_of(_chunk([0, 0], [3, 4], [0, 4])).tolist() == [[0, 25, 16], [25, 0, 9], [16, 9, 0]]
    distances = _distances_of(_chunk([0], [2]))
    add_distances(distances, _chunk([1], [2]))
    assert distances.tolist() == [[0, 5], [5, 0]]


def test_scores_and_choices_worked_out_by_hand() -> None:
    # n = 5, f = 1: the sum of the 2 smallest squared distances to others.
    distances = _distances_of(_chunk(*LINE))
    assert krum_scores(distances, 1).tolist() == [1 + 9, 1 + 4, 1 + 4, 1 + 9, 96**2 + 97**2]
    assert krum_choice(distances, 1, 1) == [1]  # as good as 2, and earlier
    assert krum_choice(distances, 1, 2) == [1, 2]
    assert krum_choice(distances, 1, 3) == [0, 1, 2]
    assert krum_choice(distances, 1, 4) == [0, 1, 2, 3]
    # f = 0: the 3 smallest.
    assert krum_scores(distances, 0).tolist()[:2] == [1 + 9 + 16, 1 + 4 + 9]


def test_the_chosen_are_in_client_order() -> None:
    distances = _distances_of(_chunk([100], [4], [3], [0], [1]))
    assert krum_choice(distances, 1, 2) == [2, 4]
    assert all(type(client) is int for client in krum_choice(distances, 1, 2))


def test_distances_keep_what_a_matrix_product_would_lose() -> None:
    near = np.full((2, 3), 1e8, np.float32)
    near[1, 0] = np.nextafter(near[0, 0], np.float32(np.inf))
    assert _distances_of(near)[0, 1] == 64
    assert _distances_of(_chunk([MAX], [-MAX]))[0, 1] == (2 * MAX) ** 2


@reproducible
@given(_chunks(numbers))
def test_distances_are_symmetric_and_naive_ones(chunk: Array) -> None:
    distances = _distances_of(chunk)
    exact = chunk.astype(np.float64)
    expected = [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in exact] for x in exact]
    assert np.array_equal(distances, distances.T)
    assert not distances.diagonal().any()
    assert np.allclose(distances, expected, rtol=1e-12, atol=0)


@reproducible
@given(_chunks(numbers, least=5), st.data())
def test_krum_is_a_naive_one(chunk: Array, data: st.DataObject) -> None:
    clients = len(chunk)
    attackers = data.draw(st.integers(0, (clients - 3) // 2))
    distances = _distances_of(chunk)
    scores = [
        sum(sorted(distances[i][j] for j in range(clients) if j != i)[: clients - attackers - 2])
        for i in range(clients)
    ]
    assert np.allclose(krum_scores(distances, attackers), scores, rtol=1e-12)
    exact = krum_scores(distances, attackers).tolist()
    for keep in range(1, clients - attackers - 1):
        best = sorted(range(clients), key=lambda i: (exact[i], i))[:keep]
        assert krum_choice(distances, attackers, keep) == sorted(best)


@reproducible
@given(hnp.arrays(np.float32, st.tuples(st.integers(5, 9), st.integers(1, 4)), elements=numbers), st.data())
def test_scores_go_with_their_clients(chunk: Array, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(chunk))))
    scores = krum_scores(_distances_of(chunk), 1)
    assert krum_scores(_distances_of(chunk[order]), 1).tobytes() == scores[order].tobytes()


@reproducible
@given(st.integers(1, 4), st.integers(0, 4), st.data())
def test_krum_never_picks_attackers_that_are_far_away(attackers: int, more: int, data: st.DataObject) -> None:
    clients = 2 * attackers + 3 + more
    liars = set(data.draw(st.permutations(range(clients)))[:attackers])
    far = st.sampled_from([1e5, -1e5, 1e20, -MAX, MAX])
    same = data.draw(st.booleans())  # attackers that stay close together
    lie = data.draw(far)
    rows = [
        [(lie if same else data.draw(far)) if client in liars else data.draw(st.floats(-1, 1, width=32))] * 3
        for client in range(clients)
    ]
    updates = [{"w": np.array(row, np.float32)} for row in rows]
    for rule in (Rule.KRUM, Rule.MULTI_KRUM):
        aggregate, chosen = _aggregate(rule, attackers, updates)
        assert len(chosen) == (1 if rule is Rule.KRUM else clients - attackers - 2)
        assert not liars & set(chosen)
        assert np.abs(aggregate["w"]).max() <= 1


# The mean of the chosen


def test_a_plain_mean_is_a_float32_sum_in_the_order_given() -> None:
    assert plain_mean([_chunk(1, 2), _chunk(2, 4), _chunk(6, 0)]).tolist() == [3, 2]
    assert plain_mean(iter([_chunk(1e8), _chunk(1), _chunk(-1e8)])).tolist() == [0]
    assert plain_mean(iter([_chunk(1e8), _chunk(-1e8), _chunk(1)])).tolist() == [np.float32(1) / np.float32(3)]


def test_a_plain_mean_changes_no_row() -> None:
    rows = [_chunk(1, 2), _chunk(3, 4)]
    plain_mean(rows)[0] = 9
    assert [row.tolist() for row in rows] == [[1, 2], [3, 4]]


def test_there_is_no_mean_of_no_rows() -> None:
    with pytest.raises(NoUpdatesError):
        plain_mean([])


# All of it


@pytest.mark.parametrize(
    ("rule", "clients", "attackers", "problem"),
    [
        (Rule.MEAN, 1, 0, None),
        (Rule.MEAN, 1, 5, None),
        (Rule.MEAN, 0, 0, "mean needs at least one client"),
        (Rule.MEDIAN, 1, 0, None),
        (Rule.MEDIAN, 2, 1, "median needs at least 3 clients against 1 attacker, there are 2"),
        (Rule.TRIMMED_MEAN, 3, 1, None),
        (Rule.TRIMMED_MEAN, 4, 2, "trimmed_mean needs at least 5 clients against 2 attackers, there are 4"),
        (Rule.TRIMMED_MEAN, 10, -1, "no negative number of attackers"),
        (Rule.KRUM, 3, 0, None),
        (Rule.KRUM, 2, 0, "krum needs at least 3 clients"),
        (Rule.KRUM, 7, 2, None),
        (Rule.KRUM, 6, 2, "krum needs at least 7 clients against 2 attackers, there are 6"),
        (Rule.MULTI_KRUM, 7, 2, None),
        (Rule.MULTI_KRUM, 6, 2, "multi_krum needs at least 7 clients"),
        (Rule.MULTI_KRUM, MAX_KRUM_CLIENTS, 3, None),
        (Rule.MULTI_KRUM, MAX_KRUM_CLIENTS + 1, 3, "at most 1000 clients, there are 1001"),
        (Rule.KRUM, MAX_KRUM_CLIENTS + 1, 3, "at most 1000 clients, there are 1001"),
        (Rule.MEDIAN, MAX_KRUM_CLIENTS + 1, 3, None),
    ],
)
def test_a_rule_holds_off_only_so_many(rule: Rule, clients: int, attackers: int, problem: str | None) -> None:
    said = precondition(rule, clients, attackers)
    assert (said is None) == (problem is None)
    assert said is None or problem is None or problem in said
    if said is not None and rule is not Rule.MEAN:
        with pytest.raises(ValueError, match=r"needs|compares"):
            robust_aggregate(rule, attackers, clients, _reader([]), {})


CLIENTS = [
    {"a": _chunk([1, 2], [3, 4]), "b": _chunk(10.0), "c": np.array(1, np.float32), "z": np.zeros((0, 3), np.float32)},
    {"a": _chunk([2, 2], [3, 5]), "b": _chunk(11.0), "c": np.array(2, np.float32), "z": np.zeros((0, 3), np.float32)},
    {"a": _chunk([9, 9], [9, 9]), "b": _chunk(99.0), "c": np.array(9, np.float32), "z": np.zeros((0, 3), np.float32)},
    {"a": _chunk([1, 3], [3, 6]), "b": _chunk(12.0), "c": np.array(3, np.float32), "z": np.zeros((0, 3), np.float32)},
    {"a": _chunk([2, 3], [4, 4]), "b": _chunk(13.0), "c": np.array(4, np.float32), "z": np.zeros((0, 3), np.float32)},
]


@pytest.mark.parametrize(
    ("rule", "expected", "chosen"),
    [
        (Rule.MEDIAN, [[[2, 3], [3, 5]], [12], 3], [0, 1, 2, 3, 4]),
        (Rule.TRIMMED_MEAN, [[[5 / 3, 8 / 3], [10 / 3, 5]], [12], 3], [0, 1, 2, 3, 4]),
        # Squared distances: 01: 4, 03: 13, 04: 21, 13: 5, 14: 11, 34: 8; scores 17, 9, …, 13, 19.
        (Rule.KRUM, [[[2, 2], [3, 5]], [11], 2], [1]),
        (Rule.MULTI_KRUM, [[[1.5, 2.5], [3, 5.5]], [11.5], 2.5], [1, 3]),
    ],
)
def test_aggregates_worked_out_by_hand(rule: Rule, expected: list[object], chosen: list[int]) -> None:
    aggregate, counted = _aggregate(rule, 1, CLIENTS)
    assert counted == chosen
    assert signature(aggregate) == signature(CLIENTS[0])
    assert list(aggregate) == list(CLIENTS[0])
    for name, value in zip("abc", expected, strict=True):
        assert isinstance(aggregate[name], np.ndarray)
        assert np.array_equal(aggregate[name], np.array(value, np.float32))


def test_the_mean_is_not_made_here() -> None:
    with pytest.raises(ValueError, match="weighted_mean"):
        _aggregate(Rule.MEAN, 0, CLIENTS)


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize(
    "wrong", [np.zeros(1, np.float32), np.zeros(3, np.float32), np.zeros(2), np.zeros((1, 2), np.float32)]
)
def test_nothing_is_broadcast_or_cast(rule: Rule, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"w of client 0 is .* at 0:2"):
        robust_aggregate(rule, 0, 3, lambda *_: wrong, {"w": (2,)})


def _random_clients(clients: int, shapes: dict[str, tuple[int, ...]]) -> list[Tensors]:
    rng = np.random.default_rng(clients)
    return [{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(clients)]


@pytest.mark.parametrize("rule", ROBUST)
def test_cutting_tensors_changes_no_bit(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = _random_clients(7, {"a": (5, 3 * BLOCK + 17), "b": (), "c": (3,)})
    whole, counted = _aggregate(rule, 2, clients)
    for blocks in (1, 2, 3, 5):
        monkeypatch.setattr(robust, "CHUNK_BYTES", 4 * 7 * BLOCK * blocks + 100)
        cut, chosen = _aggregate(rule, 2, clients)
        assert chosen == counted
        assert {name: value.tobytes() for name, value in cut.items()} == {
            name: value.tobytes() for name, value in whole.items()
        }


def test_distances_do_not_depend_on_where_tensors_are_cut_even_by_a_bit() -> None:
    chunk = np.random.default_rng(0).normal(size=(6, 5 * BLOCK + 17)).astype(np.float32)
    whole = _distances_of(chunk)
    for cuts in ([1], [2, 3], [1, 2, 3, 4, 5]):
        distances = np.zeros((6, 6))
        for begin, end in pairwise([0, *(BLOCK * cut for cut in cuts), chunk.shape[1]]):
            add_distances(distances, chunk[:, begin:end])
        assert distances.tobytes() == whole.tobytes()


@pytest.mark.parametrize("rule", [Rule.MEDIAN, Rule.TRIMMED_MEAN])
def test_coordinates_can_be_taken_one_by_one(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = _random_clients(5, {"a": (4, 3)})
    whole, _ = _aggregate(rule, 1, clients)
    monkeypatch.setattr(robust, "CHUNK_BYTES", 1)
    assert _aggregate(rule, 1, clients)[0]["a"].tobytes() == whole["a"].tobytes()


@pytest.mark.parametrize("rule", ROBUST)
def test_a_chunk_is_never_larger_than_it_may_be(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robust, "CHUNK_BYTES", 300_000)
    asked: list[int] = []

    def read(client: int, name: str, part: slice) -> Array:
        asked.append(part.stop - part.start)
        return np.full(part.stop - part.start, client, np.float32)

    robust_aggregate(rule, 2, 9, read, {"a": (100, 300), "b": (7,)})
    assert max(asked) * 9 * 4 <= 300_000
    assert max(asked) % BLOCK == 0


def _peak(rule: Rule, clients: int, size: int) -> int:
    """Measure what is allocated beside the aggregate itself."""

    def read(client: int, name: str, part: slice) -> Array:
        return np.arange(part.start + client, part.stop + client, dtype=np.float32)

    tracemalloc.start()
    robust_aggregate(rule, 1, clients, read, {"w": (size,)})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - 4 * size


@pytest.mark.parametrize("rule", ROBUST)
def test_invariant_12_aggregation_memory_does_not_grow_with_the_clients(
    rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robust, "CHUNK_BYTES", 2 * 2**20)
    _peak(rule, 8, 10_000)
    # All updates together are 6 and 26 MB, then 51.
    for clients in (16, 64):
        assert _peak(rule, clients, 100_000) < 3.5 * 2 * 2**20
    assert _peak(rule, 64, 200_000) < 3.5 * 2 * 2**20


@pytest.mark.parametrize("rule", ROBUST)
def test_invariant_04_the_same_updates_give_the_same_bits(rule: Rule) -> None:
    clients = _random_clients(9, {"a": (40, 30), "b": (7,)})
    first, chosen = _aggregate(rule, 3, clients)
    again, same = _aggregate(rule, 3, [{name: value.copy() for name, value in client.items()} for client in clients])
    assert chosen == same
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
