"""Makes the new model a version, and the current one."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import NamedTuple

from fededge.errors import RoundError
from fededge.events import emit
from fededge.monitoring.send import send_metrics
from fededge.records import Version
from fededge.reports.round_report import HISTORY, round_report
from fededge.steps.running import Work, working
from fededge.store import keys


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
      report_path: where to write the round's report, Markdown; empty for nowhere.

    Raises:
      RoundError: the model was not evaluated.
      ConflictError: another run has published meanwhile.
      LeaseError: another run has taken over.
    """
    with working("version", store, attempt, last=True) as work:
        plan = work.plan
        made = _manifest(work, model)
        manifest = work.trainings.publish(made, work.token)
        if manifest.model != made.model:
            sys.stdout.write(f"attempt {manifest.attempt} made {manifest.version} first; this one's model is dropped\n")
        reference: dict[str, str | float] = {
            "store": work.store.url,
            "training": manifest.training,
            "version": manifest.version,
            "digest": manifest.model,
            **manifest.metrics,
        }
        Path(model_path).write_text(json.dumps(reference, indent=1), encoding="utf-8")
        if report_path:
            lineage = itertools.islice(work.trainings.lineage(manifest.version), HISTORY)
            Path(report_path).write_text(round_report(manifest, list(lineage)), encoding="utf-8")
        emit("published", "version", training=plan.training, round=plan.round, version=manifest.version)
        send_metrics(work.trainings)
        return Published(manifest.version, reference)


def _manifest(work: Work, model: str) -> Version:
    trainings, plan = work.trainings, work.plan
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
        parent_manifest=trainings.version(plan.base_version).digest,
        attempt=plan.number,
        model=model,
        server_state=aggregate.server_state,
        signature=trainings.training().signature,
        settings=plan.settings,
        because=closing.because,
        accepted=closing.accepted,
        excluded=closing.excluded,
        repeats=closing.repeats,
        counted=aggregate.counted,
        metric=evaluation.metric,
        metrics=evaluation.metrics,
        data_schema=closing.data_schema,
        documents={
            keys.attempt(plan.ref): plan.digest,
            keys.closing(plan.ref): closing.digest,
            keys.aggregate(plan.ref): aggregate.digest,
            keys.evaluation(plan.ref): evaluation.digest,
        },
        runtime=aggregate.runtime,
    )
