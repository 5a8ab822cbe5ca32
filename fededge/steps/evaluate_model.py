"""Measures the new model on held-out data, and draws the learning curve so far."""

from __future__ import annotations

import math
from pathlib import Path

from fededge.errors import NonFiniteModelError, RoundError, WorkloadError
from fededge.events import emit
from fededge.records import Evaluation
from fededge.reports.learning_curve import Point, learning_curve
from fededge.steps.running import Work, fail_round, working
from fededge.store.blobs import get_tensors
from fededge.workloads import learner_of, load_workload
from fededge.workloads.evaluation import measure


def evaluate_model(store: str, attempt: str, model: str, curve_path: str) -> dict[str, float]:
    """Measure a model that is not yet a version.

    Args:
      store: as in `open_store`.
      attempt: as `distribute_model` named it.
      model: the digest that `aggregate_updates` returned.
      curve_path: where to write the learning curve, HTML; empty for nowhere.

    Returns:
      The metrics by name, the workload's own among them; those that are not finite left out.

    Raises:
      NonFiniteModelError: the workload's own metric is not finite; the current version stays.
    """
    with working("evaluate", store, attempt) as work:
        trainings, plan = work.trainings, work.plan
        measured = trainings.evaluation(work.ref) or trainings.put_evaluation(work.ref, _measure(work, model))
        if measured.model != model:
            raise RoundError(f"attempt {plan.ref} has measured {measured.model}, not {model}; run the round again")
        value = measured.metrics[measured.metric]
        for client, why in measured.untested.items():
            detail = f"{client} is left out of the test: {why}"
            emit("progress", "evaluate", training=plan.training, round=plan.round, client=client, detail=detail)
        emit("evaluated", "evaluate", training=plan.training, round=plan.round, metric=measured.metric, value=value)
        if not curve_path:
            return measured.metrics
        past = [Point(v.round, v.metrics) for v in trainings.lineage(plan.base_version) if v.metrics]
        points = [*reversed(past), Point(plan.round, measured.metrics)]
        Path(curve_path).write_text(learning_curve(plan.training, measured.metric, points), encoding="utf-8")
        return measured.metrics


def _measure(work: Work, model: str) -> Evaluation:
    name = work.plan.settings.workload
    workload = load_workload(name)
    measured = measure(workload, learner_of(name), get_tensors(work.store, model))
    metrics = measured.metrics
    if workload.metric not in metrics:
        raise WorkloadError(
            f"workload {name} names the metric {workload.metric}, and its learner measures {', '.join(metrics)}"
        )
    _require_finite(work, workload.metric, metrics[workload.metric])
    return Evaluation(
        model=model,
        metric=workload.metric,
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        num_examples=measured.examples,
        data_schema=measured.schema,
        untested=dict(measured.untested),
    )


def _require_finite(work: Work, metric: str, value: float) -> None:
    """Give up a model that is finite, and so large that what it predicts is not."""
    if not math.isfinite(value):
        reason = f"the new model's {metric} is {value}"
        fail_round(work, NonFiniteModelError, reason, f"{reason}; a smaller learning rate or clip_norm may help")
