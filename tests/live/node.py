"""A node without a container runtime: it takes the pods of a namespace and runs the clients' program for real.

The control plane beside it – API server, admission, scheduler, Job controller, garbage collector – is the real one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from fededge.cluster.api import Cluster
from fededge.cluster.jobs import from_ranges
from fededge.errors import ClusterError
from tests.cluster.kubelet import ROOT, RUN, Fate, Fates
from tests.cluster.made import node as a_node

Document = dict[str, Any]

_SIZE = {"cpu": "64", "memory": "256Gi"}
_HEARTBEAT_S = 10.0
_OF_JOBS = "batch.kubernetes.io/job-name"
_INDEX = "batch.kubernetes.io/job-completion-index"


class Node:
    """The node, running inside `with`.

    Args:
      cluster: logged in as an administrator.
      namespace: whose pods it takes.
      fates: what pods meet with, by a batch's number in the plan and how often it was tried before.
      python: what runs their programs.
      variables: for them.

    Attributes:
      ran: batches for which a program was run, in that order.
      name: of the node.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        fates: Fates | Mapping[int, Fate] | None = None,
        python: str = sys.executable,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.fates: Fates = fates if callable(fates) else lambda batch, _: (fates or {}).get(batch, RUN)
        self.ran: list[int] = []
        self.name = f"fededge-tests-{namespace[-8:]}"
        self.is_alive = True
        self._cluster, self._namespace, self._python = cluster, namespace, python
        self._variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **(variables or {})}
        self._tried: dict[tuple[str, int], int] = {}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._met: set[str] = set()  # uids of the pods whose fate was met
        self._beat = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="node")

    def __enter__(self) -> Node:
        self._do(self._cluster.core.create_node, {**a_node(self.name, allocatable=_SIZE), "spec": {}})
        self._beat_if_due()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        for process in self._processes.values():
            process.kill()
            process.communicate()
        self.vanish()

    def vanish(self) -> None:
        """Be no node any more, as if the machine had been taken away."""
        self.is_alive = False
        self._do(self._cluster.core.delete_node, self.name)

    def _loop(self) -> None:
        while not self._stopped.wait(0.1):
            if self.is_alive:
                self._beat_if_due()
                for pod in self._pods():
                    self._care_for(pod)
                self._collect()

    def _beat_if_due(self) -> None:
        if time.monotonic() - self._beat > _HEARTBEAT_S:
            self._beat = time.monotonic()
            status = a_node(self.name, allocatable=_SIZE)["status"]
            for condition in status["conditions"]:
                condition["lastHeartbeatTime"] = datetime.now(UTC).isoformat()
            self._do(self._cluster.core.patch_node_status, self.name, {"status": status})

    def _pods(self) -> list[Document]:
        listed = self._cluster.core.list_namespaced_pod
        found: list[Document] = self._cluster.call_plain(listed, self._namespace, verb="list", resource="pods")["items"]
        return found

    def _care_for(self, pod: Document) -> None:
        metadata = pod["metadata"]
        is_ours = _OF_JOBS in metadata["labels"] and pod["spec"].get("nodeName") == self.name
        if metadata.get("deletionTimestamp"):
            self._end(pod)
        elif is_ours and metadata["uid"] not in self._met:
            self._met.add(metadata["uid"])
            self._start(pod)

    def _start(self, pod: Document) -> None:
        metadata = pod["metadata"]
        index = int(metadata["annotations"].get(_INDEX, 0)) if metadata.get("annotations") else 0
        arguments = pod["spec"]["containers"][0]["args"]
        batch = from_ranges(arguments[arguments.index("--batches") + 1])[index]
        job = metadata["labels"][_OF_JOBS]
        tried = self._tried.get((job, batch), 0)
        self._tried[job, batch] = tried + 1
        fate = self.fates(batch, tried)
        if fate.status is None:
            self.ran.append(batch)
            self._processes[metadata["name"]] = self._run(pod, index)
        self._say(metadata["name"], fate.status or _running())

    def _run(self, pod: Document, index: int) -> subprocess.Popen[str]:
        container = pod["spec"]["containers"][0]
        indexed = any(one["name"] == "JOB_COMPLETION_INDEX" for one in container.get("env", []))
        environment = {**self._variables, **({"JOB_COMPLETION_INDEX": str(index)} if indexed else {})}
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        command = [self._python, *container["command"][1:], *container["args"]]
        return subprocess.Popen(
            command, env=environment, stdin=nothing, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )

    def _collect(self) -> None:
        """Tell which programs have ended."""
        for name, process in list(self._processes.items()):
            if process.poll() is not None:
                output = process.communicate()[0]
                del self._processes[name]
                self._say(name, _ended(process.returncode, output))

    def _end(self, pod: Document) -> None:
        """End a pod that is being deleted, as a kubelet does: it fails, and then it is gone."""
        name = pod["metadata"]["name"]
        if process := self._processes.pop(name, None):
            process.kill()
            process.communicate()
        if pod["status"]["phase"] in ("Pending", "Running"):
            self._say(name, _ended(137, ""))
        self._do(self._cluster.core.delete_namespaced_pod, name, self._namespace, grace_period_seconds=0)

    def _say(self, name: str, status: Document) -> None:
        self._do(self._cluster.core.patch_namespaced_pod_status, name, self._namespace, {"status": status})

    def _do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        try:
            self._cluster.call_plain(function, *args, verb="write", resource="pods", **kwargs)
        except ClusterError as error:
            if error.status not in (404, 409):  # deleted meanwhile, or told already
                raise


def _running() -> Document:
    return {"phase": "Running", "containerStatuses": [_container({"running": {}})]}


def _ended(code: int, output: str) -> Document:
    ended = {"exitCode": code, "reason": "Error" if code else "Completed", "message": output[-2048:] if code else ""}
    return {"phase": "Failed" if code else "Succeeded", "containerStatuses": [_container({"terminated": ended})]}


def _container(state: Document) -> Document:
    return {"name": "client", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": state}
