"""Keras models, trained by TFF's own client work. Use it for any `tf.keras` model with a loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fededge.core.parts import split
from fededge.core.tensors import Array, Tensors, signature
from fededge.core.updates import ClientUpdate, ExclusionReason
from fededge.errors import CorruptError, InputError, UpdateError, WorkloadError
from fededge.learners import ClientSeeds, Examples, require_usable
from fededge.learners.batch_norm import BatchNorm, refused
from fededge.learners.keras_data import slices
from fededge.learners.keras_penalty import penalized, penalty_variables
from fededge.learners.keras_statistics import measured_statistics, set_statistics, statistics_of
from fededge.learners.tff import THREADS, bound_tff_worker, start_tff_worker, tensorflow, tensorflow_federated
from fededge.records import Runtime
from fededge.runtime import describe_runtime
from fededge.settings import ClientAlgorithm, LocalTraining
from fededge.store.blobs import decode_tensors

__all__ = ["KerasLearner", "classifier", "client_optimizer", "tensorflow"]

_EVALUATION_BATCH = 256


class KerasLearner:
    """Learns with a Keras model.

    Args:
      model: builds the model, uncompiled. Weights it makes must be trainable, but for BatchNormalization's statistics.
      loss: builds the loss.
      metrics: each builds a `tf.keras.metrics.Metric`; their names appear in reports.
      measure: given targets and predictions, measures a model in place of loss and metrics.
      batch_norm: what happens to the statistics of BatchNormalization layers.
    """

    def __init__(
        self,
        model: Callable[[], Any],
        loss: Callable[[], Any],
        metrics: Sequence[Callable[[], Any]] = (),
        measure: Callable[[Array, Array], Mapping[str, float]] | None = None,
        batch_norm: BatchNorm = BatchNorm.REFUSED,
    ) -> None:
        self._model = model
        self._loss = loss
        self._metrics = metrics
        self._measure = measure
        self._batch_norm = batch_norm
        self._client_work: dict[tuple[Any, ...], Any] = {}
        self._evaluated: Any = None

    def initial_weights(self, seed: int) -> Tensors:
        tensorflow().keras.utils.set_random_seed(seed)
        return self._weights_of(self._build())

    def load_weights(self, path: Path) -> Tensors:
        model = self._build()
        expected = signature(self._weights_of(model))
        try:
            if path.suffix == ".safetensors":
                weights = decode_tensors(path.read_bytes(), path.name)
            else:
                model.load_weights(path)  # reads arrays only: never a layer's code
                weights = self._weights_of(model)
        except (CorruptError, OSError, ValueError, KeyError) as error:
            message = str(error).strip().splitlines()[0]
            raise InputError(f"{path.name} does not fit this workload's model: {message}") from error
        if signature(weights) != expected:
            raise InputError(f"{path.name} has {signature(weights)}, this workload's model needs {expected}")
        return weights

    def prepare(self) -> None:
        start_tff_worker()

    def update_signature(self, weights: Tensors, how: LocalTraining) -> dict[str, str]:  # noqa: ARG002
        return signature(weights)

    def train(
        self,
        client: str,
        weights: Tensors,
        examples: Examples,
        how: LocalTraining,
        seeds: ClientSeeds,
        correction: Tensors | None = None,
    ) -> ClientUpdate:
        require_usable(examples)
        start_tff_worker()
        result, measurements = self._run_client_work(weights, examples, how, seeds, correction)
        # TFF answers a client that diverged with a zero update of weight 0.
        num_examples = int(result.update_weight)
        if num_examples <= 0:
            raise UpdateError(
                ExclusionReason.NON_FINITE_TRAINING, "training diverged; a smaller client_learning_rate may help"
            )
        delta = {
            name: np.negative(np.asarray(gradient, dtype=np.float32))
            for name, gradient in zip(sorted(split(weights).trained), result.update, strict=True)
        }
        if self._batch_norm is BatchNorm.FEDERATED:
            trained = {name: weights[name] + change for name, change in delta.items()}
            delta |= measured_statistics(self._build({**weights, **trained}), examples.x)
        metrics = {name: float(value) for name, value in measurements["train"].items()}
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        return ClientUpdate(client=client, delta=delta, num_examples=num_examples, metrics=finite)

    def predict(self, weights: Tensors, x: Array) -> Array:
        model = self._model_for(weights, x)
        return np.asarray(model.predict(x, batch_size=_EVALUATION_BATCH, verbose=0))

    def evaluate(self, weights: Tensors, examples: Examples) -> Mapping[str, float]:
        if self._measure:
            return self._measure(examples.y, self.predict(weights, examples.x))
        model = self._model_for(weights, examples.x)
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
        data = tensorflow().data.Dataset.from_tensor_slices((examples.x, examples.y))
        return _batches(data, len(examples), how, shuffle_seed)

    def tff_model(self, examples: Examples, dropout_seed: int, how: LocalTraining) -> Any:
        """Make the model in TFF's form.

        TFF calls this while it builds a graph of its own. The graph's seed decides every random operation in it,
        in Keras layers and the user's alike; left alone it would be drawn from the clock.
        """
        tf, tff = tensorflow(), tensorflow_federated()
        tf.keras.utils.set_random_seed(dropout_seed)
        tf.compat.v1.get_default_graph().seed = dropout_seed
        spec = tuple(tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in (examples.x, examples.y))
        with warnings.catch_warnings():
            # Of BatchNormalization, whose statistics are measured after the training.
            warnings.filterwarnings("ignore", "Batch Normalization contains", UserWarning)
            model = tff.learning.models.from_keras_model(
                self._build(), loss=self._loss(), input_spec=spec, metrics=[metric() for metric in self._metrics]
            )
        return penalized(model, how.proximal_mu) if _is_penalized(how) else model

    def _run_client_work(
        self,
        weights: Tensors,
        examples: Examples,
        how: LocalTraining,
        seeds: ClientSeeds,
        correction: Tensors | None,
    ) -> tuple[Any, Mapping[str, Any]]:
        # A seed is part of a TFF graph, and a graph takes a second to build: a model without randomness shares one.
        graph_seed = seeds.dropout if self._draws_random_numbers else 0
        key = (how, tuple(examples.schema().items()), graph_seed)
        if key not in self._client_work:
            self._build(weights)  # an error of the model is clearer here than from inside of TFF
            bound_tff_worker()
            self._client_work = {key: self._build_client_work(examples, how, graph_seed)}
        work = self._client_work[key]
        trained = split(weights).trained
        statistics = [] if self._batch_norm is BatchNorm.REFUSED else self._build(weights).non_trainable_variables
        model_weights = tensorflow_federated().learning.models.ModelWeights(
            trainable=[trained[name] for name in sorted(trained)],
            non_trainable=[
                *(variable.numpy() for variable in statistics),
                *(penalty_variables(trained, correction) if _is_penalized(how) else []),
            ],
        )
        with slices(examples) as data:
            batches = _batches(data, len(examples), how, seeds.shuffle)
            output = work.next(work.initialize(), [model_weights], [batches])
        return output.result[0], output.measurements

    def _build_client_work(self, examples: Examples, how: LocalTraining, graph_seed: int) -> Any:
        learning = tensorflow_federated().learning
        return learning.templates.build_model_delta_client_work(
            lambda: self.tff_model(examples, graph_seed, how),
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
        if self._batch_norm is BatchNorm.REFUSED and model.non_trainable_weights:
            raise refused([weight.name for weight in model.non_trainable_weights])
        if weights is not None:
            self._give(model, weights)
        return model

    def _give(self, model: Any, weights: Tensors) -> None:
        _set_weights(model, split(weights).trained)
        if self._batch_norm is BatchNorm.FEDERATED:
            set_statistics(model, weights)

    def _compiled(self, model: Any) -> Any:
        model.compile(loss=self._loss(), metrics=[metric() for metric in self._metrics])
        return model

    def _model_for(self, weights: Tensors, x: Array) -> Any:
        """Return the model that predicts of these inputs, whose own statistics may be what normalizes them.

        One is kept with its graphs, which take longer than evaluating. It is good only after another was built here:
        TFF's graphs turn Keras's classes into those of TensorFlow 1, and that turns them back.
        """
        model = self._build(weights)
        if self._batch_norm is BatchNorm.LOCAL:
            set_statistics(model, measured_statistics(model, x))
            return self._compiled(model)
        if self._evaluated is None:
            self._evaluated = self._compiled(model)
        self._give(self._evaluated, weights)
        return self._evaluated

    def _weights_of(self, model: Any) -> Tensors:
        """Name each array by its place and its variable, so that sorting the names gives back the model's order."""
        trained: Tensors = {
            f"{i:04d}/{variable.name.partition(':')[0]}": np.asarray(variable.numpy(), dtype=np.float32)
            for i, variable in enumerate(model.trainable_weights)
        }
        return {**trained, **statistics_of(model)} if self._batch_norm is BatchNorm.FEDERATED else trained


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


def _batches(data: Any, size: int, how: LocalTraining, shuffle_seed: int) -> Any:
    tensorflow().random.set_seed(shuffle_seed)  # tf.data mixes the global seed into its own
    batches = data.shuffle(size, seed=shuffle_seed, reshuffle_each_iteration=True).batch(how.batch_size)
    return batches.repeat().take(how.local_steps) if how.local_steps else batches.repeat(how.local_epochs)


def _set_weights(model: Any, weights: Tensors) -> None:
    ours = [tuple(variable.shape) for variable in model.trainable_weights]
    theirs = [weights[name].shape for name in sorted(weights)]
    if ours != theirs:
        raise WorkloadError(
            f"the workload's model has weights of shapes {ours}, the version's have {theirs}: begin another training "
            "for the changed model, with `fededge run --new`"
        )
    for variable, name in zip(model.trainable_weights, sorted(weights), strict=True):
        variable.assign(weights[name])


def _is_penalized(how: LocalTraining) -> bool:
    return how.client_algorithm is not ClientAlgorithm.FEDAVG
