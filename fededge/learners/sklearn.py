"""scikit-learn models, trained by their own `partial_fit`. Use it for linear models, small networks and k-means."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from fededge.core.metrics import classification_metrics, regression_metrics
from fededge.core.parts import COVERAGE
from fededge.core.tensors import Array, Tensors, non_finite, signature
from fededge.core.updates import ClientUpdate, ExclusionReason
from fededge.errors import CorruptError, InputError, UpdateError, WorkloadError
from fededge.learners import ClientSeeds, Examples, require_usable
from fededge.learners.sklearn_models import Clusters, Family, Form, alone, family_of, settle
from fededge.records import Runtime
from fededge.runtime import describe_runtime
from fededge.settings import LocalTraining
from fededge.store.blobs import decode_tensors

Metrics = Callable[[Array, Array], Mapping[str, float]]
Scaling = tuple[Array, Array]  # of each input, what is subtracted and what is then divided by

_PART = 10_000  # examples
THREADS = 1  # BLAS gives other bits with more; parallelism is across clients


class SklearnLearner:
    """Learns with a scikit-learn estimator that makes steps from given weights.

    These are SGDClassifier, SGDRegressor and Perceptron (weights `coef_`, `intercept_`), MLPClassifier and MLPRegressor
    (`coefs_/0`, `intercepts_/0`, …) and MiniBatchKMeans (`cluster_centers_`). Others are refused, with what to use.

    A client makes one call of the library's `partial_fit` for each minibatch:
    - of a network it is one step of SGD on the minibatch, whose size divides `alpha`, as always in scikit-learn.
    - of a linear model it is one step for each example of the minibatch, one after the other: scikit-learn has no
      other SGD. So batch_size changes little but the time it takes: prefer a large one. Such a model has no momentum,
      and can follow neither fedprox nor scaffold.
    - of k-means, each example goes to its nearest center, and each center to the mean of the examples that went to it
      since the round began. Sent with the share of the client's examples that each center got, so that the server's
      centers are means of all clients' examples. With local_epochs=1 and a batch_size of at least a client's examples,
      a round is a step of Lloyd's k-means on all data together. Learning rate and momentum do not count. A center with
      one example is that example: prefer clients with many examples for each center.

    The round's settings decide the learning rate, the momentum, the minibatches and their order; the estimator's own
    are left at their defaults. Its other parameters (loss, penalty, alpha, layers, …) count. Counters and velocities
    begin afresh in each round, and are not sent.

    Args:
      estimator: builds the estimator, unfitted.
      inputs: how many numbers an example has; inputs with more axes are flattened.
      classes: of a classifier, all class numbers there are, of all clients; else None.
      metrics: measures predictions, as `core.metrics` does; of a classifier it gets the places of the targets in
        `classes`, ascending, and the scores of `predict`.
      outputs: of a regressor, how many numbers it predicts.
    """

    def __init__(
        self,
        estimator: Callable[[], Any],
        inputs: int,
        classes: Sequence[int] | None,
        metrics: Metrics,
        outputs: int = 1,
    ) -> None:
        self._estimator = estimator
        self._form = Form(inputs, tuple(sorted(set(classes or ()))), outputs)
        self._metrics = metrics
        if classes is not None and len(self._form.classes) < max(2, len(classes)):
            raise WorkloadError(f"classes={list(classes)}: name each class once, and at least two")

    def initial_weights(self, seed: int) -> Tensors:
        model, family = self._begin(seed)
        return {name: value.copy() for name, value in family.weights(model).items()}

    def load_weights(self, path: Path) -> Tensors:
        if path.suffix != ".safetensors":
            raise InputError(
                f"{path.name} is no .safetensors file, and no other is read: a pickle (.pkl, .joblib) runs code when "
                "it is loaded. Write the model's arrays with safetensors.numpy.save_file, as float32, named "
                f"{', '.join(self.initial_weights(0))}"
            )
        try:
            weights = decode_tensors(path.read_bytes(), path.name)
        except (CorruptError, OSError) as error:
            raise InputError(f"{path.name} does not fit this workload's model: {error}") from error
        if signature(weights) != (expected := signature(self.initial_weights(0))):
            raise InputError(f"{path.name} has {signature(weights)}, this workload's model needs {expected}")
        return weights

    def prepare(self) -> None:
        self._begin()

    def update_signature(self, weights: Tensors, how: LocalTraining) -> dict[str, str]:
        _, family = self._begin(weights=weights)
        family.require(how, corrected=False)
        own = signature(weights)
        if isinstance(family, Clusters):
            return dict(sorted({**own, **{f"{COVERAGE}{name}": form for name, form in own.items()}}.items()))
        return own

    def train(
        self,
        client: str,
        weights: Tensors,
        examples: Examples,
        how: LocalTraining,
        seeds: ClientSeeds,
        correction: Tensors | None = None,
    ) -> ClientUpdate:
        model, family = self._begin(weights=weights)
        family.require(how, corrected=correction is not None)
        usable = self._usable(examples)
        with alone():
            trained = self._fit(model, family, weights, usable, how, seeds.shuffle, correction)
            delta = family.update(weights, model, trained)
            if non_finite(delta):
                raise _diverged()
            measured = self._metrics(self._places(usable.y), _scores(family, model, usable.x))
        metrics = {name: float(value) for name, value in measured.items() if math.isfinite(value)}
        return ClientUpdate(client=client, delta=delta, num_examples=trained, metrics=metrics)

    def predict(self, weights: Tensors, x: Array) -> Array:
        """Return what the model says of inputs.

        Args:
          weights: the model's.
          x: shape [examples, inputs], or more axes of as many numbers.

        Returns:
          Of a classifier, a score for each class in ascending order, shape [examples, classes]; their softmax is what
          scikit-learn's `predict_proba` gives: of a network the logits; of a linear model of two classes 0 and the
          log-odds, of more (each against all others) the logarithm of each one's probability. Without the loss
          `log_loss` a linear model has no probabilities, and its margins are the scores.
          Of a regressor, shape [examples], or [examples, outputs] if there are several.
          Of k-means, minus the squared distance to each center, shape [examples, clusters].

        Raises:
          WorkloadError: the inputs are of another width.
        """
        model, family = self._begin(weights=weights)
        with alone():
            return _scores(family, model, _or_workload_error(self._columns, x))

    def evaluate(self, weights: Tensors, examples: Examples) -> Mapping[str, float]:
        model, family = self._begin(weights=weights)
        usable = _or_workload_error(self._usable, examples)
        with alone():
            measured = self._metrics(self._places(usable.y), _scores(family, model, usable.x))
        return {name: float(value) for name, value in measured.items()}

    def export(self, weights: Tensors, path: Path, scaling: Scaling | None = None) -> None:
        """Write the fitted estimator, which `skops.io.load` reads without running code.

        Args:
          weights: the model's.
          path: of a .skops file.
          scaling: if the model was trained on normalized inputs, the mean of each feature and what it was divided by,
            float32, shape [features]; an example may have several rows of features. The file then has a pipeline that
            takes inputs as they are measured, NaN where they are missing. Its imputer keeps a type that skops asks
            about: `skops.io.load(path, trusted=["numpy.dtype"])`.
        """
        import skops.io

        if path.suffix != ".skops":
            raise InputError(f"{path.name}: a scikit-learn model is written to a file that ends in .skops")
        model, _ = self._begin(weights=weights)
        model.set_params(**self._estimator().get_params(deep=False))  # as the user has it, to be trained on
        skops.io.dump(model if scaling is None else _pipeline(model, scaling, self._form.inputs), path)

    def runtime(self) -> Runtime:
        return describe_runtime(("scikit-learn", "numpy", "scipy"), THREADS)

    def _begin(self, seed: int = 0, weights: Tensors | None = None) -> tuple[Any, Family]:
        """Build the estimator with arrays of its own, or with these weights."""
        import sklearn

        model = sklearn.clone(self._estimator())  # unfitted, whatever the workload gives
        family = family_of(model)
        if (kind := _kind(model)) != self._kind(kind):
            raise WorkloadError(f"{type(model).__name__} is a {kind}: use fededge.learners.sklearn.{kind}")
        try:
            settle(model, family, seed)
            with alone(), sklearn.config_context(skip_parameter_validation=False):
                family.begin(model, self._form)
        except ValueError as error:
            raise WorkloadError(f"the workload's model cannot be built: {error}") from error
        if weights is not None:
            _require_shapes(family.weights(model), weights)
            family.put(model, weights)
        return model, family

    def _kind(self, of_model: str) -> str:
        """Say what kind of model this learner is for; the user's own metrics may be for any."""
        if self._form.classes or of_model == "classifier":
            return "classifier" if self._form.classes else "regressor"
        if self._metrics is regression_metrics:
            return "regressor"
        return "clusterer" if self._metrics is _inertia else of_model

    def _fit(
        self,
        model: Any,
        family: Family,
        start: Tensors,
        examples: Examples,
        how: LocalTraining,
        seed: int,
        correction: Tensors | None,
    ) -> int:
        """Train, and return on how many examples."""
        model.set_params(**family.steps(how))
        pulled = bool(how.proximal_mu) or correction is not None
        trained = 0
        for batch in minibatches(len(examples), how, seed):
            before = {name: value.copy() for name, value in family.weights(model).items()} if pulled else {}
            try:
                family.fit(model, examples.x[batch], examples.y[batch], self._form)
            except ValueError as error:
                if "non-finite" in str(error) or "overflow" in str(error):
                    raise _diverged() from error
                raise
            if pulled:
                _pull(family.weights(model), before, start, how, correction or {})
            trained += len(batch)
        return trained

    def _usable(self, examples: Examples) -> Examples:
        """Bring a client's examples into the model's form, or raise an `UpdateError` that says why it cannot be."""
        if not len(examples):
            require_usable(examples)
        x, y = self._columns(examples.x), self._targets(examples.y)
        require_usable(Examples(x, y))
        if self._form.classes and (other := np.setdiff1d(y, self._form.classes)).size:
            shown = ", ".join(map(str, other[:5].tolist()))
            raise _bad(f"the targets have {shown}, and the classes are {', '.join(map(str, self._form.classes))}")
        return Examples(x, y)

    def _columns(self, x: Array) -> Array:
        columns = math.prod(x.shape[1:])
        if columns != self._form.inputs:
            raise _bad(f"the inputs have {columns} columns, and the model takes {self._form.inputs}")
        return _as_float32(x).reshape(len(x), columns)

    def _targets(self, y: Array) -> Array:
        if y.ndim == 2 and y.shape[1] == 1:
            y = y.ravel()
        if self._form.classes:
            wanted: tuple[int, ...] = y.shape[:1]
        else:
            wanted = (*y.shape[:1], self._form.outputs) if self._form.outputs > 1 else y.shape[:1]
            y = _as_float32(y)
        if y.shape != wanted:
            raise _bad(f"the targets have shape {list(y.shape)}, and the model needs {list(wanted)}")
        return y

    def _places(self, targets: Array) -> Array:
        """Number the classes from 0, as the columns of the scores are."""
        return np.searchsorted(self._form.classes, targets) if self._form.classes else targets


