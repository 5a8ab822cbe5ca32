"""What a launcher finds out about itself: its Jobs run its own image, and belong to its own run."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from fededge.cluster.api import Cluster
from fededge.cluster.environment import POD
from fededge.errors import ClusterError, SetupError

Document = dict[str, Any]

_WORKFLOW = "workflows.argoproj.io/workflow"  # the label that names the run's Workflow
_GROUP, _VERSION = "argoproj.io", "v1alpha1"
_INJECT, _NATIVE = "sidecar.istio.io/inject", "sidecar.istio.io/nativeSidecar"  # a label and an annotation
_MAIN = "main"  # what Argo calls the container with the step


class OwnPod(NamedTuple):
    """The launcher's pod.

    Attributes:
      image: of the step.
      pull_policy: of the image.
      pull_secrets: names of the secrets to pull it with.
      owner: reference to the run's Workflow; None in a pod that Argo did not make.
      mesh: labels and annotations that say whether a pod gets a service mesh's sidecar.
    """

    image: str
    pull_policy: str
    pull_secrets: tuple[str, ...]
    owner: Document | None
    mesh: Document


def own_pod(cluster: Cluster) -> OwnPod:
    """Read the pod that this process is in.

    Raises:
      SetupError: it is in none.
      ClusterError: Kubernetes does not tell.
    """
    name = os.environ.get(POD) or os.environ.get("HOSTNAME", "")
    try:
        pod = cluster.call_plain(cluster.core.read_namespaced_pod, name, cluster.namespace, verb="get", resource="pods")
    except ClusterError as error:
        if error.status != 404:
            raise
        raise SetupError(
            f"there is no pod {name!r} in {cluster.namespace}: fl_round_job runs on a cluster; on this machine, run "
            "fl_round, which is what `fededge run` does"
        ) from error
    spec = pod["spec"]
    container = next((one for one in spec["containers"] if one["name"] == _MAIN), spec["containers"][0])
    secrets = tuple(secret["name"] for secret in spec.get("imagePullSecrets") or [])
    policy = container.get("imagePullPolicy", "")
    return OwnPod(container["image"], policy, secrets, _owner(cluster, pod), _mesh(pod))


def _mesh(pod: Document) -> Document:
    """Join the mesh if the launcher has; else stay out, as Kubeflow's tasks do, where all other pods are put in."""
    metadata = pod["metadata"]
    if (metadata.get("labels") or {}).get(_INJECT) != "true":
        return {"labels": {_INJECT: "false"}, "annotations": {}}
    native = (metadata.get("annotations") or {}).get(_NATIVE)
    return {"labels": {_INJECT: "true"}, "annotations": {_NATIVE: native} if native else {}}


def _owner(cluster: Cluster, pod: Document) -> Document | None:
    """Refer to the run's Workflow; deleting it must not wait for the Jobs."""
    name = (pod["metadata"].get("labels") or {}).get(_WORKFLOW)
    if not name:
        return None
    uids = [owner["uid"] for owner in pod["metadata"].get("ownerReferences") or [] if owner["name"] == name]
    uid = uids[0] if uids else _workflow_uid(cluster, name)
    reference = {"apiVersion": f"{_GROUP}/{_VERSION}", "kind": "Workflow", "name": name, "uid": uid}
    return {**reference, "blockOwnerDeletion": False}


def _workflow_uid(cluster: Cluster, name: str) -> str:
    get = cluster.custom.get_namespaced_custom_object
    which = (_GROUP, _VERSION, cluster.namespace, "workflows", name)
    found = cluster.call_plain(get, *which, verb="get", resource="workflows")
    return str(found["metadata"]["uid"])
