from __future__ import annotations

import io
import json
import math
import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fededge.core.admission import Admitted, Claim, clip, common_schema, l2_norm, largest_summand
from fededge.core.aggregation import Weighted, weighted_mean
from fededge.core.tensors import Tensors, signature
from fededge.core.updates import MAX_EXAMPLES, ExclusionReason, Refusal
from tests.core.gates import (
    BAD_COUNTS,
    BASE,
    CLAIM,
    COUNTS,
    FLOAT32_MAX,
    GATE,
    SCHEMA,
    SHAPES,
    SIGNATURE,
    admitted,
    encode,
    good,
    refused,
    verdict_of,
)


def test_a_good_update_is_admitted_as_it_is() -> None:
    delta = good(**{"1/bias": np.array([1, -2, 3], np.float32)})
    update = admitted(delta)
    assert update.num_examples == 50
    assert update.norm == math.sqrt(15 + 14 + 1)
    assert not update.clipped
    assert list(update.delta) == list(SHAPES)
    assert signature(update.delta) == SIGNATURE
    assert all(update.delta[name].tobytes() == delta[name].tobytes() for name in delta)


def test_an_update_of_no_tensors_fits_a_model_of_none() -> None:
    gate = replace(GATE, signature={}, clip_norm=1.0, max_norm=1.0)
    assert admitted({}, gate=gate) == Admitted({}, 50, 0.0, clipped=False)


def test_empty_tensors_are_admitted() -> None:
    delta = {"a": np.zeros((0, 4), np.float32), "b": np.ones(2, np.float32)}
    assert signature(admitted(delta, gate=replace(GATE, signature=signature(delta))).delta) == signature(delta)


# Identity


WRONG_CLAIMS: list[tuple[str, Any, str]] = [
    ("client", "genf", "client is genf, not zürich"),
    ("client", "zu\u0308rich", "client is zu\u0308rich, not zürich"),
    ("client", "a\nb\ud800", "client is a\\nb\\ud800, not zürich"),
    ("client", None, "client is None, not zürich"),
    ("client", [], "client is a list, not zürich"),
    ("training", "Digits", "training is Digits, not digits"),
    ("version", "v5", "version is v5, not v4"),
    ("version", "", "version is , not v4"),
    ("round", 3, "round is 3, not 4"),
    ("round", 5, "round is 5, not 4"),
    ("round", 4.0, "round is 4.0, not 4"),
    ("round", "4", "round is 4, not 4"),
    ("round", 10**5000, "round is 2^16609 or more, not 4"),
    ("round", float("nan"), "round is nan, not 4"),
    ("attempt", 1, "attempt is 1, not 2"),
    ("attempt", -2, "attempt is -2, not 2"),
    ("base_model", f"sha256:{'ac' * 32}", f"base_model is sha256:{'ac' * 32}, not {BASE}"),
    ("base_model", BASE.upper(), f"base_model is {BASE.upper()}, not {BASE}"),
]


@pytest.mark.parametrize(("what", "value", "detail"), WRONG_CLAIMS, ids=[detail for *_, detail in WRONG_CLAIMS])
def test_invariant_09_round_and_base_model_are_checked(what: str, value: object, detail: str) -> None:
    claim = replace(CLAIM, **{what: value})
    refusal = Refusal(ExclusionReason.WRONG_BASE, detail)
    assert GATE.check_claim("zürich", claim) == refused(good(), claim) == refusal


def test_true_is_no_round() -> None:
    gate = replace(GATE, round=1, attempt=1)
    assert gate.check_claim("zürich", replace(CLAIM, round=1, attempt=1)) is None
    assert gate.check_claim("zürich", replace(CLAIM, round=True, attempt=1)) is not None
    assert gate.check_claim("zürich", replace(CLAIM, round=1, attempt=True)) is not None


def test_an_update_under_the_key_of_another_client_is_refused() -> None:
    verdict = GATE.admit("genf", CLAIM, safetensors.numpy.save(good()))
    assert verdict == Refusal(ExclusionReason.WRONG_BASE, "client is zürich, not genf")


