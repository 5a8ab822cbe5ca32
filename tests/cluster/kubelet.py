"""What a cluster does with Jobs: a Job controller and a kubelet in one, which run the clients' program for real.

A pod of a Job is a process with the Job's own command, unless the test says that it meets with something else. The
statuses are those that Kubernetes writes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from fededge.cluster.jobs import from_ranges, to_ranges
from tests.cluster.api_server import NAMESPACE, ApiServer
from tests.cluster.objects import Document

ROOT = Path(__file__).parents[2]
IMAGE = "harbor.example.org/fededge/fededge-tensorflow@sha256:0"
WORKFLOW: Document = {
    "apiVersion": "argoproj.io/v1alpha1",
    "kind": "Workflow",
    "name": "fl-round-job-abcde",
    "uid": "uid-of-run",
}
# A launcher's own, as Argo makes it.
POD: Document = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "launcher",
        "labels": {"workflows.argoproj.io/workflow": WORKFLOW["name"], "sidecar.istio.io/inject": "true"},
        "annotations": {"sidecar.istio.io/nativeSidecar": "true", "sidecar.istio.io/status": "{}"},
        "ownerReferences": [{**WORKFLOW, "controller": True, "blockOwnerDeletion": True}],
    },
    "spec": {
        "imagePullSecrets": [{"name": "harbor"}],
        "containers": [
            {"name": "wait", "image": "argoexec"},
            {"name": "main", "image": IMAGE, "imagePullPolicy": "Always"},
        ],
    },
}

_INDEX = "batch.kubernetes.io/job-completion-index"
_LINGER = 0.3  # seconds from SuccessCriteriaMet to Complete, in which the pods that are left end


class Fate(NamedTuple):
    """What a pod meets with.

    Attributes:
      status: of the pod, from its start on; None to run its program.
      ends: whether that is its end.
      leaves: it is to be deleted, which nobody does.
      warning: of an event that tells of it.
      event: the event's reason.
    """

    status: Document | None = None
    ends: bool = False
    leaves: bool = False
    warning: str = ""
    event: str = "FailedAttachVolume"


RUN = Fate()
HANG = Fate({"phase": "Running", "containerStatuses": [{"name": "client", "state": {"running": {}}}]})


def exits(code: int, reason: str = "Error", message: str = "") -> Fate:
    ended = {"exitCode": code, "reason": reason, "message": message}
    return Fate({"phase": "Failed", "containerStatuses": [{"name": "client", "state": {"terminated": ended}}]}, True)


OUT_OF_MEMORY = exits(137, "OOMKilled")


def disrupted(by: str, message: str, *, ends: bool = True) -> Fate:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": by, "message": message}
    return Fate({"phase": "Failed" if ends else "Running", "conditions": [condition]}, ends)


# Its node does not answer: the pod is evicted, and seems to run for as long as nobody says that it has ended.
VANISHED = disrupted("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", ends=False)
VANISHED = VANISHED._replace(leaves=True)


def waits(reason: str, message: str, warning: str = "") -> Fate:
    waiting = {"reason": reason, "message": message}
    statuses = [{"name": "client", "state": {"waiting": waiting}}]
    return Fate({"phase": "Pending", "containerStatuses": statuses}, warning=warning)


def unschedulable(message: str) -> Fate:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return Fate({"phase": "Pending", "conditions": [condition]})


Fates = Callable[[int, int], Fate]  # by a batch's number in the plan and how often it was tried before


class Kubelet:
    """Runs the Jobs of a server until it is stopped.

    Attributes:
      fates: what pods meet with.
      no_pods: if not empty, no pod can be created, and this is why.
      at_once: the most pods that have run at the same time.
      ran: batches for which a program was run, in that order.
    """

    def __init__(
        self,
        server: ApiServer,
        fates: Fates | Mapping[int, Fate] | None = None,
        python: str = sys.executable,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.fates: Fates = fates if callable(fates) else lambda batch, _: (fates or {}).get(batch, RUN)
        self.no_pods = ""
        self.at_once = 0
        self.ran: list[int] = []
        self._server = server
        self._python = python
        self._variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **(variables or {})}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._stopped = False
        self._made = 0
        self._thread = threading.Thread(target=self._loop, name="kubelet")

    def __enter__(self) -> Kubelet:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        with self._server.kept.changed:
            self._server.kept.changed.notify_all()
        self._thread.join()
        for process in self._processes.values():
            _kill(process)

    def _loop(self) -> None:
        kept = self._server.kept
        while not self._stopped:
            with kept.changed:
                version = kept.version
                for name in self._server.named("jobs"):
                    self._control(self._server.get("jobs", name))
                self._clear()
                self._collect()
                if kept.version == version:
                    kept.changed.wait(0.05)

    def _control(self, job: Document) -> None:
        """Do for a Job what the Job controller does."""
        spec, status = job["spec"], {**(job.get("status") or {})}
        conditions = {condition["type"] for condition in status.get("conditions") or []}
        if conditions & {"Complete", "Failed"}:
            return
        if conditions:
            self._finish(job, conditions)
            return
        status.setdefault("startTime", _now())
        pods = [pod for pod in self._pods(job) if not _is_over(pod)]
        succeeded, failed = self._tally(job)
        total, limit = spec.get("completions", 1), spec["parallelism"]
        left = [i for i in range(total) if i not in succeeded | failed | {_index(pod) for pod in pods}]
        for index in left[: max(0, limit - len(pods))]:
            pods += self._create_pod(job, index)
        self.at_once = max(self.at_once, len(pods))
        status |= {"succeeded": len(succeeded), "active": len(pods)}
        if spec["completionMode"] == "Indexed":
            status |= {"completedIndexes": to_ranges(sorted(succeeded)), "failedIndexes": to_ranges(sorted(failed))}
        else:
            status["failed"] = sum(pod["status"]["phase"] == "Failed" for pod in self._pods(job))
        if verdict := self._verdict(job, status, succeeded, failed, total):
            status["conditions"] = [verdict]
        self._write(job, status)

    def _verdict(
        self, job: Document, status: Document, succeeded: set[int], failed: set[int], total: int
    ) -> Document | None:
        spec = job["spec"]
        rules = (spec.get("successPolicy") or {}).get("rules") or []
        began = datetime.fromisoformat(status["startTime"])
        if rules and len(succeeded) >= rules[0]["succeededCount"]:
            return _condition("SuccessCriteriaMet", "SuccessPolicy", "Matched rules at index 0")
        if len(succeeded) == total:
            return _condition("SuccessCriteriaMet", "CompletionsReached", "Reached expected number of succeeded pods")
        if len(failed) > spec.get("maxFailedIndexes", total):
            text = "Job has exceeded the specified maximal number of failed indexes"
            return _condition("FailureTarget", "MaxFailedIndexesExceeded", text)
        if failed and len(succeeded) + len(failed) == total:
            word = "FailedIndexes" if spec["completionMode"] == "Indexed" else "BackoffLimitExceeded"
            return _condition("FailureTarget", word, "Job has failed")
        if datetime.now(UTC) - began >= timedelta(seconds=spec["activeDeadlineSeconds"]):
            return _condition("FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline")
        return None

    def _tally(self, job: Document) -> tuple[set[int], set[int]]:
        """Say which indexes are done, and which have failed for good."""
        spec, pods = job["spec"], self._pods(job)
        succeeded = {_index(pod) for pod in pods if pod["status"]["phase"] == "Succeeded"}
        retries = spec.get("backoffLimitPerIndex", spec.get("backoffLimit"))
        failed: set[int] = set()
        for index in {_index(pod) for pod in pods} - succeeded:
            verdicts = [_action(spec, pod) for pod in pods if _index(pod) == index and _is_over(pod)]
            if "Give up" in verdicts or verdicts.count("Count") > retries:
                failed.add(index)
        return succeeded, failed

    def _create_pod(self, job: Document, index: int) -> list[Document]:
        if self.no_pods:
            self._refuse(job)
            return []
        template, name = job["spec"]["template"], job["metadata"]["name"]
        batch = from_ranges(_argument(job, "--batches"))[index]
        before = sum(_index(pod) == index for pod in self._pods(job))
        self._made += 1
        second = datetime.fromtimestamp(time.time() + self._made, UTC)  # each has its own
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-{index}-{self._made:05d}",
                "labels": {**template["metadata"]["labels"], "batch.kubernetes.io/job-name": name},
                "annotations": {_INDEX: str(index)} if job["spec"]["completionMode"] == "Indexed" else {},
                "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
                ],
                "creationTimestamp": second.strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
            "spec": {**template["spec"], "nodeName": f"node-{index}"},
            "status": {"phase": "Pending"},
        }
        fate = self.fates(batch, before)
        if fate.status is None:
            self.ran.append(batch)
            self._run(pod, index)
            pod["status"] = HANG.status
        else:
            pod["status"] = fate.status
        if fate.leaves:
            pod["metadata"]["deletionTimestamp"] = _now()
        made = self._server.put(pod)
        if fate.warning:
            self._warn(made, fate.event, fate.warning)
        return [made]

    def _refuse(self, job: Document) -> None:
        self._warn(job, "FailedCreate", self.no_pods)

    def _warn(self, of: Document, reason: str, message: str) -> None:
        metadata = of["metadata"]
        involved = {"kind": of["kind"], "name": metadata["name"], "namespace": NAMESPACE, "uid": metadata["uid"]}
        name = f"{metadata['name']}.warning"
        if name not in self._server.named("events"):
            event = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "involvedObject": involved}
            self._server.put({**event, "reason": reason, "type": "Warning", "message": message})

    def _run(self, pod: Document, index: int) -> None:
        container = pod["spec"]["containers"][0]
        indexed = _INDEX in pod["metadata"]["annotations"]
        environment = {**self._variables, **({"JOB_COMPLETION_INDEX": str(index)} if indexed else {})}
        command = [self._python, *container["command"][1:], *container["args"]]
        self._processes[pod["metadata"]["name"]] = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _clear(self) -> None:
        """End the programs of pods that are gone, or whose Jobs are over."""
        pods = self._server.named("pods")
        for name, process in list(self._processes.items()):
            if name not in pods:
                _kill(process)
                del self._processes[name]

    def _collect(self) -> None:
        """Note which programs have ended."""
        for name, process in list(self._processes.items()):
            if process.poll() is not None:
                output = process.communicate()[0]
                del self._processes[name]
                ended = {"exitCode": process.returncode, "reason": "Error", "message": output[-2048:]}
                ended = ended if process.returncode else {"exitCode": 0, "reason": "Completed"}
                phase = "Failed" if process.returncode else "Succeeded"
                statuses = [{"name": "client", "state": {"terminated": ended}}]
                self._server.patch_status("pods", name, {"phase": phase, "containerStatuses": statuses})

    def _finish(self, job: Document, conditions: set[str]) -> None:
        """End what is left of a Job that is decided, and after a moment call it over."""
        decided = job["status"]["conditions"][0]
        since = datetime.fromisoformat(decided["lastTransitionTime"])
        if datetime.now(UTC) - since < timedelta(seconds=_LINGER):
            return
        for pod in self._pods(job):
            if not _is_over(pod):
                self._server.remove("pods", pod["metadata"]["name"])
        last = "Complete" if "SuccessCriteriaMet" in conditions else "Failed"
        over = {**decided, "type": last, "lastTransitionTime": _now()}
        self._write(job, {**job["status"], "active": 0, "conditions": [decided, over]})

    def _pods(self, job: Document) -> list[Document]:
        found = [self._server.get("pods", name) for name in self._server.named("pods")]
        return [
            pod
            for pod in found
            if (pod["metadata"].get("ownerReferences") or [{}])[0].get("uid") == job["metadata"]["uid"]
        ]

    def _write(self, job: Document, status: Document) -> None:
        if status != job.get("status"):
            self._server.patch_status("jobs", job["metadata"]["name"], status)


def _action(spec: Document, pod: Document) -> str:
    """Say what the Job's podFailurePolicy makes of a pod that has failed."""
    for rule in spec["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {}).get("values", [])
        if _exit_code(pod) in codes:
            return "Give up"
        types = {(condition["type"], condition["status"]) for condition in rule.get("onPodConditions", [])}
        if types & {(condition["type"], condition["status"]) for condition in pod["status"].get("conditions", [])}:
            return "Ignore"
    return "Count"


def _exit_code(pod: Document) -> int | None:
    for container in pod["status"].get("containerStatuses", []):
        if ended := container["state"].get("terminated"):
            return int(ended["exitCode"])
    return None


def _index(pod: Document) -> int:
    return int(pod["metadata"]["annotations"].get(_INDEX, 0))


def _is_over(pod: Document) -> bool:
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def _argument(job: Document, name: str) -> str:
    arguments: list[str] = job["spec"]["template"]["spec"]["containers"][0]["args"]
    return arguments[arguments.index(name) + 1]


def _condition(kind: str, reason: str, message: str) -> Document:
    return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": _now()}


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.communicate()
