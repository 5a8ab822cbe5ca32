"""The Kubernetes Jobs that train clients, as plain dictionaries.

*Pooled*: one Indexed Job for each resource class of the plan; each index is a batch of clients. *Device*: one plain
Job for each batch of a device that has a claim of its own: a Job has one pod template, so an index cannot have its own
claim.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fededge.cluster.environment import (
    COMPONENT,
    CONFINED,
    DATA_PATH,
    DATA_VARIABLES,
    EDGE,
    MOUNTS,
    PART_OF,
    RUN,
    UID,
    VOLUMES,
    variables,
)
from fededge.settings import Placement

Document = dict[str, Any]

REFUSED = 42  # a batch of which some clients did not deliver; training them again would change nothing
CONTAINER = "client"
SITTING, SPEC = "fededge.io/sitting", "fededge.io/spec"

_NOT_AGAIN = (2, 3, 5, REFUSED)  # exit codes of wrong settings, and of a round that is another's by now
_AWAY_S = 30  # seconds that a node may be unreachable before its pods are given up
_GRACE = 5  # seconds; what a client has not delivered by then is not worth waiting for
_HASH = 16  # hexadecimal digits of a name


@dataclass(frozen=True)
class Round:
    """What the Jobs of a round share.

    Attributes:
      store: as in `open_store`; the pods get it so.
      identity: of the store and the attempt: with the class it makes a Job's name.
      sitting: the attempt and this run's lease, as `digits/v4/1/7`.
      labels: of everything that is made for the attempt.
      image: of the clients.
      pull_policy: of the image; empty for Kubernetes' own.
      pull_secrets: names of the secrets to pull it with.
      service_account: of the clients' pods.
      owner: reference to what the Jobs go with when it is deleted; None for nothing.
      mesh: labels and annotations of the pods, for a service mesh.
      parallelism: how many pods of a Job may run at once.
      retries: how often a batch is tried again.
      keep_s: seconds that a finished Job is kept.
      run: the id of this run, for the log; empty where nobody said.
    """

    store: str
    identity: str
    sitting: str
    labels: dict[str, str]
    image: str
    pull_policy: str
    pull_secrets: tuple[str, ...]
    service_account: str
    owner: Document | None
    mesh: Document
    parallelism: int
    retries: int
    keep_s: int
    run: str = ""


def pooled_job(
    shared: Round, where: Placement, batches: Sequence[int], left_s: int, max_failed: int, enough: int | None = None
) -> Document:
    """Make the Indexed Job of a resource class.

    Args:
      shared: what all Jobs of the round share.
      where: the class.
      batches: numbers of its batches in the attempt's plan.
      left_s: seconds until the round's deadline.
      max_failed: batches that may fail before the round is lost.
      enough: batches that make the round complete; None to wait for all.
    """
    count = len(batches)
    spec = {
        "completionMode": "Indexed",
        "completions": count,
        "parallelism": min(shared.parallelism, count),
        "backoffLimitPerIndex": shared.retries,
        "maxFailedIndexes": min(max_failed, count),
        "podFailurePolicy": _failure_policy("FailIndex"),
    }
    if enough is not None and enough < count:
        spec["successPolicy"] = {"rules": [{"succeededCount": enough}]}
    return _job(shared, where, batches, left_s, "", spec)


def device_job(shared: Round, where: Placement, batch: int, left_s: int) -> Document:
    """Make the Job of one batch of a device.

    Args:
      shared: what all Jobs of the round share.
      where: the device's claim, and what the pod may use.
      batch: its number in the attempt's plan.
      left_s: seconds until the round's deadline.
    """
    spec = {
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": shared.retries,
        "podFailurePolicy": _failure_policy("FailJob"),
    }
    return _job(shared, where, [batch], left_s, str(batch), spec)


def _job(
    shared: Round, where: Placement, batches: Sequence[int], left_s: int, which: str, special: Document
) -> Document:
    spec = {
        **special,
        "podReplacementPolicy": "Failed",  # never two pods with the same clients
        "activeDeadlineSeconds": max(left_s, 1),
        "ttlSecondsAfterFinished": shared.keep_s,
        "template": _template(shared, where, batches),
    }
    owner = {"ownerReferences": [shared.owner]} if shared.owner else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(shared.identity, where, which),
            "labels": _labels(shared),
            "annotations": {SITTING: shared.sitting, SPEC: spec_digest(spec)},
            **owner,
        },
        "spec": spec,
    }


def job_name(identity: str, where: Placement, which: str = "") -> str:
    """Name a Job: the same for whoever starts it again, a DNS label also with an index behind it."""
    text = json.dumps([identity, where.model_dump(), which], sort_keys=True)
    return f"fededge-{hashlib.sha256(text.encode()).hexdigest()[:_HASH]}"


def spec_digest(spec: Document) -> str:
    """Digest what a Job does; how much time it was given depends on when it was started."""
    lasting = {name: value for name, value in spec.items() if name != "activeDeadlineSeconds"}
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()


def selector(shared: Round) -> str:
    """Return the label selector of what is made for the attempt."""
    return ",".join(f"{name}={value}" for name, value in {PART_OF: "fededge", **shared.labels}.items())


def to_ranges(numbers: Iterable[int]) -> str:
    """Write numbers in ascending order in short, as `0-19,25`: a million batches still fit a command line."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def from_ranges(text: str) -> list[int]:
    """Read what `to_ranges` wrote, or Kubernetes' own `completedIndexes`.

    Raises:
      ValueError: it is neither.
    """
    numbers: list[int] = []
    for span in text.split(",") if text else []:
        first, _, last = span.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def _failure_policy(give_up: str) -> Document:
    codes = {"containerName": CONTAINER, "operator": "In", "values": list(_NOT_AGAIN)}
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    return {"rules": [{"action": give_up, "onExitCodes": codes}, {"action": "Ignore", "onPodConditions": disrupted}]}