def classifier(estimator: Callable[[], Any], inputs: int, classes: Sequence[int]) -> SklearnLearner:
    """Make the learner of SGDClassifier, Perceptron or MLPClassifier; targets are class numbers.

    Its metrics are `accuracy`, `macro_f1` (shares, 0 to 1) and `loss` (cross-entropy, nats; of a linear model it means
    something with loss="log_loss" alone).
    """
    return SklearnLearner(estimator, inputs, classes, classification_metrics)


def regressor(estimator: Callable[[], Any], inputs: int, outputs: int = 1) -> SklearnLearner:
    """Make the learner of SGDRegressor or MLPRegressor.

    Its metrics are `rmse` and `mae`, in the targets' unit.
    """
    return SklearnLearner(estimator, inputs, None, regression_metrics, outputs)


def clusterer(estimator: Callable[[], Any], inputs: int) -> SklearnLearner:
    """Make the learner of MiniBatchKMeans; targets are not looked at.

    Its metric is `inertia`: the mean squared distance to the nearest center, in the inputs' unit squared.
    """
    return SklearnLearner(estimator, inputs, None, _inertia)


def minibatches(examples: int, how: LocalTraining, seed: int) -> Iterator[Array]:
    """Give the numbers of the examples in each minibatch: every epoch in another order, its last one smaller."""
    rng = np.random.default_rng(seed)
    epochs = (rng.permutation(examples) for _ in count())
    size = how.batch_size
    return islice((e[begin : begin + size] for e in epochs for begin in range(0, examples, size)), how.steps(examples))


