"""Seldon Core 1: a SeldonDeployment with one predictor, or two that share the requests.

A predictor has its version's name, so that promoting it starts no pod again. Istio's gateway or Ambassador splits the
requests.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from fededge.errors import InputError
from fededge.rollout.platform import Split, State
from fededge.rollout.server import GRPC, HTTP, METRICS, Release, pod, probes

Document = dict[str, Any]

_LONGEST = 63  # characters of a Deployment's name; Seldon writes a hash in place of a longer one


class Seldon:
    kind = "SeldonDeployment"
    group = "machinelearning.seldon.io"
    version = "v1"
    plural = "seldondeployments"
    service_label = "seldon-deployment-id"

    def check(self, release: Release) -> None:
        if (over := len(_deployment(release.name, release.version, release.name)) - _LONGEST) > 0:
            longest = len(release.name) - (over + 1) // 2
            raise InputError(
                f"{release.name!r} is too long a name for Seldon: choose one of at most {longest} characters"
            )

    def alone(self, release: Release) -> Document:
        return {
            "apiVersion": f"{self.group}/{self.version}",
            "kind": self.kind,
            "metadata": {"name": release.name, "labels": release.labels},
            "spec": {"protocol": "v2", "predictors": [_predictor(release, 100)]},
        }

    def check_split(self, service: Document) -> None:
        """Seldon always can."""

    def with_canary(self, service: Document, release: Release, share: int) -> Document:
        changed = copy.deepcopy(service)
        stable, *canaries = changed["spec"]["predictors"]
        canary = canaries[0] if canaries else _predictor(release, share)
        stable["traffic"], canary["traffic"] = 100 - share, share
        changed["spec"]["predictors"] = [stable, canary]
        return changed

    def promoted(self, service: Document) -> Document:
        return _only(service, -1)

    def rolled_back(self, service: Document) -> Document:
        return _only(service, 0)

    def split(self, service: Document) -> Split:
        stable, *canaries = service["spec"]["predictors"]
        if not canaries:
            return Split(stable["name"])
        return Split(stable["name"], canaries[0]["name"], canaries[0].get("traffic", 0))

    def state(self, service: Document, version: str, ready: Sequence[Document]) -> State:
        """Read the state of all, once the version has pods: it has them only after the operator has looked."""
        status = service.get("status") or {}
        if status.get("state") == "Available":
            return State(bool(ready), f"no pod of {version} is ready")
        return State(False, str(status.get("description") or status.get("state") or "the operator has not looked yet"))


def _predictor(release: Release, share: int) -> Document:
    spec = pod(release)
    spec["containers"][0] |= {
        **probes(release.name),
        "ports": [
            {"name": "http", "containerPort": HTTP, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS, "protocol": "TCP"},
        ],
    }
    return {
        "name": release.version,
        # Seldon's orchestrator, which one model can do without, would not pass the pod security standard `restricted`.
        "annotations": {"seldon.io/no-engine": "true"},
        "labels": release.pod_labels,
        "replicas": release.replicas,
        "traffic": share,
        "graph": {"name": release.name, "type": "MODEL"},  # the name of the container, and of the model in it
        "componentSpecs": [{"spec": spec}],
    }


def _only(service: Document, index: int) -> Document:
    changed = copy.deepcopy(service)
    kept = changed["spec"]["predictors"][index]
    changed["spec"]["predictors"] = [{**kept, "traffic": 100}]
    return changed


def _deployment(service: str, predictor: str, container: str) -> str:
    """Name a predictor's Deployment as the operator does."""
    return f"{service}-{predictor}-0-{container}"
