"""The server's step: a TFF optimizer takes the mean update for a gradient.

The optimizer's state goes from round to round in the store, as plain tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fededge.core.tensors import Array, Tensors
from fededge.errors import CorruptError
from fededge.learners.tff import THREADS, tensorflow, tensorflow_federated
from fededge.records import Runtime
from fededge.runtime import describe_runtime
from fededge.settings import Server, ServerOptimizer


def server_optimizer(how: Server) -> Any:
    """Make the TFF optimizer that the settings name.

    Source: Reddi et al. 2021, arXiv:2003.00295 (adaptive federated optimization);
    https://www.tensorflow.org/federated/api_docs/python/tff/learning/optimizers
    """
    optimizers = tensorflow_federated().learning.optimizers
    rate = how.server_learning_rate
    match how.server_optimizer:
        case ServerOptimizer.SGD:
            return optimizers.build_sgdm(rate, how.server_momentum or None)
        case ServerOptimizer.ADAM:
            return optimizers.build_adam(rate)
        case ServerOptimizer.YOGI:
            return optimizers.build_yogi(rate)
        case ServerOptimizer.ADAGRAD:
            return optimizers.build_adagrad(rate)


def apply_update(how: Server, weights: Tensors, mean: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
    """Make the next global model.

    Args:
      how: which optimizer, its learning rate and momentum.
      weights: what is trained of the global model, float32.
      mean: the mean of client model − global model; same names and shapes, float32.
      state: the optimizer's, from the last round; empty in the first.

    Returns:
      The new weights, named and shaped as before, and the new state.

    Raises:
      CorruptError: `state` is not of this optimizer and model.
    """
    tf = tensorflow()
    optimizer = server_optimizer(how)
    names = sorted(weights)
    initial = optimizer.initialize([tf.TensorSpec(weights[n].shape, weights[n].dtype) for n in names])
    gradients = [tf.negative(tf.constant(mean[n])) for n in names]  # TFF's sign: initial − trained
    before = initial
    if state:  # learning rates are this round's; all else is carried
        before = optimizer.set_hparams(_unflatten(initial, state), optimizer.get_hparams(initial))
    after, updated = optimizer.next(before, [tf.constant(weights[n]) for n in names], gradients)
    return {n: np.asarray(w) for n, w in zip(names, updated, strict=True)}, _flatten(after)


def server_runtime() -> Runtime:
    return describe_runtime(("tensorflow", "tensorflow-federated", "numpy"), THREADS)


def _flatten(state: Any) -> Tensors:
    return {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(tensorflow().nest.flatten(state))}


def _unflatten(like: Any, state: Tensors) -> Any:
    tf = tensorflow()
    leaves = tf.nest.flatten(like)
    saved = [state[name] for name in sorted(state)]
    if [np.shape(leaf) for leaf in leaves] != [leaf.shape for leaf in saved]:
        raise CorruptError("the server state in the store is of another optimizer or model")
    return tf.nest.pack_sequence_as(like, [_like(leaf, value) for leaf, value in zip(leaves, saved, strict=True)])


def _like(leaf: Any, value: Array) -> Any:
    """Give a saved value the type it had: TFF keeps counters and rates as Python numbers."""
    return type(leaf)(value.item()) if isinstance(leaf, int | float) else tensorflow().constant(value)
