"""FedProx, corrections and the statistics of BatchNormalization in Keras models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fededge.core.admission import l2_norm
from fededge.core.aggregation import Weighted, weighted_mean
from fededge.core.parts import split
from fededge.core.statistics import pooled_statistics
from fededge.core.tensors import Array, Tensors
from fededge.errors import UpdateError, WorkloadError
from fededge.learners import ClientSeeds, Examples
from fededge.learners.batch_norm import BatchNorm
from fededge.learners.keras import KerasLearner, client_optimizer, tensorflow
from fededge.learners.server import server_optimizer
from fededge.learners.tff import start_tff_worker, tensorflow_federated
from fededge.settings import LocalTraining, Server
from tests.learners import small

SEEDS = ClientSeeds(shuffle=1, dropout=2)


def test_fedprox_is_tffs_own_but_for_its_sign() -> None:
    """A round against TFF's FedProx in one process.

    TFF 0.87.0 adds μ (w₀ − w) to the gradient (`delta_l2_regularizer * (y - x)` in
    learning/templates/proximal_client_work.py), which drives clients away from the global model, and not towards it
    as the paper has it. So its μ is our −μ.
    """
    how = LocalTraining(local_epochs=2, batch_size=8, client_algorithm="fedprox", proximal_mu=0.3)
    mirrored = how.model_copy(update={"proximal_mu": -0.3})
    plain = LocalTraining(local_epochs=2, batch_size=8)
    learner = small.learner()
    names = sorted(learner.initial_weights(0))
    start_tff_worker()
    reference = tensorflow_federated().learning.algorithms.build_weighted_fed_prox(
        lambda: learner.tff_model(small.examples("a"), 0, plain), 0.3, client_optimizer(how), server_optimizer(Server())
    )
    begun = reference.initialize()
    weights: Tensors = dict(zip(names, reference.get_model_weights(begun).trainable, strict=True))
    data = [learner.dataset(small.examples(c), how, small.seeds(c).shuffle) for c in small.CLIENTS]
    after = reference.get_model_weights(reference.next(begun, data).state)
    theirs = {name: value - weights[name] for name, value in zip(names, after.trainable, strict=True)}
    away, towards, neither = (_mean_update(learner, weights, way) for way in (mirrored, how, plain))
    assert max(float(np.abs(away[name] - theirs[name]).max()) for name in names) < 1e-6
    assert l2_norm(towards) < l2_norm(neither) < l2_norm(away)


def _mean_update(learner: KerasLearner, weights: Tensors, how: LocalTraining) -> Tensors:
    updates = (learner.train(c, weights, small.examples(c), how, small.seeds(c)) for c in small.CLIENTS)
    return weighted_mean(Weighted(update.delta, update.num_examples) for update in updates)


def linear() -> KerasLearner:
    def model() -> Any:
        keras = tensorflow().keras
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False, name="w")])

    return KerasLearner(model, loss=lambda: tensorflow().keras.losses.MeanSquaredError())


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_steps_with_penalty_and_correction_by_hand(momentum: float) -> None:
    """Two full-batch steps of (w·x − y)², plus ⟨c, w⟩, plus μ/2 ‖w − w₀‖²."""
    x = np.array([[1, 2], [3, -1], [0, 1]], np.float32)
    y = np.array([[1], [0], [2]], np.float32)
    start, c, mu, rate = np.array([[0.5], [-0.25]]), np.array([[0.1], [-0.3]]), 0.7, 0.05
    w, velocity = start.copy(), np.zeros_like(start)
    for _ in range(2):
        gradient = 2 * x.T @ (x @ w - y) / 3 + c + mu * (w - start)
        velocity = momentum * velocity + gradient
        w = w - rate * velocity
    how = LocalTraining(
        local_epochs=2, batch_size=3, client_learning_rate=rate, client_momentum=momentum, client_algorithm="fedprox",
        proximal_mu=mu,
    )  # fmt: skip
    weights: Tensors = {"0000/w/kernel": start.astype(np.float32)}
    correction: Tensors = {"0000/w/kernel": c.astype(np.float32)}
    update = linear().train("a", weights, Examples(x, y), how, SEEDS, correction)
    np.testing.assert_allclose(update.delta["0000/w/kernel"], w - start, atol=1e-6)


@pytest.mark.parametrize(("steps", "examples"), [(1, 8), (3, 8 + 8 + 7), (4, 8 + 8 + 7 + 8)])
def test_steps_in_place_of_epochs(steps: int, examples: int) -> None:
    learner = small.learner()
    how = LocalTraining(local_steps=steps, batch_size=8)
    update = learner.train("a", learner.initial_weights(0), small.examples("a"), how, small.seeds("a"))
    assert len(small.examples("a")) == 23
    assert update.num_examples == examples


def test_data_that_are_not_finite_are_refused() -> None:
    data = small.examples("a")
    data.x[3, 2] = np.nan
    learner = small.learner()
    with pytest.raises(UpdateError, match="BAD_DATA: 1 of 276 values of the inputs"):
        learner.train("a", learner.initial_weights(0), data, LocalTraining(), small.seeds("a"))


def normalizing(batch_norm: BatchNorm) -> KerasLearner:
    def model() -> Any:
        keras = tensorflow().keras
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.BatchNormalization(momentum=0.9, name="norm"),
                keras.layers.Dense(8, activation="relu"),
                keras.layers.Dense(1),
            ]
        )

    def measure(targets: Array, scores: Array) -> Mapping[str, float]:
        return {"accuracy": float(np.mean((scores > 0) == (targets > 0)))}

    loss = lambda: tensorflow().keras.losses.BinaryCrossentropy(from_logits=True)  # noqa: E731
    return KerasLearner(model, loss=loss, measure=measure, batch_norm=batch_norm)


def shifted(seed: int, *, own: bool = False) -> Examples:
    """Make examples whose class is told by the sign of the first input around its mean, 40 ± 5.

    Args:
      seed: of the client.
      own: whether each client's inputs are shifted by its own amount.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 4))
    y = (x[:, :1] > 0).astype(np.float32)
    shift = 20 * rng.normal(size=4) if own else 0
    return Examples((5 * x + 40 + shift).astype(np.float32), y)


