from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fededge.core.aggregation import Weighted, weighted_mean
from fededge.core.parts import CONTROL, COVERAGE, STATISTICS, is_trained, out_of_range, over_coverage, split, under

few = settings(derandomize=True, deadline=None, max_examples=40)


def _array(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_tensors_are_told_apart_by_how_their_names_begin() -> None:
    tensors = {
        "coefs_/0": _array(1),
        "statistics/input/mean": _array(2),
        "control/coefs_/0": _array(3),
        "coverage/coefs_/0": _array(4),
        "dense/statistics/x": _array(5),
        "statistics": _array(6),
        "controls/x": _array(7),
    }
    parts = split(tensors)
    assert list(parts.trained) == ["coefs_/0", "dense/statistics/x", "statistics", "controls/x"]
    assert list(parts.statistics) == ["statistics/input/mean"]
    assert {name: value.tolist() for name, value in parts.control.items()} == {"coefs_/0": [3.0]}
    assert {name: value.tolist() for name, value in parts.coverage.items()} == {"coefs_/0": [4.0]}
    assert [name for name in tensors if is_trained(name)] == list(parts.trained)
    assert parts.trained["coefs_/0"] is tensors["coefs_/0"]


def test_nothing_splits_into_nothing() -> None:
    assert split({}) == ({}, {}, {}, {})


@few
@given(st.dictionaries(st.sampled_from(["w", "b/0", "coverage", "é"]), st.floats(-9, 9, width=32), max_size=4))
def test_a_prefix_put_before_names_is_taken_off_again(values: dict[str, float]) -> None:
    tensors = {name: _array(value) for name, value in values.items()}
    assert split(under(CONTROL, tensors)).control == tensors
    assert split(under(COVERAGE, tensors)).coverage == tensors
    assert split(under(STATISTICS, tensors)).statistics == under(STATISTICS, tensors)
    assert split(tensors).trained == tensors


def test_each_coordinate_is_averaged_over_the_examples_that_trained_it() -> None:
    """Client a (10 examples) trains all of the first coordinate; b (30) half of the first, and all of the second."""
    deltas = {"a": _array(4, 100, 7), "b": _array(8, -2, 9)}
    masks = {"a": _array(1, 0, 0), "b": _array(0.5, 1, 0)}
    counts = {"a": 10, "b": 30}
    mean = weighted_mean(Weighted({"w": masks[c] * deltas[c], "coverage/w": masks[c]}, counts[c]) for c in ("a", "b"))
    averaged = over_coverage(mean["w"], mean["coverage/w"])
    # (10 · 4 + 15 · 8) / 25; b alone; nobody, so that it stays
    np.testing.assert_allclose(averaged, [6.4, -2.0, 0.0], rtol=1e-6)
    assert averaged.dtype == np.float32


@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (0, 4)])
def test_full_coverage_changes_nothing_and_none_keeps_all_as_it_was(shape: tuple[int, ...]) -> None:
    mean = np.full(shape, 0.3, np.float32)
    full = over_coverage(mean, np.ones(shape, np.float32))
    none = over_coverage(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    for result, expected in ((full, mean), (none, np.zeros(shape, np.float32))):
        assert isinstance(result, np.ndarray)
        assert result.dtype == np.float32
        assert result.shape == shape
        np.testing.assert_array_equal(result, expected)


def test_neither_no_coverage_nor_a_lie_of_it_is_a_warning() -> None:
    assert over_coverage(_array(5, 5), _array(0, -1)).tolist() == [0.0, 0.0]
    assert np.isinf(over_coverage(_array(1), _array(1e-40))).all()


@few
@given(
    st.lists(
        st.tuples(st.floats(-100, 100, width=32), st.floats(0.0625, 1, width=32), st.integers(1, 1000)),
        min_size=1,
        max_size=8,
    )
)
def test_the_average_lies_between_the_updates(clients: list[tuple[float, float, int]]) -> None:
    mean = weighted_mean(Weighted({"w": _array(m * d), "coverage/w": _array(m)}, n) for d, m, n in clients)
    averaged = float(over_coverage(mean["w"], mean["coverage/w"])[0])
    deltas = [delta for delta, _, _ in clients]
    assert min(deltas) - 1e-3 <= averaged <= max(deltas) + 1e-3


@pytest.mark.parametrize(
    ("name", "value", "detail"),
    [
        ("coverage/w", -0.1, "coverage/w has shares that are not between 0 and 1"),
        ("coverage/w", 1.5, "coverage/w has shares that are not between 0 and 1"),
        ("statistics/input/present", 2, "statistics/input/present has shares"),
        ("statistics/input/variance", -1e-9, "statistics/input/variance has a negative variance"),
        ("statistics/input/mean", -5, ""),
        ("coverage/w", 1, ""),
        ("w", -5, ""),
    ],
)
def test_what_no_client_can_have_measured_is_told(name: str, value: float, detail: str) -> None:
    told = out_of_range({name: np.array([0.5, value], np.float32), "other": np.zeros(0, np.float32)})
    assert told.startswith(detail)
    assert bool(told) == bool(detail)
