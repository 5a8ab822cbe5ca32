"""KServe: an InferenceService, of whose predictor Knative keeps the revision that had all requests.

In Standard mode a version takes all requests, by a rolling update: KServe has canaries there too, but of models that it
fetches itself and not of a server of one's own.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from fededge.errors import InputError
from fededge.rollout.platform import Split, State
from fededge.rollout.server import HTTP, VERSION, Release, compact, pod, probes

Document = dict[str, Any]

# What to go back to. It stays when the canary is promoted: KServe copies annotations into the pods' template, and
# without it Knative would make a revision more.
_STABLE = "fededge.io/stable"
_REVISION = "serving.knative.dev/revision"  # of a pod
_PERCENT = "canaryTrafficPercent"
_MODE = "serving.kserve.io/deploymentMode"
_SPLITTING = ("Serverless", "Knative")
_CONTAINER = "kserve-container"  # by which KServe knows the server among others
_PROTOCOL = {"name": "PROTOCOL", "value": "v2"}  # for KServe, which takes a server of one's own for one of v1
_LONGEST = 40  # characters; what KServe and Knative put behind it has to fit in a DNS label


class KServe:
    kind = "InferenceService"
    group = "serving.kserve.io"
    version = "v1beta1"
    plural = "inferenceservices"
    service_label = "serving.kserve.io/inferenceservice"

    def check(self, release: Release) -> None:
        if len(release.name) > _LONGEST:
            raise InputError(
                f"{release.name!r} is too long a name for KServe: choose one of at most {_LONGEST} characters"
            )

    def alone(self, release: Release) -> Document:
        return {
            "apiVersion": f"{self.group}/{self.version}",
            "kind": self.kind,
            "metadata": {"name": release.name, "labels": release.labels},
            "spec": {"predictor": _predictor(release)},
        }

    def check_split(self, service: Document) -> None:
        chosen = (service["metadata"].get("annotations") or {}).get(_MODE)
        mode = (service.get("status") or {}).get("deploymentMode") or chosen
        if mode and mode not in _SPLITTING:
            raise InputError(
                f"{service['metadata']['name']} is in KServe's mode {mode}, which splits no requests: take 100 % for a "
                f"rolling update, or make it anew with the annotation {_MODE}: Knative"
            )

    def with_canary(self, service: Document, release: Release, share: int) -> Document:
        changed = copy.deepcopy(service)
        if not self.split(service).canary:
            stable = changed["spec"]["predictor"]
            stable.pop(_PERCENT, None)
            changed["metadata"].setdefault("annotations", {})[_STABLE] = compact(stable)
            changed["spec"]["predictor"] = _predictor(release)
        changed["spec"]["predictor"][_PERCENT] = share
        return changed

    def promoted(self, service: Document) -> Document:
        changed = copy.deepcopy(service)
        changed["spec"]["predictor"].pop(_PERCENT)
        return changed

    def rolled_back(self, service: Document) -> Document:
        """Describe the stable version again, and leave all requests with the revision that has had them.

        The new revision of the same version would otherwise take them from it, or from the canary, when it is ready.
        """
        changed = copy.deepcopy(service)
        stable = json.loads(changed["metadata"]["annotations"][_STABLE])
        changed["spec"]["predictor"] = {**stable, _PERCENT: 0}
        return changed

    def split(self, service: Document) -> Split:
        predictor = service["spec"]["predictor"]
        version = predictor["labels"][VERSION]
        stable = (service["metadata"].get("annotations") or {}).get(_STABLE)
        if stable is None or _PERCENT not in predictor:
            return Split(version)
        before = json.loads(stable)["labels"][VERSION]
        return Split(version) if before == version else Split(before, version, predictor[_PERCENT])

    def state(self, service: Document, version: str, ready: Sequence[Document]) -> State:
        """Read whether the newest revision, which `version` is, can answer, and gets its share.

        Pods are counted, since `Ready` may still speak of the version before: KServe fills `observedGeneration` in with
        that of another object. Without Knative there are no revisions, and no share.
        """
        status, predictor = service.get("status") or {}, service["spec"]["predictor"]
        told = (status.get("components") or {}).get("predictor") or {}
        told = told if "traffic" in told else {}  # some releases number Deployments as revisions
        newest, wanted = told.get("latestCreatedRevision"), predictor.get("minReplicas", 1)
        pods = sum(pod["metadata"]["labels"].get(_REVISION) == newest for pod in ready)
        if pods < wanted:
            return State(False, _detail(status) or f"{pods} of {wanted} pods are ready")
        if newest != told.get("latestReadyRevision"):
            return State(False, _detail(status) or f"revision {newest} is not ready")
        if newest and not _has_share(told, predictor.get(_PERCENT, 100)):
            return State(False, _detail(status) or f"{version} does not get its share yet")
        conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
        is_ready = conditions.get("Ready", {}).get("status") == "True"
        return State(is_ready, "" if is_ready else _detail(status) or f"{version} is not ready")


def _predictor(release: Release) -> Document:
    spec = pod(release)
    # Knative allows one port and one name for it, and probes the readiness alone while a pod starts.
    spec["containers"][0] |= {
        "name": _CONTAINER,
        "env": [*spec["containers"][0]["env"], _PROTOCOL],
        "readinessProbe": probes(release.name)["readinessProbe"],
        "ports": [{"containerPort": HTTP, "protocol": "TCP"}],
    }
    return {**spec, "labels": release.pod_labels, "minReplicas": release.replicas, "maxReplicas": release.replicas}


def _has_share(told: Document, percent: int) -> bool:
    """Whether the newest revision gets its share; of none, an answer never counts."""
    targets = [target for target in told.get("traffic") or [] if target.get("latestRevision")]
    return percent in (0, sum(target.get("percent", 0) for target in targets))


def _detail(status: Document) -> str:
    """Join what the conditions complain of."""
    failed = [c for c in status.get("conditions") or [] if c.get("status") == "False" and c.get("message")]
    return "; ".join(dict.fromkeys(str(condition["message"]) for condition in failed))
