"""One service on a cluster: the object that stands for it, read, watched and written."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random_exponential

from fededge.cluster.api import Cluster
from fededge.cluster.environment import PART_OF
from fededge.cluster.pods import is_ready, server_trouble_of
from fededge.cluster.watch import Feed
from fededge.errors import ClusterError, InputError, RolloutError, SetupError
from fededge.rollout.platform import Platform, Split, State
from fededge.rollout.server import TRAINING, VERSION, Release

Document = dict[str, Any]

TAKEN = 409  # the name is, or somebody wrote meanwhile
_TRIES = 10  # at a write, while the operator writes the same object


def _is_conflict(error: BaseException) -> bool:
    return isinstance(error, ClusterError) and error.status == TAKEN


_again = retry(
    retry=retry_if_exception(_is_conflict),
    wait=wait_random_exponential(multiplier=0.1, max=5),
    stop=stop_after_attempt(_TRIES),
    reraise=True,
)


class Service:
    """A service by its name, whether it is there or not.

    Args:
      cluster: to work on, in its namespace.
      platform: Seldon or KServe.
      name: of the service.
      training: whose versions it serves.
      say: gets a line when something is missed that can be done without.
    """

    def __init__(
        self, cluster: Cluster, platform: Platform, name: str, training: str, say: Callable[[str], None]
    ) -> None:
        self._cluster, self._platform, self._say = cluster, platform, say
        self._name, self._training = name, training
        self._api = {"group": platform.group, "version": platform.version, "plural": platform.plural}

    def __str__(self) -> str:
        return f"{self._platform.kind} {self._name}"

    def find(self) -> Document | None:
        """Read the service; None if there is none.

        Raises:
          SetupError: the platform is not installed.
          InputError: the name is somebody else's.
        """
        listing = self._cluster.custom.list_namespaced_custom_object
        try:
            # A list tells a service that is not there from a platform that is not.
            found = self._call(listing, "list", field_selector=f"metadata.name={self._name}")["items"]
        except ClusterError as error:
            if error.status != 404:
                raise
            raise SetupError(
                f"the cluster has no {self._platform.kind}s ({self._platform.group}/{self._platform.version}): install "
                "the platform, or choose the other one"
            ) from error
        for service in found:
            self._require_ours(service)
            return dict(service)
        return None

    def read(self) -> Document:
        """Read the service.

        Raises:
          InputError: there is none, or it is somebody else's.
        """
        if service := self.find():
            return service
        raise InputError(f"there is no {self} in namespace {self._cluster.namespace}")

    def split(self) -> Split:
        return self._platform.split(self.read())

    def create(self, release: Release) -> None:
        create = self._cluster.custom.create_namespaced_custom_object
        try:
            self._call(create, "create", body=self._platform.alone(release))
        except ClusterError as error:
            # Ours, if the answer to an earlier try was lost.
            if error.status != TAKEN or self.split() != Split(release.version):
                raise

    @_again
    def change(self, edit: Callable[[Document], Document]) -> Split:
        """Write what is to be in place of what is; done again if somebody wrote between."""
        service = self.read()
        changed = edit(service)
        if changed != service:
            replace = self._cluster.custom.replace_namespaced_custom_object
            self._call(replace, "update", name=self._name, body=changed)
        return self._platform.split(changed)

    def delete(self) -> None:
        self._call(self._cluster.custom.delete_namespaced_custom_object, "delete", name=self._name)

    def watch(self, served: str, seconds: float, state: State, until: Callable[[State], bool]) -> State:
        """Follow a version until its state is as wanted or the time is over.

        Args:
          served: the version, stable or the canary.
          seconds: for which to wait.
          state: as long as nothing is heard.
          until: tells whether a state is the wanted one.

        Returns:
          The last state.

        Raises:
          RolloutError: somebody deleted the service.
        """
        end, feed = time.monotonic() + seconds, Feed(self._cluster, self._say)
        service: Document = {}
        pods: dict[str, Document] = {}
        try:
            feed.follow(self._cluster.core.list_namespaced_pod, "pods", label_selector=self._pods(served))
            feed.ready()  # the pods go first: a service that is ready would be taken for one without any
            listing, selector = self._cluster.custom.list_namespaced_custom_object, f"metadata.name={self._name}"
            group, version, plural = self._platform.group, self._platform.version, self._platform.plural
            feed.follow(listing, plural, field_selector=selector, group=group, version=version, plural=plural)
            while (left := end - time.monotonic()) > 0 and (change := feed.next(left)):
                if change.resource == "pods":
                    pods[change.object["metadata"]["name"]] = {} if change.is_deleted else change.object
                elif change.is_deleted:
                    raise RolloutError(f"somebody deleted {self}")
                else:
                    service = change.object
                if service:
                    state = self._platform.state(service, served, [pod for pod in pods.values() if is_ready(pod)])
                    if until(state):
                        break
            return state
        finally:
            feed.close()

    def why_not_ready(self, version: str) -> str:
        """Say what is wrong with a pod of a version; empty where nothing is, or nobody may know."""
        listing, namespace = self._cluster.core.list_namespaced_pod, self._cluster.namespace
        labels, read = self._pods(version), server_trouble_of
        try:
            found = self._cluster.read_all(listing, namespace, resource="pods", read=read, label_selector=labels)
        except ClusterError:  # the reason is a help, and no need
            return ""
        return next((f"{trouble.reason}: {trouble.detail}" for trouble in found if trouble), "")

    def _pods(self, version: str) -> str:
        """Select the pods of a version."""
        return f"{self._platform.service_label}={self._name},{VERSION}={version}"

    def _require_ours(self, service: Document) -> None:
        labels = service["metadata"].get("labels") or {}
        if (labels.get(PART_OF), labels.get(TRAINING)) != ("fededge", self._training):
            whose = labels.get(TRAINING)
            what = f"serves the training {whose}" if whose else "was not made by FedEdge"
            raise InputError(f"{self} {what}: choose another name")

    def _call(self, function: Callable[..., Any], verb: str, **kwargs: Any) -> Any:
        where = {"namespace": self._cluster.namespace, **self._api}
        return self._cluster.call(function, verb=verb, resource=self._platform.plural, **where, **kwargs)
