"""Keras models, trained by TFF's own client work. Use it for any `tf.keras` model with a loss."""

from __future__ import annotations

import atexit
import contextlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fededge.core.tensors import Tensors, signature
from fededge.core.updates import ClientUpdate, ExclusionReason
from fededge.errors import CorruptError, InputError, UpdateError, WorkloadError
from fededge.learners import ClientSeeds, Examples
from fededge.records import Runtime
from fededge.runtime import describe_runtime
from fededge.settings import LocalTraining
from fededge.store.blobs import decode_tensors

THREADS = 1  # TensorFlow gives other bits with 1, 2 and 4 threads; parallelism is across clients
_EVALUATION_BATCH = 256


def tensorflow() -> Any:
    """Import TensorFlow, set up so that the same program gives the same bits."""
    # TFF's worker process reads these too. They count only before the first import.
    os.environ.update(
        TF_NUM_INTRAOP_THREADS=str(THREADS), TF_NUM_INTEROP_THREADS=str(THREADS), TF_DETERMINISTIC_OPS="1"
    )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import tensorflow as tf

    return tf


def tensorflow_federated() -> Any:
    tensorflow()
    import tensorflow_federated as tff

    return tff


@cache
def start_tff_worker() -> None:
    """Start the process in which TFF computes, and have it ended with this one."""
    tff = tensorflow_federated()
    # The worker would inherit our output and hold it open: whoever reads it would wait for ever.
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        tff.tensorflow.computation(lambda: 0)()
    atexit.register(_end_tff_worker)


def _end_tff_worker() -> None:
    import psutil

    for child in psutil.Process().children():
        if child.name() == "worker_binary":
            child.kill()


