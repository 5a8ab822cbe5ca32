"""What keeps a Keras client from drifting, as a term of its loss: ⟨correction, w⟩ + μ/2 ‖w − w₀‖².

Its gradient is what FedProx and SCAFFOLD add to each gradient. Correction and w₀ go into TFF's client work as variables
that are not trained, so that one graph serves every client and round.

Source: Li et al. 2020, arXiv:1812.06127, eq. 2 (FedProx); Karimireddy et al. 2020, arXiv:1910.06378 (SCAFFOLD).
"""

from __future__ import annotations

from typing import Any

from fededge.core.tensors import Tensors
from fededge.learners.tff import tensorflow, tensorflow_federated


def penalized(model: Any, mu: float) -> Any:
    """Give a `tff.learning.models.VariableModel` the penalty. Called while TFF builds a graph."""
    tf, models = tensorflow(), tensorflow_federated().learning.models

    class Penalized(models.VariableModel):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            shapes = [variable.shape for variable in model.trainable_variables]
            self._correction = [tf.Variable(tf.zeros(shape), trainable=False) for shape in shapes]
            self._start = [tf.Variable(tf.zeros(shape), trainable=False) for shape in shapes]

        trainable_variables = property(lambda _: model.trainable_variables)
        local_variables = property(lambda _: model.local_variables)
        input_spec = property(lambda _: model.input_spec)

        @property
        def non_trainable_variables(self) -> list[Any]:
            return [*model.non_trainable_variables, *self._correction, *self._start]

        def forward_pass(self, batch_input: Any, training: bool = True) -> Any:
            output = model.forward_pass(batch_input, training)
            return output._replace(loss=output.loss + self._penalty())

        def _penalty(self) -> Any:
            each = zip(model.trainable_variables, self._correction, self._start, strict=True)
            return tf.add_n(
                [tf.reduce_sum(c * w) + mu / 2 * tf.reduce_sum(tf.square(w - start)) for w, c, start in each]
            )

        def predict_on_batch(self, batch_input: Any, training: bool = True) -> Any:
            return model.predict_on_batch(batch_input, training)

        def report_local_unfinalized_metrics(self) -> Any:
            return model.report_local_unfinalized_metrics()

        def metric_finalizers(self) -> Any:
            return model.metric_finalizers()

        def reset_metrics(self) -> None:
            model.reset_metrics()

    return Penalized()


def penalty_variables(weights: Tensors, correction: Tensors | None) -> list[Any]:
    """Return the values of the penalty's variables, in the order in which the model has them.

    Args:
      weights: what is trained of the global model, float32.
      correction: named and shaped like it; None is zero.
    """
    names = sorted(weights)
    given = [weights[name] * 0 for name in names] if correction is None else [correction[name] for name in names]
    return [*given, *(weights[name] for name in names)]
