from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fededge.core.cohorts import batch_clients, client_order, sample_cohort

reproducible = settings(derandomize=True, deadline=None)
# Ids whose order depends on who sorts: by number, by letter, by locale, by UTF-16 units, by bytes.
ODD = ["10", "9", "Z", "a", "ä", "z", "é", "e\u0301", "\uffee", "\U0001f600", " ", "a b", "a/b", "A", "", "\x00"]
ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(ODD)
populations = st.lists(ids, min_size=1, max_size=40, unique=True)


def test_clients_are_in_the_order_of_their_utf_8_bytes() -> None:
    ordered = ["", "\x00", " ", "10", "9", "A", "Z", "a", "a b", "a/b", "e\u0301", "z"]
    ordered += ["ä", "é", "\uffee", "\U0001f600"]
    assert sorted(ODD) == sorted(ordered)
    assert sample_cohort(ODD, 0, seed=0) == ordered
    assert [client_order(client) for client in ("", "ä", "\U0001f600")] == [b"", b"\xc3\xa4", b"\xf0\x9f\x98\x80"]


def test_a_draw_is_pinned() -> None:
    """Another numpy that draws otherwise would change the cohorts of trainings that are under way."""
    drawn = sample_cohort([f"client-{n}" for n in range(10)], 4, seed=1)
    assert drawn == ["client-0", "client-4", "client-7", "client-8"]


@reproducible
@given(populations, st.integers(0, 2**31 - 1), st.data())
def test_a_cohort_is_drawn_from_the_population_whatever_its_order(
    population: list[str], seed: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, len(population)))
    cohort = sample_cohort(population, size, seed)
    assert len(cohort) == len(set(cohort)) == size
    assert set(cohort) <= set(population)
    assert cohort == sorted(cohort, key=str.encode)
    shuffled = data.draw(st.permutations(population))
    assert sample_cohort(shuffled, size, seed) == cohort == sample_cohort(tuple(population), size, seed)


@reproducible
@given(populations, st.integers(0, 2**31 - 1))
def test_everybody_is_drawn_by_0_and_by_the_size_of_the_population(population: list[str], seed: int) -> None:
    everybody = sorted(population, key=str.encode)
    assert sample_cohort(population, 0, seed) == sample_cohort(population, len(population), seed) == everybody


def test_the_population_stays_as_it_was() -> None:
    population = ["b", "a", "c"]
    sample_cohort(population, 2, seed=0)
    assert population == ["b", "a", "c"]


def test_every_client_is_drawn_about_as_often() -> None:
    population = [str(n) for n in range(10)]
    drawn = Counter(client for seed in range(2000) for client in sample_cohort(population, 3, seed))
    assert set(drawn) == set(population)
    assert all(540 < count < 660 for count in drawn.values())  # 600 ± 3 σ


def test_a_draw_leaves_the_global_random_state_alone() -> None:
    state = random.getstate()
    sample_cohort(ODD, 3, seed=0)
    assert random.getstate() == state


@pytest.mark.parametrize("size", [-1, 4, 10**6])
def test_no_more_are_drawn_than_there_are(size: int) -> None:
    with pytest.raises(ValueError, match=f"cannot draw {size} clients from 3"):
        sample_cohort(["a", "b", "c"], size, seed=0)


@pytest.mark.parametrize(
    ("clients_per_batch", "batches"),
    [
        (1, [["a"], ["b"], ["c"], ["d"], ["e"]]),
        (2, [["a", "b"], ["c", "d"], ["e"]]),
        (5, [["a", "b", "c", "d", "e"]]),
        (6, [["a", "b", "c", "d", "e"]]),
    ],
)
def test_a_cohort_is_cut_into_batches(clients_per_batch: int, batches: list[list[str]]) -> None:
    assert batch_clients("abcde", clients_per_batch) == batches


def test_nobody_makes_no_batch() -> None:
    assert batch_clients([], 3) == []


@reproducible
@given(populations, st.integers(1, 50))
def test_batches_put_together_are_the_cohort(cohort: list[str], clients_per_batch: int) -> None:
    batches = batch_clients(cohort, clients_per_batch)
    assert [client for batch in batches for client in batch] == cohort
    assert all(len(batch) == clients_per_batch for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= clients_per_batch


def test_a_later_attempt_draws_the_next_clients_and_begins_anew_at_the_end() -> None:
    population = [f"client-{n}" for n in range(10)]
    cohorts = [set(sample_cohort(population, 4, seed=1, attempt=attempt)) for attempt in range(1, 6)]
    assert not cohorts[0] & cohorts[1]
    assert len(cohorts[0] | cohorts[1] | cohorts[2]) == 10  # the third takes two new ones and two of the first
    assert len(cohorts[2] & cohorts[0]) == 2
    assert cohorts[4] != cohorts[0]
    assert Counter(client for cohort in cohorts for client in cohort) == dict.fromkeys(population, 2)
