"""The Keras learner against TFF in one process, and against itself in another order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from fededge.core.aggregation import Weighted, weighted_mean
from fededge.core.tensors import Tensors, signature
from fededge.core.updates import ClientUpdate, ExclusionReason
from fededge.errors import InputError, UpdateError, WorkloadError
from fededge.learners import ClientSeeds, Examples
from fededge.learners.keras import classifier, client_optimizer, start_tff_worker, tensorflow, tensorflow_federated
from fededge.learners.server import apply_update, server_optimizer
from fededge.settings import LocalTraining, RoundSettings, ServerOptimizer
from tests.learners import small

HOW = LocalTraining(local_epochs=2, batch_size=8)


def bits(tensors: Tensors) -> bytes:
    return b"".join(tensors[name].tobytes() for name in sorted(tensors))


@pytest.mark.parametrize(
    ("optimizer", "momentum", "rate", "tolerance"),
    [
        (ServerOptimizer.SGD, 0.0, 1.0, 0.0),
        (ServerOptimizer.SGD, 0.9, 0.5, 0.0),
        (ServerOptimizer.ADAM, 0.0, 0.01, 0.0),
        (ServerOptimizer.YOGI, 0.0, 0.01, 0.0),
        # TFF's compiled graph rounds Adagrad's square root in another place: one unit in the last place.
        (ServerOptimizer.ADAGRAD, 0.0, 0.01, 1e-7),
    ],
)
def test_split_is_bit_for_bit_tff(optimizer: ServerOptimizer, momentum: float, rate: float, tolerance: float) -> None:
    settings = RoundSettings(
        local_epochs=2, batch_size=8, server_optimizer=optimizer, server_momentum=momentum, server_learning_rate=rate
    )
    learner = small.learner()
    weights = learner.initial_weights(3)
    state: Tensors = {}
    start_tff_worker()
    tff = tensorflow_federated()
    reference = tff.learning.algorithms.build_weighted_fed_avg(
        lambda: learner.tff_model(small.examples("a"), 0, settings),
        client_optimizer(settings),
        server_optimizer(settings),
    )
    names = sorted(weights)
    theirs = reference.set_model_weights(
        reference.initialize(), tff.learning.models.ModelWeights([weights[name] for name in names], [])
    )
    for round_number in range(1, 6):
        updates = [
            learner.train(client, weights, small.examples(client), settings, small.seeds(client, round_number))
            for client in small.CLIENTS
        ]
        weights, state = apply_update(
            settings, weights, weighted_mean(Weighted(u.delta, u.num_examples) for u in updates), state
        )
        data = [
            learner.dataset(small.examples(client), settings, small.seeds(client, round_number).shuffle)
            for client in small.CLIENTS
        ]
        theirs = reference.next(theirs, data).state
        expected = dict(zip(names, reference.get_model_weights(theirs).trainable, strict=True))
        difference = max(float(np.abs(weights[name] - expected[name]).max()) for name in names)
        assert difference <= tolerance, f"round {round_number}"
        if not tolerance:
            assert bits(weights) == bits(expected)


def test_update_is_trained_minus_global() -> None:
    """One step of SGD without momentum: the update is minus the learning rate times the gradient."""
    learner = small.learner()
    weights = learner.initial_weights(0)
    data = small.examples("a")
    how = LocalTraining(local_epochs=1, batch_size=len(data), client_learning_rate=0.5, client_momentum=0.0)
    update = learner.train("a", weights, data, how, small.seeds("a"))

    tf = tensorflow()
    model = learner._build(weights)
    with tf.GradientTape() as tape:
        loss = learner._loss()(data.y, model(data.x))
    for name, gradient in zip(sorted(weights), tape.gradient(loss, model.trainable_weights), strict=True):
        np.testing.assert_allclose(update.delta[name], -0.5 * gradient.numpy(), atol=1e-6)
    assert update.num_examples == len(data)


def test_num_examples_counts_every_epoch() -> None:
    learner = small.learner()
    update = learner.train("b", learner.initial_weights(0), small.examples("b"), HOW, small.seeds("b"))
    assert update.num_examples == 2 * len(small.examples("b"))
    assert isinstance(update.num_examples, int)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_client_does_not_depend_on_who_trained_before(dropout: float) -> None:
    def train_all(order: tuple[str, ...]) -> dict[str, ClientUpdate]:
        learner = small.learner(dropout)
        weights = learner.initial_weights(0)
        return {c: learner.train(c, weights, small.examples(c), HOW, small.seeds(c)) for c in order}

    forth, back = train_all(small.CLIENTS), train_all(small.CLIENTS[::-1])
    for client in small.CLIENTS:
        assert bits(forth[client].delta) == bits(back[client].delta)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_training_does_not_depend_on_the_global_seed(dropout: float) -> None:
    deltas = []
    for seed in (1, 2):
        learner = small.learner(dropout)
        weights = learner.initial_weights(0)
        tensorflow().random.set_seed(seed)
        deltas.append(bits(learner.train("a", weights, small.examples("a"), HOW, small.seeds("a")).delta))
    assert deltas[0] == deltas[1]


def test_training_twice_in_one_process_is_the_same() -> None:
    learner = small.learner(dropout=0.5)
    weights = learner.initial_weights(0)
    first, second = (learner.train("a", weights, small.examples("a"), HOW, small.seeds("a")) for _ in range(2))
    assert bits(first.delta) == bits(second.delta)


@pytest.mark.parametrize("changed", ["shuffle", "dropout"])
def test_each_seed_matters(changed: str) -> None:
    learner = small.learner(dropout=0.5)
    weights = learner.initial_weights(0)
    one = learner.train("a", weights, small.examples("a"), HOW, ClientSeeds(1, 1))
    other = learner.train(
        "a", weights, small.examples("a"), HOW, ClientSeeds(**{"shuffle": 1, "dropout": 1, changed: 2})
    )
    assert bits(one.delta) != bits(other.delta)


def test_model_without_randomness_shares_one_graph() -> None:
    assert not small.learner()._draws_random_numbers
    assert small.learner(dropout=0.5)._draws_random_numbers


def test_initial_weights_follow_the_seed_and_names_are_stable() -> None:
    learner = small.learner()
    first, again, other = (learner.initial_weights(seed) for seed in (1, 1, 2))
    assert bits(first) == bits(again) != bits(other)
    assert signature(first) == signature(other)
    assert list(first) == ["0000/dense/kernel", "0001/dense/bias", "0002/dense_1/kernel", "0003/dense_1/bias"]


def test_client_with_one_example_and_one_class() -> None:
    learner = small.learner()
    one = small.examples("a")
    update = learner.train("a", learner.initial_weights(0), Examples(one.x[:1], one.y[:1]), HOW, small.seeds("a"))
    assert update.num_examples == 2


def test_client_without_examples_is_refused() -> None:
    learner = small.learner()
    none = Examples(small.examples("a").x[:0], small.examples("a").y[:0])
    with pytest.raises(UpdateError) as caught:
        learner.train("a", learner.initial_weights(0), none, HOW, small.seeds("a"))
    assert caught.value.reason == ExclusionReason.NO_DATA


def test_diverged_training_is_named() -> None:
    learner = small.learner()
    wild = LocalTraining(local_epochs=20, client_learning_rate=1e20)
    with pytest.raises(UpdateError) as caught:
        learner.train("a", learner.initial_weights(0), small.examples("a"), wild, small.seeds("a"))
    assert caught.value.reason == ExclusionReason.NON_FINITE_TRAINING


def test_batch_normalization_is_refused_with_advice() -> None:
    def model() -> object:
        keras = tensorflow().keras
        return keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dense(2)])

    with pytest.raises(WorkloadError, match="GroupNormalization"):
        classifier(model).initial_weights(0)


def test_weights_of_a_changed_model_are_refused() -> None:
    weights = {"0000/w": np.zeros((12, 3), np.float32)}
    with pytest.raises(WorkloadError, match="changed model"):
        small.learner().train("a", weights, small.examples("a"), HOW, small.seeds("a"))


def test_evaluate_counts_right_answers() -> None:
    learner = small.learner()
    weights = learner.initial_weights(0)
    data = small.examples("é")
    right = (learner._build(weights)(data.x).numpy().argmax(axis=1) == data.y).mean()
    assert learner.evaluate(weights, data)["accuracy"] == pytest.approx(right, abs=1e-6)


def test_exported_model_loads_without_fededge(tmp_path: Path) -> None:
    learner = small.learner()
    weights, data = learner.initial_weights(0), small.examples("a")
    learner.export(weights, tmp_path / "model.keras")
    loaded = tensorflow().keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(loaded(data.x), learner._build(weights)(data.x))


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5", "model.safetensors"])
def test_own_weights_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    learner = small.learner()
    weights = learner.initial_weights(5)
    match Path(name).suffix:
        case ".keras":
            learner.export(weights, tmp_path / name)
        case ".h5":
            learner._build(weights).save_weights(tmp_path / name)
        case ".safetensors":
            safetensors.numpy.save_file(weights, tmp_path / name)
    assert bits(learner.load_weights(tmp_path / name)) == bits(weights)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    keras = tensorflow().keras
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(InputError, match=r"other\.keras"):
        small.learner().load_weights(tmp_path / "other.keras")
    for name in ("garbage.h5", "garbage.safetensors"):
        (tmp_path / name).write_bytes(b"no model")
        with pytest.raises(InputError, match=name):
            small.learner().load_weights(tmp_path / name)


def test_examples_from_files_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """TFF refuses to send its worker more than 100 MiB; this shows the other way on examples that it would take."""
    learner = small.learner()
    weights = learner.initial_weights(1)
    sent = learner.train("a", weights, small.examples("a"), HOW, small.seeds("a"))
    monkeypatch.setattr("fededge.learners.keras_data.LARGE", 0)
    read = learner.train("a", weights, small.examples("a"), HOW, small.seeds("a"))
    assert bits(read.delta) == bits(sent.delta)


def test_more_examples_than_tff_sends() -> None:
    examples = Examples(np.ones((9000, 3000), np.float32), np.zeros(9000, np.int32))
    tf = tensorflow()
    learner = classifier(lambda: tf.keras.Sequential([tf.keras.Input((3000,)), tf.keras.layers.Dense(2)]))
    how = LocalTraining(local_steps=1, batch_size=9000, client_momentum=0.0, client_learning_rate=0.001)
    update = learner.train("a", learner.initial_weights(1), examples, how, small.seeds("a"))
    assert update.num_examples == 9000
