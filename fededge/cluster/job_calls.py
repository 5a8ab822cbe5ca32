"""Creates Jobs once, whoever asks again, and deletes none but ours."""

from __future__ import annotations

from typing import Any

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

from fededge.cluster.api import Cluster
from fededge.cluster.environment import PART_OF
from fededge.cluster.jobs import SITTING, SPEC
from fededge.errors import ClusterError, InputError
from fededge.records import SittingRef

Document = dict[str, Any]

_PATIENCE = 60  # seconds, for what is in the way of a Job


class _InTheWayError(Exception):
    """A Job of the same name is there that will be gone."""


def create_or_adopt(cluster: Cluster, job: Document) -> tuple[Document, bool]:
    """Create a Job, or find the one that a launcher before us has created.

    A Job of an earlier run, which no longer holds the training, gives way: what its pods trained would be refused.

    Returns:
      The Job as it is on the cluster, and whether it is new.

    Raises:
      ClusterError: Kubernetes refuses, or a Job of that name is not this round's.
    """
    retrying = Retrying(
        retry=retry_if_exception(_passes),
        wait=wait_exponential(multiplier=0.2, max=5),
        stop=stop_after_delay(_PATIENCE),
        reraise=True,
    )
    try:
        return retrying(_create_or_adopt, cluster, job)
    except _InTheWayError as error:
        raise ClusterError(f"{error}; see `kubectl describe job {job['metadata']['name']}`") from error


def delete(cluster: Cluster, name: str, uid: str) -> None:
    """Delete a Job with its pods, which end a moment later; not another one that has its name by now."""
    body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
    try:
        _call(cluster, cluster.batch.delete_namespaced_job, "delete", name, cluster.namespace, body=body)
    except ClusterError as error:
        if error.status not in (404, 409):
            raise


def is_quota_full(error: ClusterError) -> bool:
    """Whether the namespace may have no more Jobs for now."""
    return error.status == 403 and "exceeded quota" in error.detail


def _passes(error: BaseException) -> bool:
    """Whether to ask again. The quota's own record is in conflict when others create at the same time."""
    return isinstance(error, _InTheWayError) or (isinstance(error, ClusterError) and error.reason == "Conflict")


def _create_or_adopt(cluster: Cluster, job: Document) -> tuple[Document, bool]:
    name = job["metadata"]["name"]
    try:
        return _call(cluster, cluster.batch.create_namespaced_job, "create", cluster.namespace, job), True
    except ClusterError as error:
        if error.reason != "AlreadyExists":
            raise
    try:
        there = _call(cluster, cluster.batch.read_namespaced_job, "get", name, cluster.namespace)
    except ClusterError as error:
        if error.status == 404:
            raise _InTheWayError(f"Job {name} comes and goes") from error
        raise
    if there["metadata"].get("deletionTimestamp"):
        raise _InTheWayError(f"Job {name} is being deleted for longer than {_PATIENCE} s")
    if _marks(there) == _marks(job):
        return there, False
    if not _is_of_an_earlier_run(there, job):
        raise ClusterError(
            f"there is a Job {name} already, and it is not this round's as it was planned: look at it with `kubectl "
            f"describe job {name}`, and remove it with `kubectl delete job {name}`",
            status=409,
            reason="AlreadyExists",
        )
    delete(cluster, name, there["metadata"]["uid"])
    raise _InTheWayError(f"Job {name} of an earlier run does not give way")


def _marks(job: Document) -> tuple[str | None, ...]:
    """Return what tells our Jobs from others, and this one from those that do something else."""
    labels, annotations = job["metadata"].get("labels") or {}, job["metadata"].get("annotations") or {}
    return labels.get(PART_OF), annotations.get(SITTING), annotations.get(SPEC)


def _is_of_an_earlier_run(there: Document, job: Document) -> bool:
    (part_of, theirs, _), (ours_part_of, ours, _) = _marks(there), _marks(job)
    try:
        before, now = SittingRef.parse(theirs or ""), SittingRef.parse(ours or "")
    except InputError:
        return False
    return part_of == ours_part_of and before.attempt == now.attempt and before.token < now.token


def _call(cluster: Cluster, function: Any, verb: str, *args: Any, **kwargs: Any) -> Document:
    return cluster.call_plain(function, *args, verb=verb, resource="jobs", **kwargs)
