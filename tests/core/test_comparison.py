"""The statistics of a comparison, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fededge.core.comparison import (
    RoundTraffic,
    bytes_moved,
    distribution,
    epochs_for,
    in_equal_parts,
    paired_difference,
    share_better,
)

TEN = {f"c{i}": float(i) for i in range(10)}


def test_a_distribution_by_hand() -> None:
    found = distribution({"a": 0.5, "b": 0.9, "c": 0.7, "d": 0.3}, higher_is_better=True)
    assert found is not None
    assert (found.clients, found.mean, found.median) == (4, pytest.approx(0.6), pytest.approx(0.6))
    assert found.deviation == pytest.approx(np.sqrt((0.01 + 0.09 + 0.01 + 0.09) / 4))
    assert (found.best.client, found.best.value, found.worst.client, found.worst.value) == ("b", 0.9, "d", 0.3)
    assert found.worst_decile == 0.3  # one client at least


@pytest.mark.parametrize(("higher", "worst", "best"), [(True, "c0", "c9"), (False, "c9", "c0")])
def test_the_worst_are_those_that_the_metric_says(higher: bool, worst: str, best: str) -> None:
    found = distribution(TEN, higher_is_better=higher)
    assert found is not None
    assert (found.worst.client, found.best.client) == (worst, best)


@pytest.mark.parametrize(("clients", "worst"), [(9, 0.0), (10, 0.0), (19, 0.0), (20, 0.5), (30, 1.0)])
def test_the_worst_decile_is_a_tenth_rounded_down(clients: int, worst: float) -> None:
    found = distribution({f"c{i}": float(i) for i in range(clients)}, higher_is_better=True)
    assert found is not None
    assert found.worst_decile == worst


def test_nobody_has_no_distribution() -> None:
    assert distribution({}, higher_is_better=True) is None


def test_differences_are_of_the_clients_that_have_both() -> None:
    found = paired_difference({"a": 0.9, "b": 0.6, "x": 0.0}, {"y": 1.0, "b": 0.5, "a": 0.7}, seed=0)
    assert found is not None
    assert found.clients == 2
    assert found.mean.value == pytest.approx(0.15)
    assert found.median.value == pytest.approx(0.15)
    assert found.relative == pytest.approx(0.15 / 0.6)
    # Of two clients, a quarter of the resamples has the one twice, and a quarter the other.
    assert (found.mean.low, found.mean.high) == (pytest.approx(0.1), pytest.approx(0.2))


def test_relative_is_to_the_size_of_the_other() -> None:
    found = paired_difference({"a": -1.0, "b": -1.0}, {"a": -2.0, "b": -2.0}, seed=0)
    assert found is not None
    assert found.relative == 0.5
    none = paired_difference({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": -1.0}, seed=0)
    assert none is not None
    assert none.relative is None


def test_equal_differences_have_no_interval() -> None:
    found = paired_difference({c: v + 1 for c, v in TEN.items()}, TEN, seed=3)
    assert found is not None
    assert (found.mean.low, found.mean.high, found.median.low, found.median.high) == (1.0, 1.0, 1.0, 1.0)


def test_the_interval_is_the_textbooks() -> None:
    """Of many clients, the bootstrap's interval of a mean is the normal one."""
    values = np.random.default_rng(1).normal(0.5, 1, 400)
    clients = [f"c{i}" for i in range(400)]
    found = paired_difference(dict(zip(clients, values, strict=True)), dict.fromkeys(clients, 0.0), seed=7)
    assert found is not None
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.mean.low == pytest.approx(values.mean() - half, abs=0.006)
    assert found.mean.high == pytest.approx(values.mean() + half, abs=0.006)
    assert found.median.low < np.median(values) < found.median.high


def test_the_seed_alone_decides_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = dict.fromkeys(TEN, 0.0)
    first = paired_difference(TEN, zeros, seed=5)
    assert first == paired_difference(TEN, zeros, seed=5)
    assert first != paired_difference(TEN, zeros, seed=6)
    monkeypatch.setattr("fededge.core.comparison._IN_MEMORY", 1000)  # and not how many resamples are in memory
    assert first == paired_difference(TEN, zeros, seed=5)


@pytest.mark.parametrize("both", [{}, {"a": 1.0}])
def test_fewer_than_two_clients_have_no_difference(both: dict[str, float]) -> None:
    assert paired_difference(both, TEN | both, seed=0) is None


def test_the_share_of_those_that_are_better_off() -> None:
    ours, theirs = {"a": 0.9, "b": 0.5, "c": 0.4, "x": 1.0}, {"a": 0.8, "b": 0.5, "c": 0.6, "y": 0.0}
    higher = share_better(ours, theirs, higher_is_better=True)
    assert higher is not None
    assert (higher.clients, higher.better, higher.equal, higher.share) == (3, 1, 1, 1 / 3)
    lower = share_better(ours, theirs, higher_is_better=False)
    assert lower is not None
    assert (lower.better, lower.equal) == (1, 1)
    assert share_better({}, theirs, higher_is_better=True) is None


def test_bytes_go_down_to_the_cohort_and_up_from_the_accepted() -> None:
    assert bytes_moved([]) == 0
    rounds = [RoundTraffic(cohort=10, accepted=7, down=100, up=90), RoundTraffic(cohort=4, accepted=4, down=100, up=8)]
    assert bytes_moved(rounds) == 10 * 100 + 7 * 90 + 4 * 100 + 4 * 8


@pytest.mark.parametrize(("examples", "epochs"), [(0, 1), (10, 1), (149, 1), (151, 2), (500, 5), (549, 5)])
def test_epochs_are_as_many_as_the_examples_make(examples: int, epochs: int) -> None:
    assert epochs_for(examples, 100) == epochs


def test_no_examples_make_no_epoch() -> None:
    with pytest.raises(ValueError, match="no examples"):
        epochs_for(10, 0)


@pytest.mark.parametrize(("total", "parts", "cut"), [(10, 3, [4, 3, 3]), (9, 3, [3, 3, 3]), (2, 4, [1, 1, 0, 0])])
def test_parts_are_equal_and_the_first_are_larger(total: int, parts: int, cut: list[int]) -> None:
    assert in_equal_parts(total, parts) == cut
