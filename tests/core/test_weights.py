from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fededge.core.weights import capped_weights

reproducible = settings(derandomize=True, deadline=None, max_examples=200)
counts_of_clients = st.lists(st.integers(1, 50) | st.integers(1, 2**24), min_size=1, max_size=30)
shares = st.sampled_from([0.0, 1e-7, 0.05, 0.1, 0.3, 1 / 3, 0.5, 0.9, 0.999, 1.0])


def _share(max_share: float, clients: int) -> Fraction:
    return max(Fraction(str(max_share)), Fraction(2, clients))


def test_one_liar_among_twenty_gets_a_tenth_and_not_91_percent() -> None:
    counts = [500] * 19 + [100_000]
    assert counts[-1] / sum(counts) > 0.91
    # c = 0.1 (c + 9500), so 0.9 c = 950
    assert capped_weights(counts, 0.1) == [500] * 19 + [1055]
    assert 1055 / (1055 + 9500) <= 0.1 < 1056 / (1056 + 9500)


@pytest.mark.parametrize(
    ("counts", "max_share", "weights"),
    [
        # Nobody exceeds: 4 clients may have a half each.
        ([1, 2, 3, 4], 0.1, [1, 2, 3, 4]),
        # Exactly the share is no excess.
        ([5, 5, 5, 5, 20], 0.5, [5, 5, 5, 5, 20]),
        ([5, 5, 5, 5, 21], 0.5, [5, 5, 5, 5, 20]),
        # c = 1/2 (c + 3): c = 3
        ([1, 1, 1, 100], 0.5, [1, 1, 1, 3]),
        # 2/3 of three clients: c = 2/3 (c + 2), c = 4
        ([1, 100, 1], 0.0, [1, 4, 1]),
        # Two cut together: c = 0.3 (2 c + 10), 0.4 c = 3, c = 7.5
        ([2, 90, 2, 2, 80, 2, 2], 0.3, [2, 7, 2, 2, 7, 2, 2]),
        # The second only exceeds once the first is cut: c1 = 0.3 (c1 + 29) = 12.4 < 19, c2 = 0.3 (2 c2 + 10) = 7.5
        ([1] * 10 + [19, 1000], 0.3, [1] * 10 + [7, 7]),
    ],
)
def test_weights_worked_out_by_hand(counts: list[int], max_share: float, weights: list[int]) -> None:
    assert capped_weights(counts, max_share) == weights


@pytest.mark.parametrize("counts", [[], [7], [1, 2**24], [2**24, 1]])
@pytest.mark.parametrize("max_share", [0.0, 0.1, 1.0])
def test_one_client_or_two_are_never_capped(counts: list[int], max_share: float) -> None:
    assert capped_weights(counts, max_share) == counts


def test_a_share_of_1_turns_it_off() -> None:
    counts = [1] * 50 + [2**24]
    assert capped_weights(counts, 1.0) == counts
    assert capped_weights(counts, 1) == counts


def test_a_share_is_the_decimal_that_people_write() -> None:
    assert Fraction(0.3) < Fraction(3, 10)  # as a binary fraction it would cut the 3 to 2
    assert capped_weights([3, 1, 1, 1, 1, 1, 1, 1], 0.3) == [3, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("max_share", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_share_must_be_one(max_share: float) -> None:
    with pytest.raises(ValueError, match="max_share must be from 0 to 1"):
        capped_weights([1, 2, 3], max_share)


@pytest.mark.parametrize("counts", [[0], [1, -3, 2], [5, 5, 0]])
def test_counts_must_be_positive(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="counts must be positive"):
        capped_weights(counts, 0.5)


@reproducible
@given(counts_of_clients, shares)
def test_no_client_has_more_than_its_share_of_the_capped_total(counts: list[int], max_share: float) -> None:
    weights = capped_weights(counts, max_share)
    share = _share(max_share, len(counts))
    assert all(type(weight) is int and 1 <= weight <= count for weight, count in zip(weights, counts, strict=True))
    assert all(weight <= share * sum(weights) for weight in weights)


@reproducible
@given(counts_of_clients, shares)
def test_no_cap_could_be_higher(counts: list[int], max_share: float) -> None:
    weights = capped_weights(counts, max_share)
    share, cap = _share(max_share, len(counts)), max(weights)
    if weights == counts:
        return
    assert weights == [min(count, cap) for count in counts]
    higher = [min(count, cap + 1) for count in counts]
    assert max(higher) > share * sum(higher)


def _water_filled(counts: list[int], share: Fraction) -> list[int]:
    """Find the highest cap by trying them all, or rather by halving: a cap that is too high stays too high."""
    if max(counts) <= share * sum(counts):
        return counts
    low, high = 1, max(counts)  # low is fine, high is not
    while high - low > 1:
        middle = (low + high) // 2
        fits = middle <= share * sum(min(count, middle) for count in counts)
        low, high = (middle, high) if fits else (low, middle)
    return [min(count, low) for count in counts]


@reproducible
@given(counts_of_clients, shares)
def test_weights_are_those_of_a_naive_search(counts: list[int], max_share: float) -> None:
    assert capped_weights(counts, max_share) == _water_filled(counts, _share(max_share, len(counts)))


@reproducible
@given(counts_of_clients, shares)
def test_capping_again_changes_nothing(counts: list[int], max_share: float) -> None:
    weights = capped_weights(counts, max_share)
    assert capped_weights(weights, max_share) == weights


@reproducible
@given(counts_of_clients, shares, st.data())
def test_no_weight_falls_when_a_count_rises(counts: list[int], max_share: float, data: st.DataObject) -> None:
    more = [count + data.draw(st.integers(0, 3) | st.integers(0, 2**20)) for count in counts]
    before, after = capped_weights(counts, max_share), capped_weights(more, max_share)
    assert all(low <= high for low, high in zip(before, after, strict=True))


@reproducible
@given(counts_of_clients, shares)
def test_who_has_more_weighs_no_less(counts: list[int], max_share: float) -> None:
    pairs = sorted(zip(counts, capped_weights(counts, max_share), strict=True))
    assert [weight for _, weight in pairs] == sorted(weight for _, weight in pairs)


@reproducible
@given(counts_of_clients, shares, st.data())
def test_weights_go_with_their_clients(counts: list[int], max_share: float, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(counts))))
    weights = capped_weights(counts, max_share)
    assert capped_weights([counts[i] for i in order], max_share) == [weights[i] for i in order]


@reproducible
@given(st.integers(3, 40), st.integers(1, 1000), st.integers(1, 10**12), shares)
def test_invariant_07_example_counts_are_positive_finite_and_capped(
    clients: int, honest: int, claimed: int, max_share: float
) -> None:
    """However much one client claims, the others keep what is theirs."""
    weights = capped_weights([honest] * (clients - 1) + [claimed], max_share)
    assert 1 <= weights[-1] <= _share(max_share, clients) * sum(weights)
