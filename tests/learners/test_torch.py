"""The PyTorch learner against numpy, torch.optim and itself: in another order, another process, another state."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from fededge.core.aggregation import Weighted, weighted_mean
from fededge.core.tensors import Tensors, signature
from fededge.core.updates import ExclusionReason
from fededge.errors import InputError, UpdateError, WorkloadError
from fededge.learners import ClientSeeds, Examples
from fededge.learners.batch_norm import BatchNorm
from fededge.learners.torch import TorchLearner, classifier, pytorch, regressor
from fededge.settings import ClientAlgorithm, LocalTraining
from tests.learners import torch_small as small
from tests.learners.torch_small import HOW, bits

torch = pytorch()
nn = torch.nn

Floats = npt.NDArray[np.float64]
ROOT = Path(__file__).parents[2]
SEEDS = ClientSeeds(shuffle=3, dropout=4)
FED = BatchNorm.FEDERATED
FULL_BATCH = LocalTraining(local_epochs=1, batch_size=1000, client_learning_rate=0.1, client_momentum=0.0)


def line(count: int = 7, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 2)).astype(np.float32)
    return Examples(x, (x @ [1.5, -2.0] + 0.5 + 0.1 * rng.normal(size=count)).astype(np.float32))


def linear(features: int = 2) -> TorchLearner:
    return regressor(lambda: nn.Linear(features, 1), input_shape=(features,))


def start() -> Tensors:
    return {"weight": np.array([[0.3, -0.4]], np.float32), "bias": np.array([0.2], np.float32)}


def plain(**changes: Any) -> LocalTraining:
    return FULL_BATCH.model_copy(update=changes)


def refusal(learner: TorchLearner, data: Examples, how: LocalTraining = HOW) -> UpdateError:
    with pytest.raises(UpdateError) as caught:
        learner.train("a", learner.initial_weights(0), data, how, SEEDS)
    return caught.value


def descend(data: Examples, how: LocalTraining, correction: Tensors | None) -> tuple[Floats, float]:
    """Descend the mean squared error of a line in float64; return w₀, w₁, b at the end and the last loss."""
    x = np.column_stack([data.x, np.ones(len(data))]).astype(np.float64)
    w = first = np.append(start()["weight"], start()["bias"]).astype(np.float64)
    added = 0.0 if correction is None else np.append(correction["weight"], correction["bias"])
    velocity, loss = np.zeros(3), 0.0
    for _ in range(how.local_epochs):
        error = x @ w - data.y
        loss = float(np.mean(error**2))
        gradient = 2 * x.T @ error / len(data) + how.proximal_mu * (w - first) + added
        velocity = how.client_momentum * velocity + gradient
        w = w - how.client_learning_rate * velocity
    return w, loss


# The arithmetic of a step


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("mu", [0.0, 0.7])
@pytest.mark.parametrize("corrected", [False, True])
def test_steps_are_those_by_hand(momentum: float, mu: float, corrected: bool) -> None:
    data = line()
    how = plain(local_epochs=6, client_momentum=momentum, proximal_mu=mu)
    correction = {"weight": np.array([[0.5, -1.0]], np.float32), "bias": np.array([2.0], np.float32)}
    update = linear().train("a", start(), data, how, SEEDS, correction if corrected else None)
    end, loss = descend(data, how, correction if corrected else None)
    changed = np.append(update.delta["weight"], update.delta["bias"])
    np.testing.assert_allclose(changed, end - np.append(start()["weight"], start()["bias"]), atol=2e-6)
    assert update.metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert update.num_examples == 6 * len(data)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_minibatches_are_bit_for_bit_torch_optim(momentum: float) -> None:
    data, how = small.examples("b"), HOW.model_copy(update={"client_momentum": momentum})
    learner = small.mlp()
    weights = learner.initial_weights(0)
    update = learner.train("b", weights, data, how, SEEDS)
    assert how.client_learning_rate == 0.1

    model = learner._build(weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    for batch in minibatches_of(len(data), how):
        optimizer.zero_grad()
        y = torch.tensor(data.y[batch], dtype=torch.int64)
        nn.functional.cross_entropy(model(torch.tensor(data.x[batch])), y).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(update.delta[name], parameter.detach().numpy() - weights[name])


def test_federated_sgd_is_gradient_descent_on_all_data() -> None:
    """One full step on each client, averaged by examples, is one step on all of them in one place."""
    clients = [line(count, seed) for seed, count in enumerate((5, 1, 12))]
    learner = linear()
    updates = [learner.train(str(i), start(), data, FULL_BATCH, SEEDS) for i, data in enumerate(clients)]
    mean = weighted_mean(Weighted(u.delta, u.num_examples) for u in updates)
    everything = Examples(np.concatenate([c.x for c in clients]), np.concatenate([c.y for c in clients]))
    central = learner.train("all", start(), everything, FULL_BATCH, SEEDS)
    for name in mean:
        np.testing.assert_allclose(mean[name], central.delta[name], atol=1e-6)


def test_fedprox_pulls_to_the_start() -> None:
    def distance(mu: float) -> float:
        how = LocalTraining(
            local_epochs=60,
            batch_size=10,
            client_learning_rate=0.05,
            client_momentum=0,
            client_algorithm=ClientAlgorithm.FEDPROX if mu else ClientAlgorithm.FEDAVG,
            proximal_mu=mu,
        )
        delta = linear().train("a", start(), line(30), how, SEEDS).delta
        return float(np.sqrt(sum(np.square(value).sum() for value in delta.values())))

    free, near, nearer = (distance(mu) for mu in (0.0, 1.0, 10.0))
    assert nearer < 0.3 * free
    assert nearer < near < free


def test_correction_by_minus_the_gradient_stands_still() -> None:
    gradient = linear().train("a", start(), line(), plain(client_learning_rate=1.0), SEEDS).delta  # −∇ at the start
    update = linear().train("a", start(), line(), plain(local_epochs=5), SEEDS, gradient)
    assert all(np.abs(value).max() < 1e-6 for value in update.delta.values())


def test_what_the_loss_does_not_depend_on_gets_the_correction_alone() -> None:
    def model() -> Any:
        module = nn.Linear(2, 1)
        module.spare = nn.Parameter(torch.zeros(3))
        return module

    weights = start() | {"spare": np.ones(3, np.float32)}
    correction = {name: np.zeros_like(value) for name, value in weights.items()} | {"spare": np.float32([1, 2, 3])}
    how = plain(local_epochs=2)
    learner = regressor(model)
    np.testing.assert_array_equal(learner.train("a", weights, line(), how, SEEDS).delta["spare"], 0)
    moved = learner.train("a", weights, line(), how, SEEDS, correction).delta["spare"]
    np.testing.assert_allclose(moved, [-0.2, -0.4, -0.6], rtol=1e-6)


def test_a_shared_parameter_is_one() -> None:
    """f(x) = w·w·x, so that ∂/∂w mean (w²x − y)² = mean 2(w²x − y)·2wx."""

    def model() -> Any:
        first, second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        second.weight = first.weight
        return nn.Sequential(first, second)

    learner = regressor(model)
    assert list(learner.initial_weights(0)) == ["0.weight"]
    x, y, w = np.float32([[1], [2], [3]]), np.float32([[1], [1], [5]]), 0.5
    update = learner.train("a", {"0.weight": np.float32([[w]])}, Examples(x, y), FULL_BATCH, SEEDS)
    np.testing.assert_allclose(update.delta["0.weight"], -0.1 * np.mean(2 * (w * w * x - y) * 2 * w * x), rtol=1e-5)


def test_frozen_parameters_stay_and_are_not_sent() -> None:
    def model() -> Any:
        module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        module[0].requires_grad_(False)
        return module

    learner = regressor(model)
    weights = learner.initial_weights(0)
    update = learner.train("a", weights, line(), HOW, SEEDS)
    assert sorted(weights) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert sorted(update.delta) == ["1.bias", "1.weight"] == sorted(learner.update_signature(weights, HOW))


def test_parameters_without_dimensions_and_sparse_gradients() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 4, sparse=True)
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Any) -> Any:
            return self.scale * self.table(x).mean(dim=1)

    tokens = np.random.default_rng(0).integers(0, 8, (20, 5))
    learner = classifier(Words)
    weights = learner.initial_weights(0)
    update = learner.train("a", weights, Examples(tokens, tokens[:, 0] % 4), HOW, SEEDS)
    assert signature(update.delta) == signature(weights) == {"scale": "float32[]", "table.weight": "float32[9,4]"}
    assert update.delta["scale"] != 0
    assert not update.delta["table.weight"][8].any()


# Minibatches


def minibatches_of(examples: int, how: LocalTraining) -> list[list[int]]:
    """Record which examples are in each minibatch: the targets are their numbers."""
    seen: list[list[int]] = []

    def loss(predictions: Any, y: Any) -> Any:
        seen.append(y.tolist())
        return (predictions.squeeze(1) * 0).mean()

    learner = TorchLearner(lambda: nn.Linear(1, 1), loss, lambda targets, predictions: {})
    data = Examples(np.zeros((examples, 1), np.float32), np.arange(examples))
    update = learner.train("a", learner.initial_weights(0), data, how, SEEDS)
    assert update.num_examples == sum(map(len, seen))
    return seen


@settings(max_examples=25, deadline=None)
@given(examples=st.integers(1, 30), batch_size=st.integers(1, 12), epochs=st.integers(1, 3), steps=st.integers(0, 40))
def test_every_epoch_has_every_example_once(examples: int, batch_size: int, epochs: int, steps: int) -> None:
    how = LocalTraining(local_epochs=epochs, batch_size=batch_size, local_steps=steps)
    batches = minibatches_of(examples, how)
    assert len(batches) == how.steps(examples)
    in_epoch = -(-examples // batch_size)
    for begin in range(0, len(batches), in_epoch):
        epoch = batches[begin : begin + in_epoch]
        drawn = [number for batch in epoch for number in batch]
        assert len(set(drawn)) == len(drawn)
        sizes = [batch_size] * (in_epoch - 1) + [examples - batch_size * (in_epoch - 1)]
        assert list(map(len, epoch)) == sizes[: len(epoch)]
        if len(epoch) == in_epoch:
            assert sorted(drawn) == list(range(examples))


def test_epochs_have_different_orders_and_local_steps_go_on_over_them() -> None:
    epochs = minibatches_of(20, LocalTraining(local_epochs=3, batch_size=20))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    by_steps = minibatches_of(20, LocalTraining(local_steps=2, batch_size=20))
    assert by_steps == epochs[:2]
    assert minibatches_of(20, LocalTraining(local_steps=3, batch_size=8))[2] == epochs[0][16:]


def test_loss_is_the_mean_of_the_last_epoch() -> None:
    """Without learning to speak of, so that every epoch has the loss of all examples; batches of 4, 4 and 1."""
    how = plain(local_epochs=3, batch_size=4, client_learning_rate=1e-12)
    data = line(9)
    expected = descend(data, plain(), None)[1]
    assert linear().train("a", start(), data, how, SEEDS).metrics["loss"] == pytest.approx(expected, rel=1e-5)
    few = linear().train("a", start(), data, how.model_copy(update={"local_steps": 1}), SEEDS)
    assert few.metrics["loss"] != pytest.approx(expected, rel=1e-3)
    assert few.num_examples == 4


# Nothing but the arguments decides


@pytest.mark.parametrize("make", [small.mlp, small.convolutional, small.recurrent])
def test_client_does_not_depend_on_who_trained_before(make: Callable[[float], TorchLearner]) -> None:
    def train_all(order: tuple[str, ...]) -> dict[str, bytes]:
        learner = make(0.5)
        weights = learner.initial_weights(0)
        return {c: bits(learner.train(c, weights, small.examples(c), HOW, small.seeds(c)).delta) for c in order}

    assert train_all(small.CLIENTS) == train_all(small.CLIENTS[::-1])


def test_nor_on_the_state_of_the_process() -> None:
    def trained() -> bytes:
        learner = small.mlp(0.5)
        return bits(learner.train("a", learner.initial_weights(0), small.examples("a"), HOW, SEEDS).delta)

    before = trained()
    torch.manual_seed(99)
    torch.rand(7)
    np.random.seed(99)
    random.seed(99)
    torch.set_num_threads(2)
    assert trained() == before


def test_fresh_process_gives_the_same_bits() -> None:
    program = [sys.executable, "-m", "tests.learners.torch_small"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])  # the environment has the safe path on
    done = subprocess.run(program, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    makes = (small.recurrent, small.convolutional, small.mlp)  # the other way round
    assert done.stdout.split() == [small.digest(make, "b") for make in makes][::-1]


def test_whatever_a_model_draws_from_is_seeded() -> None:
    """Layers that take their noise from numpy or Python, and a constant that is drawn when the model is built."""

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("projection", torch.randn(2, 3))
            self.head = nn.Linear(3, 1)

        def forward(self, x: Any) -> Any:
            noise = np.random.normal() + random.random() if self.training else 0.0
            return self.head(x @ self.projection) + noise

    learner = regressor(Noisy)
    weights = learner.initial_weights(5)
    first, again = (learner.train("a", weights, line(), HOW, SEEDS) for _ in range(2))
    other = learner.train("a", weights, line(), HOW, ClientSeeds(SEEDS.shuffle, 77))
    assert bits(first.delta) == bits(again.delta) != bits(other.delta)
    torch.manual_seed(8)
    np.testing.assert_array_equal(learner.predict(weights, line().x), regressor(Noisy).predict(weights, line().x))


@pytest.mark.parametrize("changed", ["shuffle", "dropout"])
@pytest.mark.parametrize("learner", [small.mlp(0.5), classifier(lambda: small.mlp(0.5)._model().eval())])
def test_each_seed_matters(learner: TorchLearner, changed: str) -> None:
    weights, data = learner.initial_weights(0), small.examples("a")
    one = learner.train("a", weights, data, HOW, ClientSeeds(1, 1))
    other = learner.train("a", weights, data, HOW, ClientSeeds(**{"shuffle": 1, "dropout": 1, changed: 2}))
    assert bits(one.delta) != bits(other.delta)


def test_arguments_are_not_changed() -> None:
    learner = small.normalized(BatchNorm.FEDERATED)
    weights, data = learner.initial_weights(0), small.examples("a")
    before = bits(weights), data.digest()
    learner.train("a", weights, data, HOW, SEEDS, {n: np.ones_like(w) for n, w in weights.items()})
    learner.predict(weights, data.x)
    assert (bits(weights), data.digest()) == before


def test_initial_weights_follow_the_seed_and_names_are_stable() -> None:
    learner = small.mlp()
    first, again, other = (learner.initial_weights(seed) for seed in (1, 1, 2))
    assert bits(first) == bits(again) != bits(other)
    assert list(first) == ["0.0.weight", "0.0.bias", "1.weight", "1.bias"]
    assert signature(first)["0.0.weight"] == "float32[16,12]"


# Predicting


def test_predict_is_the_model_in_eval_mode_in_batches() -> None:
    learner = small.mlp(0.5)
    weights = learner.initial_weights(0)
    x = np.random.default_rng(0).normal(size=(600, small.FEATURES))
    hidden = np.maximum(x @ weights["0.0.weight"].T + weights["0.0.bias"], 0)
    predicted = learner.predict(weights, x)  # float64 goes in
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, hidden @ weights["1.weight"].T + weights["1.bias"], atol=1e-5)
    np.testing.assert_array_equal(predicted, learner.predict(weights, np.ascontiguousarray(x[::-1])[::-1]))
    assert learner.predict(weights, x[:0]).shape == (0, small.CLASSES)


def test_evaluate_counts_right_answers() -> None:
    learner, data = small.mlp(), small.examples("é")
    weights = learner.initial_weights(0)
    right = (learner.predict(weights, data.x).argmax(axis=1) == data.y).mean()
    measured = learner.evaluate(weights, data)
    assert measured["accuracy"] == pytest.approx(right)
    assert set(measured) == {"accuracy", "macro_f1", "loss"}
    assert set(linear().evaluate(start(), line())) == {"rmse", "mae"}


def test_training_learns() -> None:
    learner = small.mlp()
    clients = [small.sensors(make, 0, 0, 1) for make in range(3)]
    weights = small.federated(learner, clients, LocalTraining(local_epochs=3), 3)
    test = small.sensors(9, 0, 0, 1, test=True)
    assert learner.evaluate(weights, test)["accuracy"] > 0.9
    assert learner.evaluate(learner.initial_weights(0), test)["accuracy"] < 0.6


def test_regressor_takes_targets_with_and_without_an_axis_for_one() -> None:
    """[n, 1] and [n] would broadcast to [n, n]."""
    data = line()
    flat = linear().train("a", start(), data, HOW, SEEDS)
    column = linear().train("a", start(), Examples(data.x, data.y[:, np.newaxis].astype(np.float64)), HOW, SEEDS)
    assert bits(flat.delta) == bits(column.delta)


def test_regressor_with_a_loss_of_ones_own() -> None:
    absolute = regressor(lambda: nn.Linear(2, 1), loss=nn.functional.l1_loss)
    update = absolute.train("a", start(), line(), FULL_BATCH, SEEDS)
    x = np.column_stack([line().x, np.ones(7)])
    gradient = np.mean(np.sign(x @ [0.3, -0.4, 0.2] - line().y)[:, np.newaxis] * x, axis=0)
    np.testing.assert_allclose(np.append(update.delta["weight"], update.delta["bias"]), -0.1 * gradient, atol=1e-6)


# Data that are not as they should be


@pytest.mark.parametrize("make", [small.mlp, lambda: small.normalized(BatchNorm.FEDERATED)])
def test_client_with_one_example(make: Callable[[], TorchLearner]) -> None:
    data, learner = small.examples("a"), make()
    update = learner.train("a", learner.initial_weights(0), Examples(data.x[:1], data.y[:1]), HOW, SEEDS)
    assert update.num_examples == 2


def test_client_with_some_of_the_classes() -> None:
    data, learner = small.examples("a"), small.mlp()
    few = Examples(data.x[data.y > 2], data.y[data.y > 2])
    assert learner.train("a", learner.initial_weights(0), few, HOW, SEEDS).num_examples == 2 * len(few)


def test_no_data_and_bad_data_are_named() -> None:
    data = small.examples("a")
    assert refusal(small.mlp(), Examples(data.x[:0], data.y[:0])).reason == ExclusionReason.NO_DATA
    hole = np.where(np.arange(small.FEATURES) == 3, np.nan, data.x)
    assert refusal(small.mlp(), Examples(hole, data.y)).reason == ExclusionReason.BAD_DATA


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (12, "class 12 is not among the model's 4, 0 to 3"),
        (-100, "class -100 is not among the model's 4"),  # which PyTorch would leave out without a word
        (-1, "class -1 is not among the model's 4"),
    ],
)
def test_labels_out_of_range(label: int, message: str) -> None:
    data, learner = small.examples("a"), small.mlp()
    wrong = Examples(data.x, np.where(np.arange(len(data)) == 5, label, data.y))
    error = refusal(learner, wrong)
    assert error.reason == ExclusionReason.BAD_DATA
    assert message in error.detail
    with pytest.raises(WorkloadError, match=message):
        learner.evaluate(learner.initial_weights(0), wrong)


@pytest.mark.parametrize("change", [lambda y: y + 0.5, lambda y: y[:, np.newaxis]])
def test_labels_that_are_no_class_numbers(change: Callable[[Any], Any]) -> None:
    data = small.examples("a")
    error = refusal(small.mlp(), Examples(data.x, change(data.y)))
    assert error.reason == ExclusionReason.BAD_DATA
    assert "one integer for each example" in error.detail


def test_inputs_of_another_shape() -> None:
    data, learner = small.examples("a"), small.mlp()
    error = refusal(learner, Examples(data.x[:, :5], data.y))
    assert error.reason == ExclusionReason.BAD_DATA
    assert "fails on inputs float32[8,5] and targets int32[8]: mat1 and mat2" in error.detail
    with pytest.raises(WorkloadError, match=r"fails on inputs float32\[23,5\]: mat1 and mat2"):
        learner.predict(learner.initial_weights(0), data.x[:, :5])


def test_targets_of_another_shape() -> None:
    data = line()
    error = refusal(linear(), Examples(data.x, np.stack([data.y, data.y], axis=1)))
    assert error.reason == ExclusionReason.BAD_DATA
    assert "the model gives float32[7,1], the targets are float32[7,2]" in error.detail


@pytest.mark.parametrize("how", [plain(local_epochs=50, client_learning_rate=1e20), plain(client_learning_rate=1e38)])
def test_diverged_training_is_named(how: LocalTraining) -> None:
    data = line()
    for learner in (linear(), regressor(lambda: nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)), batch_norm=FED)):
        error = refusal(learner, Examples(data.x, 100 * data.y), how)
        assert error.reason == ExclusionReason.NON_FINITE_TRAINING
        assert "smaller client_learning_rate" in error.detail


def test_loss_that_is_not_finite_is_a_divergence() -> None:
    """Even where its gradient is, so that the weights stay finite."""
    error = refusal(regressor(lambda: nn.Linear(2, 1), loss=lambda p, y: p.mean() + np.nan), line())
    assert error.reason == ExclusionReason.NON_FINITE_TRAINING


def test_statistics_that_overflow_are_a_divergence() -> None:
    def model() -> Any:
        return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))

    learner = regressor(model, batch_norm=FED)
    weights = learner.initial_weights(0)
    weights["0.weight"] *= np.float32(1e30)
    with pytest.raises(UpdateError) as caught:
        learner.train("a", weights, line(), plain(client_learning_rate=1e-30), SEEDS)
    assert caught.value.reason == ExclusionReason.NON_FINITE_TRAINING


# Models that cannot be trained


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x: Any) -> Any:
        return self.layer(x), x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: "no model", "is str: it must be a torch.nn.Module"),
        (lambda: nn.LazyLinear(1), "shapes of weight, bias are not known.*Linear with its sizes"),
        (lambda: nn.Linear(2, 1).double(), r"weight is torch.float64.*\.float\(\)"),
        (lambda: nn.Linear(2, 1).requires_grad_(False), "no parameter to train"),
        (lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), "opt in with batch_norm=BatchNorm.FEDERATED"),
        (lambda: nn.Sequential(nn.Linear(2, 3), nn.SyncBatchNorm(3)), r"1 \(SyncBatchNorm\) keeps statistics"),
        (
            lambda: nn.Sequential(nn.Conv1d(2, 3, 1), nn.InstanceNorm1d(3, track_running_stats=True)),
            "InstanceNorm with",
        ),
        (lambda: nn.BatchNorm1d(2, track_running_stats=False), r"model \(BatchNorm1d\) keeps statistics"),
    ],
)
def test_unusable_models_are_refused(model: Callable[[], Any], message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        regressor(model).initial_weights(0)
    if "opt in" not in message:
        for policy in (BatchNorm.FEDERATED, BatchNorm.LOCAL):
            with pytest.raises(WorkloadError, match=message):
                regressor(model, batch_norm=policy).initial_weights(0)


def test_refusal_of_batch_norm_says_what_to_do() -> None:
    with pytest.raises(WorkloadError) as caught:
        small.normalized(BatchNorm.REFUSED).initial_weights(0)
    for part in ("(0, 3)", "averaging weights alone ruins", "GroupNorm or LayerNorm", "BatchNorm.LOCAL"):
        assert part in str(caught.value)


def test_model_that_is_the_same_object_each_time_is_refused() -> None:
    """Its weights would be those of whoever trained last."""
    one = nn.Linear(2, 1)
    learner = regressor(lambda: one)
    learner.initial_weights(0)
    with pytest.raises(WorkloadError, match="a new one at each call"):
        learner.initial_weights(0)


def test_model_of_two_outputs_and_loss_of_no_scalar() -> None:
    data = line()
    with pytest.raises(WorkloadError, match="the model gives tuple"):
        regressor(Pair).train("a", regressor(Pair).initial_weights(0), data, HOW, SEEDS)
    flat = regressor(lambda: nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)))
    assert flat.predict(flat.initial_weights(0), data.x).shape == (7,)
    summed = regressor(lambda: nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, 14)), nn.Linear(14, 1)))
    with pytest.raises(WorkloadError, match=r"the model gives float32\[1,1\] for float32\[7,2\]"):
        summed.train("a", summed.initial_weights(0), data, HOW, SEEDS)
    each = regressor(lambda: nn.Linear(2, 1), loss=lambda predictions, y: (predictions - y) ** 2)
    with pytest.raises(WorkloadError, match="must give a scalar"):
        each.train("a", start(), data, HOW, SEEDS)


def test_buffers_that_training_changes_are_refused() -> None:
    learner = regressor(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 1)))
    with pytest.raises(WorkloadError, match=r"training changes parametrizations\.weight\.0\._.*not sent"):
        learner.train("a", learner.initial_weights(0), line(), HOW, SEEDS)


def test_weights_of_a_changed_model_are_refused() -> None:
    learner, weights = small.mlp(), linear().initial_weights(0)
    for use in (
        lambda: learner.train("a", weights, small.examples("a"), HOW, SEEDS),
        lambda: learner.predict(weights, small.examples("a").x),
        lambda: learner.update_signature(weights, HOW),
    ):
        with pytest.raises(WorkloadError, match=r"'1.bias': 'float32\[4\]'.*'bias': 'float32\[1\]'.*changed model"):
            use()


def test_group_norm_and_plain_instance_norm_need_no_choice() -> None:
    def model() -> Any:
        return nn.Sequential(nn.Unflatten(1, (3, 4)), nn.InstanceNorm1d(3), nn.Flatten(), nn.Linear(12, 4))

    learner = classifier(model)
    assert sorted(learner.initial_weights(0)) == ["3.bias", "3.weight"]
    assert learner.train("a", learner.initial_weights(0), small.examples("a"), HOW, SEEDS).num_examples == 46


# BatchNorm


def test_federated_statistics_are_part_of_model_and_update() -> None:
    learner = small.normalized(FED)
    weights = learner.initial_weights(0)
    names = {name for name in weights if name.startswith("statistics/")}
    assert names == {f"statistics/{layer}/{what}" for layer in (0, 3) for what in ("mean", "variance")}
    np.testing.assert_array_equal(weights["statistics/3/mean"], np.zeros(16, np.float32))
    np.testing.assert_array_equal(weights["statistics/3/variance"], np.ones(16, np.float32))
    update = learner.train("a", weights, small.examples("a"), HOW, SEEDS)
    assert signature(update.delta) == learner.update_signature(weights, HOW) == signature(weights)


def test_federated_statistics_are_those_of_the_data_and_the_trained_weights() -> None:
    """The first layer's are the data's own; the second's follow from the normalized data and the trained weights.

    More data than a batch of the measuring pass, sorted, far from zero: 2,388 ± 0.1, as some sensors are.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(2388, 0.1, (700, small.FEATURES)).astype(np.float32)
    x = x[np.argsort(x[:, 0])]
    y = (np.arange(700) % small.CLASSES).astype(np.int64)
    learner = small.normalized(FED, dropout=0.5)
    weights = learner.initial_weights(0)
    delta = learner.train("a", weights, Examples(x, y), HOW, SEEDS).delta
    exact = x.astype(np.float64)
    np.testing.assert_array_equal(delta["statistics/0/mean"], exact.mean(axis=0).astype(np.float32))
    np.testing.assert_allclose(delta["statistics/0/variance"], exact.var(axis=0), rtol=1e-6)

    trained = {name: weights[name] + delta[name] for name in delta if not name.startswith("statistics/")}
    z = (exact - exact.mean(axis=0)) / np.sqrt(exact.var(axis=0) + 1e-5) * trained["0.weight"] + trained["0.bias"]
    hidden = z @ trained["1.weight"].T + trained["1.bias"]
    # The pass normalizes by each batch's own statistics, of 233 or 234 examples, and in float32, whose steps near 2,388
    # are 0.0024 standard deviations: how the sum is ordered, which differs by processor, may cost a mean one of them.
    step = np.spacing(np.float32(2388)) / 0.1
    bound = step * np.abs(trained["0.weight"] * trained["1.weight"]).sum(axis=1)
    np.testing.assert_array_less(np.abs(delta["statistics/3/mean"] - hidden.mean(axis=0)), bound)
    np.testing.assert_allclose(delta["statistics/3/variance"], hidden.var(axis=0), rtol=0.02)