def test_long_names_are_cut_in_the_detail() -> None:
    refusal = GATE.check_claim("z" * 1000, replace(CLAIM, client="x" * 1000))
    assert refusal is not None
    assert len(refusal.detail) <= 200


# Data schema


WRONG_SCHEMAS: list[tuple[Any, str]] = [
    ({}, "x of the data is missing, not float32[8,8]"),
    ({"x": "float32[8,8]"}, "y of the data is missing, not int64[]"),
    ({**SCHEMA, "x": "float64[8,8]"}, "x of the data is float64[8,8], not float32[8,8]"),
    ({**SCHEMA, "z": "int64[]"}, "the data have z, which they should not"),
    ({**SCHEMA, 7: "int64[]"}, "the data have 7, which they should not"),
    ({**SCHEMA, "y": None}, "y of the data is None, not int64[]"),
    ({**SCHEMA, "y": ["int64[]"]}, "y of the data is a list, not int64[]"),
    ({**SCHEMA, "y": 10**5000}, "y of the data is 2^16609 or more, not int64[]"),
    (None, "the data schema is None"),
    ([["x", "float32[8,8]"]], "the data schema is a list"),
]


@pytest.mark.parametrize(("schema", "detail"), WRONG_SCHEMAS, ids=[detail for _, detail in WRONG_SCHEMAS])
def test_data_of_another_schema_are_refused(schema: Any, detail: str) -> None:
    claim = replace(CLAIM, data_schema=schema)
    assert refused(good(), claim) == Refusal(ExclusionReason.WRONG_SCHEMA, detail)
    assert GATE.check_claim("zürich", claim) == Refusal(ExclusionReason.WRONG_SCHEMA, detail)
    admitted(good(), claim, replace(GATE, data_schema=None))


def test_a_schema_is_equal_in_any_order() -> None:
    admitted(good(), replace(CLAIM, data_schema=dict(reversed(SCHEMA.items()))))


def test_a_schema_of_nothing_takes_nothing_else() -> None:
    gate = replace(GATE, data_schema={})
    assert gate.check_claim("zürich", replace(CLAIM, data_schema={})) is None
    assert gate.check_claim("zürich", CLAIM) is not None


# Size and header


def test_the_common_schema_is_what_most_have_and_else_the_first() -> None:
    one, other = {"x": "float32[8]", "y": "int64[]"}, {"x": "float64[8]"}
    assert common_schema([]) is None
    assert common_schema([other, one, dict(reversed(one.items()))]) == one
    assert common_schema([other, one]) == other
    assert common_schema([{}]) == {}


def test_more_bytes_than_an_update_can_have_are_not_looked_at() -> None:
    assert GATE.max_bytes < 8 + 19 * 4 + 6000
    refusal = refused(b"\0" * (GATE.max_bytes + 1))
    detail = f"{GATE.max_bytes + 1} bytes; an update of this model has at most {GATE.max_bytes}"
    assert refusal == Refusal(ExclusionReason.TOO_LARGE, detail)
    assert refused(b"\0" * GATE.max_bytes).reason is ExclusionReason.CORRUPT


def test_a_header_may_be_as_long_as_the_limit_and_no_longer() -> None:
    encoded = safetensors.numpy.save(good())
    header, data = encoded[8:-76], encoded[-76:]
    room = GATE.max_bytes - len(encoded)
    longest = encode(header + b" " * room, data)
    assert len(longest) == GATE.max_bytes
    admitted(longest)
    assert refused(encode(header + b" " * (room + 1), data)).reason is ExclusionReason.TOO_LARGE


