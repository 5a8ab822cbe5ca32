"""The gate between what clients send and what enters the aggregate.

    claim ─► identity, round, attempt, base model ─► data schema
    bytes ─► size ─► header ─► decode ─► finite ─► example count ─► norm: refuse or clip ─► overflow ─► Admitted

An update is checked in this order, the cheap before the costly: nothing is decoded whose header does not match the
model, and nobody's word is taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import safetensors
import safetensors.numpy

from fededge.core.headers import PREFIX, HeaderError, data_size, header_room, read_header
from fededge.core.parts import out_of_range, split
from fededge.core.tensors import Tensors, non_finite, signature
from fededge.core.updates import MAX_EXAMPLES, ExclusionReason, Refusal

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_NORM_CHUNK = 2**16  # coordinates; their squares in float64 stay in a processor's cache
_DETAIL = 200  # characters
_SHOWN = 80  # characters of one value in a detail


def common_schema(schemas: Iterable[Mapping[str, str]]) -> dict[str, str] | None:
    """Find the data schema that most of the clients have: the first round has nothing else to go by.

    Args:
      schemas: one for each client. Of those that equally many have, the one that comes first is taken.

    Returns:
      The schema; None if there is no client.
    """
    counted = Counter(tuple(sorted(schema.items())) for schema in schemas)
    return dict(counted.most_common(1)[0][0]) if counted else None


@dataclass(frozen=True)
class Claim:
    """What an update says of itself. Nothing of it is believed.

    Attributes:
      client: who made it.
      training: for which training.
      version: for which version.
      round: for which round.
      attempt: for which attempt at that round.
      base_model: digest of the model it was trained from.
      num_examples: how many examples it was trained on; whatever the document has there.
      data_schema: what the data it was trained on look like.
    """

    client: str
    training: str
    version: str
    round: int
    attempt: int
    base_model: str
    num_examples: object
    data_schema: Mapping[str, str]


@dataclass(frozen=True)
class Admitted:
    """An update that may enter the aggregate.

    Attributes:
      delta: named, shaped and typed as the gate's signature says, finite, clipped if need be.
      num_examples: the claimed ones, at most `MAX_EXAMPLES`.
      norm: L2 norm of what is trained, before clipping, in float64.
      clipped: whether the norm was above the gate's `clip_norm`.
    """

    delta: Tensors
    num_examples: int
    norm: float
    clipped: bool


@dataclass(frozen=True)
class Gate:
    """What the updates of one attempt must be.

    Attributes:
      training: which training this is.
      version: which version it makes.
      round: from 1.
      attempt: at this round.
      base_model: digest of the model that was distributed.
      signature: of an update of that model, as `core.tensors.signature` gives it; float32.
      cohort_size: how many clients there are at most; at least 1.
      data_schema: what the clients' data must look like; None takes any.
      max_norm: updates with a larger L2 norm are refused; 0 refuses none.
      clip_norm: updates with a larger L2 norm are scaled down to it; 0 clips none.
    """

    training: str
    version: str
    round: int
    attempt: int
    base_model: str
    signature: Mapping[str, str]
    cohort_size: int
    data_schema: Mapping[str, str] | None = None
    max_norm: float = 0.0
    clip_norm: float = 0.0

    @property
    def max_bytes(self) -> int:
        """The most bytes that an encoded update of this model can have."""
        return PREFIX + header_room(self.signature) + data_size(self.signature)

    def check_claim(self, client: str, claim: Claim) -> Refusal | None:
        """Say why an update cannot count, whatever its tensors are, or None if it may.

        Args:
          client: whose update it must be: under whose key it was found.
          claim: what it says of itself.
        """
        for what, expected in self._identity(client).items():
            if not _same(got := getattr(claim, what), expected):
                return _refuse(ExclusionReason.WRONG_BASE, f"{what} is {_shown(got)}, not {_shown(expected)}")
        if self.data_schema is not None and (detail := _schema_difference(claim.data_schema, self.data_schema)):
            return _refuse(ExclusionReason.WRONG_SCHEMA, detail)
        return None

    def admit(self, client: str, claim: Claim, encoded: bytes) -> Admitted | Refusal:
        """Admit an update, or say why not. Raises nothing, whatever the claim and the bytes are.

        Args:
          client: whose update it must be: under whose key it was found.
          claim: what it says of itself.
          encoded: its tensors, as safetensors.

        Source: of clipping as a defence, Sun et al. 2019, arXiv:1911.07963.
        """
        if refusal := self.check_claim(client, claim) or self._check_encoded(encoded):
            return refusal
        delta = self._decode(encoded)
        if isinstance(delta, Refusal):
            return delta
        if bad := non_finite(delta):
            return _refuse(ExclusionReason.NON_FINITE, f"NaN or infinity in {', '.join(bad)}")
        if impossible := out_of_range(delta):
            return _refuse(ExclusionReason.WRONG_TENSORS, impossible)
        num_examples = claim.num_examples
        # JSON's true is an int to Python, and 5.0 is what a count of something else looks like.
        if type(num_examples) is not int or num_examples < 1:
            detail = f"{_shown(num_examples)} examples; a positive integer is needed"
            return _refuse(ExclusionReason.BAD_COUNT, detail)
        return self._limit(delta, min(num_examples, MAX_EXAMPLES))

    def _identity(self, client: str) -> dict[str, str | int]:
        """Return what a claim must say, in the order in which it is checked."""
        return {
            "client": client,
            "training": self.training,
            "version": self.version,
            "round": self.round,
            "attempt": self.attempt,
            "base_model": self.base_model,
        }

    def _check_encoded(self, encoded: bytes) -> Refusal | None:
        if len(encoded) > self.max_bytes:
            detail = f"{len(encoded)} bytes; an update of this model has at most {self.max_bytes}"
            return _refuse(ExclusionReason.TOO_LARGE, detail)
        try:
            return self._check_signature(read_header(encoded, header_room(self.signature)))
        except HeaderError as error:
            return _refuse(ExclusionReason.CORRUPT, str(error))

    def _check_signature(self, got: Mapping[str, str]) -> Refusal | None:
        for name in sorted(got.keys() | self.signature.keys()):
            is_, has = got.get(name, "missing"), self.signature.get(name, "no such tensor")
            if is_ != has:
                detail = f"{name[:_SHOWN]} is {is_[:_SHOWN]}, the model has {has}"
                return _refuse(ExclusionReason.WRONG_TENSORS, detail)
        return None

    def _decode(self, encoded: bytes) -> Tensors | Refusal:
        try:
            decoded = safetensors.numpy.load(encoded)
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            return _refuse(ExclusionReason.CORRUPT, f"no safetensors: {error}")
        if refusal := self._check_signature(signature(decoded)):
            return refusal
        return {name: decoded[name] for name in self.signature}  # the decoder's own order is not always the same

    def _limit(self, delta: Tensors, num_examples: int) -> Admitted | Refusal:
        norm = l2_norm(split(delta).trained)
        if self.max_norm and norm > self.max_norm:
            return _refuse(ExclusionReason.NORM_TOO_LARGE, f"L2 norm {norm:.6g}; at most {self.max_norm:.6g} is taken")
        clipped = clip(delta, norm, self.clip_norm)
        largest, limit = _largest(clipped), largest_summand(self.cohort_size)
        if largest * num_examples > limit:
            detail = f"{largest:.6g} times {num_examples} examples; a sum of {self.cohort_size} such may overflow"
            return _refuse(ExclusionReason.OVERFLOW, detail)
        return Admitted(clipped, num_examples, norm, clipped=clipped is not delta)


def l2_norm(delta: Mapping[str, np.ndarray]) -> float:
    """Return the L2 norm of all tensors together.

    Args:
      delta: float32, finite. Their squares are summed in float64, which holds any of them, by name and in a fixed
        order, so that the same update has the same norm everywhere.
    """
    total = 0.0
    for name in sorted(delta):
        flat = delta[name].reshape(-1)
        for begin in range(0, flat.size, _NORM_CHUNK):
            total += float(np.square(flat[begin : begin + _NORM_CHUNK], dtype=np.float64).sum())
    return math.sqrt(total)


def clip(delta: Tensors, norm: float, clip_norm: float) -> Tensors:
    """Scale an update down to a norm, if its own is larger.

    Args:
      delta: float32.
      norm: its L2 norm, as `l2_norm` or `Admitted.norm` has it.
      clip_norm: the largest norm; 0 clips none.

    Returns:
      `delta` itself if its norm is not larger; otherwise new tensors, float32, whose norm is `clip_norm` but for
      rounding.
    """
    if not clip_norm or norm <= clip_norm:
        return delta
    factor = np.float32(clip_norm / norm)
    # Arithmetic on an array without dimensions gives a scalar that is no array.
    return {name: np.asarray(np.multiply(value, factor, dtype=np.float32)) for name, value in delta.items()}


def largest_summand(cohort_size: int) -> float:
    """Return how large a weighted update may be so that the float32 sum of a cohort of them is finite.

    That is float32's maximum / n, less what rounding can add: n roundings by a factor of at most 1 + 2⁻²⁴ are
    together less than 1 / (1 − n 2⁻²⁴).
    """
    return _FLOAT32_MAX * (1 / cohort_size - 2.0**-24)


def _largest(delta: Tensors) -> float:
    return max((float(max(value.max(), -value.min())) for value in delta.values() if value.size), default=0.0)


def _same(got: object, expected: str | int) -> bool:
    return type(got) is type(expected) and got == expected  # True == 1 == 1.0


def _schema_difference(got: object, expected: Mapping[str, str]) -> str:
    if not isinstance(got, Mapping):
        return f"the data schema is {_shown(got)}"
    for name in sorted(expected):
        if got.get(name) != expected[name]:
            is_ = _shown(got[name]) if name in got else "missing"
            return f"{name[:_SHOWN]} of the data is {is_}, not {_shown(expected[name])}"
    return next((f"the data have {_shown(name)}, which they should not" for name in got if name not in expected), "")


def _shown(value: object) -> str:
    """Show a value of any type and size, shortly. Python itself refuses to print an integer of 5,000 digits."""
    if isinstance(value, str):
        return value[:_SHOWN]
    if isinstance(value, int) and abs(value) >= 10**20:
        return f"{'−' if value < 0 else ''}2^{value.bit_length() - 1} or more"
    return repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"


def _refuse(reason: ExclusionReason, detail: str) -> Refusal:
    """Refuse with one line, whatever names a client has given to things."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in detail[: _DETAIL + 1])
    return Refusal(reason, shown if len(shown) <= _DETAIL else f"{shown[: _DETAIL - 1]}…")
