"""A learner that goes on for many rounds, as in a simulation, makes what a fresh one makes."""

from __future__ import annotations

import psutil
import pytest

from fededge.learners import tff
from fededge.learners.batch_norm import BatchNorm
from fededge.learners.keras import KerasLearner, tensorflow
from fededge.settings import LocalTraining
from tests.learners import small
from tests.learners.test_keras import bits

HOW = LocalTraining(local_epochs=1, batch_size=8)


def _normalized(batch_norm: BatchNorm) -> KerasLearner:
    def model() -> object:
        keras = tensorflow().keras
        layers = [keras.layers.Dense(6), keras.layers.BatchNormalization(), keras.layers.Dense(4)]
        return keras.Sequential([keras.Input((12,)), *layers])

    def loss() -> object:
        return tensorflow().keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    return KerasLearner(model, loss, batch_norm=batch_norm)


@pytest.mark.parametrize("batch_norm", BatchNorm)
def test_what_it_did_before_changes_nothing(batch_norm: BatchNorm) -> None:
    def fresh() -> KerasLearner:
        return small.learner() if batch_norm is BatchNorm.REFUSED else _normalized(batch_norm)

    old = fresh()
    weights, others = (old.initial_weights(seed) for seed in (1, 2))
    for client in small.CLIENTS[:2]:
        old.train(client, others, small.examples(client), HOW, small.seeds(client))
        old.evaluate(others, small.examples(client))
        old.predict(others, small.examples(client).x)
    examples, seeds = small.examples("b"), small.seeds("b")
    assert bits(old.train("b", weights, examples, HOW, seeds).delta) == bits(
        fresh().train("b", weights, examples, HOW, seeds).delta
    )
    assert old.evaluate(weights, examples) == fresh().evaluate(weights, examples)
    assert old.predict(weights, examples.x).tobytes() == fresh().predict(weights, examples.x).tobytes()


def test_tffs_process_begins_anew_when_it_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, examples, seeds = small.learner(dropout=0.5), small.examples("a"), small.seeds("a")
    weights = learner.initial_weights(0)
    before = learner.train("a", weights, examples, HOW, seeds)
    first = _pids()
    monkeypatch.setattr(tff, "_MOST_BYTES", 0)
    learner.train("b", weights, small.examples("b"), HOW, small.seeds("b", 2))
    assert _pids().isdisjoint(first)
    assert bits(learner.train("a", weights, examples, HOW, seeds).delta) == bits(before.delta)
    assert len(_pids()) == 1


def _pids() -> set[int]:
    """Find TFF's processes that live."""
    return {
        child.pid
        for child in psutil.Process().children()
        if child.name() == "worker_binary" and child.status() != psutil.STATUS_ZOMBIE
    }
