"""What FedEdge's containers find: the same in the tasks of a pipeline and in the Jobs that a task starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

CONFIG, SECRET, AUTHORITIES = "fededge", "fededge", "fededge-ca"  # a ConfigMap and two Secrets, each may be missing
SETTINGS = (
    "FEDEDGE_STORE",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_CA_BUNDLE",
    "FEDEDGE_LOG",
    "FEDEDGE_PUSHGATEWAY",
)
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
AUTHORITIES_PATH = "/etc/fededge/ca"
DATA_PATH = "/data"
DATA_VARIABLES = {"FEDEDGE_DATA": DATA_PATH, "FEDEDGE_CLIENT_STATE": f"{DATA_PATH}/.fededge"}
EDGE = "node-role.kubernetes.io/edge"
UID = 1000  # of the user that the images make
PART_OF, COMPONENT = "app.kubernetes.io/part-of", "app.kubernetes.io/component"
POD = "FEDEDGE_POD"  # the name of a launcher's own pod
RUN = "FEDEDGE_RUN"  # the run's id

VOLUMES: tuple[dict[str, Any], ...] = (
    {"name": "tmp", "emptyDir": {}},
    {"name": "ca", "secret": {"secretName": AUTHORITIES, "optional": True}},
)
MOUNTS: tuple[dict[str, Any], ...] = (
    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
    {"name": "ca", "mountPath": AUTHORITIES_PATH, "readOnly": True},
)
CONFINED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
"""The security context of a container, but for who it runs as."""


def in_tasks(keys: Iterable[str]) -> dict[str, str]:
    """Name the variable of each key in a pipeline's tasks.

    Kubeflow's own launcher runs in a task's container and would take those of AWS for itself: its artifacts would go to
    our server, with our credentials, or trust our authorities alone. `store/s3.py` reads these first.
    """
    return {key: f"FEDEDGE_{key.removeprefix('FEDEDGE_')}" for key in keys}


def variables() -> list[dict[str, Any]]:
    """Refer to the settings and the credentials, as a container's `env`; each may be missing."""
    sources = [("configMapKeyRef", CONFIG, key) for key in SETTINGS]
    sources += [("secretKeyRef", SECRET, key) for key in SECRETS]
    return [
        {"name": key, "valueFrom": {source: {"name": name, "key": key, "optional": True}}}
        for source, name, key in sources
    ]
