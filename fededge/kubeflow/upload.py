"""Uploads pipelines and their versions, so that people start them from Kubeflow's pages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from kfp_server_api import V2beta1Pipeline

from fededge import __version__
from fededge.errors import InputError, KubeflowError
from fededge.kubeflow.client import Kubeflow
from fededge.kubeflow.runs import named
from fededge.kubeflow.submit import Package

R = TypeVar("R")


class Uploaded(NamedTuple):
    """A version of a pipeline on Kubeflow.

    Attributes:
      new: it was not there before.
    """

    pipeline: str
    version: str
    pipeline_id: str
    version_id: str
    link: str
    new: bool


def upload(kubeflow: Kubeflow, package: Package, name: str, version: str = "") -> Uploaded:
    """Upload a pipeline, or a version of one that is there; nothing happens if that version is there.

    Args:
      kubeflow: from `connect`.
      package: the pipeline.
      name: of it on Kubeflow.
      version: its name; by default made of FedEdge's version and a digest of the file, so that the same file has the
        same name.

    Raises:
      InputError: another file was uploaded as that version.
      KubeflowError: Kubeflow refuses it, or does not answer.
    """
    digest = hashlib.sha256(package.path.read_bytes()).hexdigest()
    version = version or f"{__version__}-{digest[:12]}"
    pipeline_id = _pipeline(kubeflow, name, str(package.document["pipelineInfo"].get("description", "")))
    there = _version(kubeflow, pipeline_id, version)
    made = there or _make(kubeflow, package, pipeline_id, version, f"sha256:{digest}")
    if there and there.description != f"sha256:{digest}":
        raise InputError(f"{name} has another version {version}: pass another --version-name")
    link = kubeflow.link(f"pipelines/details/{pipeline_id}/version/{made.pipeline_version_id}")
    return Uploaded(name, version, pipeline_id, made.pipeline_version_id, link, not there)


def _pipeline(kubeflow: Kubeflow, name: str, description: str) -> str:
    """Find a pipeline of the namespace, or make one without versions."""

    def find() -> str | None:
        listed = kubeflow.listed(kubeflow.client.list_pipelines, "pipelines", filter=named(name), **where)
        return next((str(told.pipeline_id) for told in listed if told.display_name == name), None)

    def make() -> str:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")  # for a Kubeflow that keeps pipelines in Kubernetes
        wanted = V2beta1Pipeline(display_name=name, name=plain, description=description, **where)
        return str(kubeflow.client.pipelines.pipeline_service_create_pipeline(pipeline=wanted).pipeline_id)

    where = {"namespace": kubeflow.namespace or None}
    return find() or _once(kubeflow, make, find)


def _make(kubeflow: Kubeflow, package: Package, pipeline_id: str, version: str, description: str) -> Any:
    def make() -> Any:
        return kubeflow.client.upload_pipeline_version(
            str(package.path), version, pipeline_id=pipeline_id, description=description
        )

    return _once(kubeflow, make, lambda: _version(kubeflow, pipeline_id, version))


def _once(kubeflow: Kubeflow, make: Callable[[], R], find: Callable[[], R | None]) -> R:
    """Make something that Kubeflow takes once by its name; take the other's if another one was faster."""
    try:
        return kubeflow.create(make, find)
    except KubeflowError as error:
        if error.status != 409 or not (made := find()):
            raise
        return made


def _version(kubeflow: Kubeflow, pipeline_id: str, name: str) -> Any:
    listed = kubeflow.listed(
        kubeflow.client.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline_id, filter=named(name)
    )
    return next((told for told in listed if told.display_name == name), None)