def test_statistics_of_images_are_over_all_pixels_and_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head, self.unused = nn.BatchNorm2d(3), nn.Linear(3, 4), nn.BatchNorm1d(2)

        def forward(self, x: Any) -> Any:
            small_ones = self.norm(x[:, :, :2, :2])
            return self.head(self.norm(x).mean(dim=(2, 3)) + small_ones.mean(dim=(2, 3)))

    x = np.random.default_rng(0).normal(5, 3, (40, 3, 6, 6)).astype(np.float32)
    learner = classifier(Twice, FED)
    data = Examples(x, np.arange(40) % 4)
    delta = learner.train("a", learner.initial_weights(0), data, HOW, SEEDS).delta
    both = [np.concatenate([x[:, c].ravel(), x[:, c, :2, :2].ravel()]).astype(np.float64) for c in range(3)]
    np.testing.assert_allclose(delta["statistics/norm/mean"], [values.mean() for values in both], rtol=1e-6)
    np.testing.assert_allclose(delta["statistics/norm/variance"], [values.var() for values in both], rtol=1e-6)
    np.testing.assert_array_equal(delta["statistics/unused/variance"], np.ones(2, np.float32))  # stay


def test_predicting_with_federated_statistics_looks_at_no_neighbours() -> None:
    learner = small.normalized(FED)
    data = small.examples("é")
    weights = learner.initial_weights(0)
    update = learner.train("é", weights, data, HOW, SEEDS)
    after = {n: v if n.startswith("statistics/") else weights[n] + v for n, v in update.delta.items()}
    together = learner.predict(after, data.x)
    alone = np.concatenate([learner.predict(after, data.x[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together[:5], alone, atol=1e-5)

    z = (data.x - after["statistics/0/mean"]) / np.sqrt(after["statistics/0/variance"] + 1e-5)
    h = (z * after["0.weight"] + after["0.bias"]) @ after["1.weight"].T + after["1.bias"]
    h = (h - after["statistics/3/mean"]) / np.sqrt(after["statistics/3/variance"] + 1e-5)
    h = np.maximum(h * after["3.weight"] + after["3.bias"], 0)
    np.testing.assert_allclose(together, h @ after["5.weight"].T + after["5.bias"], atol=1e-4)


def test_local_statistics_are_those_of_the_inputs_and_leave_nothing() -> None:
    learner = small.normalized(BatchNorm.LOCAL)
    weights, data = learner.initial_weights(0), small.examples("é")
    update = learner.train("é", weights, data, HOW, SEEDS)
    assert not [name for name in {**weights, **update.delta} if name.startswith("statistics/")]
    assert signature(update.delta) == learner.update_signature(weights, HOW) == signature(weights)

    z = (data.x - data.x.mean(axis=0)) / np.sqrt(data.x.var(axis=0) + 1e-5)
    h = z @ weights["1.weight"].T + weights["1.bias"]
    h = np.maximum((h - h.mean(axis=0)) / np.sqrt(h.var(axis=0) + 1e-5), 0)
    expected = h @ weights["5.weight"].T + weights["5.bias"]
    np.testing.assert_allclose(learner.predict(weights, data.x), expected, atol=1e-4)
    np.testing.assert_allclose(learner.predict(weights, 100 * data.x - 7), expected, atol=1e-3)
    assert learner.predict(weights, data.x[:0]).shape == (0, small.CLASSES)
    assert np.isfinite(learner.predict(weights, data.x[:1])).all()


def test_local_statistics_are_those_of_all_inputs_and_not_of_a_batch() -> None:
    learner = classifier(lambda: nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 4)), BatchNorm.LOCAL)
    weights = learner.initial_weights(0)
    x = np.sort(np.random.default_rng(0).normal(50, 3, (600, 2)), axis=0).astype(np.float32)
    z = (x - x.mean(axis=0, dtype=np.float64)) / np.sqrt(x.var(axis=0, dtype=np.float64) + 1e-5)
    expected = z @ weights["1.weight"].T + weights["1.bias"]
    np.testing.assert_allclose(learner.predict(weights, x), expected, atol=1e-5)


@settings(max_examples=8, deadline=None)
@given(count=st.integers(1, 25), batch_size=st.integers(1, 9), policy=st.sampled_from([FED, BatchNorm.LOCAL]))
def test_batch_norm_takes_batches_of_every_size(count: int, batch_size: int, policy: BatchNorm) -> None:
    """PyTorch's own layer refuses a batch of one."""
    data = small.examples("é")
    learner = small.normalized(policy)
    how = LocalTraining(local_epochs=1, batch_size=batch_size, client_learning_rate=0.01)
    update = learner.train("é", learner.initial_weights(0), Examples(data.x[:count], data.y[:count]), how, SEEDS)
    assert update.num_examples == count


def test_batch_norm_trains_as_torch_does() -> None:
    """Bit for bit, where PyTorch takes the batches."""
    learner, data = small.normalized(BatchNorm.LOCAL), small.examples("b")
    weights = learner.initial_weights(0)
    update = learner.train("b", weights, data, HOW, SEEDS)
    model = learner._build(weights).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in minibatches_of(len(data), HOW):
        optimizer.zero_grad()
        y = torch.tensor(data.y[batch], dtype=torch.int64)
        nn.functional.cross_entropy(model(torch.tensor(data.x[batch])), y).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(update.delta[name], parameter.detach().numpy() - weights[name])


ROUNDS = LocalTraining(local_epochs=2, batch_size=10, client_learning_rate=0.05)


def accuracies(learner: TorchLearner, weights: Tensors, makes: list[tuple[int, float, float, float]]) -> list[float]:
    return [learner.evaluate(weights, small.sensors(*make, test=True))["accuracy"] for make in makes]


def test_accuracy_of_federated_statistics() -> None:
    """Sensors whose zero and scale are far from 0 and 1, and a little different on each client."""
    makes = [(number, 10.0, 1.0, 3.0 + 0.3 * number) for number in range(4)]
    learner = small.normalized(FED)
    initial = learner.initial_weights(0)
    weights = small.federated(learner, [small.sensors(*make) for make in makes], ROUNDS, rounds=4)
    untouched = {name: value for name, value in initial.items() if name.startswith("statistics/")}
    assert min(accuracies(learner, weights, makes)) > 0.95
    assert np.mean(accuracies(learner, weights | untouched, makes)) < 0.5
    assert np.mean(accuracies(learner, initial, makes)) < 0.5


def test_accuracy_of_local_statistics() -> None:
    """Sensors of makes so different that pooled statistics fit none of them; the last one has not been trained on."""
    makes = [(0, 30.0, 5.0, 1.0), (1, 30.0, 5.0, 8.0), (2, 30.0, 5.0, 3.0), (3, 30.0, 5.0, 0.5), (9, 60.0, 5.0, 20.0)]
    clients = [small.sensors(*make) for make in makes[:4]]
    reached = {}
    for policy in (BatchNorm.LOCAL, FED):
        learner = small.normalized(policy)
        reached[policy] = accuracies(learner, small.federated(learner, clients, ROUNDS, rounds=4), makes)
    assert min(reached[BatchNorm.LOCAL]) > 0.95
    assert np.mean(reached[FED]) < 0.7


# Files


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.safetensors"])
@pytest.mark.parametrize("policy", list(BatchNorm))
def test_own_weights_come_back_as_they_were(tmp_path: Path, name: str, policy: BatchNorm) -> None:
    learner = small.mlp() if policy is BatchNorm.REFUSED else small.normalized(policy)
    weights = learner.initial_weights(5)
    if policy is FED:
        weights["statistics/3/mean"] += 3
    if name.endswith("safetensors"):
        safetensors.numpy.save_file(weights, tmp_path / name)
    else:
        torch.save(learner._build(weights).state_dict(), tmp_path / name)
    loaded = learner.load_weights(tmp_path / name)
    assert bits(loaded) == bits(weights)
    assert signature(loaded) == signature(weights)


def test_state_dict_of_safetensors_is_read_too(tmp_path: Path) -> None:
    learner = small.normalized(FED)
    model = learner._build(learner.initial_weights(5))
    model[3].running_var.fill_(7)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    safetensors.numpy.save_file(state, tmp_path / "state.safetensors")
    assert (learner.load_weights(tmp_path / "state.safetensors")["statistics/3/variance"] == 7).all()


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it ran')",)


def write_evil(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": Evil()}, protocol=2))


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("x.pt", lambda p: p.write_bytes(b"no model"), "damaged or holds more"),
        ("x.pt", write_evil, "damaged or holds more"),
        ("x.pt", lambda p: torch.save(nn.Linear(2, 1), p), "holds more than tensors.*state_dict"),
        ("x.pt", lambda p: torch.save({"model": nn.Linear(2, 1).state_dict(), "epoch": 3}, p), "no state_dict"),
        ("x.pt", lambda p: torch.save(torch.ones(3), p), "no state_dict"),
        ("x.pt", lambda p: p.write_bytes(b""), "does not fit"),
        ("x.pt", lambda p: None, "No such file"),
        ("x.safetensors", lambda p: p.write_bytes(b"no model"), "no safetensors"),
        ("x.h5", lambda p: p.write_bytes(b"no model"), "must end in .safetensors, .pt or .pth"),
        ("x.pt", lambda p: torch.save(nn.Linear(3, 1).state_dict(), p), r"float32\[1,3\].*needs.*float32\[1,2\]"),
        ("x.pt", lambda p: torch.save(nn.Linear(2, 1).double().state_dict(), p), "float64.*needs.*float32"),
        ("x.pt", lambda p: torch.save(nn.Linear(2, 1).bfloat16().state_dict(), p), "BFloat16"),
        ("x.pt", lambda p: torch.save(nn.Linear(2, 1, bias=False).state_dict(), p), r"x.pt has {}.*needs {'bias'"),
    ],
)
def test_files_of_another_kind_or_model_are_refused(
    tmp_path: Path, name: str, write: Callable[[Path], Any], message: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(InputError, match=rf"(?s){name}.*{message}" if not message.startswith(name) else message):
        linear().load_weights(tmp_path / name)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 1).state_dict(), tmp_path / "x.pt")
    whole = (tmp_path / "x.pt").read_bytes()
    for length in (3, len(whole) // 2, len(whole) - 10):
        (tmp_path / "x.pt").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"x\.pt does not fit"):
            linear().load_weights(tmp_path / "x.pt")


