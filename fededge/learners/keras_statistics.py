"""What BatchNormalization layers of a Keras model keep beside the weights: the mean and variance of their inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fededge.core.aggregation import Weighted
from fededge.core.parts import STATISTICS
from fededge.core.statistics import pooled_statistics
from fededge.core.tensors import Array, Tensors
from fededge.errors import WorkloadError
from fededge.learners.tff import tensorflow

_BATCH = 1024


def statistics_of(model: Any) -> Tensors:
    """Read the statistics that a model holds: `statistics/<layer>/mean` and `…/variance`, float32[features]."""
    return {name: np.asarray(variable, np.float32) for name, variable in _variables(model)}


def set_statistics(model: Any, statistics: Tensors) -> None:
    for name, variable in _variables(model):
        variable.assign(statistics[name])


def measured_statistics(model: Any, x: Array) -> Tensors:
    """Measure the inputs of each layer over examples, in a pass of its own, normalizing by batch on the way."""
    tf = tensorflow()
    layers = batch_norms(model)
    inputs = tf.keras.Model(model.inputs, [layer.input for layer in layers])

    def batches() -> Iterator[Weighted]:
        for begin in range(0, len(x), _BATCH):
            part = x[begin : begin + _BATCH]
            seen = tf.nest.flatten(inputs(part, training=True))
            moments: Tensors = {}
            for layer, value in zip(layers, seen, strict=True):
                axes = [axis for axis in range(len(value.shape)) if axis not in _feature_axes(layer, value)]
                mean, variance = tf.nn.moments(tf.cast(value, tf.float32), axes)
                moments |= {_name(layer, "mean"): mean.numpy(), _name(layer, "variance"): variance.numpy()}
            yield Weighted(moments, len(part))

    return pooled_statistics(batches())


def batch_norms(model: Any) -> list[Any]:
    """Find the layers that keep statistics.

    Raises:
      WorkloadError: something else is not trained, or such a layer is inside another.
    """
    kind = tensorflow().keras.layers.BatchNormalization
    layers = [layer for layer in model.layers if isinstance(layer, kind)]
    kept = {id(variable) for layer in layers for variable in (layer.moving_mean, layer.moving_variance)}
    if other := [variable.name for variable in model.non_trainable_weights if id(variable) not in kept]:
        raise WorkloadError(
            f"the model has {', '.join(other[:3])}, which is not trained: make it trainable, or, if it is of a "
            "BatchNormalization inside another layer, put that layer's parts into the model itself"
        )
    return layers


def _variables(model: Any) -> list[tuple[str, Any]]:
    return [
        (_name(layer, what), variable)
        for layer in batch_norms(model)
        for what, variable in (("mean", layer.moving_mean), ("variance", layer.moving_variance))
    ]


def _name(layer: Any, what: str) -> str:
    return f"{STATISTICS}{layer.name}/{what}"


def _feature_axes(layer: Any, value: Any) -> set[int]:
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    return {axis % len(value.shape) for axis in axes}
