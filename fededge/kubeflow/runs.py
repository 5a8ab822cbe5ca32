"""Starts runs of pipelines on Kubeflow, finds them again, watches and ends them."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from fededge.errors import InputError, KubeflowError
from fededge.kubeflow import EXPERIMENT, SERVICE_ACCOUNT
from fededge.kubeflow.client import Kubeflow

POLL_S = 5.0  # KFP has no watch

_FINISHED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
_MAX_INPUTS = 10_000  # bytes of a run's inputs that KFP keeps
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_EQUALS = 1  # as KFP's filter.proto numbers it
# What KFP adds to the tasks that the pipeline has; a task's details are nodes of Argo.
_OWN_TASKS = re.compile(r"root|executor|.*-driver|system-.*|iteration-.*|for-loop-.*|condition-.*")
_LAUNCHER = "train-in-jobs"  # the task of fl_round_job and fl_training_job that starts Jobs
_TRY = re.compile(r"\(\d+\)$")  # how Argo names the tries of a node
_NODE_NUMBER = re.compile(r"-\d+$")  # what follows the Workflow's name in the id of a node

Inputs = Mapping[str, str | bool | int | float | list[Any] | dict[str, Any]]


class Run(NamedTuple):
    """A run, as Kubeflow tells of it.

    Attributes:
      state: PENDING, RUNNING, SUCCEEDED, FAILED, CANCELED, …; empty until Kubeflow has looked at it.
      error: why it failed, as far as Kubeflow says.
      link: its page; empty where only the API is known.
      tasks: how many of each name are in each state.
      training: that it works on; empty where Kubeflow does not say.
      starts_jobs: whether a task of it has Jobs train the clients; None where Kubeflow does not say.
    """

    id: str
    name: str
    state: str
    error: str
    link: str
    created_at: datetime
    tasks: Mapping[tuple[str, str], int]
    training: str = ""
    starts_jobs: bool | None = None

    @property
    def finished(self) -> bool:
        return self.state in _FINISHED

    @property
    def succeeded(self) -> bool:
        return self.state == "SUCCEEDED"


def named(name: str) -> str:
    """Make the filter for a list that takes what has a name."""
    return json.dumps({"predicates": [{"operation": _EQUALS, "key": "display_name", "stringValue": name}]})


def experiment_id(kubeflow: Kubeflow, name: str) -> str:
    """Find an experiment, or make it."""
    client, namespace = kubeflow.client, kubeflow.namespace or None

    def make() -> str:
        return str(client.create_experiment(name, namespace=namespace).experiment_id)  # or the one there is

    try:
        return kubeflow.call(make)
    except KubeflowError as error:
        if error.status != 409:  # another one was faster
            raise
        return kubeflow.call(make)


def start(
    kubeflow: Kubeflow,
    pipeline: Path,
    inputs: Inputs,
    name: str,
    experiment: str = EXPERIMENT,
    service_account: str = SERVICE_ACCOUNT,
) -> Run:
    """Start a run of a compiled pipeline, once.

    Args:
      kubeflow: where.
      pipeline: the YAML.
      inputs: that differ from the pipeline's defaults.
      name: of the run; another one may have it too.
      experiment: that it belongs to, made where it is missing.
      service_account: of its pods.

    Raises:
      InputError: the inputs are more than a run can have.
      KubeflowError: Kubeflow refuses it, or does not answer.
    """
    require_small(inputs)
    place = experiment_id(kubeflow, experiment)
    before = {run.id for run in find(kubeflow, name, place)}

    def make() -> Run:
        made = kubeflow.client.run_pipeline(
            place,
            name,
            pipeline_package_path=str(pipeline),
            params=dict(inputs),
            service_account=service_account or None,
        )
        return _run(kubeflow, made)

    def made_before() -> Run | None:
        return next((run for run in find(kubeflow, name, place) if run.id not in before), None)

    return kubeflow.create(make, made_before)


def require_small(inputs: Inputs) -> None:
    """Make sure that a run can have so many bytes of inputs.

    Raises:
      InputError: it cannot.
    """
    if (size := len(json.dumps(dict(inputs)).encode())) > _MAX_INPUTS:
        raise InputError(
            f"the inputs have {size} bytes and Kubeflow takes {_MAX_INPUTS}: keep what is long in the store"
        )


def find(kubeflow: Kubeflow, name: str, experiment: str) -> list[Run]:
    """List the runs of a name in an experiment, given by its id, the oldest first."""
    listed = kubeflow.listed(kubeflow.client.list_runs, "runs", experiment_id=experiment, filter=named(name))
    found = [_run(kubeflow, run) for run in listed if run.display_name == name]
    return sorted(found, key=lambda run: (run.created_at, run.id))


def get(kubeflow: Kubeflow, run_id: str) -> Run:
    """Ask how a run is doing.

    Raises:
      KubeflowError: there is none of that id.
    """
    return _run(kubeflow, kubeflow.call(kubeflow.client.get_run, run_id))


def watch(kubeflow: Kubeflow, run_id: str, poll_s: float = POLL_S) -> Iterator[Run]:
    """Yield a run whenever something about it has changed, until it ends."""
    last = None
    while True:
        run = get(kubeflow, run_id)
        if run != last:
            yield run
        if run.finished:
            return
        last = run
        time.sleep(poll_s)


def wait(kubeflow: Kubeflow, run_id: str, poll_s: float = POLL_S) -> Run:
    """Wait until a run ends, however it does."""
    run = get(kubeflow, run_id)
    for run in watch(kubeflow, run_id, poll_s):  # noqa: B007
        pass
    return run


def stop(kubeflow: Kubeflow, run_id: str) -> Run:
    """End a run: Kubeflow removes its pods. Nothing happens to one that has ended."""
    run = get(kubeflow, run_id)
    if not run.finished:
        kubeflow.call(kubeflow.client.terminate_run, run_id)
        run = get(kubeflow, run_id)
    return run


def _run(kubeflow: Kubeflow, told: Any) -> Run:
    state = str(told.state or "")
    return Run(
        told.run_id,
        told.display_name or "",
        "" if state == "RUNTIME_STATE_UNSPECIFIED" else state,
        _error(told),
        kubeflow.link(f"runs/details/{told.run_id}"),
        told.created_at or _BEGINNING,
        _tasks(told),
        _training(told),
        _starts_jobs(told),
    )


def _spec(told: Any) -> dict[str, Any]:
    """Return the pipeline of a run; empty where the run only refers to one that was uploaded."""
    sent: dict[str, Any] = told.pipeline_spec or {}
    spec: dict[str, Any] = sent.get("pipeline_spec", sent)  # with what is Kubernetes' beside it, or alone
    return spec


def _training(told: Any) -> str:
    given = (told.runtime_config.parameters if told.runtime_config else None) or {}
    known = _spec(told).get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    return str(given.get("training") or known.get("training", {}).get("defaultValue", ""))


def _starts_jobs(told: Any) -> bool | None:
    if spec := _spec(told):
        return f"exec-{_LAUNCHER}" in spec.get("deploymentSpec", {}).get("executors", {})
    return True if any(task.display_name == _LAUNCHER for task in _details(told)) else None


def _error(told: Any) -> str:
    said = [told.error.message] if told.error and told.error.message else []
    for task in _details(told):
        if task.state == "FAILED" and task.error and task.error.message:
            said.append(f"{_TRY.sub('', task.display_name)}: {task.error.message}")
    return re.sub(r"\s+", " ", "; ".join(dict.fromkeys(said)))


def _tasks(told: Any) -> dict[tuple[str, str], int]:
    """Count the pipeline's own tasks, each once however often it was tried."""
    details = [(str(task.display_name or "root"), task) for task in _details(told)]
    names = {name for name, _ in details}
    workflow = {_NODE_NUMBER.sub("", child.pod_name or "") for _, task in details for child in task.child_tasks or ()}
    counts = Counter[tuple[str, str]]()
    for name, task in details:
        plain = _TRY.sub("", name)
        if _OWN_TASKS.fullmatch(plain) or plain in workflow or (plain != name and plain in names):
            continue
        counts[plain, str(task.state or "PENDING")] += 1
    return dict(sorted(counts.items()))


def _details(told: Any) -> list[Any]:
    return (told.run_details.task_details if told.run_details else None) or []
