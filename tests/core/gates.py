"""A gate, updates that are good, and ways to send them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import safetensors.numpy

from fededge.core.admission import Admitted, Claim, Gate
from fededge.core.tensors import Tensors
from fededge.core.updates import MAX_EXAMPLES, Refusal

SHAPES = {"0/kernel": (5, 3), "1/bias": (3,), "2/scale": ()}
SIGNATURE = {"0/kernel": "float32[5,3]", "1/bias": "float32[3]", "2/scale": "float32[]"}
SCHEMA = {"x": "float32[8,8]", "y": "int64[]"}
BASE = f"sha256:{'ab' * 32}"
GATE = Gate("digits", "v4", 4, 2, BASE, SIGNATURE, cohort_size=10, data_schema=SCHEMA)
CLAIM = Claim("zürich", "digits", "v4", 4, 2, BASE, 50, SCHEMA)
FLOAT32_MAX = float(np.finfo(np.float32).max)


def good(**other: object) -> Tensors:
    """Make a good update, with some tensors replaced, or left out for None."""
    delta: dict[str, Any] = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    delta.update(other)
    return {name: value for name, value in delta.items() if value is not None}


def verdict_of(delta: Tensors | bytes, claim: Claim = CLAIM, gate: Gate = GATE) -> Admitted | Refusal:
    encoded = delta if isinstance(delta, bytes) else safetensors.numpy.save(delta)
    verdict = gate.admit("zürich", claim, encoded)
    if isinstance(verdict, Refusal):
        assert verdict.detail.isprintable()
        assert 0 < len(verdict.detail) <= 200
    return verdict


def admitted(delta: Tensors | bytes, claim: Claim = CLAIM, gate: Gate = GATE) -> Admitted:
    verdict = verdict_of(delta, claim, gate)
    assert isinstance(verdict, Admitted), verdict
    return verdict


def refused(delta: Tensors | bytes, claim: Claim = CLAIM, gate: Gate = GATE) -> Refusal:
    verdict = verdict_of(delta, claim, gate)
    assert isinstance(verdict, Refusal), verdict
    return verdict


def encode(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


BAD_COUNTS: dict[str, Any] = {
    "0": 0,
    "-1": -1,
    "-50": -50,
    "-10**5000": -(10**5000),
    "0.0": 0.0,
    "-0.0": -0.0,
    "5.0": 5.0,
    "1e300": 1e300,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "true": True,
    "false": False,
    "null": None,
    "text": "5",
    "empty text": "",
    "long text": "9" * 5000,
    "bytes": b"5",
    "list": [5],
    "object": {"a": 5},
    "complex": 5j,
    "float32": np.float32(5),
    "bool_": np.bool_(True),
    "array": np.array(5),
    "timedelta": np.timedelta64(5, "s"),
    "type": int,
}
COUNTS = {str(count): count for count in (1, 2, 50, MAX_EXAMPLES - 1, MAX_EXAMPLES, MAX_EXAMPLES + 1, 10**12, 10**400)}
COUNTS["10**5000"] = 10**5000
