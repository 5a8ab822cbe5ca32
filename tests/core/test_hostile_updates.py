"""Updates of every kind of malice and damage, against an oracle that knows one model and no rules."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, permutations
from random import Random
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fededge.core.admission import Claim, Gate
from fededge.core.tensors import signature
from fededge.core.updates import ExclusionReason, Refusal
from tests.core.gates import BAD_COUNTS, CLAIM, COUNTS, FLOAT32_MAX, GATE, SHAPES, SIGNATURE, encode, good, verdict_of

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
COORDINATES = 19
SPANS = {"0/kernel": 60, "1/bias": 12, "2/scale": 4}


def _layouts() -> dict[str, tuple[str, ...]]:
    """Return all headers that can describe this model, in one way to write them, and the order of the data."""
    layouts = {}
    for order in permutations(SHAPES):
        offsets = dict(zip(order, accumulate([0] + [SPANS[name] for name in order[:-1]]), strict=True))
        header = {
            name: {"data_offsets": [offsets[name], offsets[name] + SPANS[name]], "dtype": "F32", "shape": list(shape)}
            for name, shape in SHAPES.items()
        }
        layouts[json.dumps(header, sort_keys=True)] = order
    return layouts


LAYOUTS = _layouts()


def _no_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)):
        raise ValueError("twins")
    return dict(pairs)


def _expected(encoded: bytes) -> dict[str, tuple[float, ...]] | None:
    """Say what an update holds, or None if it is not valid. Knows this one model and no other."""
    try:
        safetensors.deserialize(encoded)
        (length,) = struct.unpack_from("<Q", encoded)
        header = json.loads(encoded[8 : 8 + length].decode(), object_pairs_hook=_no_twins)
    except (safetensors.SafetensorError, ValueError):
        return None
    metadata = header.pop("__metadata__", {})
    order = LAYOUTS.get(json.dumps(header, sort_keys=True))
    if metadata is None or order is None or len(encoded) > GATE.max_bytes:
        return None
    numbers = iter(struct.unpack(f"<{COORDINATES}f", encoded[8 + length :]))
    held = {name: tuple(next(numbers) for _ in range(SPANS[name] // 4)) for name in order}
    return held if all(math.isfinite(number) for values in held.values() for number in values) else None


def _judge(encoded: bytes, claim: Claim, gate: Gate) -> str:
    """Compare the gate's verdict with what it must be, and return it."""
    verdict = verdict_of(encoded, claim, gate)
    held, count = _expected(encoded), claim.num_examples
    mine = replace(claim, num_examples=50) == CLAIM
    if not mine or held is None or type(count) is not int or count < 1:
        assert isinstance(verdict, Refusal), "wrongly admitted"
        return verdict.reason.value
    numbers = [number for values in held.values() for number in values]
    norm = math.sqrt(math.fsum(number * number for number in numbers))
    if gate.max_norm and norm > gate.max_norm * (1 + 1e-9):
        assert isinstance(verdict, Refusal), "wrongly admitted"
        assert verdict.reason is ExclusionReason.NORM_TOO_LARGE
        return verdict.reason.value
    scale = gate.clip_norm / norm if gate.clip_norm and norm > gate.clip_norm else 1
    weight = max(map(abs, numbers)) * scale * min(count, 2**24) * gate.cohort_size
    if weight > FLOAT32_MAX * (1 + 1e-6):
        assert isinstance(verdict, Refusal), "wrongly admitted"
        assert verdict.reason is ExclusionReason.OVERFLOW
        return verdict.reason.value
    if isinstance(verdict, Refusal):
        assert weight > FLOAT32_MAX * (1 - 1e-5) or norm > gate.max_norm * (1 - 1e-9) > 0, "wrongly refused"
        return verdict.reason.value
    assert verdict.num_examples == min(count, 2**24)
    assert verdict.norm == pytest.approx(norm, rel=1e-12)
    assert signature(verdict.delta) == SIGNATURE
    assert list(verdict.delta) == list(SIGNATURE)
    for name, values in held.items():
        if scale == 1 and not verdict.clipped:
            assert verdict.delta[name].tobytes() == struct.pack(f"<{len(values)}f", *values)
        else:
            assert np.allclose(verdict.delta[name].reshape(-1), np.multiply(values, scale), rtol=1e-6, atol=1e-6)
    return "ADMITTED"


