"""Finds out what is missing: on this machine, in the store, on the cluster."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fededge import environments
from fededge.cluster.environment import CONFIG, SECRET
from fededge.errors import ClusterError, FedEdgeError, SetupError
from fededge.kubeflow import SERVICE_ACCOUNT
from fededge.settings import FanOut, Placement
from fededge.shipped import compiled_pipeline, image_names
from fededge.store import open_store

if TYPE_CHECKING:
    from fededge.cluster.api import Cluster

State = Literal["ok", "warning", "missing", "unused", "unknown"]

# What manifests/base grants for the tasks of a run, by API group and resource; but for the Secret with Kubeflow's
# credentials for artifacts, which may have another name.
RIGHTS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("argoproj.io", "workflowtaskresults"): ("create", "patch"),
    ("", "configmaps"): ("get",),
    ("", "pods"): ("get", "list", "watch"),
    ("argoproj.io", "workflows"): ("get",),
    ("batch", "jobs"): ("create", "get", "list", "watch", "delete"),
    ("", "events"): ("list", "watch"),
}
_KUBEFLOW = "kubeflow"  # the namespace of runs, where there is one for everybody
_APPLY = "apply manifests/base, as docs/install.md says"
_POLICY, _PIPELINES = "fededge-pipelines", "ml-pipeline"  # of manifests/base/network.yaml, and Kubeflow's own Service
_PLACEHOLDER = "REPLACE-"
_NOT_FOUND, _FORBIDDEN = 404, 403
_SECONDS = 5
_EVERY_RUN = "tensorflow"  # the image that aggregates, whatever the clients train with


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
      what: its name.
      state: `warning` is there, and may not do; `unused` is missing, but needed only for some uses; `unknown` is what
        the caller may not see.
      detail: what was found, or how to get it.
    """

    what: str
    state: State
    detail: str


def examine(store: str, namespace: str = "", context: str = "") -> list[Finding]:
    """Look at everything.

    Args:
      store: as in `open_store`.
      namespace: of the runs, on the cluster; empty for Kubeflow's own.
      context: of the kubeconfig; empty for its current one. With it or a namespace, a cluster has to be there.
    """
    return [
        *(_environment(name) for name in image_names()),
        _check("pipelines", _pipelines),
        _check("store", lambda: _store(store)),
        _docker(),
        *_cluster(namespace, context),
    ]


