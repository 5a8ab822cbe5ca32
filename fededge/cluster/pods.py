"""Says in one word and one line why a pod has failed, or cannot start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from fededge.cluster.jobs import CONTAINER
from fededge.core.updates import ExclusionReason

Document = dict[str, Any]

_INDEX = "batch.kubernetes.io/job-completion-index"
_OUT_OF_MEMORY = "OOMKilled"
_NODE_GONE = ("DeletionByTaintManager", "DeletionByPodGC", "NodeLost", "NodeShutdown", "Shutdown")
_EVICTED = ("EvictionByEvictionAPI", "PreemptionByScheduler", "TerminationByKubelet", "Evicted", "Preempting")
_GOING_ON = ("ContainerCreating", "PodInitializing")  # slowly, perhaps; nothing is wrong unless an event says so
_READY_TO_START = "PodReadyToStartContainers"  # its volumes and network are there; images may be still to come
_NEVER_RAN = "ContainerStatusUnknown"  # what a kubelet says of a container that it was still to start
_LINE = 200  # characters


class Trouble(NamedTuple):
    """What is wrong with a pod."""

    reason: ExclusionReason
    detail: str


def index_of(pod: Document) -> int:
    """Return which index of its Job a pod is for; 0 in a plain Job."""
    return int((pod["metadata"].get("annotations") or {}).get(_INDEX, 0))


def has_started(pod: Document) -> bool:
    """Whether a client's program has ever run in a pod; what a mesh injects may have run before it."""
    ours = [how for name, how in _terminated(pod) if name == CONTAINER and how.get("reason") != _NEVER_RAN]
    return _phase(pod) in ("Running", "Succeeded") or bool(ours)


def trouble_of(pod: Document, warning: str = "") -> Trouble | None:
    """Find out what is wrong with a pod; None if nothing is.

    Args:
      pod: as Kubernetes tells of it.
      warning: of its last event that was one: of volumes and networks the pod itself does not tell.
    """
    lost = _disrupted(pod)
    if _phase(pod) == "Pending":
        return lost or _waiting(pod, warning) or _unschedulable(pod)
    if _phase(pod) == "Succeeded":  # its node may go afterwards
        return None
    if _phase(pod) != "Failed":
        return lost if pod["metadata"].get("deletionTimestamp") else None
    return lost or _ended(pod)


def server_trouble_of(pod: Document) -> Trouble | None:
    """Find out what is wrong with a pod whose containers start again: it is Running even while none of them lives."""
    for container in _states(pod):
        last = (container.get("lastState") or {}).get("terminated")
        if last and not container.get("ready") and (trouble := _failure(pod, container["name"], last)):
            return trouble
    return trouble_of(pod) or _waiting(pod)


def is_ready(pod: Document) -> bool:
    """Whether a pod answers, and is to stay."""
    if not pod or pod["metadata"].get("deletionTimestamp"):
        return False
    return bool(_conditions(pod).get("Ready", {}).get("status") == "True")


def _phase(pod: Document) -> str:
    return str(pod.get("status", {}).get("phase", "Pending"))


def _conditions(pod: Document) -> dict[str, Document]:
    return {condition["type"]: condition for condition in pod.get("status", {}).get("conditions") or []}


def _states(pod: Document) -> Iterator[Document]:
    status = pod.get("status", {})
    found = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    yield from sorted(found, key=lambda container: container["name"] != CONTAINER)  # ours first: others may be injected


def _terminated(pod: Document) -> Iterator[tuple[str, Document]]:
    """Yield the names of containers that have ended, and how."""
    for container in _states(pod):
        if ended := (container.get("state") or {}).get("terminated"):
            yield container["name"], ended


def _disrupted(pod: Document) -> Trouble | None:
    """Tell who took a pod away that had done nothing wrong."""
    status = pod.get("status", {})
    condition = _conditions(pod).get("DisruptionTarget", {})
    word = condition.get("reason") if condition.get("status") == "True" else status.get("reason")
    said = _detail(word, condition.get("message") or status.get("message"))
    node = pod.get("spec", {}).get("nodeName")
    if word in _NODE_GONE:
        return Trouble(ExclusionReason.NODE_LOST, f"node {node}: {said}")
    return Trouble(ExclusionReason.EVICTED, f"from node {node}: {said}") if word in _EVICTED else None


def _waiting(pod: Document, warning: str = "") -> Trouble | None:
    for container in _states(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        is_kept = bool(warning) and _conditions(pod).get(_READY_TO_START, {}).get("status") != "True"
        if (word := waiting.get("reason")) and (is_kept or word not in _GOING_ON):
            return Trouble(ExclusionReason.NOT_STARTED, _detail(word, waiting.get("message") or warning))
    return None


def _unschedulable(pod: Document) -> Trouble | None:
    condition = _conditions(pod).get("PodScheduled", {})
    if condition.get("status") != "False":
        return None
    word = condition.get("reason")
    return Trouble(ExclusionReason.NOT_STARTED, f"Pending: {_detail(word, condition.get('message'))}")


def _ended(pod: Document) -> Trouble:
    for name, ended in _terminated(pod):
        if failure := _failure(pod, name, ended):
            return failure
    status = pod.get("status", {})
    return Trouble(ExclusionReason.POD_FAILED, _detail(status.get("reason"), status.get("message")))


def _failure(pod: Document, name: str, ended: Document) -> Trouble | None:
    """Tell why a container has ended; None if it has done its work."""
    if ended.get("reason") == _OUT_OF_MEMORY:
        return Trouble(ExclusionReason.OUT_OF_MEMORY, f"{_OUT_OF_MEMORY}: more memory than {_memory_limit(pod, name)}")
    if not ended.get("exitCode"):
        return None
    word = f"exit code {ended['exitCode']}"
    word += f" ({ended['reason']})" if ended.get("reason") not in (None, "Error") else ""
    return Trouble(ExclusionReason.POD_FAILED, _detail(word, ended.get("message")))


def _memory_limit(pod: Document, name: str) -> str:
    for container in pod.get("spec", {}).get("containers") or []:
        if container["name"] == name:
            return str(container.get("resources", {}).get("limits", {}).get("memory", "there is"))
    return "there is"


def _detail(word: str | None, message: str | None) -> str:
    """Put the last line of a message, which has the cause, behind a word."""
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    return ": ".join(part for part in (word or "", _shortened(lines[-1]) if lines else "") if part) or "no reason told"


def _shortened(line: str) -> str:
    """Cut a long line in its middle: errors begin with what failed and end with the cause."""
    return line if len(line) <= _LINE else f"{line[: _LINE // 2]} … {line[-_LINE // 2 :]}"
