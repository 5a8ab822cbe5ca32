"""Which estimators and parameters are refused, and what the user is told to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sklearn import (
    cluster,
    discriminant_analysis,
    dummy,
    ensemble,
    gaussian_process,
    linear_model,
    naive_bayes,
    neighbors,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor

from fededge.errors import WorkloadError
from fededge.learners.sklearn import classifier, clusterer, regressor
from tests.learners.sklearn_small import how

STEPS = "makes no steps from given weights: use SGDClassifier.* SGDRegressor .* MLPClassifier and MLPRegressor"
TREES = "so there is nothing to average: use MLPClassifier or MLPRegressor"
THEMSELVES = "are the examples themselves, which must not leave a client: use MLPClassifier"


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (linear_model.LogisticRegression, STEPS),
        (linear_model.Ridge, STEPS),
        (linear_model.LinearRegression, STEPS),
        (linear_model.Lasso, STEPS),
        (linear_model.PassiveAggressiveClassifier, r"no learning rate: use SGDClassifier\(loss='hinge'\)"),
        (linear_model.PassiveAggressiveRegressor, "no learning rate"),
        (tree.DecisionTreeClassifier, TREES),
        (tree.ExtraTreeRegressor, TREES),
        (ensemble.RandomForestClassifier, TREES),
        (ensemble.GradientBoostingRegressor, TREES),
        (ensemble.HistGradientBoostingClassifier, TREES),
        (neighbors.KNeighborsClassifier, THEMSELVES),
        (gaussian_process.GaussianProcessRegressor, THEMSELVES),
        (svm.SVC, r"support vectors.*use SGDClassifier\(loss='hinge'\)"),
        (svm.LinearSVC, "is solved from all data at once"),
        (svm.SVR, r"SGDRegressor\(loss='epsilon_insensitive'\)"),
        (naive_bayes.GaussianNB, r"counts, means and variances of each class.*use SGDClassifier\(loss='log_loss'\)"),
        (cluster.KMeans, "use MiniBatchKMeans"),
        (cluster.DBSCAN, "use MiniBatchKMeans"),
        (
            discriminant_analysis.LinearDiscriminantAnalysis,
            "use SGDClassifier, SGDRegressor, Perceptron, MLPClassifier",
        ),
        (dummy.DummyClassifier, "use SGDClassifier, SGDRegressor, Perceptron"),
        (
            lambda: pipeline.make_pipeline(preprocessing.StandardScaler(), SGDClassifier()),
            r"learn from one client alone: give its last step, and normalize .*\.NormalizedLearner$",
        ),
    ],
)
def test_estimators_without_weights_to_average_are_refused_with_advice(
    estimator: Callable[[], Any], message: str
) -> None:
    learner = classifier(estimator, 2, (0, 1))
    for use in (learner.prepare, lambda: learner.initial_weights(0), lambda: learner.update_signature({}, how())):
        with pytest.raises(WorkloadError, match=f"cannot be trained by averaging: .*{message}"):
            use()


@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_another_solver_than_sgd_is_refused(estimator: Callable[..., Any], solver: str) -> None:
    learner = (classifier if estimator is MLPClassifier else regressor)(
        lambda: estimator(solver=solver), 2, *([(0, 1)] if estimator is MLPClassifier else [])
    )
    with pytest.raises(WorkloadError, match=f"solver='{solver}': .* make the model with solver='sgd'"):
        learner.initial_weights(0)


def network(**values: Any) -> MLPClassifier:
    return MLPClassifier(**{"solver": "sgd", "hidden_layer_sizes": (3,), **values})


@pytest.mark.parametrize(
    ("estimator", "parameter", "value", "decides"),
    [
        (network, "learning_rate", "invscaling", "client_learning_rate"),
        (network, "learning_rate", "adaptive", "client_learning_rate"),
        (network, "learning_rate_init", 0.5, "client_learning_rate"),
        (network, "power_t", 0.1, "client_learning_rate"),
        (network, "momentum", 0.5, "client_momentum"),
        (network, "batch_size", 32, "the round's batch_size"),
        (network, "max_iter", 7, "local_epochs or local_steps"),
        (network, "tol", 0.1, "local_epochs or local_steps"),
        (network, "early_stopping", True, "local_epochs or local_steps"),
        (network, "random_state", 0, "the run's seed"),
        (network, "warm_start", True, "the round"),
        (network, "verbose", True, "the round"),
        (SGDClassifier, "learning_rate", "adaptive", "client_learning_rate"),
        (SGDClassifier, "eta0", 0.1, "client_learning_rate"),
        (SGDClassifier, "average", True, "the mean over clients"),
        (SGDClassifier, "early_stopping", True, "local_epochs or local_steps"),
        (SGDClassifier, "n_jobs", 2, "the number of clients that train at once"),
        (SGDRegressor, "learning_rate", "optimal", "client_learning_rate"),
        (SGDRegressor, "random_state", 5, "the run's seed"),
        (Perceptron, "eta0", 0.5, "client_learning_rate"),
        (Perceptron, "random_state", 1, "the run's seed"),
        (MiniBatchKMeans, "batch_size", 10, "the round's batch_size"),
        (MiniBatchKMeans, "max_iter", 1, "local_epochs or local_steps"),
        (MiniBatchKMeans, "random_state", 1, "the run's seed"),
        (MiniBatchKMeans, "reassignment_ratio", 0.1, "the round, which puts no center on one client's example"),
    ],
)
def test_what_the_round_decides_is_refused_of_the_estimator(
    estimator: Callable[..., Any], parameter: str, value: object, decides: str
) -> None:
    make = {SGDRegressor: lambda e: regressor(e, 2), MiniBatchKMeans: lambda e: clusterer(e, 2)}.get(
        estimator, lambda e: classifier(e, 2, (0, 1))
    )
    with pytest.raises(WorkloadError) as caught:
        make(lambda: estimator(**{parameter: value})).initial_weights(0)
    name = type(estimator()).__name__
    assert str(caught.value).startswith(f"{name} has {parameter}={value!r}, but {decides}")
    assert str(caught.value).endswith("decides that: leave it out")


@pytest.mark.parametrize(
    "estimator",
    [
        lambda: network(learning_rate="constant", shuffle=False, nesterovs_momentum=False),
        lambda: network(activation="tanh", alpha=0.5, hidden_layer_sizes=()),
        lambda: SGDClassifier(
            learning_rate="constant", shuffle=False, loss="log_loss", penalty="elasticnet", l1_ratio=0.5
        ),
        lambda: SGDClassifier(loss="modified_huber", fit_intercept=False, penalty=None, class_weight={0: 2.0}),
        lambda: Perceptron(penalty="l2", alpha=0.1),
    ],
)
def test_what_agrees_with_the_round_or_is_the_models_own_is_taken(estimator: Callable[[], Any]) -> None:
    classifier(estimator, 2, (0, 1)).initial_weights(0)


@pytest.mark.parametrize(
    ("make", "estimator", "is_"),
    [
        (lambda e: classifier(e, 2, (0, 1)), SGDRegressor, "regressor"),
        (lambda e: classifier(e, 2, (0, 1)), MiniBatchKMeans, "clusterer"),
        (lambda e: regressor(e, 2), SGDClassifier, "classifier"),
        (lambda e: regressor(e, 2), MiniBatchKMeans, "clusterer"),
        (lambda e: clusterer(e, 2), SGDRegressor, "regressor"),
        (lambda e: clusterer(e, 2), network, "classifier"),
    ],
)
def test_each_estimator_has_its_own_function(make: Callable[..., Any], estimator: Callable[[], Any], is_: str) -> None:
    with pytest.raises(WorkloadError, match=f"is a {is_}: use fededge.learners.sklearn.{is_}$"):
        make(estimator).initial_weights(0)


def test_balanced_class_weights_are_refused_with_advice() -> None:
    with pytest.raises(WorkloadError, match="class_weight='balanced' would weigh by each minibatch's own classes"):
        classifier(lambda: SGDClassifier(class_weight="balanced"), 2, (0, 1)).initial_weights(0)


def test_a_linear_regressor_of_several_numbers_is_refused() -> None:
    with pytest.raises(WorkloadError, match="SGDRegressor predicts one number, not 2: use MLPRegressor"):
        regressor(SGDRegressor, 2, outputs=2).initial_weights(0)


@pytest.mark.parametrize("estimator", [lambda: network(alpha=-1), lambda: SGDClassifier(loss="hinges")])
def test_a_parameter_that_the_library_refuses_is_named(estimator: Callable[[], Any]) -> None:
    with pytest.raises(WorkloadError, match=r"the workload's model cannot be built: The '(alpha|loss)' parameter"):
        classifier(estimator, 2, (0, 1)).initial_weights(0)


def test_a_fitted_estimator_begins_unfitted() -> None:
    fitted = SGDClassifier().fit([[0.0, 1.0], [1.0, 0.0]], [0, 1])
    weights = classifier(lambda: fitted, 2, (0, 1)).initial_weights(0)
    assert not weights["coef_"].any()
    assert fitted.coef_.any()


def test_an_estimator_without_the_parameters_of_its_base_is_refused() -> None:
    class Small(MLPClassifier):
        def __init__(self, width: int) -> None:
            super().__init__((width,), solver="sgd")
            self.width = width

    with pytest.raises(WorkloadError, match="cannot be built: Invalid parameter 'random_state' for estimator Small"):
        classifier(lambda: Small(7), 2, (0, 1)).initial_weights(0)