def _check(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", look())
    except FedEdgeError as error:
        return Finding(what, "missing", str(error))


def _environment(name: str) -> Finding:
    wanted = environments.environment(name)
    if wanted.ready:
        return Finding(f"environment {name}", "ok", str(wanted.path))
    how = f"make it with `fededge env create {name}`; the first run that needs it does too"
    if name == _EVERY_RUN:
        return Finding(f"environment {name}", "missing", how)
    who = "servers" if name.startswith("serving") else "workloads of that library"
    return Finding(f"environment {name}", "unused", f"only {who} need it: {how}")


def _pipelines() -> str:
    from fededge.kubeflow.yaml_file import read_pipeline

    for name in ("fl_round", "fl_training"):
        document = read_pipeline(compiled_pipeline(name))
    return f"compiled with {document['sdkVersion']}"


def _store(url: str) -> str:
    store = open_store(url)
    store.check()
    return f"{store.url} can be read and written"


def _docker() -> Finding:
    import docker
    from docker.errors import DockerException

    try:
        with contextlib.closing(docker.from_env(timeout=_SECONDS)) as client:
            return Finding("docker", "ok", f"engine {client.version()['Version']}")
    except DockerException:
        return Finding(
            "docker", "unused", "no engine answers; only --runner docker needs one: start it, or set DOCKER_HOST"
        )


def _cluster(namespace: str, context: str) -> list[Finding]:
    from kubernetes.client import VersionApi

    from fededge.cluster.api import connect

    try:
        cluster = connect(context, namespace=namespace or _KUBEFLOW, patience=0)
    except SetupError as error:
        if namespace or context:
            return [Finding("cluster", "missing", str(error))]
        return [Finding("cluster", "unused", f"{error}; local runs need none")]
    with cluster:
        try:
            version = cluster.call_plain(VersionApi(cluster.core.api_client).get_code, verb="get", resource="version")
        except ClusterError as error:
            return [Finding("cluster", "missing", str(error))]
        return [
            Finding("cluster", "ok", f"Kubernetes {version['gitVersion']}"),
            *_accounts(cluster),
            *_rights(cluster),
            _config(cluster),
            _credentials(cluster),
            _claim(cluster),
            *_policy(cluster),
        ]


def _object(cluster: Cluster, read: Callable[..., Any], kind: str, name: str) -> dict[str, Any] | Finding:
    """Read an object of the namespace, or say why not."""
    try:
        return cluster.call_plain(read, name, cluster.namespace, verb="get", resource=kind)
    except ClusterError as error:
        what = f"{kind} {name}"
        if error.status == _NOT_FOUND:
            return Finding(what, "missing", f"not in {cluster.namespace}: {_APPLY}")
        return _unseen(what, error)


def _unseen(what: str, error: ClusterError) -> Finding:
    if error.status == _FORBIDDEN:
        return Finding(what, "unknown", f"you may not look: {error.detail}")
    return Finding(what, "missing", str(error))


def _accounts(cluster: Cluster) -> Iterator[Finding]:
    for name in (SERVICE_ACCOUNT, FanOut().client_service_account):
        found = _object(cluster, cluster.core.read_namespaced_service_account, "service account", name)
        if isinstance(found, Finding):
            yield found
            continue
        yield Finding(f"service account {name}", "ok", f"in {cluster.namespace}")
        for secret in found.get("imagePullSecrets", []):
            yield _pull_secret(cluster, secret["name"], name)


def _pull_secret(cluster: Cluster, name: str, account: str) -> Finding:
    what = f"Secret {name} of {account}"
    found = _object(cluster, cluster.core.read_namespaced_secret, "Secret", name)
    if not isinstance(found, Finding):
        return Finding(what, "ok", f"in {cluster.namespace}")
    if found.state == "missing":
        how = "make it with `fededge images harbor-setup` or `kubectl create secret docker-registry`"
        return Finding(what, "missing", f"not in {cluster.namespace}, and images are pulled with it: {how}")
    return found._replace(what=what)


def _rights(cluster: Cluster) -> list[Finding]:
    """Look at the rights of who runs the tasks; the caller's own say nothing of them."""
    what, lacking = f"rights of {SERVICE_ACCOUNT}", []
    try:
        for (group, resource), verbs in RIGHTS.items():
            lacking += [f"{verb} {resource}" for verb in verbs if not _may(cluster, verb, group, resource)]
        sees_nodes = _may(cluster, "list", "", "nodes")
    except ClusterError as error:
        return [_unseen(what, error)]
    if lacking:
        rights = Finding(what, "missing", f"may not {', '.join(lacking)} in {cluster.namespace}: {_APPLY}")
    else:
        rights = Finding(what, "ok", f"in {cluster.namespace}")
    nodes = "granted" if sees_nodes else "not granted; only clients on devices need it: manifests/components/devices"
    return [rights, Finding("right to list nodes", "ok" if sees_nodes else "unused", nodes)]


def _may(cluster: Cluster, verb: str, group: str, resource: str) -> bool:
    """Ask about the service account, by the review that a namespace's administrator may make."""
    from kubernetes import client

    accounts, space = "system:serviceaccounts", cluster.namespace
    review = client.V1LocalSubjectAccessReview(
        metadata=client.V1ObjectMeta(namespace=space),
        spec=client.V1SubjectAccessReviewSpec(
            user=f"system:serviceaccount:{space}:{SERVICE_ACCOUNT}",
            groups=[accounts, f"{accounts}:{space}", "system:authenticated"],
            resource_attributes=client.V1ResourceAttributes(namespace=space, verb=verb, group=group, resource=resource),
        ),
    )
    ask = client.AuthorizationV1Api(cluster.core.api_client).create_namespaced_local_subject_access_review
    answer = cluster.call_plain(ask, space, review, verb="create", resource="localsubjectaccessreviews")
    return bool(answer["status"]["allowed"])


def _config(cluster: Cluster) -> Finding:
    found = _object(cluster, cluster.core.read_namespaced_config_map, "ConfigMap", CONFIG)
    if isinstance(found, Finding):
        return found
    values = found.get("data") or {}
    store = values.get("FEDEDGE_STORE") or "no store: each run has to be given one"
    return _filled(f"ConfigMap {CONFIG}", values, store)


def _credentials(cluster: Cluster) -> Finding:
    found = _object(cluster, cluster.core.read_namespaced_secret, "Secret", SECRET)
    if isinstance(found, Finding):
        return found
    values = {key: base64.b64decode(value).decode(errors="replace") for key, value in (found.get("data") or {}).items()}
    what = f"Secret {SECRET}"
    if empty := [key for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not values.get(key)]:
        return Finding(what, "missing", f"has no {' and no '.join(empty)}: {_APPLY}")
    return _filled(what, values, f"in {cluster.namespace}")


def _filled(what: str, values: Mapping[str, str], detail: str) -> Finding:
    """Make sure that no placeholder of the manifests is left."""
    if left := [key for key, value in sorted(values.items()) if _PLACEHOLDER in value]:
        how = "replace it in manifests/base/store.yaml, and apply that again"
        return Finding(what, "missing", f"{_PLACEHOLDER} is still in {', '.join(left)}: {how}")
    return Finding(what, "ok", detail)


def _claim(cluster: Cluster) -> Finding:
    name = Placement().data_claim
    found = _object(cluster, cluster.core.read_namespaced_persistent_volume_claim, "claim", name)
    if isinstance(found, Finding):
        return found
    what, phase = f"claim {name}", found.get("status", {}).get("phase", "Pending")
    match phase:
        case "Bound":
            detail = f"in {cluster.namespace}"
        case "Pending":
            detail = "not bound yet, which may wait for its first pod; else `kubectl describe pvc`"
        case _:
            return Finding(what, "missing", f"is {phase}: its volume is gone; delete it and {_APPLY}")
    modes = found.get("spec", {}).get("accessModes", [])
    if modes == ["ReadWriteOnce"] and (nodes := _nodes(cluster)) > 1:
        why = f"is ReadWriteOnce, and pods can start on {nodes:,} nodes: those on a second one wait for it"
        return Finding(what, "warning", f"{why}; make it ReadWriteMany, as docs/install.md says ({detail})")
    return Finding(what, "ok", detail)


def _nodes(cluster: Cluster) -> int:
    """Count the nodes on which pods of ours can start; 0 where they may not be listed."""
    from fededge.cluster.nodes import count_nodes

    try:
        return count_nodes(cluster)
    except ClusterError:
        return 0


def _policy(cluster: Cluster) -> Iterator[Finding]:
    """Look whether the network policy for Kubeflow Pipelines, if there is one, names the namespace that it is in."""
    from kubernetes.client import NetworkingV1Api

    read = NetworkingV1Api(cluster.core.api_client).read_namespaced_network_policy
    found = _object(cluster, read, "network policy", _POLICY)
    if isinstance(found, Finding):
        if found.state == "unknown":
            yield found
        return
    for name in sorted(_namespaces(found)):
        yield _reached(cluster, name)


def _namespaces(policy: Mapping[str, Any]) -> set[str]:
    """Take the namespaces that a policy lets pods reach, as far as it names them."""
    peers = [peer for rule in policy["spec"].get("egress") or [] for peer in rule.get("to") or []]
    labels = [(peer.get("namespaceSelector") or {}).get("matchLabels") or {} for peer in peers]
    return {label["kubernetes.io/metadata.name"] for label in labels if "kubernetes.io/metadata.name" in label}


def _reached(cluster: Cluster, namespace: str) -> Finding:
    what = f"network policy {_POLICY}"
    try:
        cluster.call_plain(cluster.core.read_namespaced_service, _PIPELINES, namespace, verb="get", resource="services")
    except ClusterError as error:
        if error.status != _NOT_FOUND:
            return _unseen(what, error)
        where = f"lets tasks reach Kubeflow Pipelines in {namespace}, where there is no Service {_PIPELINES}"
        return Finding(what, "warning", f"{where}: name its namespace, as docs/install.md says")
    return Finding(what, "ok", f"lets tasks reach Kubeflow Pipelines in {namespace}")
