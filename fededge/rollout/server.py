"""The pod that serves one version, as plain dictionaries; the same for every platform."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fededge.cluster.environment import COMPONENT, CONFINED, MOUNTS, PART_OF, UID, VOLUMES, variables

Document = dict[str, Any]

ACCOUNT = "fededge-client"  # may read the store, and ask Kubernetes for nothing
TRAINING, VERSION = "fededge.io/training", "fededge.io/version"
HTTP, GRPC, METRICS = 8080, 8081, 8082
_START_S = 600  # to fetch the weights and load the library


@dataclass(frozen=True)
class Release:
    """One version, and how it is to be served.

    Attributes:
      name: of the service, and of the model in its URLs.
      training: the version's.
      version: its own name, never `current`: a pod that starts again must be the same.
      store: as in `open_store`; empty for that of the ConfigMap `fededge`.
      image: of the server, with its registry.
      replicas: how many pods.
      cpu_request: a quantity, as the following three.
    """

    name: str
    training: str
    version: str
    store: str
    image: str
    replicas: int
    cpu_request: str
    cpu_limit: str
    memory_request: str
    memory_limit: str

    @property
    def labels(self) -> dict[str, str]:
        """Of the service, whatever its version."""
        return {PART_OF: "fededge", COMPONENT: "server", TRAINING: self.training}

    @property
    def pod_labels(self) -> dict[str, str]:
        return {**self.labels, VERSION: self.version}


def pod(release: Release) -> Document:
    """Make the spec of the pod; it passes the pod security standard `restricted`."""
    return {
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [_container(release)],
        "volumes": [*VOLUMES],
    }


def _container(release: Release) -> Document:
    return {
        "name": release.name,
        "image": release.image,
        "command": ["python3", "-m", "fededge.serving"],
        "args": ["--training", release.training, "--version", release.version, "--name", release.name],
        "env": _environment(release.store),
        "resources": {
            "requests": {"cpu": release.cpu_request, "memory": release.memory_request},
            "limits": {"cpu": release.cpu_limit, "memory": release.memory_limit},
        },
        # Of the container, not of the pod: Knative takes the pod's only behind a switch.
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UID,
            **CONFINED,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",  # why it does not start
        "volumeMounts": [*MOUNTS],
    }


def probes(name: str) -> Document:
    """Make the probes: the model's own readiness, since a server without models calls itself ready."""
    ready = {"httpGet": {"path": f"/v2/models/{name}/ready", "port": HTTP}}
    return {
        "startupProbe": {**ready, "periodSeconds": 5, "failureThreshold": _START_S // 5},
        "readinessProbe": {**ready, "periodSeconds": 5},
        "livenessProbe": {**ready, "periodSeconds": 20, "timeoutSeconds": 10},
    }


def _environment(store: str) -> list[Document]:
    given = [{"name": "FEDEDGE_STORE", "value": store}] if store else []
    return [*given, *(variable for variable in variables() if variable["name"] != "FEDEDGE_STORE" or not store)]


def compact(document: Document) -> str:
    """Write a document into an annotation."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"))
