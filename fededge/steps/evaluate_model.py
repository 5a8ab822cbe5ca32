"""Measures the new model on held-out data, and draws the learning curve so far."""

from __future__ import annotations

from pathlib import Path

from fededge.errors import RoundError, WorkloadError
from fededge.events import emit
from fededge.records import Evaluation
from fededge.reports.learning_curve import Point, learning_curve
from fededge.steps.running import open_attempt, running
from fededge.store.blobs import get_tensors
from fededge.store.trainings import TrainingStore
from fededge.workloads import load_workload


def evaluate_model(store: str, attempt: str, model: str, curve_path: str) -> dict[str, float]:
    """Measure a model that is not yet a version.

    Args:
      store: as in `open_store`.
      attempt: as `distribute_model` named it.
      model: the digest that `aggregate_updates` returned.
      curve_path: where to write the learning curve, HTML.

    Returns:
      The metrics by name, the workload's own among them.
    """
    with running("evaluate"):
        trainings, plan = open_attempt(store, attempt)
        measured = trainings.evaluation(plan.ref) or trainings.put_evaluation(
            plan.ref, _measure(trainings, plan.settings.workload, model)
        )
        if measured.model != model:
            raise RoundError(f"attempt {attempt} has measured {measured.model}, not {model}; run the round again")
        value = measured.metrics[measured.metric]
        emit("evaluated", "evaluate", training=plan.training, round=plan.round, metric=measured.metric, value=value)
        past = [Point(v.round, v.metrics) for v in trainings.lineage(plan.base_version) if v.metrics]
        points = [*reversed(past), Point(plan.round, measured.metrics)]
        Path(curve_path).write_text(learning_curve(plan.training, measured.metric, points), encoding="utf-8")
        return measured.metrics


def _measure(trainings: TrainingStore, workload_name: str, model: str) -> Evaluation:
    workload = load_workload(workload_name)
    examples = workload.test_data()
    metrics = workload.learner().evaluate(get_tensors(trainings.store, model), examples)
    if workload.metric not in metrics:
        raise WorkloadError(
            f"workload {workload_name} names the metric {workload.metric}, "
            f"and its learner measures {', '.join(metrics)}"
        )
    return Evaluation(
        model=model,
        metric=workload.metric,
        metrics=dict(metrics),
        num_examples=len(examples),
        data_schema=examples.schema(),
    )