DIFFERENT: list[tuple[Tensors, str]] = [
    (good(**{"1/bias": None}), "1/bias is missing, the model has float32[3]"),
    (good(**{"3/more": np.ones(2, np.float32)}), "3/more is float32[2], the model has no such tensor"),
    (good(**{"3/m\nore": np.ones(2, np.float32)}), "3/m\\nore is float32[2], the model has no such tensor"),
    ({}, "0/kernel is missing, the model has float32[5,3]"),
    (good(**{"0/kernel": np.ones((1, 3), np.float32)}), "0/kernel is float32[1,3], the model has float32[5,3]"),
    (good(**{"0/kernel": np.ones((3, 5), np.float32)}), "0/kernel is float32[3,5], the model has float32[5,3]"),
    (good(**{"0/kernel": np.ones(15, np.float32)}), "0/kernel is float32[15], the model has float32[5,3]"),
    (good(**{"0/kernel": np.ones((0, 3), np.float32)}), "0/kernel is float32[0,3], the model has float32[5,3]"),
    (good(**{"1/bias": np.ones((), np.float32)}), "1/bias is float32[], the model has float32[3]"),
    (good(**{"1/bias": np.ones((1, 3), np.float32)}), "1/bias is float32[1,3], the model has float32[3]"),
    (good(**{"2/scale": np.ones(1, np.float32)}), "2/scale is float32[1], the model has float32[]"),
    (good(**{"1/bias": np.ones(3, np.float64)}), "1/bias is float64[3], the model has float32[3]"),
    (good(**{"1/bias": np.ones(6, np.float16)}), "1/bias is float16[6], the model has float32[3]"),
    (good(**{"1/bias": np.ones(3, np.int32)}), "1/bias is int32[3], the model has float32[3]"),
]


@pytest.mark.parametrize(("delta", "detail"), DIFFERENT, ids=[detail for _, detail in DIFFERENT])
def test_invariant_08_names_shapes_and_dtypes_match_exactly(delta: Tensors, detail: str) -> None:
    assert refused(delta) == Refusal(ExclusionReason.WRONG_TENSORS, detail)


def test_two_tensors_that_changed_names_are_refused() -> None:
    gate = replace(GATE, signature={"a": "float32[2]", "b": "float32[2]"})
    delta = {"a": np.ones(2, np.float32), "c": np.ones(2, np.float32)}
    refusal = Refusal(ExclusionReason.WRONG_TENSORS, "b is missing, the model has float32[2]")
    assert refused(delta, gate=gate) == refusal


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F4", "f32", "float32", "I128", "x" * 3000, "\ud800"])
def test_a_dtype_that_numpy_lacks_is_refused(dtype: str) -> None:
    header = json.loads(safetensors.numpy.save(good())[8:-76])
    header["0/kernel"]["dtype"] = dtype
    refusal = refused(encode(header, b"\0" * 76))
    assert refusal.reason is ExclusionReason.WRONG_TENSORS
    assert refusal.detail.startswith("0/kernel is unknown ")


def test_what_a_header_hides_from_us_the_decoder_may_still_refuse() -> None:
    """The decoder's reasons become a refusal too: here it does not take -0 for an integer."""
    encoded = safetensors.numpy.save(good())
    encoded = encode(encoded[8:-76].strip().replace(b"[0,", b"[-0,"), encoded[-76:])
    refusal = refused(encoded)
    assert refusal.reason is ExclusionReason.CORRUPT
    assert refusal.detail.startswith("no safetensors: ")


