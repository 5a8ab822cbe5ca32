from __future__ import annotations

import numpy as np
import pytest

from fededge.core.tensors import non_finite, signature


def test_a_signature_names_dtype_and_shape_sorted_by_name() -> None:
    tensors = {
        "1/bias": np.zeros(3, np.float32),
        "0/kernel": np.zeros((5, 3), np.float32),
        "step": np.zeros((), np.int64),
        "empty": np.zeros((0, 2), np.float16),
    }
    described = signature(tensors)
    assert described == {
        "0/kernel": "float32[5,3]",
        "1/bias": "float32[3]",
        "empty": "float16[0,2]",
        "step": "int64[]",
    }
    assert list(described) == ["0/kernel", "1/bias", "empty", "step"]


@pytest.mark.parametrize(
    "other",
    [
        np.zeros((3, 2), np.float32),
        np.zeros(6, np.float32),
        np.zeros((1, 2, 3), np.float32),
        np.zeros((2, 3), np.float64),
        np.zeros((2, 3), np.int32),
        np.zeros((2, 3), bool),
        np.zeros((2, 3), object),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_signatures_tell_shapes_and_dtypes_apart(other: np.ndarray) -> None:
    assert signature({"w": other}) != signature({"w": np.zeros((2, 3), np.float32)})


def test_nothing_has_an_empty_signature() -> None:
    assert signature({}) == {}
    assert non_finite({}) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_tensor_with_one_bad_number_is_named(bad: float) -> None:
    tensors = {name: np.ones((2, 2), np.float32) for name in "cab"}
    tensors["c"][1, 1] = bad
    tensors["a"][0, 0] = bad
    assert non_finite(tensors) == ["a", "c"]


def test_the_largest_and_the_smallest_numbers_are_finite() -> None:
    limits = np.finfo(np.float32)
    extremes = np.array([limits.max, limits.min, limits.smallest_subnormal, -0.0], np.float32)
    assert non_finite({"w": extremes, "count": np.array([2**62]), "empty": np.zeros(0, np.float32)}) == []