class KerasLearner:
    """Learns with a Keras model.

    Args:
      model: builds the model, uncompiled. Weights it makes must be trainable; a layer that keeps statistics, such
        as BatchNormalization, is refused.
      loss: builds the loss.
      metrics: each builds a `tf.keras.metrics.Metric`; their names appear in reports.
    """

    def __init__(
        self,
        model: Callable[[], Any],
        loss: Callable[[], Any],
        metrics: Sequence[Callable[[], Any]] = (),
    ) -> None:
        self._model = model
        self._loss = loss
        self._metrics = metrics
        self._client_work: dict[tuple[Any, ...], Any] = {}

    def initial_weights(self, seed: int) -> Tensors:
        tensorflow().keras.utils.set_random_seed(seed)
        return _weights_of(self._build())

    def load_weights(self, path: Path) -> Tensors:
        model = self._build()
        expected = signature(_weights_of(model))
        try:
            if path.suffix == ".safetensors":
                weights = decode_tensors(path.read_bytes(), path.name)
            else:
                model.load_weights(path)  # reads arrays only: never a layer's code
                weights = _weights_of(model)
        except (CorruptError, OSError, ValueError, KeyError) as error:
            message = str(error).strip().splitlines()[0]
            raise InputError(f"{path.name} does not fit this workload's model: {message}") from error
        if signature(weights) != expected:
            raise InputError(f"{path.name} has {signature(weights)}, this workload's model needs {expected}")
        return weights

    def prepare(self) -> None:
        start_tff_worker()

    def train(
        self, client: str, weights: Tensors, examples: Examples, how: LocalTraining, seeds: ClientSeeds
    ) -> ClientUpdate:
        if not len(examples):
            raise UpdateError(ExclusionReason.NO_DATA, "the client has no examples")
        self._build(weights)  # an error of the model is clearer here than from inside of TFF
        start_tff_worker()
        result, measurements = self._run_client_work(weights, examples, how, seeds)
        # TFF answers a client that diverged with a zero update of weight 0.
        num_examples = int(result.update_weight)
        if num_examples <= 0:
            raise UpdateError(
                ExclusionReason.NON_FINITE_TRAINING, "training diverged; a smaller client_learning_rate may help"
            )
        delta = {
            name: np.negative(np.asarray(gradient, dtype=np.float32))
            for name, gradient in zip(sorted(weights), result.update, strict=True)
        }
        metrics = {name: float(value) for name, value in measurements["train"].items()}
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        return ClientUpdate(client=client, delta=delta, num_examples=num_examples, metrics=finite)

    def evaluate(self, weights: Tensors, examples: Examples) -> Mapping[str, float]:
        model = self._build(weights)
        model.compile(loss=self._loss(), metrics=[metric() for metric in self._metrics])
        measured = model.evaluate(examples.x, examples.y, batch_size=_EVALUATION_BATCH, verbose=0, return_dict=True)
        return {name: float(value) for name, value in measured.items()}

    def export(self, weights: Tensors, path: Path) -> None:
        self._build(weights).save(path)

    def runtime(self) -> Runtime:
        return describe_runtime(("tensorflow", "tensorflow-federated", "numpy"), THREADS)

    def dataset(self, examples: Examples, how: LocalTraining, shuffle_seed: int) -> Any:
        """Make what a client trains on: every epoch in another order, in batches.

        Made anew for each training, because iterating it a second time would give other orders.
        """
        tf = tensorflow()
        tf.random.set_seed(shuffle_seed)  # tf.data mixes the global seed into its own
        data = tf.data.Dataset.from_tensor_slices((examples.x, examples.y))
        shuffled = data.shuffle(len(examples), seed=shuffle_seed, reshuffle_each_iteration=True)
        return shuffled.batch(how.batch_size).repeat(how.local_epochs)

    def tff_model(self, examples: Examples, dropout_seed: int) -> Any:
        """Make the model in TFF's form.

        TFF calls this while it builds a graph of its own. The graph's seed decides every random operation in it,
        in Keras layers and the user's alike; left alone it would be drawn from the clock.
        """
        tf, tff = tensorflow(), tensorflow_federated()
        tf.keras.utils.set_random_seed(dropout_seed)
        tf.compat.v1.get_default_graph().seed = dropout_seed
        spec = tuple(tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in (examples.x, examples.y))
        return tff.learning.models.from_keras_model(
            self._build(), loss=self._loss(), input_spec=spec, metrics=[metric() for metric in self._metrics]
        )

    def _run_client_work(
        self, weights: Tensors, examples: Examples, how: LocalTraining, seeds: ClientSeeds
    ) -> tuple[Any, Mapping[str, Any]]:
        # A seed is part of a TFF graph, and a graph takes a second to build: a model without randomness shares one.
        graph_seed = seeds.dropout if self._draws_random_numbers else 0
        key = (how, tuple(examples.schema().items()), graph_seed)
        if key not in self._client_work:
            self._client_work = {key: self._build_client_work(examples, how, graph_seed)}
        work = self._client_work[key]
        model_weights = tensorflow_federated().learning.models.ModelWeights(
            trainable=[weights[name] for name in sorted(weights)], non_trainable=[]
        )
        output = work.next(work.initialize(), [model_weights], [self.dataset(examples, how, seeds.shuffle)])
        return output.result[0], output.measurements

    def _build_client_work(self, examples: Examples, how: LocalTraining, graph_seed: int) -> Any:
        learning = tensorflow_federated().learning
        return learning.templates.build_model_delta_client_work(
            lambda: self.tff_model(examples, graph_seed),
            client_optimizer(how),
            client_weighting=learning.ClientWeighting.NUM_EXAMPLES,
        )

    @cached_property
    def _draws_random_numbers(self) -> bool:
        """Whether a training step of the model has a random operation in its graph."""
        tf = tensorflow()
        tf.random.set_seed(0)  # with deterministic operations on, a random one without a seed is an error
        model = self._build()
        call = tf.function(lambda *inputs: model(*inputs, training=True))
        specs = [tf.TensorSpec([1, *i.shape[1:]], i.dtype) for i in model.inputs]
        graph = call.get_concrete_function(*specs).graph.as_graph_def()
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        return any("Random" in node.op or "Multinomial" in node.op for node in nodes)

    def _build(self, weights: Tensors | None = None) -> Any:
        tensorflow().keras.backend.reset_uids()  # or a second model's layers would have other names
        model = self._model()
        if not model.built:
            raise WorkloadError("the workload's model has no input shape: begin it with an Input layer")
        if model.non_trainable_weights:
            names = ", ".join(weight.name for weight in model.non_trainable_weights[:3])
            raise WorkloadError(
                f"the model keeps statistics outside training ({names}), which averaging would ruin: use "
                "LayerNormalization or GroupNormalization in place of BatchNormalization"
            )
        if weights is not None:
            _set_weights(model, weights)
        return model


def classifier(model: Callable[[], Any]) -> KerasLearner:
    """Make the learner of a model that gives one logit for each class; targets are class numbers.

    Its metrics are `accuracy` (share of examples, 0 to 1) and `loss` (cross-entropy, nats).
    """
    return KerasLearner(
        model,
        loss=lambda: tensorflow().keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[lambda: tensorflow().keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )


def client_optimizer(how: LocalTraining) -> Any:
    """Make TFF's SGD with momentum, which starts afresh on each client and round."""
    return tensorflow_federated().learning.optimizers.build_sgdm(how.client_learning_rate, how.client_momentum)


def _set_weights(model: Any, weights: Tensors) -> None:
    ours = [tuple(variable.shape) for variable in model.trainable_weights]
    theirs = [weights[name].shape for name in sorted(weights)]
    if ours != theirs:
        raise WorkloadError(
            f"the workload's model has weights of shapes {ours}, the version's have {theirs}: begin another training "
            "for the changed model, with `fededge run --new`"
        )
    model.set_weights([weights[name] for name in sorted(weights)])


def _weights_of(model: Any) -> Tensors:
    """Name each array by its place and its variable, so that sorting the names gives back the model's order."""
    names = [f"{i:04d}/{variable.name.partition(':')[0]}" for i, variable in enumerate(model.trainable_weights)]
    return {name: np.asarray(array, dtype=np.float32) for name, array in zip(names, model.get_weights(), strict=True)}
