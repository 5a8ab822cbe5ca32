"""Which scikit-learn estimators can be averaged, where each keeps its weights, and how it makes a step."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from fededge.core.parts import COVERAGE
from fededge.core.tensors import Array, Tensors
from fededge.errors import WorkloadError
from fededge.settings import ClientAlgorithm, LocalTraining

# partial_fit makes an estimator's arrays at its first call, in which it also makes a step. One of this length adds
# nothing to any float32, so that what has been made is what the library draws.
_NO_STEP = 1e-300


@dataclass(frozen=True)
class Form:
    """What goes into a model and comes out of it.

    Attributes:
      inputs: how many numbers an example has.
      classes: of a classifier, ascending; else empty.
      outputs: of a regressor, how many numbers it predicts.
    """

    inputs: int
    classes: tuple[int, ...]
    outputs: int

    def blank(self, examples: int = 1) -> tuple[Array, Array]:
        """Make inputs and targets that say nothing."""
        x = np.zeros((examples, self.inputs), np.float32)
        if self.classes:
            return x, np.full(examples, self.classes[0])
        return x, np.zeros((examples, self.outputs) if self.outputs > 1 else examples, np.float32)


@contextmanager
def alone() -> Iterator[None]:
    """Compute in one thread and without a word.

    BLAS and OpenMP add in another order with each number of threads. What scikit-learn warns of, such as that one
    minibatch has not converged, is a matter of course here; what matters is checked by the learner.
    """
    import sklearn

    with (
        _thread_pools().limit(limits=1),
        sklearn.config_context(assume_finite=True, skip_parameter_validation=True),
        np.errstate(all="ignore"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


@cache
def _thread_pools() -> Any:
    # Each of them has a BLAS or an OpenMP of its own, which must be there when the pools are looked for.
    import sklearn.cluster
    import sklearn.neural_network  # noqa: F401
    from threadpoolctl import ThreadpoolController  # type: ignore[import-not-found]

    return ThreadpoolController()


class Family(ABC):
    """Estimators that keep their weights in the same attributes.

    Attributes:
      ours: parameters that are set so for each model, with the values.
      decided: parameters that the round decides in the estimator's place, with what there decides them.
      drift: why such a model is trained by fedavg alone; empty if it can be trained by all algorithms.
    """

    ours: Mapping[str, object]
    decided: Mapping[str, str]
    drift: str = ""

    @abstractmethod
    def steps(self, how: LocalTraining) -> dict[str, object]:
        """Return the parameters with which the library makes the round's steps."""

    @abstractmethod
    def weights(self, model: Any) -> Tensors:
        """Return the model's own arrays; a copy where the library holds another type."""

    @abstractmethod
    def put(self, model: Any, weights: Tensors) -> None:
        """Give an estimator that has begun other weights, and no memory of earlier steps."""

    @abstractmethod
    def begin(self, model: Any, form: Form) -> None:
        """Have the library make the model's arrays, drawn by its `random_state`."""

    @abstractmethod
    def scores(self, model: Any, x: Array) -> Array:
        """Predict; of a classifier, a score for each class, whose softmax is the probability that the library gives."""

    def fit(self, model: Any, x: Array, y: Array, form: Form) -> None:
        """Let the library train on one minibatch."""
        if form.classes:
            model.partial_fit(x, y, classes=np.array(form.classes))
        else:
            model.partial_fit(x, y)

    def update(self, before: Tensors, model: Any, trained: int) -> Tensors:  # noqa: ARG002
        """Return what a client sends, after training on so many examples."""
        return {name: np.subtract(value, before[name]) for name, value in self.weights(model).items()}

    def require(self, how: LocalTraining, corrected: bool) -> None:
        """Make sure that the round's settings can be followed.

        Raises:
          WorkloadError: they cannot; the message says why.
        """
        drifts = corrected or how.client_algorithm is not ClientAlgorithm.FEDAVG
        if drifts and self.drift:
            raise WorkloadError(f"client_algorithm={how.client_algorithm.value} is not for this model: {self.drift}")
        if drifts and how.client_momentum:
            raise WorkloadError(
                f"client_algorithm={how.client_algorithm.value} goes with client_momentum=0 for this model: "
                "what these algorithms add to a gradient would come after scikit-learn's momentum, and not be in it"
            )


