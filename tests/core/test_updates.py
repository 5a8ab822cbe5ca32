from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fededge.core.tensors import Tensors, signature
from fededge.core.updates import MAX_EXAMPLES, ExclusionReason, Refusal, inspect_update

SHAPES = {"0/kernel": (5, 3), "1/bias": (3,), "2/scale": ()}
EXPECTED = {"0/kernel": "float32[5,3]", "1/bias": "float32[3]", "2/scale": "float32[]"}
DTYPES = ("float16", "float64", "int8", "int32", "int64", "uint8", "bool", "complex64", "object", "U4", "S4")


def _delta(**other: object) -> Tensors:
    """Make a good update, with some tensors replaced, or left out for None."""
    delta: dict[str, object] = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    delta.update(other)
    return {name: value for name, value in delta.items() if value is not None}  # type: ignore[misc]


def _refusal(delta: Tensors, num_examples: float = 10) -> Refusal:
    refusal = inspect_update(delta, num_examples, EXPECTED)  # type: ignore[arg-type]
    assert refusal is not None
    return refusal


def test_a_good_update_is_admitted() -> None:
    assert inspect_update(_delta(), 10, EXPECTED) is None
    assert inspect_update(_delta(), 1, EXPECTED) is None
    assert inspect_update(dict(reversed(_delta().items())), 10, EXPECTED) is None


def test_reasons_are_named_as_in_the_manifests_that_exist() -> None:
    assert {reason.value for reason in ExclusionReason} == {
        "NO_UPDATE",
        "NO_DATA",
        "TRAINING_FAILED",
        "NON_FINITE_TRAINING",
        "WRONG_BASE",
        "WRONG_TENSORS",
        "NON_FINITE",
        "BAD_COUNT",
        "CORRUPT",
    }


@pytest.mark.parametrize(
    ("delta", "detail"),
    [
        (_delta(**{"1/bias": None}), "1/bias is missing, the model has float32[3]"),
        (_delta(**{"3/more": np.ones(2, np.float32)}), "3/more is float32[2], the model has no such tensor"),
        ({}, "0/kernel is missing, the model has float32[5,3]"),
        (
            _delta(**{"0/kernel": np.ones((1, 3), np.float32)}),
            "0/kernel is float32[1,3], the model has float32[5,3]",
        ),
        (_delta(**{"0/kernel": np.ones(3, np.float32)}), "0/kernel is float32[3], the model has float32[5,3]"),
        (_delta(**{"1/bias": np.ones((), np.float32)}), "1/bias is float32[], the model has float32[3]"),
        (_delta(**{"1/bias": np.ones((1, 3), np.float32)}), "1/bias is float32[1,3], the model has float32[3]"),
        (_delta(**{"2/scale": np.ones(1, np.float32)}), "2/scale is float32[1], the model has float32[]"),
        (_delta(**{"1/bias": np.ones(3, np.float64)}), "1/bias is float64[3], the model has float32[3]"),
        (_delta(**{"1/bias": np.ones(3, np.int32)}), "1/bias is int32[3], the model has float32[3]"),
    ],
    ids=[
        "missing",
        "extra",
        "none at all",
        "a row that would broadcast",
        "a vector that would broadcast",
        "a scalar that would broadcast",
        "a dimension too many",
        "one number for a scalar",
        "float64",
        "int32",
    ],
)
def test_names_shapes_and_dtypes_must_match_exactly(delta: Tensors, detail: str) -> None:
    assert _refusal(delta) == Refusal(ExclusionReason.WRONG_TENSORS, detail)


def test_two_tensors_that_changed_names_are_refused() -> None:
    same_size = {"a": "float32[2]", "b": "float32[2]"}
    delta = {"a": np.ones(2, np.float32), "c": np.ones(2, np.float32)}
    assert inspect_update(delta, 1, same_size) == Refusal(
        ExclusionReason.WRONG_TENSORS, "b is missing, the model has float32[2]"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (4, 2)])
def test_one_number_that_is_not_finite_is_enough(bad: float, place: tuple[int, int]) -> None:
    kernel = np.ones((5, 3), np.float32)
    kernel[place] = bad
    assert _refusal(_delta(**{"0/kernel": kernel})) == Refusal(
        ExclusionReason.NON_FINITE, "NaN or infinity in 0/kernel"
    )