def test_file_with_other_constants_or_split_parameters_is_refused(tmp_path: Path) -> None:
    def model() -> Any:
        module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 1))
        module[1].weight = module[0].weight
        module.register_buffer("steps", torch.arange(3))
        return module

    learner = regressor(model)
    state = model().state_dict()
    torch.save(state, tmp_path / "same.pt")
    assert (learner.load_weights(tmp_path / "same.pt")["0.weight"] == state["0.weight"].numpy()).all()
    torch.save({**state, "steps": torch.zeros(3, dtype=torch.int64)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="has another steps, which is a constant"):
        learner.load_weights(tmp_path / "other.pt")
    torch.save({**state, "1.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="two values of"):
        learner.load_weights(tmp_path / "other.pt")


_LOAD = """
import json, sys, torch
x = json.load(open(sys.argv[1]))
for path in sys.argv[2:]:
    model = torch.export.load(path).module()
    with torch.no_grad():
        print(json.dumps([model(torch.tensor(x[:n])).tolist() for n in (1, 3, len(x))]))
assert not [name for name in sys.modules if name.startswith(("fededge", "tests"))]
"""


def test_exported_models_predict_equally_without_fededge(tmp_path: Path) -> None:
    """In one fresh process for all, which finds neither FedEdge nor the models' classes."""
    learners = {
        "mlp": small.mlp(0.5),
        "convolutional": small.convolutional(0.5),
        "recurrent": small.recurrent(0.5),
        "federated": small.normalized(FED),
        "local": small.normalized(BatchNorm.LOCAL),
    }
    x = small.examples("é").x.astype(np.float32)
    (tmp_path / "x.json").write_text(json.dumps(x.tolist()))
    expected = []
    for name, learner in learners.items():
        weights = learner.initial_weights(1)
        if name == "federated":
            weights |= {"statistics/0/mean": x.mean(axis=0), "statistics/0/variance": x.var(axis=0)}
        learner.export(weights, tmp_path / f"{name}.pt2")
        expected.append([learner.predict(weights, x[:n]) for n in (1, 3, len(x))])
        configs = [n for n in zipfile.ZipFile(tmp_path / f"{name}.pt2").namelist() if n.endswith("_config.json")]
        written = [zipfile.ZipFile(tmp_path / f"{name}.pt2").read(config).decode() for config in configs]
        assert len(written) == 2
        assert '"use_pickle": true' not in "".join(written)
    files = [str(tmp_path / f"{name}.pt2") for name in learners]
    command = [sys.executable, "-I", "-c", _LOAD, str(tmp_path / "x.json"), *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    for ours, printed in zip(expected, done.stdout.splitlines(), strict=True):
        for predicted, loaded in zip(ours, json.loads(printed), strict=True):
            # One input alone has no spread: what is left of it in local statistics is rounding.
            np.testing.assert_allclose(np.float32(loaded), predicted, atol=5e-3 if len(predicted) == 1 else 2e-5)


def test_exported_scaling_is_inside_and_missing_values_are_zero(tmp_path: Path) -> None:
    learner = linear()
    mean, scale = np.float32([2388, -5]), np.float32([0.1, 4])
    learner.export(start(), tmp_path / "scaled.pt2", scaling=(mean, scale))
    raw = np.float32([[2388.2, 3], [np.nan, -9], [2387, np.nan]])
    z = np.nan_to_num((raw - mean) / scale)
    loaded = torch.export.load(tmp_path / "scaled.pt2").module()
    np.testing.assert_allclose(loaded(torch.tensor(raw)).detach(), learner.predict(start(), z), rtol=1e-6)


def test_export_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"without input_shape.*input_shape=\(64,\)"):
        regressor(lambda: nn.Linear(2, 1)).export(start(), tmp_path / "x.pt2")

    class Branching(nn.Linear):
        def forward(self, x: Any) -> Any:
            return super().forward(x) if x.sum() > 0 else x[:, :1]

    with pytest.raises(WorkloadError, match="PyTorch cannot export the workload's model: "):
        regressor(lambda: Branching(2, 1), input_shape=(2,)).export(start(), tmp_path / "x.pt2")
    assert not (tmp_path / "x.pt2").exists()


def test_integer_inputs_are_exported(tmp_path: Path) -> None:
    learner = classifier(
        lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 4)),
        input_shape=(3,),
        input_dtype="int64",
    )
    weights, tokens = learner.initial_weights(0), np.array([[1, 2, 3], [8, 0, 8], [4, 4, 4]])
    learner.export(weights, tmp_path / "words.pt2")
    loaded = torch.export.load(tmp_path / "words.pt2").module()
    np.testing.assert_allclose(loaded(torch.tensor(tokens)).detach(), learner.predict(weights, tokens), rtol=1e-6)


# What computes here


def test_runtime_and_settings_of_the_process() -> None:
    learner = small.mlp()
    torch.set_num_threads(2)
    learner.prepare()
    runtime = learner.runtime()
    assert set(runtime.libraries) == {"torch", "numpy"}
    assert runtime.threads == torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()


def test_module_imports_without_torch() -> None:
    program = "import sys; sys.modules['torch'] = None; import fededge.learners.torch as t; t.classifier(lambda: None)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
