"""Makes the new model a version, and the current one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from fededge.errors import RoundError
from fededge.events import emit
from fededge.records import Attempt, Version
from fededge.reports.round_report import round_report
from fededge.steps.running import open_attempt, running
from fededge.store.trainings import TrainingStore


class Published(NamedTuple):
    """A version, and what the `Model` artifact says of it."""

    version: str
    reference: dict[str, str | float]


def version_model(store: str, attempt: str, model: str, model_path: str, report_path: str) -> Published:
    """Publish a model that was evaluated.

    Args:
      store: as in `open_store`.
      attempt: as `distribute_model` named it.
      model: the digest that `aggregate_updates` returned.
      model_path: where to write a reference to the version, JSON; the weights are in the store.
      report_path: where to write the round's report, Markdown.

    Raises:
      RoundError: the model was not evaluated.
      ConflictError: another run has published meanwhile.
    """
    with running("version"):
        trainings, plan = open_attempt(store, attempt)
        manifest = trainings.publish(_manifest(trainings, plan, model))
        reference: dict[str, str | float] = {
            "store": trainings.store.url,
            "training": manifest.training,
            "version": manifest.version,
            "digest": manifest.model,
            **manifest.metrics,
        }
        Path(model_path).write_text(json.dumps(reference, indent=1), encoding="utf-8")
        Path(report_path).write_text(round_report(manifest), encoding="utf-8")
        emit("published", "version", training=plan.training, round=plan.round, version=manifest.version)
        return Published(manifest.version, reference)


def _manifest(trainings: TrainingStore, plan: Attempt, model: str) -> Version:
    closing, aggregate = trainings.closing(plan.ref), trainings.aggregate(plan.ref)
    evaluation = trainings.evaluation(plan.ref)
    if closing is None or aggregate is None or aggregate.model != model:
        raise RoundError(f"attempt {plan.ref} did not aggregate {model}; run the round again")
    if evaluation is None or evaluation.model != model:
        raise RoundError(f"attempt {plan.ref} did not evaluate {model}; run the round again")
    return Version(
        training=plan.training,
        version=plan.version,
        round=plan.round,
        parent=plan.base_version,
        attempt=plan.number,
        model=model,
        server_state=aggregate.server_state,
        signature=trainings.training().signature,
        settings=plan.settings,
        accepted=closing.accepted,
        excluded=closing.excluded,
        metric=evaluation.metric,
        metrics=evaluation.metrics,
        data_schema=evaluation.data_schema,
        runtime=aggregate.runtime,
    )
