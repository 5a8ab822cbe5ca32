"""Finds out what is missing: on this machine, in the store, on the cluster."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Literal, NamedTuple

from fededge import environments
from fededge.errors import FedEdgeError
from fededge.shipped import compiled_pipeline, image_names
from fededge.store import open_store

State = Literal["ok", "missing", "unused"]

# What a run's service account needs, beside what Kubeflow grants: verb, group, resource.
_RIGHTS = (("list", "", "nodes"), ("create", "batch", "jobs"), ("get", "", "configmaps"))
_SECONDS = 5


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
      what: its name.
      state: `unused` is missing, but needed only for some uses.
      detail: what was found, or how to get it.
    """

    what: str
    state: State
    detail: str


def examine(store: str, namespace: str) -> list[Finding]:
    """Look at everything.

    Args:
      store: as in `open_store`.
      namespace: of the pipelines, on the cluster.
    """
    return [
        *(_environment(name) for name in image_names()),
        _check("pipelines", _pipelines),
        _check("store", lambda: _store(store)),
        _docker(),
        *_without_retry_warnings(lambda: _cluster(namespace)),
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
    return Finding(
        f"environment {name}", "missing", f"make it with `fededge env create {name}`; the first run does too"
    )


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


def _without_retry_warnings(look: Callable[[], list[Finding]]) -> list[Finding]:
    """Look, and keep quiet how often a server was asked that did not answer."""
    logger = logging.getLogger("urllib3")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return look()
    finally:
        logger.setLevel(before)


def _cluster(namespace: str) -> list[Finding]:
    from kubernetes import client
    from kubernetes.config.config_exception import ConfigException
    from urllib3.exceptions import HTTPError
    from yaml import YAMLError

    try:
        _load_config()
        version = client.VersionApi().get_code(_request_timeout=_SECONDS)
    except (ConfigException, YAMLError):
        return [Finding("cluster", "unused", "no kubeconfig; local runs need none: set KUBECONFIG for a cluster")]
    except (client.ApiException, HTTPError) as error:
        return [Finding("cluster", "missing", f"does not answer: {_short(error)}; check `kubectl cluster-info`")]
    found = [Finding("cluster", "ok", f"Kubernetes {version.git_version}")]
    try:
        return [*found, *(_right(namespace, *right) for right in _RIGHTS), _settings(namespace)]
    except (client.ApiException, HTTPError) as error:
        return [*found, Finding("rights", "missing", f"cannot be asked for: {_short(error)}")]


def _load_config() -> None:
    """Load the person's kubeconfig, or the service account that a pod has."""
    from kubernetes import config
    from kubernetes.config.config_exception import ConfigException

    try:
        config.load_kube_config()
    except ConfigException:
        config.load_incluster_config()


def _right(namespace: str, verb: str, group: str, resource: str) -> Finding:
    from kubernetes import client

    attributes = client.V1ResourceAttributes(namespace=namespace, verb=verb, group=group, resource=resource)
    review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))
    answer = client.AuthorizationV1Api().create_self_subject_access_review(review, _request_timeout=_SECONDS)
    what = f"right to {verb} {resource}"
    if answer.status.allowed:
        return Finding(what, "ok", f"in {namespace}")
    return Finding(what, "missing", f"not in {namespace}: ask its administrator to grant {verb} on {resource}")


def _settings(namespace: str) -> Finding:
    from kubernetes import client

    try:
        client.CoreV1Api().read_namespaced_config_map("fededge", namespace, _request_timeout=_SECONDS)
    except client.ApiException as error:
        return Finding(
            "ConfigMap fededge", "missing", f"{_short(error)} in {namespace}: it names the store of the runs there"
        )
    return Finding("ConfigMap fededge", "ok", f"in {namespace}")


def _short(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error).splitlines()[0]