class Network(Family):
    """MLPClassifier and MLPRegressor: one call of `partial_fit` is one step of SGD on the minibatch."""

    ours: Mapping[str, object] = {"learning_rate": "constant", "nesterovs_momentum": False, "shuffle": False}
    decided: Mapping[str, str] = {
        **dict.fromkeys(("learning_rate", "learning_rate_init", "power_t"), "client_learning_rate"),
        **dict.fromkeys(("momentum", "nesterovs_momentum"), "client_momentum, which is not Nesterov's,"),
        "batch_size": "the round's batch_size",
        **dict.fromkeys(("max_iter", "tol", "n_iter_no_change"), "local_epochs or local_steps"),
        **dict.fromkeys(("early_stopping", "validation_fraction"), "local_epochs or local_steps"),
        **dict.fromkeys(("shuffle", "random_state"), "the run's seed"),
        **dict.fromkeys(("warm_start", "verbose"), "the round"),
    }

    def steps(self, how: LocalTraining) -> dict[str, object]:
        return {"learning_rate_init": how.client_learning_rate, "momentum": how.client_momentum}

    def weights(self, model: Any) -> Tensors:
        return {
            f"{name}/{i}": value
            for name, values in (("coefs_", model.coefs_), ("intercepts_", model.intercepts_))
            for i, value in enumerate(values)
        }

    def put(self, model: Any, weights: Tensors) -> None:
        for name, value in self.weights(model).items():
            value[...] = weights[name]
        del model._optimizer  # it holds the velocities and the learning rate of the first call

    def begin(self, model: Any, form: Form) -> None:
        if model.solver != "sgd":
            raise WorkloadError(
                f"solver={model.solver!r}: clients train with SGD, and another solver's memory of earlier steps would "
                "begin afresh in every round: make the model with solver='sgd'"
            )
        model.set_params(learning_rate_init=_NO_STEP)
        self.fit(model, *form.blank(), form)

    def fit(self, model: Any, x: Array, y: Array, form: Form) -> None:
        model.set_params(batch_size=len(x))  # or it would be cut in pieces of 200
        super().fit(model, x, y, form)

    def scores(self, model: Any, x: Array) -> Array:
        if not hasattr(model, "classes_"):
            return np.asarray(model.predict(x))
        # The logits are what comes before the last activation.
        model.out_activation_ = "identity"
        logits = np.asarray(model.predict_proba(x))
        return logits if logits.shape[1] > 2 else _of_two(logits[:, 1])