def federate(learner: KerasLearner, clients: list[Examples], rounds: int) -> Tensors:
    weights = learner.initial_weights(0)
    how = LocalTraining(local_epochs=2, batch_size=20, client_learning_rate=0.1)
    for number in range(rounds):
        updates = [
            Weighted(u.delta, u.num_examples)
            for i, data in enumerate(clients)
            for u in [learner.train(f"c{i}", weights, data, how, ClientSeeds(10 * number + i, 0))]
        ]
        trained = split(weighted_mean(iter(updates))).trained
        statistics = pooled_statistics(updates) if split(weights).statistics else {}
        weights = {**{name: weights[name] + change for name, change in trained.items()}, **statistics}
    return weights


def test_federated_statistics_are_those_of_all_data_and_make_the_model_work() -> None:
    learner, clients, test = normalizing(BatchNorm.FEDERATED), [shifted(i) for i in range(4)], shifted(99)
    weights = federate(learner, clients, rounds=4)
    everything = np.concatenate([data.x for data in clients])
    np.testing.assert_allclose(weights["statistics/norm/mean"], everything.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(weights["statistics/norm/variance"], everything.var(axis=0), rtol=1e-4)
    as_begun = {**weights, **split(learner.initial_weights(0)).statistics}  # what TFF's client work leaves
    assert learner.evaluate(weights, test)["accuracy"] > 0.93
    assert learner.evaluate(as_begun, test)["accuracy"] < 0.75
    assert learner.update_signature(weights, LocalTraining()).keys() == weights.keys()


def test_local_statistics_stay_on_clients_that_differ() -> None:
    learner, clients = normalizing(BatchNorm.LOCAL), [shifted(i, own=True) for i in range(4)]
    weights = federate(learner, clients, rounds=4)
    assert not split(weights).statistics
    cold = shifted(99, own=True)
    assert learner.evaluate(weights, cold)["accuracy"] > 0.93
    shared = normalizing(BatchNorm.FEDERATED)
    pooled = federate(shared, clients, rounds=4)
    assert shared.evaluate(pooled, cold)["accuracy"] < learner.evaluate(weights, cold)["accuracy"]


def test_a_frozen_layer_is_refused() -> None:
    def model() -> Any:
        keras = tensorflow().keras
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, trainable=False, name="still")])

    learner = KerasLearner(model, loss=lambda: None, batch_norm=BatchNorm.FEDERATED)
    with pytest.raises(WorkloadError, match="still/kernel"):
        learner.initial_weights(0)
