"""Federated k-means: what clients send makes the centers that all data together would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import MiniBatchKMeans

from fededge.core.aggregation import Weighted, weighted_mean
from fededge.core.parts import over_coverage
from fededge.core.tensors import Tensors, signature
from fededge.errors import WorkloadError
from fededge.learners import Examples
from fededge.learners.sklearn import SklearnLearner, clusterer, minibatches
from fededge.settings import LocalTraining
from tests.learners.sklearn_small import CLIENTS, MODELS, SEEDS, how
from tests.learners.sklearn_steps import lloyd

few = settings(derandomize=True, deadline=None, max_examples=15)


def federated(
    learner: SklearnLearner, centers: Tensors, clients: list[Examples], settings_: LocalTraining
) -> np.ndarray:
    """Run a round as the server does, and return the new centers."""
    updates = [learner.train(str(i), centers, data, settings_, SEEDS) for i, data in enumerate(clients)]
    for update in updates:
        assert signature(update.delta) == learner.update_signature(centers, settings_)
    mean = weighted_mean(Weighted(u.delta, u.num_examples) for u in updates)
    return centers["cluster_centers_"] + over_coverage(mean["cluster_centers_"], mean["coverage/cluster_centers_"])


def test_coverage_is_the_share_of_examples_that_each_center_got() -> None:
    learner = clusterer(lambda: MiniBatchKMeans(3), 2)
    centers = {"cluster_centers_": np.array([[0, 0], [10, 10], [-99, 0]], np.float32)}
    x = np.array([[1, 0], [0, 1], [2, 2], [12, 8]], np.float32)
    update = learner.train("a", centers, Examples(x, np.zeros(4)), how(), SEEDS)
    shares = update.delta["coverage/cluster_centers_"]
    assert shares.tolist() == [[0.75, 0.75], [0.25, 0.25], [0, 0]]
    np.testing.assert_allclose(
        update.delta["cluster_centers_"], shares * np.array([[1, 1], [2, -2], [0, 0]]), atol=1e-6
    )


def test_centers_of_a_client_are_means_over_all_its_minibatches_and_epochs() -> None:
    learner = clusterer(lambda: MiniBatchKMeans(2), 1)
    centers = {"cluster_centers_": np.array([[0], [100]], np.float32)}
    x = np.array([[1], [2], [3], [4], [5], [90], [110], [104]], np.float32)
    settings_ = how(batch_size=3, local_epochs=2)
    update = learner.train("a", centers, Examples(x, np.zeros(8)), settings_, SEEDS)
    assert update.num_examples == 16
    np.testing.assert_allclose(update.delta["coverage/cluster_centers_"].ravel(), [10 / 16, 6 / 16])
    moved = update.delta["cluster_centers_"] / update.delta["coverage/cluster_centers_"]
    np.testing.assert_allclose(moved.ravel(), [3, 304 / 3 - 100], rtol=1e-5)


@few
@given(st.integers(0, 10**6), st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(2, 6))
def test_a_round_of_k_means_is_a_step_of_lloyds_on_all_data_together(seed: int, sizes: list[int], k: int) -> None:
    """Also where clients have fewer examples than there are clusters, and where a cluster gets none."""
    rng = np.random.default_rng(seed)
    learner = clusterer(lambda: MiniBatchKMeans(k), 3)
    clients = [Examples(rng.normal(rng.normal(0, 3, 3), 1, (n, 3)).astype(np.float32), np.zeros(n)) for n in sizes]
    centers = learner.initial_weights(seed)
    for _ in range(2):
        new = federated(learner, centers, clients, how(batch_size=100))
        together = lloyd(centers["cluster_centers_"], np.concatenate([client.x for client in clients]))
        np.testing.assert_allclose(new, together, atol=2e-5)
        centers = {"cluster_centers_": new}


def test_a_clients_step_is_the_librarys_own_to_the_bit() -> None:
    learner, data = MODELS["k-means"]
    centers, client = learner.initial_weights(1), data("é")
    library = MiniBatchKMeans(4, init=centers["cluster_centers_"], n_init=1, reassignment_ratio=0)
    update = learner.train("é", centers, client, how(batch_size=1000), SEEDS)
    order = next(minibatches(len(client), how(batch_size=1000), SEEDS.shuffle))
    library.partial_fit(client.x[order])
    delta = library.cluster_centers_ - centers["cluster_centers_"]
    expected = delta * update.delta["coverage/cluster_centers_"]
    assert update.delta["cluster_centers_"].tobytes() == expected.tobytes()


def test_a_round_makes_clusters_tighter() -> None:
    learner, data = MODELS["k-means"]
    centers, clients = learner.initial_weights(1), [data(client) for client in CLIENTS]
    everybody = Examples(*(np.concatenate(parts) for parts in zip(*((c.x, c.y) for c in clients), strict=True)))
    before = learner.evaluate(centers, everybody)
    after = learner.evaluate({"cluster_centers_": federated(learner, centers, clients, how())}, everybody)
    assert 0 < after["inertia"] < before["inertia"]


def test_inertia_is_the_mean_squared_distance_to_the_nearest_center() -> None:
    learner = clusterer(lambda: MiniBatchKMeans(2), 2)
    centers = {"cluster_centers_": np.array([[0, 0], [10, 0]], np.float32)}
    x = np.array([[3, 4], [9, 0]], np.float32)
    assert learner.predict(centers, x).tolist() == [[-25, -65], [-81, -1]]
    assert learner.evaluate(centers, Examples(x, np.zeros(2))) == {"inertia": 13.0}


def test_centers_begin_where_the_user_says_or_around_0() -> None:
    given_ = np.arange(6).reshape(3, 2)
    weights = clusterer(lambda: MiniBatchKMeans(3, init=given_), 2).initial_weights(0)
    assert weights["cluster_centers_"].tolist() == given_.tolist()
    drawn = clusterer(lambda: MiniBatchKMeans(500), 2).initial_weights(0)["cluster_centers_"]
    assert abs(drawn.mean()) < 0.1
    assert drawn.std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("random", "would need the clients' data"),
        (lambda x, k, random_state: x[:k], "would need the clients' data"),
        (np.zeros((2, 2)), r"has shape \(2, 2\), and n_clusters and inputs make \(3, 2\)"),
    ],
)
def test_centers_that_cannot_be_begun_with_are_refused(init: object, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        clusterer(lambda: MiniBatchKMeans(3, init=init), 2).initial_weights(0)
