"""What Seldon's and KServe's operators tell of a service, and the pods that they make, on a server that has neither."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
from collections.abc import Iterator
from typing import Any

from tests.cluster.api_server import ApiServer

Document = dict[str, Any]

VERSION = "fededge.io/version"


class Operator:
    """Writes the status of each service soon after it changes, and keeps the pods that it should have.

    Attributes:
      broken: versions whose pods do not get ready.
      crashed: the state of a container of such a pod; None for one that only does not answer.
      standard: KServe works without Knative.
    """

    def __init__(self, server: ApiServer) -> None:
        self.broken: set[str] = set()
        self.crashed: Document | None = None
        self.standard = False
        self._server = server
        self._stopped = threading.Event()
        self._knative: dict[str, _Knative] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(0.02):
            self.look()

    def look(self) -> None:
        statuses = {"seldondeployments": self._seldon, "inferenceservices": self._kserve}
        for plural, name in [key[::2] for key in list(self._server.objects) if key[0] in statuses]:
            with contextlib.suppress(KeyError):  # deleted meanwhile
                service = self._server.get(plural, name)
                new = statuses[plural](service)
                if service.get("status") != new:
                    self._server.patch_status(plural, name, new)

    def revisions(self, name: str) -> int:
        """Count the revisions that Knative has made for a service."""
        return len(self._knative[name].revisions)

    def _pods(self, service: Document, wanted: dict[str, Document]) -> None:
        """Have the pods of a service: by their names, their labels."""
        name = service["metadata"]["name"]
        owner = {"seldon-deployment-id": name, "serving.kserve.io/inferenceservice": name}
        for (_, _, pod), old in [item for item in self._server.objects.items() if item[0][0] == "pods"]:
            if owner.items() <= old["metadata"].get("labels", {}).items() and pod not in wanted:
                self._server.remove("pods", pod)
        for pod, labels in wanted.items():
            is_ready = labels[VERSION] not in self.broken
            container = {"name": name, "ready": is_ready, "restartCount": 0, "image": "x", "imageID": ""}
            container |= {} if is_ready else copy.deepcopy(self.crashed or {})
            status = {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True" if is_ready else "False"}],
                "containerStatuses": [container],
            }
            if self._server.objects.get(("pods", service["metadata"]["namespace"], pod), {}).get("status") != status:
                self._server.put({
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": pod, "labels": {**labels, **owner}},
                    "spec": {"containers": [{"name": name, "image": "x"}]},
                    "status": status,
                })  # fmt: skip

    def _seldon(self, service: Document) -> Document:
        name, predictors = service["metadata"]["name"], service["spec"]["predictors"]
        self._pods(service, {f"{name}-{p['name']}-{i}": p["labels"] for p in predictors for i in range(p["replicas"])})
        is_available = not self.broken & {p["name"] for p in predictors}
        return {
            "state": "Available" if is_available else "Creating",
            "description": "" if is_available else "a Deployment is not available",
        }

    def _kserve(self, service: Document) -> Document:
        name, predictor = service["metadata"]["name"], service["spec"]["predictor"]
        version = predictor["labels"][VERSION]
        if self.standard:  # its Deployment stays available while old pods are there
            before = (service.get("status") or {}).get("pods", [])
            versions = sorted({*(set(before) - {version} if version in self.broken else []), version})
            self._pods(service, {f"{name}-{one}": {VERSION: one} for one in versions})
            is_ready = bool(set(versions) - self.broken)
            return {
                "deploymentMode": "Standard",
                "observedGeneration": 1,
                "conditions": [{"type": "Ready", "status": "True" if is_ready else "False"}],
                "components": {"predictor": {}},
                "pods": versions,  # for this stand-in alone
            }
        knative = self._knative.setdefault(name, _Knative(name))
        status = knative.look(service, self.broken)
        self._pods(service, knative.pods())
        return status


class _Knative:
    """What KServe's controller and Knative make of an InferenceService: a revision of each template."""

    def __init__(self, name: str) -> None:
        self.revisions: list[tuple[str, str]] = []  # the template, and the version in it
        self._name = name
        self._rolled_out = 0
        self._generation = 0  # of Knative's Service, which KServe passes off as its own
        self._written: Any = None
        self._traffic: list[tuple[int, int, bool]] = []

    def look(self, service: Document, broken: set[str]) -> Document:
        predictor = copy.deepcopy(service["spec"]["predictor"])
        percent = predictor.pop("canaryTrafficPercent", None)
        template = json.dumps([predictor, service["metadata"].get("annotations")], sort_keys=True)
        if not self.revisions or self.revisions[-1][0] != template:
            self.revisions.append((template, predictor["labels"][VERSION]))
        if self._written != (template, percent):
            self._written = (template, percent)
            self._generation += 1
        newest = len(self.revisions)
        ready = max((i for i, (_, version) in enumerate(self.revisions, 1) if version not in broken), default=0)
        share = 100 if percent is None or not self._rolled_out else percent
        old = [(self._rolled_out, 100 - share, False)] if share < 100 else []
        traffic = [(ready, share, True), *old]
        is_routed, self._traffic = traffic == self._traffic, traffic  # by the next look
        if ready and share == 100:
            self._rolled_out = ready
        condition = {"type": "Ready", "status": "True"}
        if newest != ready:
            message = "RevisionMissing: containers with unready status"
            condition = {"type": "Ready", "status": "False", "message": message}
        elif not is_routed:
            condition = {"type": "Ready", "status": "Unknown"}
        return {
            "observedGeneration": self._generation,
            "conditions": [condition],
            "components": {
                "predictor": {
                    "latestCreatedRevision": self._called(newest),
                    **({"latestReadyRevision": self._called(ready)} if ready else {}),
                    "traffic": [
                        {"revisionName": self._called(i), "percent": part, "latestRevision": latest}
                        for i, part, latest in traffic
                        if i
                    ],
                }
            },
        }

    def pods(self) -> dict[str, Document]:
        """Label the pods of the revisions that the route names, and of the newest."""
        kept = {len(self.revisions), *(i for i, _, _ in self._traffic if i)}
        return {
            f"{self._called(i)}-0": {"serving.knative.dev/revision": self._called(i), VERSION: self.revisions[i - 1][1]}
            for i in sorted(kept)
        }

    def _called(self, revision: int) -> str:
        return f"{self._name}-predictor-{revision:05d}"