def _scores(family: Family, model: Any, x: Array) -> Array:
    """Predict in parts, as a network's hidden layer of all inputs may not fit into memory."""
    return np.concatenate([family.scores(model, x[begin : begin + _PART]) for begin in range(0, len(x), _PART)])


def _pull(weights: Tensors, before: Tensors, start: Tensors, how: LocalTraining, correction: Tensors) -> None:
    """Add to a step of plain SGD what FedProx and SCAFFOLD add to its gradient, taken where the step began.

    Source: Li et al. 2020, arXiv:1812.06127 (FedProx); Karimireddy et al. 2020, arXiv:1910.06378 (SCAFFOLD).
    """
    rate, mu = np.float32(how.client_learning_rate), np.float32(how.proximal_mu)
    for name, value in weights.items():
        added = np.multiply(mu, np.subtract(before[name], start[name]))
        if name in correction:
            added = np.add(added, correction[name])
        np.subtract(value, np.multiply(rate, added), out=value)


def _inertia(_: Array, scores: Array) -> dict[str, float]:
    return {"inertia": float(-scores.astype(np.float64).max(axis=1).mean())}


def _require_shapes(ours: Tensors, theirs: Tensors) -> None:
    if signature(ours) != signature(theirs):
        raise WorkloadError(
            f"the workload's model has weights {signature(ours)}, the version's are {signature(theirs)}: begin another "
            "training for the changed model, with `fededge run --new`"
        )


