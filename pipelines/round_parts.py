"""What rounds have in common, however their clients are trained: how they begin and how they end."""

from typing import Any

from kfp import dsl

from components import aggregate_updates, distribute_model, evaluate_model, version_model
from pipelines.task_settings import SHARED_CLAIM, mount_data, prepare


def open_round(**inputs: Any) -> dsl.PipelineTask:
    """Distribute the model; the component takes all inputs of a round, by their names."""
    task = distribute_model(**inputs, run=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    # Who the clients are, a workload of real data holders finds in their data.
    mount_data(prepare(task, "distribute model"), SHARED_CLAIM)
    return task


def close_round(store: Any, attempt: Any, reports: Any) -> Any:
    """Aggregate, evaluate and publish, however the clients were trained; return the version."""
    aggregated = prepare(aggregate_updates(store=store, attempt=attempt, reports=reports), "aggregate updates")
    model = aggregated.outputs["Output"]
    evaluated = prepare(evaluate_model(store=store, attempt=attempt, model=model), "evaluate model")
    mount_data(evaluated, SHARED_CLAIM)
    versioned = version_model(store=store, attempt=attempt, model=model).after(evaluated)
    return prepare(versioned, "version model").outputs["Output"]
