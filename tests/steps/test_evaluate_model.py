from __future__ import annotations

import re
from pathlib import Path

import pytest

from fededge.errors import RoundError, WorkloadError
from fededge.events import Tail
from fededge.steps.aggregate_updates import aggregate_updates
from fededge.steps.evaluate_model import evaluate_model
from fededge.store import Store
from fededge.store.blobs import get_tensors
from tests.steps import round as a_round
from tests.steps.tiny import TinyLearner, TinyWorkload, workload


def aggregated(store: Store) -> tuple[str, str]:
    distributed = a_round.distribute(store)
    reports = a_round.train(store, distributed)
    return distributed.attempt, aggregate_updates(store.url, distributed.attempt, reports).model


def test_metrics_are_of_the_new_model_on_the_test_data(store: Store, tmp_path: Path) -> None:
    attempt, model = aggregated(store)
    metrics = evaluate_model(store.url, attempt, model, str(tmp_path / "curve.html"))
    assert metrics == TinyLearner().evaluate(get_tensors(store, model), workload.test_data())
    recorded = a_round.trainings(store).evaluation(a_round.trainings(store).attempts("v1")[0])
    assert recorded is not None
    assert recorded.data_schema == {"x": "float32[3]", "y": "float32[]"}
    assert recorded.num_examples == 50


def test_the_curve_has_all_rounds_and_needs_nothing_else(store: Store, tmp_path: Path) -> None:
    for _ in range(3):
        a_round.run_round(store, tmp_path / "out")
    page = (tmp_path / "out" / "curve.html").read_text()
    assert re.findall(r"<tr><td>(\d)</td>", page) == ["1", "2", "3"]
    assert "<svg" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!#)", page)


def test_an_error_of_the_workload_is_told_in_a_line_and_raised(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt, model = aggregated(store)

    def broken(self: TinyWorkload) -> None:
        raise ValueError("of many lines\nno such column: age\n")

    monkeypatch.setattr(TinyWorkload, "test_data", broken)
    monkeypatch.setenv("FEDEDGE_EVENTS", str(tmp_path / "events"))
    with pytest.raises(ValueError, match="no such column"):
        evaluate_model(store.url, attempt, model, str(tmp_path / "curve.html"))
    failure = list(Tail(tmp_path / "events"))[-1]
    assert (failure.kind, failure.detail) == ("failed", "evaluate failed: ValueError: no such column: age")


def test_a_metric_that_is_not_measured_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt, model = aggregated(store)
    monkeypatch.setattr(TinyWorkload, "metric", "auc")
    capsys.readouterr()
    with a_round.refused(capsys, WorkloadError.exit_code, "auc", "error"):
        evaluate_model(store.url, attempt, model, str(tmp_path / "curve.html"))


def test_another_model_than_the_aggregated_one_is_refused(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt, model = aggregated(store)
    evaluate_model(store.url, attempt, model, str(tmp_path / "curve.html"))
    capsys.readouterr()
    with a_round.refused(capsys, RoundError.exit_code, "run the round again"):
        evaluate_model(store.url, attempt, f"sha256:{'0' * 64}", str(tmp_path / "curve.html"))


def test_a_model_whose_metric_is_not_finite_is_given_up(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt, model = aggregated(store)
    monkeypatch.setattr(TinyLearner, "evaluate", lambda *arguments: {"error": float("inf"), "other": 1.0})
    capsys.readouterr()
    with a_round.refused(capsys, RoundError.exit_code, "error is inf", "v0 stays current"):
        evaluate_model(store.url, attempt, model, str(tmp_path / "curve.html"))
    assert a_round.trainings(store).failed(a_round.trainings(store).attempts("v1")[0]) is not None


def test_other_metrics_that_are_not_finite_are_left_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt, model = aggregated(store)
    monkeypatch.setattr(TinyLearner, "evaluate", lambda *arguments: {"error": 1.0, "other": float("nan")})
    assert evaluate_model(store.url, attempt, model, str(tmp_path / "curve.html")) == {"error": 1.0}