def test_all_tensors_that_are_not_finite_are_named() -> None:
    delta = _delta(**{"2/scale": np.array(np.nan, np.float32), "1/bias": np.full(3, np.inf, np.float32)})
    assert _refusal(delta).detail == "NaN or infinity in 1/bias, 2/scale"


@pytest.mark.parametrize("count", [0, -1, -50, float("nan"), float("inf"), float("-inf"), -0.0])
def test_a_count_must_be_positive_and_finite(count: float) -> None:
    refusal = _refusal(_delta(), count)
    assert refusal.reason is ExclusionReason.BAD_COUNT
    assert refusal.detail.startswith(f"{count} examples")


def test_the_largest_count_that_is_admitted() -> None:
    assert inspect_update(_delta(), MAX_EXAMPLES, EXPECTED) is None
    assert _refusal(_delta(), MAX_EXAMPLES + 1).reason is ExclusionReason.BAD_COUNT


@pytest.mark.parametrize("count", [10**12, 10**39, 10**400], ids=["10**12", "10**39", "10**400"])
def test_a_count_that_no_client_can_have_is_refused(count: int) -> None:
    assert _refusal(_delta(), count).reason is ExclusionReason.BAD_COUNT


def _rename(delta: Tensors, draw: st.DataObject) -> None:
    name = draw.draw(st.sampled_from(sorted(delta)))
    other = draw.draw(st.text(max_size=12).filter(lambda text: text not in SHAPES))
    delta[other] = delta.pop(name)


def _drop(delta: Tensors, draw: st.DataObject) -> None:
    for name in draw.draw(st.lists(st.sampled_from(sorted(delta)), min_size=1, unique=True)):
        del delta[name]


def _add(delta: Tensors, draw: st.DataObject) -> None:
    other = draw.draw(st.text(max_size=12).filter(lambda text: text not in SHAPES))
    delta[other] = draw.draw(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)))


def _reshape(delta: Tensors, draw: st.DataObject) -> None:
    """Give a tensor another shape; every other time one that would broadcast."""
    name = draw.draw(st.sampled_from(sorted(delta)))
    right = SHAPES[name]
    broadcast = [
        shape
        for shape in ((1, *right), (1, 1, *right), tuple(1 for _ in right), right[1:], (1, *right[1:]), ())
        if shape != right
    ]
    anything = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)
    shape = draw.draw(st.sampled_from(broadcast) | anything.filter(lambda shape: shape != right))
    delta[name] = np.zeros(shape, np.float32)


def _retype(delta: Tensors, draw: st.DataObject) -> None:
    name = draw.draw(st.sampled_from(sorted(delta)))
    delta[name] = np.zeros(SHAPES[name], draw.draw(st.sampled_from(DTYPES)))


def _poison(delta: Tensors, draw: st.DataObject) -> None:
    name = draw.draw(st.sampled_from(sorted(delta)))
    place = draw.draw(st.integers(0, delta[name].size - 1))
    delta[name].reshape(-1)[place] = draw.draw(st.sampled_from([np.nan, np.inf, -np.inf]))


wrong = st.sampled_from([_rename, _drop, _add, _reshape, _retype])
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
bad_counts = st.integers(max_value=0) | st.floats(max_value=0) | st.sampled_from([float("nan"), float("inf")])


def _good(draw: st.DataObject) -> Tensors:
    return {
        name: draw.draw(hnp.arrays(np.float32, shape, elements=finite, fill=finite)) for name, shape in SHAPES.items()
    }


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.data(), st.integers(1, 10**6))
def test_every_finite_update_of_the_right_form_is_admitted(draw: st.DataObject, num_examples: int) -> None:
    assert inspect_update(_good(draw), num_examples, EXPECTED) is None


@settings(derandomize=True, deadline=None, max_examples=600)
@given(st.data(), wrong)
def test_no_update_of_another_form_is_admitted(draw: st.DataObject, break_it: Callable[..., None]) -> None:
    delta = _good(draw)
    break_it(delta, draw)
    assert signature(delta) != EXPECTED
    assert _refusal(delta).reason is ExclusionReason.WRONG_TENSORS


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.data())
def test_no_update_that_is_not_finite_is_admitted(draw: st.DataObject) -> None:
    delta = _good(draw)
    _poison(delta, draw)
    assert _refusal(delta).reason is ExclusionReason.NON_FINITE


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.data(), bad_counts)
def test_no_update_with_a_bad_count_is_admitted(draw: st.DataObject, count: float) -> None:
    assert _refusal(_good(draw), count).reason is ExclusionReason.BAD_COUNT