def test_what_is_decoded_is_compared_with_the_model_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the decoder ever read a header otherwise than we do."""
    for other, reason in (
        (good(**{"1/bias": np.ones((1, 3), np.float32)}), "1/bias is float32[1,3], the model has float32[3]"),
        (good(**{"2/scale": None}), "2/scale is missing, the model has float32[]"),
    ):
        encoded = safetensors.numpy.save(good())
        monkeypatch.setattr(safetensors.numpy, "load", lambda _, other=other: other)
        assert refused(encoded) == Refusal(ExclusionReason.WRONG_TENSORS, reason)


# Values


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (4, 2)])
def test_one_number_that_is_not_finite_is_enough(bad: float, place: tuple[int, int]) -> None:
    kernel = np.ones((5, 3), np.float32)
    kernel[place] = bad
    refusal = Refusal(ExclusionReason.NON_FINITE, "NaN or infinity in 0/kernel")
    assert refused(good(**{"0/kernel": kernel})) == refusal


def test_all_tensors_that_are_not_finite_are_named() -> None:
    delta = good(**{"2/scale": np.array(np.nan, np.float32), "1/bias": np.full(3, np.inf, np.float32)})
    assert refused(delta).detail == "NaN or infinity in 1/bias, 2/scale"


@pytest.mark.parametrize("count", BAD_COUNTS.values(), ids=BAD_COUNTS)
def test_a_count_must_be_a_positive_integer(count: object) -> None:
    refusal = refused(good(), replace(CLAIM, num_examples=count))
    assert refusal.reason is ExclusionReason.BAD_COUNT
    assert refusal.detail.endswith(" examples; a positive integer is needed")
    assert len(refusal.detail) < 200


@pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS)
def test_a_count_is_capped_and_not_refused(count: int) -> None:
    assert admitted(good(), replace(CLAIM, num_examples=count)).num_examples == min(count, 16_777_216)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.integers() | st.integers(1, 2**40) | st.floats() | st.booleans() | st.text() | st.none() | st.binary())
def test_invariant_07_example_counts_are_positive_finite_and_capped(count: object) -> None:
    verdict = verdict_of(good(), replace(CLAIM, num_examples=count))
    if isinstance(count, int) and not isinstance(count, bool) and count > 0:
        assert isinstance(verdict, Admitted)
        assert type(verdict.num_examples) is int
        assert 1 <= verdict.num_examples <= MAX_EXAMPLES
        assert verdict.num_examples == count or count > MAX_EXAMPLES
    else:
        assert isinstance(verdict, Refusal)
        assert verdict.reason is ExclusionReason.BAD_COUNT


# Norms


def _constant(value: float) -> Tensors:
    """Make an update of 19 numbers that are alike."""
    return {name: np.full(shape, value, np.float32) for name, shape in SHAPES.items()}


def test_a_norm_may_be_the_largest_and_no_larger() -> None:
    delta = good(**{"0/kernel": np.zeros((5, 3), np.float32), "1/bias": np.array([4, 0, 12], np.float32)})
    delta["2/scale"] = np.array(-3, np.float32)
    assert admitted(delta, gate=replace(GATE, max_norm=13.0)).norm == 13.0
    refusal = Refusal(ExclusionReason.NORM_TOO_LARGE, "L2 norm 13; at most 12.9999 is taken")
    assert refused(delta, gate=replace(GATE, max_norm=12.9999)) == refusal


def test_a_larger_norm_is_scaled_down() -> None:
    delta = good(**{"0/kernel": np.zeros((5, 3), np.float32), "1/bias": np.array([4, 0, 12], np.float32)})
    delta["2/scale"] = np.array(-3, np.float32)
    update = admitted(delta, gate=replace(GATE, clip_norm=6.5))
    assert update.norm == 13.0
    assert update.clipped
    assert update.delta["1/bias"].tolist() == [2, 0, 6]
    assert update.delta["2/scale"] == -1.5
    assert signature(update.delta) == SIGNATURE
    assert all(isinstance(value, np.ndarray) for value in update.delta.values())
    assert not admitted(delta, gate=replace(GATE, clip_norm=13.0)).clipped


def test_refusing_goes_by_the_norm_before_clipping() -> None:
    gate = replace(GATE, max_norm=2.0, clip_norm=1.0)
    assert refused(_constant(1), gate=gate).reason is ExclusionReason.NORM_TOO_LARGE


def test_a_norm_is_in_float64() -> None:
    # In float32 the squares of these were infinite, and of those 0.
    assert admitted(_constant(2.0**100), gate=replace(GATE, cohort_size=1)).norm == 2.0**100 * math.sqrt(19)
    assert admitted(_constant(2.0**-100)).norm == 2.0**-100 * math.sqrt(19)


def test_a_norm_does_not_depend_on_the_order_of_tensors_nor_on_their_layout() -> None:
    rng = np.random.default_rng(0)
    delta = {name: rng.normal(size=(300, 400)).astype(np.float32) for name in "abcdefgh"}
    norm = l2_norm(delta)
    for shift in range(8):
        assert norm == l2_norm({name: delta[name] for name in np.roll([*delta], shift).tolist()})
    assert norm == l2_norm({name: np.asfortranarray(value) for name, value in delta.items()})
    numbers = [float(number) for value in delta.values() for number in value.flat]
    assert norm == pytest.approx(math.sqrt(math.fsum(number * number for number in numbers)), rel=1e-14)


def test_no_clipping_gives_the_same_tensors() -> None:
    delta = good()
    assert clip(delta, 5.0, 0.0) is delta
    assert clip(delta, 5.0, 5.0) is delta
    assert clip(delta, 0.0, 1.0) is delta


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(hnp.arrays(np.float32, 19, elements=finite), st.floats(1e-3, 1e30))
def test_clipping_again_from_the_norm_that_was_noted_gives_the_same_bits(values: np.ndarray, clip_norm: float) -> None:
    delta = dict(zip(SHAPES, (values[:15].reshape(5, 3), values[15:18], values[18:].reshape(())), strict=True))
    before = {name: value.copy() for name, value in delta.items()}
    gate = replace(GATE, clip_norm=clip_norm, cohort_size=1)
    update = verdict_of(delta, replace(CLAIM, num_examples=1), gate)
    if isinstance(update, Refusal):  # only what clipping let pass can be too much
        assert update.reason is ExclusionReason.OVERFLOW
        return
    noted = json.loads(json.dumps(update.norm))
    again = clip(delta, noted, clip_norm)
    assert {name: value.tobytes() for name, value in again.items()} == {
        name: value.tobytes() for name, value in update.delta.items()
    }
    assert update.clipped == (update.norm > clip_norm)
    assert all(value.tobytes() == before[name].tobytes() for name, value in delta.items())
    if update.norm / clip_norm < 1e37:  # beyond, the factor is a subnormal float32 and coarse
        assert l2_norm(update.delta) <= clip_norm * (1 + 1e-6)


# Overflow


@pytest.mark.parametrize("cohort_size", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("count", [1, 2, 3, 50, MAX_EXAMPLES])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_update_that_is_admitted_and_the_smallest_that_is_not(
    cohort_size: int, count: int, sign: int
) -> None:
    gate, claim = replace(GATE, cohort_size=cohort_size), replace(CLAIM, num_examples=count)
    limit = np.float32(largest_summand(cohort_size) / count)
    while float(limit) * count > largest_summand(cohort_size):
        limit = np.nextafter(limit, np.float32(0))
    assert float(limit) * count * cohort_size > FLOAT32_MAX * 0.9999
    limit *= np.float32(sign)
    delta = good(**{"1/bias": np.array([0, limit, 0], np.float32)})
    update = admitted(delta, claim, gate)
    mean = weighted_mean([Weighted(update.delta, update.num_examples)] * cohort_size)
    assert all(np.isfinite(value).all() for value in mean.values())
    delta["1/bias"][1] = np.nextafter(limit, np.float32(sign * np.inf))
    refusal = refused(delta, claim, gate)
    assert refusal.reason is ExclusionReason.OVERFLOW
    assert refusal.detail.endswith(f" times {count} examples; a sum of {cohort_size} such may overflow")


def test_a_count_is_capped_before_it_is_multiplied() -> None:
    limit = np.float32(largest_summand(1) / MAX_EXAMPLES * 0.999)
    gate = replace(GATE, cohort_size=1)
    assert admitted(_constant(limit), replace(CLAIM, num_examples=10**5000), gate).num_examples == MAX_EXAMPLES


def test_what_is_clipped_does_not_overflow() -> None:
    refusal = refused(_constant(3e38))
    assert refusal.reason is ExclusionReason.OVERFLOW
    update = admitted(_constant(3e38), gate=replace(GATE, clip_norm=1.0))
    assert l2_norm(update.delta) == pytest.approx(1.0, rel=1e-6)


# Order


def test_checks_come_in_the_order_from_cheap_to_costly() -> None:
    """Everything is wrong with the first of these; one thing less with each after it."""
    gate = replace(GATE, max_norm=5.0)
    wrong = replace(CLAIM, round=3, data_schema={}, num_examples=0)
    schema = replace(wrong, round=4)
    count = replace(schema, data_schema=SCHEMA)
    bad = safetensors.numpy.save(_constant(math.nan))
    other = safetensors.numpy.save({"w": np.full(3, np.nan, np.float32)})
    steps: list[tuple[Claim, bytes]] = [
        (wrong, b"\xff" * 10_000),
        (schema, b"\xff" * 10_000),
        (count, b"\xff" * 10_000),
        (count, b"\xff" * 1000),
        (count, other),
        (count, bad),
        (count, safetensors.numpy.save(_constant(3e38))),
        (CLAIM, safetensors.numpy.save(_constant(3e38))),
    ]
    assert [refused(encoded, claim, gate).reason.value for claim, encoded in steps] == [
        "WRONG_BASE",
        "WRONG_SCHEMA",
        "TOO_LARGE",
        "CORRUPT",
        "WRONG_TENSORS",
        "NON_FINITE",
        "BAD_COUNT",
        "NORM_TOO_LARGE",
    ]
    assert refused(steps[-1][1], CLAIM).reason is ExclusionReason.OVERFLOW


# Code


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def _npz(*arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, *arrays)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def test_invariant_10_loading_data_never_runs_code(tmp_path: Path) -> None:
    path = tmp_path / "was here"
    payload = pickle.dumps(Payload(path))
    pickle.loads(payload)
    assert path.exists()  # so it works
    path.unlink()
    objects = np.array([Payload(path)], object)
    for encoded in (
        payload,
        _npy(objects),
        _npz(objects),
        len(payload).to_bytes(8, "little") + payload,
        encode({"__reduce__": ["os.system", [f"touch '{path}'"]]}),
        encode({"0/kernel": {"py/object": "pathlib.Path", "py/reduce": [payload.decode("latin-1")]}}),
        safetensors.numpy.save(good(**{"0/kernel": None})) + payload,
        safetensors.numpy.save({"w": np.frombuffer(payload, np.uint8)}),
    ):
        assert refused(encoded, gate=replace(GATE, signature={**SIGNATURE, "w": "float32[1000]"}))
        assert not path.exists()
    hidden = safetensors.numpy.save(good(), {"pickle": payload.decode("latin-1")})
    admitted(hidden)
    assert not path.exists()


def test_the_gate_needs_no_more_memory_than_a_few_times_the_update() -> None:
    delta = {"w": np.ones(2_000_000, np.float32)}
    gate = replace(GATE, signature=signature(delta), clip_norm=1.0)
    encoded = safetensors.numpy.save(delta)
    tracemalloc.start()
    admitted(encoded, gate=gate)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * len(encoded)


def test_a_header_that_wants_much_memory_gets_none() -> None:
    bombs = [encode(b"[" * 5000), encode(b'{"0/kernel":' * 400), encode(b"[" + b"[]," * 1500 + b"[]]")]
    bombs += [encode({"0/kernel": {"dtype": "F32", "shape": [2**62, 0], "data_offsets": [0, 0]}})]
    bombs += [encode({"0/kernel": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})]
    for bomb in bombs:
        tracemalloc.start()
        assert refused(bomb).reason in (ExclusionReason.CORRUPT, ExclusionReason.WRONG_TENSORS)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2_000_000
