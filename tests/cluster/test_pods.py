"""What a pod's status means, as Kubernetes writes it."""

from __future__ import annotations

import pytest

from fededge.cluster.pods import has_started, index_of, is_ready, server_trouble_of, trouble_of
from fededge.core.updates import ExclusionReason as Why
from tests.cluster import kubelet as k
from tests.cluster.objects import Document


def pod(status: Document | None, **metadata: object) -> Document:
    limits = {"resources": {"limits": {"memory": "4Gi"}}}
    containers = [{"name": "istio-proxy"}, {"name": "client", **limits}]
    return {
        "metadata": {"name": "p", **metadata},
        "spec": {"nodeName": "edge-7", "containers": containers},
        "status": status,
    }


def ended(name: str, code: int, **more: object) -> Document:
    return {"name": name, "state": {"terminated": {"exitCode": code, **more}}}


@pytest.mark.parametrize(
    ("status", "reason", "detail"),
    [
        (k.OUT_OF_MEMORY.status, Why.OUT_OF_MEMORY, "OOMKilled: more memory than 4Gi"),
        (k.exits(1, message="Traceback:\n  …\nKeyError: 7\n").status, Why.POD_FAILED, "exit code 1: KeyError: 7"),
        (k.exits(128, "StartError", "no such file").status, Why.POD_FAILED, "exit code 128 (StartError): no such file"),
        (k.exits(139).status, Why.POD_FAILED, "exit code 139"),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
            Why.EVICTED,
            "from node edge-7: Evicted: The node was low on resource: memory.",
        ),
        (k.disrupted("EvictionByEvictionAPI", "drained").status, Why.EVICTED, "EvictionByEvictionAPI: drained"),
        (k.disrupted("DeletionByPodGC", "PodGC: node no longer exists").status, Why.NODE_LOST, "node edge-7: Deletion"),
        (
            {"phase": "Failed", "reason": "NodeShutdown", "message": "Pod was terminated"},
            Why.NODE_LOST,
            "node edge-7: NodeShutdown",
        ),
        (k.waits("ErrImagePull", "not found").status, Why.NOT_STARTED, "ErrImagePull: not found"),
        (k.waits("CreateContainerConfigError", "no key").status, Why.NOT_STARTED, "CreateContainerConfigError: no key"),
        (k.unschedulable("0/3 nodes").status, Why.NOT_STARTED, "Pending: Unschedulable: 0/3 nodes"),
        ({"phase": "Failed", "reason": "UnexpectedAdmissionError"}, Why.POD_FAILED, "UnexpectedAdmissionError"),
        ({"phase": "Failed"}, Why.POD_FAILED, "no reason told"),
        (
            {
                "phase": "Failed",
                "containerStatuses": [ended("istio-proxy", 1), ended("client", 137, reason="OOMKilled")],
            },
            Why.OUT_OF_MEMORY,
            "OOMKilled",
        ),
    ],
)
def test_a_trouble_is_named(status: Document, reason: Why, detail: str) -> None:
    found = trouble_of(pod(status))
    assert found is not None
    assert found.reason is reason
    assert detail in found.detail


@pytest.mark.parametrize(
    "status",
    [
        k.HANG.status,
        {"phase": "Succeeded"},
        {**(k.disrupted("DeletionByTaintManager", "gone").status or {}), "phase": "Succeeded"},
        {"phase": "Pending"},
        k.waits("ContainerCreating", "").status,
        k.waits("PodInitializing", "").status,
        {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]},
    ],
)
def test_what_goes_its_way_is_no_trouble(status: Document) -> None:
    assert trouble_of(pod(status)) is None


def started_again(ready: bool, **state: Document) -> Document:
    last = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    return {"phase": "Running", "containerStatuses": [{"name": "client", "ready": ready, "lastState": last, **state}]}


BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}}


def test_a_server_that_starts_again_and_again_is_trouble() -> None:
    status = started_again(False, state=BACK_OFF)
    assert trouble_of(pod(status)) is None  # a client is not started again, and a proxy beside it may be
    for state in (BACK_OFF, {"running": {}}):
        found = server_trouble_of(pod(started_again(False, state=state)))
        assert found is not None
        assert found == (Why.OUT_OF_MEMORY, "OOMKilled: more memory than 4Gi")
    status["containerStatuses"][0].pop("lastState")
    found = server_trouble_of(pod(status))
    assert found is not None
    assert found == (Why.NOT_STARTED, "CrashLoopBackOff: back-off 40s restarting failed container")
    assert server_trouble_of(pod(k.waits("ErrImagePull", "not found").status)) is not None


def test_a_server_that_has_recovered_is_none() -> None:
    assert server_trouble_of(pod(started_again(True, state={"running": {}}))) is None
    assert server_trouble_of(pod(k.HANG.status)) is None


def test_a_pod_that_answers_and_is_to_stay_is_ready() -> None:
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    assert is_ready(pod(status))
    assert not is_ready(pod(status, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert not is_ready(pod(k.HANG.status))


def test_a_node_that_does_not_answer_is_noticed_while_its_pod_seems_to_run() -> None:
    status = k.disrupted("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", ends=False).status
    assert trouble_of(pod(status)) is None
    found = trouble_of(pod(status, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert found is not None
    assert found.reason is Why.NODE_LOST


@pytest.mark.parametrize("word", ["ContainerCreating", "PodInitializing"])
def test_what_only_an_event_tells_is_a_trouble_while_the_pod_waits(word: str) -> None:
    words = 'Multi-Attach error for volume "pvc-1": Volume is already used by pod(s) on another node'
    found = trouble_of(pod(k.waits(word, "").status), words)
    assert found == (Why.NOT_STARTED, f"{word}: {words}")
    assert trouble_of(pod(k.HANG.status), words) is None


def test_a_long_message_is_cut() -> None:
    found = trouble_of(pod(k.exits(1, message="x" * 5000).status))
    assert found is not None
    assert len(found.detail) < 300


def test_a_long_message_keeps_its_beginning_and_its_cause() -> None:
    found = trouble_of(pod(k.waits("ErrImagePull", f"failed to pull {'x' * 300}: connection refused").status))
    assert found is not None
    assert found.detail.startswith("ErrImagePull: failed to pull xxx")
    assert found.detail.endswith("xxx: connection refused")
    assert len(found.detail) < 220


def test_a_pod_tells_its_index() -> None:
    annotations = {"batch.kubernetes.io/job-completion-index": "12"}
    assert index_of(pod({}, annotations=annotations)) == 12
    assert index_of(pod({})) == 0


@pytest.mark.parametrize(
    ("status", "started"),
    [
        ({"phase": "Running"}, True),
        (k.OUT_OF_MEMORY.status, True),
        (k.waits("ErrImagePull", "").status, False),
        ({"phase": "Failed", "reason": "Evicted"}, False),
        (k.exits(137, "ContainerStatusUnknown").status, False),  # deleted while its image was awaited
        (
            {
                "phase": "Pending",
                "initContainerStatuses": [ended("istio-validation", 0)],
                "containerStatuses": [{"name": "client", "state": {"waiting": {"reason": "ErrImagePull"}}}],
            },
            False,
        ),
    ],
)
def test_whether_a_client_has_ever_run(status: Document, started: bool) -> None:
    assert has_started(pod(status)) is started
