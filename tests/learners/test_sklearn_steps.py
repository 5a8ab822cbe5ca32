"""The scikit-learn learner against steps written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPRegressor

from fededge.core.tensors import signature
from fededge.errors import WorkloadError
from fededge.learners import Examples
from fededge.learners.sklearn import classifier, minibatches, regressor
from fededge.settings import LocalTraining
from tests.learners import sklearn_steps as by_hand
from tests.learners.sklearn_small import (
    CLASSES,
    INPUTS,
    MODELS,
    PROX,
    SCAFFOLD,
    SEEDS,
    bits,
    close,
    examples,
    how,
    in_order,
    mlp,
    numbers,
    shaken,
)

every_model = pytest.mark.parametrize("name", MODELS)

# The order of minibatches


def test_every_epoch_has_each_example_once_and_another_order() -> None:
    epochs = [
        list(minibatches(10, how(local_epochs=3, batch_size=4), seed))[3 * k : 3 * k + 3]
        for seed in (1, 1, 2)
        for k in range(3)
    ]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [4, 4, 2]
        assert sorted(np.concatenate(epoch)) == list(range(10))
    orders = [tuple(np.concatenate(epoch)) for epoch in epochs]
    assert orders[:3] == orders[3:6]
    assert len(set(orders)) == 6


def test_local_steps_go_on_over_epochs() -> None:
    steps = list(minibatches(10, how(local_steps=5, batch_size=4), 0))
    assert [len(batch) for batch in steps] == [4, 4, 2, 4, 4]
    assert [b.tolist() for b in steps[:3]] == [b.tolist() for b in minibatches(10, how(batch_size=4), 0)]


@every_model
@pytest.mark.parametrize(("settings_", "expected"), [(how(local_epochs=2), 46), (how(local_steps=4), 31)])
def test_num_examples_are_those_trained_on(name: str, settings_: LocalTraining, expected: int) -> None:
    learner, data = MODELS[name]
    update = learner.train("a", shaken(learner), data("a"), settings_, SEEDS)
    assert (update.client, update.num_examples) == ("a", expected)  # of 23 examples, in batches of 8, 8 and 7
    assert type(update.num_examples) is int


# Steps by hand


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("classes", [(0, 1), CLASSES])
def test_a_network_makes_one_step_of_sgd_for_each_minibatch(
    classes: tuple[int, ...], momentum: float, alpha: float
) -> None:
    learner = classifier(lambda: mlp(alpha=alpha), INPUTS, classes)
    weights, data = shaken(learner), examples(classes=classes)
    settings_ = how(client_momentum=momentum, client_learning_rate=0.2, local_epochs=2)
    two = len(classes) == 2
    batches = [(x, y[:, np.newaxis] if two else np.eye(3)[y]) for x, y in in_order(data, settings_)]
    expected = by_hand.train_network(
        weights, batches, "sigmoid" if two else "softmax", 0.2, alpha=alpha, momentum=momentum
    )
    close(learner.train("a", weights, data, settings_, SEEDS).delta, expected)


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_network_that_predicts_numbers_does_so_too(outputs: int) -> None:
    learner = regressor(lambda: MLPRegressor(hidden_layer_sizes=(6,), solver="sgd", alpha=0.1), INPUTS, outputs)
    weights, data = shaken(learner), numbers(outputs=outputs)
    settings_ = how(client_learning_rate=0.02, client_momentum=0.5)
    batches = [(x, y.reshape(len(x), outputs)) for x, y in in_order(data, settings_)]
    expected = by_hand.train_network(weights, batches, "identity", 0.02, alpha=0.1, momentum=0.5)
    close(learner.train("a", weights, data, settings_, SEEDS).delta, expected)


def test_a_minibatch_of_more_than_200_is_one_step() -> None:
    """scikit-learn's own batch_size would cut it in pieces of 200."""
    learner = classifier(mlp, INPUTS, CLASSES)
    data = examples()
    many = Examples(np.tile(data.x, (20, 1)), np.tile(data.y, 20))
    once = learner.train("a", shaken(learner), data, how(batch_size=23), SEEDS)
    again = learner.train("a", shaken(learner), many, how(batch_size=460), SEEDS)
    alpha = 0.0001  # the penalty is divided by the batch's size: all that differs
    close(again.delta, once.delta, tolerance=alpha * 0.1)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("loss", ["log_loss", "hinge"])
def test_a_linear_classifier_of_two_makes_a_step_for_each_example(loss: str, alpha: float) -> None:
    learner = classifier(lambda: SGDClassifier(loss=loss, alpha=alpha), INPUTS, (0, 1))
    weights, data = shaken(learner), examples(classes=(0, 1))
    assert signature(weights) == {"coef_": "float32[1,5]", "intercept_": "float32[1]"}
    settings_ = how(client_learning_rate=0.05, local_epochs=2)
    x, y = (np.concatenate(parts) for parts in zip(*in_order(data, settings_), strict=True))
    expected = by_hand.train_linear(weights, x, y if loss == "log_loss" else 2 * y - 1, loss, 0.05, alpha)
    close(learner.train("a", weights, data, settings_, SEEDS).delta, expected, 5e-6)