def _labels(shared: Round) -> dict[str, str]:
    return {PART_OF: "fededge", COMPONENT: "client", **shared.labels}


def _template(shared: Round, where: Placement, batches: Sequence[int]) -> Document:
    tmp, ca = VOLUMES
    data = {"name": "data", "persistentVolumeClaim": {"claimName": where.data_claim}}
    pull = {"imagePullSecrets": [{"name": name} for name in shared.pull_secrets]} if shared.pull_secrets else {}
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE,
        "serviceAccountName": shared.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **pull,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UID,
            "fsGroup": UID,  # a new volume belongs to root
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [{"key": EDGE, "operator": "Exists", "effect": "NoSchedule"}, *_UNREACHABLE],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [_PREFER_EDGE]}},
        "containers": [_container(shared, where, batches)],
        "volumes": [tmp, data, ca],
    }
    metadata = {"labels": {**_labels(shared), **shared.mesh["labels"]}, "annotations": shared.mesh["annotations"]}
    return {"metadata": metadata, "spec": spec}


_UNREACHABLE = [
    {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _AWAY_S}
    for what in ("not-ready", "unreachable")
]
_PREFER_EDGE = {"weight": 100, "preference": {"matchExpressions": [{"key": EDGE, "operator": "Exists"}]}}


def _container(shared: Round, where: Placement, batches: Sequence[int]) -> Document:
    own = {**DATA_VARIABLES, **({RUN: shared.run} if shared.run else {})}
    arguments = ["--store", shared.store, "--attempt", shared.sitting, "--batches", to_ranges(batches)]
    return {
        "name": CONTAINER,
        "image": shared.image,
        **({"imagePullPolicy": shared.pull_policy} if shared.pull_policy else {}),
        "command": ["python3", "-m", "fededge.steps.batch_of_job"],
        "args": arguments,
        "env": [*({"name": name, "value": value} for name, value in own.items()), *variables()],
        "resources": {
            "requests": {"cpu": where.cpu_request, "memory": where.memory_request},
            "limits": {"cpu": where.cpu_limit, "memory": where.memory_limit},
        },
        "securityContext": CONFINED,
        "terminationMessagePolicy": "FallbackToLogsOnError",  # the last lines, for the round's report
        "volumeMounts": [*MOUNTS, {"name": "data", "mountPath": DATA_PATH}],
    }