def _pipeline(model: Any, scaling: Scaling, inputs: int) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    mean, scale = (np.tile(values, inputs // len(values)) for values in scaling)
    imputer = SimpleImputer().fit(mean[np.newaxis])  # the mean of one row is that row
    scaler = StandardScaler().fit(mean[np.newaxis])
    scaler.mean_, scaler.scale_, scaler.var_ = mean, scale, np.square(scale)
    return make_pipeline(imputer, scaler, model)


def _kind(model: Any) -> str:
    from sklearn.base import is_classifier, is_regressor

    return "classifier" if is_classifier(model) else "regressor" if is_regressor(model) else "clusterer"


def _as_float32(values: Array) -> Array:
    with np.errstate(over="ignore"):  # what becomes infinite is refused by its name
        return np.asarray(values, np.float32)


def _or_workload_error(check: Callable[[Any], Any], data: Any) -> Any:
    try:
        return check(data)
    except UpdateError as error:
        raise WorkloadError(f"the data to predict: {error.detail}") from error


def _bad(detail: str) -> UpdateError:
    return UpdateError(ExclusionReason.BAD_DATA, detail)


def _diverged() -> UpdateError:
    return UpdateError(
        ExclusionReason.NON_FINITE_TRAINING, "training diverged; a smaller client_learning_rate may help"
    )