def test_a_linear_classifier_of_three_trains_each_class_against_the_others() -> None:
    learner, _ = MODELS["log_loss"]
    weights, data = shaken(learner), examples()
    x, y = (np.concatenate(parts) for parts in zip(*in_order(data, how()), strict=True))
    delta = learner.train("a", weights, data, how(), SEEDS).delta
    for k in CLASSES:
        row = {name: value[k : k + 1] for name, value in weights.items()}
        expected = by_hand.train_linear(row, x, (y == k).astype(float), "log_loss", 0.1, alpha=0.0001)
        close({name: value[k : k + 1] for name, value in delta.items()}, expected, 5e-6)


def test_a_linear_regressor_makes_a_step_for_each_example() -> None:
    learner, _ = MODELS["sgd regressor"]
    weights, data = shaken(learner), numbers()
    assert signature(weights) == {"coef_": "float32[5]", "intercept_": "float32[1]"}
    settings_ = how(client_learning_rate=0.01)
    x, y = (np.concatenate(parts) for parts in zip(*in_order(data, settings_), strict=True))
    expected = by_hand.train_linear(weights, x, y, "squared_error", 0.01, alpha=0.0001)
    close(learner.train("a", weights, data, settings_, SEEDS).delta, expected, 1e-5)


def test_class_weights_of_the_estimator_count() -> None:
    data = examples(classes=(0, 1))
    plain, heavy = (
        classifier(lambda weight=weight: SGDClassifier(loss="log_loss", class_weight=weight), INPUTS, (0, 1))
        for weight in (None, {0: 1.0, 1: 50.0})
    )
    weights = plain.initial_weights(0)
    deltas = [learner.train("a", weights, data, how(), SEEDS).delta["intercept_"][0] for learner in (plain, heavy)]
    assert deltas[1] > deltas[0] + 1


# FedProx and SCAFFOLD


def test_fedprox_and_scaffold_add_to_the_gradient_of_each_minibatch() -> None:
    learner, _ = MODELS["mlp"]
    weights, data = shaken(learner), examples()
    correction = {name: np.full(value.shape, 0.1 * k, np.float32) for k, (name, value) in enumerate(weights.items())}
    batches = [(x, np.eye(3)[y]) for x, y in in_order(data, PROX)]
    assert len(batches) == 3
    for settings_, given_, mu in ((PROX, None, 0.5), (SCAFFOLD, correction, 0.0), (PROX, correction, 0.5)):
        expected = by_hand.train_network(weights, batches, "softmax", 0.1, alpha=0.0001, mu=mu, correction=given_)
        close(learner.train("a", weights, data, settings_, SEEDS, given_).delta, expected)


def test_a_correction_of_0_changes_no_bit() -> None:
    learner, _ = MODELS["mlp"]
    weights, data = shaken(learner), examples()
    zero = {name: np.zeros_like(value) for name, value in weights.items()}
    plain = learner.train("a", weights, data, how(local_epochs=2), SEEDS)
    assert bits(learner.train("a", weights, data, how(local_epochs=2), SEEDS, zero).delta) == bits(plain.delta)


def test_fedprox_with_momentum_is_refused_before_the_round() -> None:
    learner, _ = MODELS["mlp"]
    settings_ = how(client_algorithm="fedprox", proximal_mu=0.5, client_momentum=0.9)
    with pytest.raises(WorkloadError, match="client_algorithm=fedprox goes with client_momentum=0"):
        learner.update_signature(learner.initial_weights(0), settings_)


@pytest.mark.parametrize("settings_", [PROX, SCAFFOLD])
@pytest.mark.parametrize(("name", "why"), [("hinge", "a step for each example"), ("k-means", "follows no gradient")])
def test_models_without_a_gradient_of_their_own_train_by_fedavg_alone(
    name: str, why: str, settings_: LocalTraining
) -> None:
    learner, data = MODELS[name]
    weights = learner.initial_weights(0)
    with pytest.raises(WorkloadError, match=f"{settings_.client_algorithm.value} is not for this model.*{why}"):
        learner.update_signature(weights, settings_)
    with pytest.raises(WorkloadError, match=why):
        learner.train("a", weights, data("a"), settings_, SEEDS)
    with pytest.raises(WorkloadError, match=why):
        learner.train("a", weights, data("a"), how(), SEEDS, weights)


@pytest.mark.parametrize("name", ["log_loss", "perceptron", "sgd regressor"])
def test_momentum_of_a_linear_model_is_refused_before_the_round(name: str) -> None:
    learner, _ = MODELS[name]
    with pytest.raises(WorkloadError, match=r"client_momentum=0\.9: .* set client_momentum=0"):
        learner.update_signature(learner.initial_weights(0), LocalTraining())
