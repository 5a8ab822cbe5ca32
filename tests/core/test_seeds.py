from __future__ import annotations

import hashlib
import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fededge.core.seeds import Purpose, derive_seed


def test_a_seed_is_the_hash_of_what_it_is_for() -> None:
    digest = hashlib.sha256(b'[7, "shuffle", 3, "client-1"]').digest()
    assert derive_seed(7, Purpose.SHUFFLE, 3, "client-1") == int.from_bytes(digest[:4], "big") // 2 == 1801334504


def test_rounds_and_clients_are_optional() -> None:
    assert derive_seed(0, Purpose.INIT) == derive_seed(0, Purpose.INIT, 0, "") == 307238354
    assert derive_seed(7, Purpose.COHORT, 3) == derive_seed(7, Purpose.COHORT, 3, "") == 1075460224


def test_a_client_with_any_name_has_a_seed() -> None:
    digest = hashlib.sha256(rb'[0, "dropout", 1, "z\u00fcrich/\"a\""]').digest()
    assert derive_seed(0, Purpose.DROPOUT, 1, 'zürich/"a"') == int.from_bytes(digest[:4], "big") // 2


def test_seeds_differ_for_every_training_purpose_round_and_client() -> None:
    clients = ["", "a", "b", "ab", "1", "a,b", '","', "ä"]
    streams = list(itertools.product(range(4), Purpose, range(12), clients))
    assert len({derive_seed(*stream) for stream in streams}) == len(streams) == 4 * len(Purpose) * 12 * 8


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from(Purpose), st.integers(0, 10**6), st.text(max_size=80))
def test_a_seed_is_in_the_range_that_every_library_takes(
    training_seed: int, purpose: Purpose, round_number: int, client: str
) -> None:
    seed = derive_seed(training_seed, purpose, round_number, client)
    assert type(seed) is int
    assert 0 <= seed < 2**31
    assert seed == derive_seed(training_seed, purpose, round_number, client)
    np.random.RandomState(seed)
