"""Submits a pipeline: one of those that come with FedEdge, or a file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from fededge.errors import InputError
from fededge.kubeflow import EXPERIMENT, SERVICE_ACCOUNT
from fededge.kubeflow import inputs as pipeline_inputs
from fededge.kubeflow.client import Kubeflow
from fededge.kubeflow.export import PIPELINES, Images, export_pipeline
from fededge.kubeflow.rounds import check_rounds
from fededge.kubeflow.runs import Run, start
from fededge.kubeflow.yaml_file import count_rounds, read_pipeline
from fededge.workloads import BUILT_IN, image_of, load_workload


class Package(NamedTuple):
    """A compiled pipeline, ready to be sent, and what to give it."""

    path: Path
    document: Mapping[str, Any]

    @property
    def rounds(self) -> int:
        return count_rounds(dict(self.document))


@contextlib.contextmanager
def package(
    pipeline: str,
    *,
    workload: str = "",
    rounds: int | None = None,
    registry: str = "",
    client_image: str = "",
    library: str = "",
    digests: Mapping[str, str] | None = None,
) -> Iterator[Package]:
    """Write a pipeline's YAML for a cluster; it is gone afterwards.

    Args:
      pipeline: one of `PIPELINES`, or the path of a compiled one, which is sent as it is.
      workload: that it is for; decides which of our images its tasks run on.
      rounds: of `fl_training`; None for as many as shipped.
      registry: put before the names of our images, as `harbor.example.org/fededge`; a file has its own.
      client_image: with a workload of your own, whole.
      library: of a workload of your own: tensorflow, torch or sklearn.
      digests: by image `name:tag`.

    Raises:
      InputError: there is no such pipeline, or the options do not go with it.
    """
    if pipeline not in PIPELINES:
        if rounds is not None or registry or client_image or digests:
            raise InputError(
                f"{pipeline} is a file: its rounds and images are in it; `fededge pipelines export` sets them"
            )
        yield _read(Path(pipeline))
        return
    if rounds is not None:
        check_rounds(rounds, pipeline)
    ours = load_workload(workload) if workload in BUILT_IN else None
    images = Images(registry, client_image, image_of(ours) if ours else library or "tensorflow", dict(digests or {}))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{pipeline}.yaml")
        export_pipeline(pipeline, images, rounds, path)
        yield _read(path)


def submit(
    kubeflow: Kubeflow,
    pipeline: str = "fl_training",
    inputs: Mapping[str, Any] | None = None,
    *,
    rounds: int | None = None,
    registry: str = "",
    client_image: str = "",
    library: str = "",
    digests: Mapping[str, str] | None = None,
    run_name: str = "",
    experiment: str = EXPERIMENT,
    service_account: str = SERVICE_ACCOUNT,
) -> Run:
    """Start a run of a pipeline on Kubeflow.

    Args:
      kubeflow: from `connect`.
      pipeline: fl_training, fl_round, fl_comparison, …, or the path of a compiled one.
      inputs: of the pipeline, where they are to differ from its defaults and from what suits the workload.
      rounds: of `fl_training`; None for as many as shipped.
      registry: of our images, as `harbor.example.org/fededge`.
      client_image: with a workload of your own, whole.
      library: of a workload of your own: tensorflow, torch or sklearn.
      digests: by image `name:tag`, from the push.
      run_name: by default the training's, or the pipeline's, and the time.
      experiment: that the run belongs to.
      service_account: of its pods.

    Returns:
      The run, which has just begun.

    Raises:
      InputError: something of this cannot be.
      KubeflowError: Kubeflow refuses it, or does not answer.
    """
    given = dict(inputs or {})
    ready = package(
        pipeline,
        workload=str(given.get("workload", "digits")),
        rounds=rounds,
        registry=registry,
        client_image=client_image,
        library=library,
        digests=digests,
    )
    with ready as sent:
        return send(kubeflow, sent, given, run_name, experiment, service_account)


def send(
    kubeflow: Kubeflow,
    package: Package,
    inputs: Mapping[str, Any],
    run_name: str = "",
    experiment: str = EXPERIMENT,
    service_account: str = SERVICE_ACCOUNT,
) -> Run:
    """Start a run of a pipeline that is ready; as `submit`."""
    values = pipeline_inputs.complete(package.document, inputs)
    now = datetime.now().astimezone()
    name = run_name or f"{values.get('training', package.path.stem)} {now:%Y-%m-%d %H:%M:%S}"
    return start(kubeflow, package.path, values, name, experiment, service_account)


def _read(path: Path) -> Package:
    if path.suffix not in (".yaml", ".yml"):  # as kfp asks for
        raise InputError(f"{path} is none of {', '.join(PIPELINES)}, and no .yaml file")
    return Package(path, read_pipeline(path))
