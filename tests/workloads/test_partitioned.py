"""Data sets that are split among made-up clients."""

from __future__ import annotations

import numpy as np
import pytest

from fededge.errors import WorkloadError
from fededge.learners import Examples
from fededge.workloads import load_workload
from fededge.workloads.partitioned import PartitionedWorkload

LABELS = np.arange(60) % 3


def workload() -> PartitionedWorkload:
    everything = Examples(np.arange(60, dtype=np.float32), LABELS)
    return PartitionedWorkload(
        lambda: everything, 60, lambda: everything, lambda: pytest.fail("no learner"), "accuracy"
    )


@pytest.mark.parametrize("clients", [1, 7, 60])
def test_every_example_has_one_client(clients: int) -> None:
    shares = [workload().train_data(client, clients) for client in workload().population(clients)]
    assert sorted(np.concatenate([share.x for share in shares]).tolist()) == list(range(60))
    assert all(len(share) for share in shares)
    for share in shares:
        np.testing.assert_array_equal(share.y, LABELS[share.x.astype(int)])


def test_more_clients_than_examples_are_refused() -> None:
    with pytest.raises(WorkloadError, match="clients=61"):
        workload().population(61)


def test_ids_are_in_order_and_distinct() -> None:
    ids = load_workload("digits").population(1000)
    assert sorted(set(ids), key=str.encode) == list(ids)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_population_is_known_without_the_data(name: str) -> None:
    assert len(load_workload(name).population(100)) == 100