GATES = [GATE, replace(GATE, max_norm=20.0), replace(GATE, clip_norm=3.0), replace(GATE, max_norm=1e9, clip_norm=1e-3)]
gates = st.sampled_from(GATES)
counts = st.integers(1, 100) | st.sampled_from([*COUNTS.values()])
numbers32 = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.1, 1e-45, 3.0, 1e6, 1e30, FLOAT32_MAX, -FLOAT32_MAX]) | finite
layouts = st.sampled_from([*LAYOUTS])
spaces = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n ")])
metadata = st.sampled_from([None, {}, {"format": "np"}, {"a": "\u00e9\n", "0/kernel": "1/bias"}])


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Write a valid update in any of the ways in which it can be written."""
    header = json.loads(draw(layouts))
    names = draw(st.permutations([*header]))
    if (more := draw(metadata)) is not None:
        header["__metadata__"] = more
        names.insert(draw(st.integers(0, 3)), "__metadata__")
    text = json.dumps({name: header[name] for name in names}, separators=draw(spaces))
    if draw(st.booleans()):
        text = text.replace("/", draw(st.sampled_from(["\\/", "\\u002f", "\\u002F"])))
    values = [draw(numbers32) for _ in range(2)] * 9 + [draw(numbers32)]
    return encode(text.encode() + b" " * draw(st.integers(0, 9)), struct.pack("<19f", *values))


@settings(derandomize=True, deadline=None, max_examples=800, suppress_health_check=[HealthCheck.too_slow])
@given(files(), counts, gates)
def test_nothing_valid_is_refused(encoded: bytes, count: int, gate: Gate) -> None:
    assert _expected(encoded) is not None
    reason = _judge(encoded, replace(CLAIM, num_examples=count), gate)
    assert reason in ("ADMITTED", "NORM_TOO_LARGE", "OVERFLOW")
    if gate.clip_norm and not gate.max_norm:
        assert reason == "ADMITTED"


PLAIN = safetensors.numpy.save(good())
LENGTH = len(PLAIN) - 76
HOSTILE: list[Any] = [
    *(
        None,
        True,
        False,
        -1,
        0,
        1,
        3,
        5,
        12,
        60,
        76,
        2**31,
        2**32,
        2**63 - 1,
        2**63,
        2**64 - 1,
        2**64,
        10**30,
        10**4000,
    ),
    *(0.0, 3.0, 5.5, -0.0, 1e308, math.nan, math.inf, "", "3", "F64", "BF16", "F8_E5M2", "float32", "\ud800", "\0"),
    *([], {}, [[]], [3], [5, 3], [3, 5], [15], [1, 3], [5, 3, 1], [0, 3], [-5, -3], [5.0, 3.0], [True, 3], ["5", "3"]),
    *([0, 12], [12, 0], [0, 60], [4, 64], [-4, 56], [0, 2**63], [2**64 - 60, 2**64], [0, 60, 60], {"0": 60}, [None]),
    *([[0, 60]], {"dtype": "F32", "shape": [3], "data_offsets": [60, 72]}, ["F32", [3], [60, 72]], [1] * 40),
]
# What is put into a header, in place of something or beside it.
BYTES = [
    b"",
    b"-",
    b".",
    b"0",
    b"9",
    b"e",
    b'"',
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b" ",
    b"\0",
    b"\\",
    b"\xff",
    b"\xef\xbb\xbf",
]
BYTES += [
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"1" * 5000,
    b"[" * 2000,
    b'{"a":' * 500,
    b"\\ud800",
    b'"1/bias":',
    b"\r\n",
]
BAD_FLOATS = [b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\1\0\x80\x7f", b"\xff" * 4]
LARGE = [FLOAT32_MAX, -FLOAT32_MAX, 1e38, -1e37, 1e36, 1e20, 30.0]
NAMES = ["0/kernel", "1/bias", "2/scale", "0/Kernel", "", "3", "1/bias "]
SIDES = [(), (1,), (3,), (1, 3), (5, 3), (3, 5), (5, 1), (15,), (5, 3, 1), (0,), (0, 3)]
FIELDS = ["client", "training", "version", "round", "attempt", "base_model", "data_schema"]


def _flip(rng: Random) -> bytes:
    changed = bytearray(PLAIN)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(PLAIN))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: Random) -> bytes:
    begin, end = sorted((rng.randrange(len(PLAIN)), rng.randrange(len(PLAIN))))
    return rng.choice([PLAIN[:begin], PLAIN[begin:], PLAIN[:begin] + PLAIN[end:], PLAIN[begin:end]])


def _insert(rng: Random) -> bytes:
    place = rng.randrange(len(PLAIN) + 1)
    return PLAIN[:place] + rng.choice([*BYTES, rng.randbytes(rng.randrange(10))]) + PLAIN[place:]


def _edit_text(rng: Random) -> bytes:
    """Change the header and say its length rightly, so that more than the length is wrong."""
    place, width = rng.randrange(8, LENGTH), rng.randrange(4)
    return encode(PLAIN[8:place] + rng.choice(BYTES) + PLAIN[place + width : LENGTH], PLAIN[LENGTH:])


def _edit_field(rng: Random) -> bytes:
    header = json.loads(PLAIN[8:LENGTH])
    name, value = rng.choice([*SHAPES, "__metadata__", "other"]), rng.choice(HOSTILE)
    field = rng.choice(["dtype", "shape", "data_offsets", "more", ""])
    if field and name in header:
        header[name][field] = value
    else:
        header[name] = value
    return encode(header, PLAIN[LENGTH:])


def _edit_numbers(rng: Random) -> bytes:
    header = json.loads(PLAIN[8:LENGTH])
    for _ in range(rng.randint(1, 3)):
        numbers = header[rng.choice([*SHAPES])][rng.choice(["shape", "data_offsets"])]
        place = rng.randint(0, len(numbers))
        numbers[place : place + rng.randint(0, 1)] = [rng.choice([*HOSTILE[:32], rng.randrange(81)])]
    return encode(header, PLAIN[LENGTH:])


def _give_twice(rng: Random) -> bytes:
    """Say something twice, the same or another thing."""
    header = json.loads(PLAIN[8:LENGTH])
    name = rng.choice([*SHAPES])
    twin = dict(rng.choice([*header.values()]), shape=rng.choice([[5, 3], [3], [], [1, 3]]))
    text = PLAIN[8:LENGTH].strip()
    once_more = [
        text[:-1] + f',"{name}":{json.dumps(twin)}}}'.encode(),
        f'{{"{name}":{json.dumps(twin)},'.encode() + text[1:],
        text.replace(b'"dtype"', b'"dtype":"F32","dtype"', 1),
        text.replace(b'"shape"', b'"shape":[3],"shape"', 1),
        text.replace(b'"shape"', b'"\\u0073hape":[3],"shape"', 1),
        b'{"__metadata__":{"a":"b","a":"c"},' + text[1:],
        b'{"__metadata__":{},"__metadata__":{},' + text[1:],
    ]
    return encode(rng.choice(once_more), PLAIN[LENGTH:])


def _edit_length(rng: Random) -> bytes:
    lengths = [rng.randrange(400), rng.randrange(2**64), rng.choice([2**31, 2**63, 2**64 - 8, 2**64 - 1])]
    return rng.choice(lengths).to_bytes(8, "little") + PLAIN[8:]


def _another_model(rng: Random) -> bytes:
    """Write another model correctly: names, shapes and dtypes that may be near to ours."""
    delta = {name: value for name, value in good().items() if rng.random() < 0.7}
    for _ in range(rng.randint(1, 2)):
        dtype = rng.choice(["f4", "f4", "f8", "f2", "i4", "u1", "?", "c8"])
        delta[rng.choice(NAMES)] = np.ones(rng.choice(SIDES), dtype)
    return safetensors.numpy.save(delta)


def _poison(rng: Random) -> bytes:
    place = LENGTH + 4 * rng.randrange(COORDINATES)
    return PLAIN[:place] + rng.choice(BAD_FLOATS) + PLAIN[place + 4 :]


def _exaggerate(rng: Random) -> bytes:
    """Write finite numbers that a sum, or a square in float32, could not hold."""
    values = [rng.choice([*LARGE, 1.0, 1.0, 1.0]) for _ in range(COORDINATES)]
    return encode(PLAIN[8:LENGTH], struct.pack("<19f", *values))


def _noise(rng: Random) -> bytes:
    noise = rng.randbytes(rng.randrange(200))
    return rng.choice([noise, encode(noise), encode(b"{" + noise + b"}", noise), encode(noise[:9], noise)])


def _grow(rng: Random) -> bytes:
    size = rng.randint(1, 2 * GATE.max_bytes)
    return rng.choice([PLAIN + b"\0" * size, encode(PLAIN[8:LENGTH] + b" " * size, PLAIN[LENGTH:])])


MUTATIONS: list[Callable[[Random], bytes]] = [
    *(_flip, _cut, _insert, _edit_text, _edit_field, _edit_numbers, _give_twice, _edit_length, _another_model),
    *(_poison, _exaggerate, _noise, _grow),
]


def _wrong_claim(rng: Random) -> Claim:
    if rng.random() < 0.5:
        return replace(CLAIM, num_examples=rng.choice([*BAD_COUNTS.values(), -rng.randrange(2**40), rng.gauss(50, 9)]))
    return replace(CLAIM, **{rng.choice(FIELDS): rng.choice(HOSTILE)})


def _malformed(rng: Random) -> tuple[bytes, Claim]:
    """Damage the bytes, or the claim, or both. A few stay valid; the oracle knows which."""
    claim = CLAIM if rng.random() < 0.7 else _wrong_claim(rng)
    return PLAIN if claim is not CLAIM and rng.random() < 0.5 else rng.choice(MUTATIONS)(rng), claim


def test_of_ten_thousand_malformed_updates_none_is_admitted_and_none_raises() -> None:
    """Hypothesis draws seeds only: to draw each choice takes many times as long as to judge what comes of it."""
    verdicts: Counter[str] = Counter()

    @settings(derandomize=True, deadline=None, max_examples=2000, database=None)
    @given(st.integers(0, 2**64 - 1))
    def judge(seed: int) -> None:
        rng = Random(seed)
        for _ in range(10):
            verdicts[_judge(*_malformed(rng), rng.choice(GATES))] += 1

    judge()
    assert verdicts.total() - verdicts["ADMITTED"] >= 10_000, verdicts
    assert min(verdicts.values()) >= 50, verdicts
    reasons = "WRONG_BASE WRONG_SCHEMA TOO_LARGE CORRUPT WRONG_TENSORS NON_FINITE BAD_COUNT NORM_TOO_LARGE OVERFLOW"
    assert set(reasons.split()) <= verdicts.keys(), verdicts


def test_the_oracle_knows_good_from_bad() -> None:
    held = _expected(PLAIN)
    assert held == {name: (1.0,) * (SPANS[name] // 4) for name in SHAPES}
    assert _expected(PLAIN[:-1]) is None
    assert _expected(PLAIN.replace(b"F32", b"I32")) is None
    assert _expected(PLAIN[:-4] + b"\0\0\xc0\x7f") is None
    assert len(LAYOUTS) == 6
