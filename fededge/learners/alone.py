"""Trains a model with one holder of data and no server: what federated learning is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from fededge.core.comparison import in_equal_parts
from fededge.core.parts import STATISTICS, over_coverage, split
from fededge.core.tensors import Tensors, non_finite
from fededge.core.updates import ExclusionReason
from fededge.errors import UpdateError
from fededge.learners import ClientSeeds, Examples, Learner
from fededge.settings import ClientAlgorithm, LocalTraining

_MOST = {  # what one call may train, as the settings have it
    name: next(limit.le for limit in LocalTraining.model_fields[name].metadata if hasattr(limit, "le"))
    for name in ("local_epochs", "local_steps")
}


def without_server(how: LocalTraining) -> LocalTraining:
    """Return the same training without what keeps a client near the global model."""
    return _changed(how, client_algorithm=ClientAlgorithm.FEDAVG, proximal_mu=0.0)


def parts_of(how: LocalTraining, epochs: int, examples: int, rounds: Sequence[int]) -> list[LocalTraining]:
    """Plan a training of so many epochs as a sequence of calls.

    Args:
      how: of a round, before `in_round`.
      epochs: how often the examples are gone through.
      examples: how many there are.
      rounds: of the federated training that it is compared with: where the learning rate decays, the steps are cut
        into as many equal parts, each with its round's learning rate.

    Returns:
      How each call trains, in their order; a part without a step is left out.
    """
    alone = without_server(how)
    if how.learning_rate_decay == 1:
        return [_changed(alone, local_epochs=n, local_steps=0) for n in _calls(epochs, _MOST["local_epochs"])]
    steps = in_equal_parts(epochs * math.ceil(examples / how.batch_size), len(rounds))
    return [
        _changed(alone.in_round(number), local_steps=n)
        for number, share in zip(rounds, steps, strict=True)
        for n in _calls(share, _MOST["local_steps"])
    ]


def _calls(total: int, most: int) -> Iterator[int]:
    for begin in range(0, total, most):
        yield min(most, total - begin)


def _changed(how: LocalTraining, **values: object) -> LocalTraining:
    fields = {name: getattr(how, name) for name in LocalTraining.model_fields}
    return LocalTraining(**{**fields, **values})


def train_parts(
    learner: Learner,
    weights: Tensors,
    client: str,
    examples: Examples,
    parts: Sequence[LocalTraining],
    seeds: Callable[[int], ClientSeeds],
) -> Tensors:
    """Train in several calls, one after the other.

    Args:
      learner: of the workload.
      weights: to start from.
      client: whose examples they are.
      examples: what to train on.
      parts: how each call trains.
      seeds: of each call, from 1.

    Raises:
      UpdateError: training gave nothing usable.
    """
    for number, how in enumerate(parts, start=1):
        weights = train_alone(learner, weights, client, examples, how, seeds(number))
    return weights


def train_alone(
    learner: Learner, weights: Tensors, client: str, examples: Examples, how: LocalTraining, seeds: ClientSeeds
) -> Tensors:
    """Train on from a model; where its statistics are not measured yet, measure them first.

    Returns:
      The trained model, named and shaped like `weights`.

    Raises:
      UpdateError: training gave nothing usable.
    """
    if all(name.startswith(STATISTICS) for name in learner.update_signature(weights, how)):
        weights = applied(weights, learner.train(client, weights, examples, how, seeds).delta)
    return applied(weights, learner.train(client, weights, examples, how, seeds).delta)


def applied(weights: Tensors, update: Tensors) -> Tensors:
    """Make a model of another and what was learned from it.

    Args:
      weights: that the update was made from.
      update: as `core.parts` says; control variates are not looked at.

    Raises:
      UpdateError: the model would hold NaN or infinity.
    """
    parts = split(update)
    covered = {name: over_coverage(parts.trained[name], share) for name, share in parts.coverage.items()}
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        trained = {
            name: np.asarray(np.add(weights[name], delta, dtype=np.float32))
            for name, delta in {**parts.trained, **covered}.items()
        }
    model = {**weights, **trained, **parts.statistics}
    if bad := non_finite(model):
        raise UpdateError(ExclusionReason.NON_FINITE_TRAINING, f"there is NaN or infinity in {', '.join(bad)}")
    return model
