from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fededge.core.metrics import classification_metrics, regression_metrics

few = settings(derandomize=True, deadline=None, max_examples=40)


def _scores_of(predicted: list[int], classes: int) -> np.ndarray:
    """Make scores of which the largest is the predicted class's."""
    return np.eye(classes, dtype=np.float32)[predicted]


def test_a_small_case_by_hand() -> None:
    targets = np.array([0, 0, 1, 1, 2])
    measured = classification_metrics(targets, np.log(_scores_of([0, 1, 1, 1, 0], 3) * 0.7 + 0.1))
    assert measured["accuracy"] == pytest.approx(3 / 5)
    # F1 of class 0: 2·1 / (2 + 2); of 1: 2·2 / (2 + 3); of 2, which is never predicted: 0
    assert measured["macro_f1"] == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)
    assert measured["loss"] == pytest.approx(-(3 * math.log(0.8) + 2 * math.log(0.1)) / 5, rel=1e-6)


def test_logits_and_logarithms_of_probabilities_are_worth_the_same() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert classification_metrics(targets, logits) == pytest.approx(classification_metrics(targets, log_probabilities))


def test_macro_f1_leaves_out_classes_that_nobody_names() -> None:
    targets = np.array([1, 1, 3])
    assert classification_metrics(targets, _scores_of([1, 1, 3], 10))["macro_f1"] == 1.0
    # a class that is predicted, though none has it, counts as 0
    assert classification_metrics(targets, _scores_of([1, 1, 9], 10))["macro_f1"] == pytest.approx(1 / 3)


def test_macro_f1_is_low_where_accuracy_flatters() -> None:
    targets = np.array([0] * 99 + [1])
    measured = classification_metrics(targets, _scores_of([0] * 100, 2))
    assert measured["accuracy"] == 0.99
    assert measured["macro_f1"] == pytest.approx((2 * 99 / 199) / 2)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.float32])
def test_targets_of_any_width(dtype: type) -> None:
    targets = np.array([2, 0], dtype)
    assert classification_metrics(targets, _scores_of([2, 0], 3))["accuracy"] == 1.0


def test_a_column_of_targets_is_not_compared_with_every_prediction() -> None:
    targets = np.array([0, 1, 1, 0])
    scores = _scores_of([0, 1, 0, 0], 2)
    assert classification_metrics(targets[:, np.newaxis], scores) == classification_metrics(targets, scores)


@pytest.mark.parametrize("targets", [[0, 3], [-1, 0]])
def test_a_class_without_a_score_is_an_error(targets: list[int]) -> None:
    with pytest.raises(ValueError, match=f"targets are {min(targets)} to {max(targets)}, and there are 3 classes"):
        classification_metrics(np.array(targets), np.zeros((2, 3), np.float32))


def test_targets_of_other_examples_are_an_error() -> None:
    with pytest.raises(ValueError, match="reshape"):
        classification_metrics(np.array([0, 1, 0]), np.zeros((2, 3), np.float32))


def test_large_scores_overflow_nothing() -> None:
    measured = classification_metrics(np.array([0, 1]), np.array([[1e30, -1e30], [3e38, -3e38]], np.float32))
    assert measured["accuracy"] == 0.5
    assert math.isfinite(measured["loss"])


def test_regression_by_hand() -> None:
    measured = regression_metrics(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 2.0]))
    assert measured == {"rmse": pytest.approx(math.sqrt(5 / 3)), "mae": pytest.approx(1.0)}


@pytest.mark.parametrize(("targets", "predictions"), [((3,), (3, 1)), ((3, 1), (3,)), ((2, 3), (2, 3)), ((6,), (6,))])
def test_regression_pairs_targets_with_predictions_whatever_their_axes(
    targets: tuple[int, ...], predictions: tuple[int, ...]
) -> None:
    y = np.arange(math.prod(targets), dtype=np.float32)
    measured = regression_metrics(y.reshape(targets), (y + 2).reshape(predictions))
    assert measured == {"rmse": 2.0, "mae": 2.0}


def test_regression_is_computed_in_float64() -> None:
    y = np.full(3, 1e30, np.float32)
    assert regression_metrics(y, -y)["rmse"] == pytest.approx(2e30)


@few
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40), st.integers(0, 99))
def test_scikit_learn_agrees(pairs: list[tuple[int, int]], seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    targets = np.array([target for target, _ in pairs])
    scores = _scores_of([predicted for _, predicted in pairs], 5) * 3 + np.random.default_rng(seed).random(
        (len(pairs), 5)
    )
    predicted = scores.argmax(axis=1)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    measured = classification_metrics(targets, scores)
    assert measured["accuracy"] == pytest.approx(metrics.accuracy_score(targets, predicted))
    assert measured["macro_f1"] == pytest.approx(metrics.f1_score(targets, predicted, average="macro"))
    assert measured["loss"] == pytest.approx(metrics.log_loss(targets, probabilities, labels=range(5)))


@few
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_examples_does_not_matter(labels: list[int], random: object) -> None:
    order = list(range(len(labels)))
    random.shuffle(order)  # type: ignore[attr-defined]
    targets, scores = np.array(labels), np.random.default_rng(len(labels)).normal(size=(len(labels), 4))
    shuffled = classification_metrics(targets[order], scores[order])
    assert classification_metrics(targets, scores) == pytest.approx(shuffled)