class Linear(Family):
    """SGDClassifier, SGDRegressor and Perceptron: `partial_fit` makes one step for each example of the minibatch."""

    drift = (
        "scikit-learn makes a step for each example inside of one call, where nothing can be added to the gradient; "
        "use client_algorithm=fedavg, or MLPClassifier or MLPRegressor"
    )
    ours: Mapping[str, object] = {"learning_rate": "constant", "shuffle": False, "n_jobs": None}
    decided: Mapping[str, str] = {
        **dict.fromkeys(("learning_rate", "eta0", "power_t"), "client_learning_rate"),
        **dict.fromkeys(("max_iter", "tol", "n_iter_no_change"), "local_epochs or local_steps"),
        **dict.fromkeys(("early_stopping", "validation_fraction"), "local_epochs or local_steps"),
        **dict.fromkeys(("shuffle", "random_state"), "the run's seed"),
        **dict.fromkeys(("warm_start", "verbose"), "the round"),
        "average": "the mean over clients",
        "n_jobs": "the number of clients that train at once",
    }

    def steps(self, how: LocalTraining) -> dict[str, object]:
        return {"eta0": how.client_learning_rate}

    def weights(self, model: Any) -> Tensors:
        return {name: np.asarray(getattr(model, name), np.float32) for name in ("coef_", "intercept_")}

    def put(self, model: Any, weights: Tensors) -> None:
        model.coef_, model.intercept_ = weights["coef_"].copy(), weights["intercept_"].copy()
        model.t_ = 1.0

    def begin(self, model: Any, form: Form) -> None:
        if getattr(model, "class_weight", None) == "balanced":
            raise WorkloadError(
                "class_weight='balanced' would weigh by each minibatch's own classes: give the weights of all clients "
                "together, as class_weight={0: 1.0, 1: 5.0}"
            )
        if form.outputs > 1:
            raise WorkloadError(f"{type(model).__name__} predicts one number, not {form.outputs}: use MLPRegressor")
        model.set_params(eta0=_NO_STEP)
        self.fit(model, *form.blank(), form)
        model.coef_, model.intercept_ = np.zeros_like(model.coef_), np.zeros_like(model.intercept_)

    def scores(self, model: Any, x: Array) -> Array:
        if not hasattr(model, "classes_"):
            return np.asarray(model.predict(x))
        margins = np.asarray(model.decision_function(x))
        if margins.ndim == 1:
            return _of_two(margins)
        return _of_one_versus_rest(margins) if model.loss == "log_loss" else margins

    def require(self, how: LocalTraining, corrected: bool) -> None:
        super().require(how, corrected)
        if how.client_momentum:
            raise WorkloadError(
                f"client_momentum={how.client_momentum:g}: scikit-learn's linear SGD has no momentum; set "
                "client_momentum=0"
            )


class Clusters(Family):
    """MiniBatchKMeans: a center moves to the mean of the examples that were assigned to it in this round."""

    drift = "k-means moves its centers to means and follows no gradient; use client_algorithm=fedavg"
    # A center without examples would be put on one example of one client, which all would then see.
    ours: Mapping[str, object] = {"reassignment_ratio": 0, "n_init": 1, "compute_labels": False}
    decided: Mapping[str, str] = {
        "batch_size": "the round's batch_size",
        **dict.fromkeys(("max_iter", "tol", "max_no_improvement"), "local_epochs or local_steps"),
        **dict.fromkeys(("random_state", "n_init", "init_size"), "the run's seed"),
        **dict.fromkeys(("verbose", "compute_labels"), "the round"),
        "reassignment_ratio": "the round, which puts no center on one client's example,",
    }

    def steps(self, how: LocalTraining) -> dict[str, object]:  # noqa: ARG002
        return {}

    def weights(self, model: Any) -> Tensors:
        return {"cluster_centers_": model.cluster_centers_}

    def put(self, model: Any, weights: Tensors) -> None:
        model.cluster_centers_[...] = weights["cluster_centers_"]
        model._counts[...] = 0  # or the centers of the first call would weigh as one example

    def begin(self, model: Any, form: Form) -> None:
        centers = _first_centers(model, form)
        model.set_params(init=centers)
        model.partial_fit(centers)

    def fit(self, model: Any, x: Array, y: Array, form: Form) -> None:  # noqa: ARG002
        model.partial_fit(x)

    def scores(self, model: Any, x: Array) -> Array:
        distances: Array = np.asarray(model.transform(x))
        return np.negative(np.square(distances))

    def update(self, before: Tensors, model: Any, trained: int) -> Tensors:
        delta = super().update(before, model, trained)["cluster_centers_"]
        share = np.asarray(model._counts, np.float32)[:, np.newaxis] / np.float32(trained)
        coverage = np.broadcast_to(share, delta.shape)
        return {"cluster_centers_": coverage * delta, f"{COVERAGE}cluster_centers_": coverage.copy()}


