from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fededge.core.cohorts import batch_clients, client_order
from fededge.core.placement import Batch, place_clients

CLIENTS = st.lists(st.text("abcé0", min_size=1, max_size=4), unique=True, min_size=1).map(
    lambda clients: sorted(clients, key=client_order)
)


def test_batches_keep_to_a_device() -> None:
    homes = {"b": "two", "c": "one", "e": "two", "f": "two", "g": "one"}
    assert place_clients(list("abcdefg"), homes, 2) == [
        Batch("", ["a", "d"]),
        Batch("two", ["b", "e"]),
        Batch("one", ["c", "g"]),
        Batch("two", ["f"]),
    ]


@given(CLIENTS, st.integers(1, 4))
def test_without_devices_it_is_the_cohort_cut_in_pieces(cohort: list[str], size: int) -> None:
    assert [batch.clients for batch in place_clients(cohort, {}, size)] == batch_clients(cohort, size)


@given(CLIENTS, st.integers(1, 4), st.data())
def test_everybody_is_in_one_batch_of_the_own_device(cohort: list[str], size: int, data: st.DataObject) -> None:
    homes = {client: home for client in cohort if (home := data.draw(st.sampled_from(["", "x", "y"])))}
    placed = place_clients(cohort, homes, size)
    assert sorted((c for batch in placed for c in batch.clients), key=client_order) == cohort
    for batch in placed:
        assert {homes.get(client, "") for client in batch.clients} == {batch.device}
        assert 1 <= len(batch.clients) <= size
        assert batch.clients == sorted(batch.clients, key=client_order)
