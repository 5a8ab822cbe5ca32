from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fededge.core.updates import MAX_EXAMPLES, ExclusionReason, Refusal


def test_reasons_are_named_as_in_the_manifests_that_exist() -> None:
    assert {reason.value for reason in ExclusionReason} == {
        "NO_UPDATE",
        "NO_DATA",
        "BAD_DATA",
        "TRAINING_FAILED",
        "NON_FINITE_TRAINING",
        "DEADLINE",
        "LATE",
        "DEVICE_UNAVAILABLE",
        "OUT_OF_MEMORY",
        "EVICTED",
        "NODE_LOST",
        "NOT_STARTED",
        "POD_FAILED",
        "NOT_NEEDED",
        "WRONG_BASE",
        "WRONG_SCHEMA",
        "TOO_LARGE",
        "WRONG_TENSORS",
        "NON_FINITE",
        "BAD_COUNT",
        "NORM_TOO_LARGE",
        "OVERFLOW",
        "CORRUPT",
    }


@pytest.mark.parametrize("reason", ExclusionReason)
def test_a_reason_is_its_name(reason: ExclusionReason) -> None:
    assert reason.name == reason.value == str(reason)


def test_every_count_up_to_the_largest_is_a_float32() -> None:
    assert int(np.float32(MAX_EXAMPLES)) == MAX_EXAMPLES
    assert int(np.float32(MAX_EXAMPLES - 1)) == MAX_EXAMPLES - 1
    assert int(np.float32(MAX_EXAMPLES + 1)) != MAX_EXAMPLES + 1


def test_a_refusal_stays_as_it_is() -> None:
    refusal = Refusal(ExclusionReason.CORRUPT, "damaged")
    with pytest.raises(dataclasses.FrozenInstanceError):
        refusal.detail = "fine"  # type: ignore[misc]