def family_of(model: Any) -> Family:
    """Say how an estimator is trained.

    Raises:
      WorkloadError: it cannot be, or has a parameter that the round decides; the message says what to do.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    families: tuple[tuple[tuple[type, ...], Family], ...] = (
        ((SGDClassifier, SGDRegressor, Perceptron), Linear()),
        ((MLPClassifier, MLPRegressor), Network()),
        ((MiniBatchKMeans,), Clusters()),
    )
    for types, family in families:
        if isinstance(model, types):
            return family
    raise WorkloadError(f"{type(model).__name__} cannot be trained by averaging: {_why_not(model)}")


def settle(model: Any, family: Family, seed: int) -> None:
    """Set the parameters that are the round's to decide, and the seed of its first arrays.

    Raises:
      WorkloadError: the user has set one of them.
    """
    defaults = {name: given.default for name, given in inspect.signature(type(model)).parameters.items()}
    for name, value in model.get_params(deep=False).items():
        if name in family.decided and value != defaults[name] and value != family.ours.get(name, defaults[name]):
            raise WorkloadError(
                f"{type(model).__name__} has {name}={value!r}, but {family.decided[name]} decides that: leave it out"
            )
    model.set_params(random_state=seed, **{name: value for name, value in family.ours.items() if name in defaults})


def _first_centers(model: Any, form: Form) -> Array:
    if isinstance(model.init, str) and model.init == "k-means++":  # the default, which would need the clients' data
        return np.random.default_rng(model.random_state).standard_normal((model.n_clusters, form.inputs), np.float32)
    if isinstance(model.init, str) or callable(model.init):
        raise WorkloadError(
            "init of MiniBatchKMeans would need the clients' data: leave it out for centers around 0 (of normalized "
            "inputs), or give the centers as an array"
        )
    centers = np.asarray(model.init, np.float32)
    if centers.shape != (model.n_clusters, form.inputs):
        raise WorkloadError(
            f"init of MiniBatchKMeans has shape {centers.shape}, and n_clusters and inputs make "
            f"{(model.n_clusters, form.inputs)}"
        )
    return centers


def _of_two(log_odds: Array) -> Array:
    """Make the scores of two classes of the log-odds of the second."""
    return np.stack([np.zeros_like(log_odds), log_odds], axis=1)


def _of_one_versus_rest(log_odds: Array) -> Array:
    """Make scores of each class's log-odds against all others: log σ, whose softmax is the library's probability."""
    values = log_odds.astype(np.float64)
    # The logarithm is 0 for all log-odds above 745; the last term keeps their order, and changes no probability.
    return -np.logaddexp(0.0, -values) + 1e-12 * values


# By the package of an estimator: why its parameters cannot be averaged, and what to use.
_REASONS = {
    "pipeline": "each of its steps would learn from one client alone: give its last step, and normalize inputs with "
    "fededge.learners.normalized.NormalizedLearner",
    "tree": "two clients' trees have other nodes, so there is nothing to average: use MLPClassifier or MLPRegressor",
    "ensemble": "its members are trees or other models without common weights, so there is nothing to average: use "
    "MLPClassifier or MLPRegressor",
    "neighbors": "its parameters are the examples themselves, which must not leave a client: use MLPClassifier or "
    "MLPRegressor",
    "svm": "it keeps examples as support vectors, or is solved from all data at once: use SGDClassifier(loss='hinge'), "
    "which is a linear SVM, or SGDRegressor(loss='epsilon_insensitive')",
    "gaussian_process": "its parameters are the examples themselves, which must not leave a client: use MLPClassifier "
    "or MLPRegressor",
    "naive_bayes": "its parameters are counts, means and variances of each class, which have to be pooled by the "
    "number of examples of the class and not averaged: use SGDClassifier(loss='log_loss')",
    "linear_model": "it is solved from all data at once and makes no steps from given weights: use "
    "SGDClassifier(loss='log_loss') in place of LogisticRegression, SGDRegressor (with penalty and alpha) in place of "
    "LinearRegression, Ridge and Lasso, or MLPClassifier and MLPRegressor",
    "cluster": "use MiniBatchKMeans, whose centers can be combined",
}


def _why_not(model: Any) -> str:
    if type(model).__name__.startswith("PassiveAggressive"):
        return "its steps have no learning rate: use SGDClassifier(loss='hinge') or SGDRegressor"
    package = [*type(model).__module__.split("."), ""][1]
    return _REASONS.get(
        package,
        "use SGDClassifier, SGDRegressor, Perceptron, MLPClassifier, MLPRegressor or MiniBatchKMeans",
    )
