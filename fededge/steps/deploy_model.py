"""Brings a version to the requests of a service on the cluster: as a canary, then for all, or not at all."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from fededge.cluster.api import connect
from fededge.errors import InputError
from fededge.events import emit
from fededge.monitoring import logs
from fededge.records import Version
from fededge.rollout.kserve import KServe
from fededge.rollout.platform import Platform
from fededge.rollout.rollout import Outcome, Rollout
from fededge.rollout.seldon import Seldon
from fededge.rollout.server import Release
from fededge.settings import Action, Deployment, Placement
from fededge.settings import Platform as PlatformName
from fededge.steps.running import running
from fededge.store import open_store
from fededge.store.blobs import get_bytes
from fededge.store.trainings import TrainingStore
from fededge.workloads import image_of, load_workload

_PLATFORMS: dict[PlatformName, Callable[[], Platform]] = {PlatformName.SELDON: Seldon, PlatformName.KSERVE: KServe}
_BAR = re.compile(r"(?P<metric>\w+)(?P<sign>>=|<=)(?P<value>.+)")
_SIGNS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}


def deploy_model(
    store: str, training: str, version: str, deployment: Mapping[str, Any], placement: Mapping[str, Any]
) -> str:
    """Deploy, promote or roll back; doing it again changes nothing.

    Args:
      store: as in `open_store`; the server opens it too.
      training: its name.
      version: as `v7`; or `current`, which is looked up now. A rollback needs none.
      deployment: of `Deployment`.
      placement: of `Placement`; `data_claim` is not used.

    Returns:
      What was done: an `Outcome`.

    Raises:
      RolloutError: the version did not get ready; the one before serves alone.
      InputError: the version is below the bar, the name is taken, or there is no such canary.
      SetupError: there is no cluster, or the platform is not installed.
      ClusterError: Kubernetes refuses.
      StoreError: the version is not there, or damaged.
    """
    with running("deploy", training):
        named = {**deployment, "name": deployment.get("name") or training}
        how, where = Deployment.parse(**named), Placement.parse(**placement)

        def say(line: str) -> None:
            emit("progress", "deploy", training=training, detail=line)

        with connect(say=say) as cluster:
            rollout = Rollout(cluster, _PLATFORMS[how.platform](), how.name, training, say)
            if how.action is Action.ROLLBACK:
                return str(rollout.roll_back())
            trainings = TrainingStore(open_store(store), training)
            manifest = trainings.version(version)
            logs.learn(round=manifest.round, version=manifest.version)
            return str(_bring(rollout, trainings, manifest, store, how, where))


def _bring(
    rollout: Rollout, trainings: TrainingStore, manifest: Version, store: str, how: Deployment, where: Placement
) -> Outcome:
    _require_servable(trainings, manifest)
    _require_bar(manifest, how.bar)
    if how.action is Action.PROMOTE:
        return rollout.promote(manifest.version)
    release = Release(
        name=how.name,
        training=manifest.training,
        version=manifest.version,
        store=store,
        image=_image(manifest, how),
        replicas=how.replicas,
        **where.model_dump(exclude={"data_claim"}),
    )
    promote = how.action is Action.AUTO
    return rollout.deploy(release, how.traffic, how.timeout_s, how.soak_s, promote=promote)


def _require_servable(trainings: TrainingStore, manifest: Version) -> None:
    """Find out here what the server would find out, before it gets a request."""
    if "x" not in manifest.data_schema:
        raise InputError(f"{manifest.training} {manifest.version} was made by no round: deploy one that was trained")
    get_bytes(trainings.store, manifest.model)


def _require_bar(manifest: Version, bar: str) -> None:
    if not (match := _BAR.fullmatch(bar)):
        return
    metric, needed = match["metric"], float(match["value"])
    if metric not in manifest.metrics:
        known = ", ".join(sorted(manifest.metrics)) or "nothing"
        raise InputError(f"bar={bar!r}: {manifest.training} {manifest.version} has measured {known}")
    if not _SIGNS[match["sign"]](manifest.metrics[metric], needed):
        raise InputError(
            f"{manifest.training} {manifest.version} has {metric} {manifest.metrics[metric]:.6g}, and the bar is {bar}"
        )


def _image(manifest: Version, how: Deployment) -> str:
    library = image_of(load_workload(manifest.settings.workload))
    return how.serving_tensorflow_image if library == "tensorflow" else how.serving_image
