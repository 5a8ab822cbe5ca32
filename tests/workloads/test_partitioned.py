"""Data sets that are split among made-up clients."""

from __future__ import annotations

import numpy as np
import pytest

from fededge.errors import WorkloadError
from fededge.learners import Examples
from fededge.workloads import load_workload
from fededge.workloads.evaluation import higher_is_better
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


@pytest.mark.parametrize("clients", [1, 7, 60])
def test_held_out_examples_are_shared_out_too(clients: int) -> None:
    made = workload()
    tested = made.test_clients(clients)
    shares = [made.client_test_data(client, clients) for client in tested]
    assert set(tested) <= set(made.population(clients))
    assert sorted(np.concatenate([share.x for share in shares]).tolist()) == list(range(60))
    for client, share in zip(tested, shares, strict=True):
        # The held-out examples are as many as those to learn from: each has as many of each label, give or take one.
        theirs = [np.bincount(examples.y, minlength=3) for examples in (share, made.train_data(client, clients))]
        assert np.abs(theirs[0] - theirs[1]).max() <= 1


def test_the_split_of_the_test_is_the_same_for_everybody() -> None:
    first, second = (workload().client_test_data("client-000003", 7) for _ in range(2))
    assert first.digest() == second.digest()


def test_clients_with_a_test_are_known_without_a_number() -> None:
    assert workload().test_clients(0) == workload().test_clients(10)


@pytest.mark.parametrize(
    ("metric", "higher"),
    [("accuracy", True), ("macro_f1", True), ("roc_auc", True), ("rmse", False), ("mae", False), ("loss", False)],
)
def test_a_metrics_name_says_which_way_is_better(metric: str, higher: bool) -> None:
    made = workload()
    made.metric = metric
    assert higher_is_better(made) is higher


def test_a_workload_says_which_way_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    made = workload()
    monkeypatch.setattr(made, "higher_is_better", False, raising=False)
    assert higher_is_better(made) is False
