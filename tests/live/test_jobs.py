"""Rounds by Jobs on a real control plane, with the rights that the manifests grant a run."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fededge.core.updates import ExclusionReason as Why
from fededge.records import ClosedBecause, Closing
from fededge.store import Store
from tests.cluster import kubelet as k
from tests.cluster.kubelet import Fate
from tests.live.conftest import LAUNCHER, Live, a_launcher, volume
from tests.live.node import Node
from tests.steps import round as a_round
from tests.steps import test_train_in_jobs as by_jobs
from tests.steps.test_train_in_jobs import batch_of, closed, detail, distribute, train, why

__all__ = ["closed"]  # a fixture

Close = Callable[[Any], Closing]


def test_a_round_is_one_indexed_job_that_trains_every_client(store: Store, live: Live, closed: Close) -> None:
    distributed = distribute(store, clients=5, clients_per_pod=2)
    with Node(live.admin, live.namespace) as node:
        reports = train(store, distributed, parallelism=2)
    assert [(report["delivered"], report["failed"]) for report in reports] == [(2, 0), (2, 0), (1, 0)]
    assert sorted(node.ran) == [0, 1, 2]
    (job,) = live.jobs()
    reference = job["metadata"]["ownerReferences"][0]
    assert (reference["uid"], reference["blockOwnerDeletion"]) == (live.workflow["metadata"]["uid"], False)
    closing = closed(distributed)
    assert len(closing.accepted) == 5
    assert closing.because is ClosedBecause.ALL_ANSWERED


def test_it_goes_on_at_success_criteria_met_with_who_has_delivered(store: Store, live: Live, closed: Close) -> None:
    distributed = distribute(store, 8, target_clients=5, min_clients=4, close_at_target=True)
    fates = {
        batch_of(distributed, store, "p7"): k.OUT_OF_MEMORY,
        batch_of(distributed, store, "p14"): k.HANG,
        batch_of(distributed, store, "p21"): k.exits(42, message="p21 has no data"),
    }
    with Node(live.admin, live.namespace, fates) as node:
        train(store, distributed, retries=0)
        (job,) = live.jobs()
        assert job["status"]["conditions"][0]["type"] == "SuccessCriteriaMet"
        assert job["status"]["conditions"][0]["reason"] == "SuccessPolicy"
        live.until(lambda: live.jobs()[0]["status"]["conditions"][-1]["type"] == "Complete")
    assert sorted(node.ran) == sorted(set(range(8)) - fates.keys())
    closing = closed(distributed)
    assert len(closing.accepted) == 5
    assert why(closing) == {"p7": Why.OUT_OF_MEMORY, "p14": Why.NOT_NEEDED, "p21": Why.POD_FAILED}


def test_a_refusal_is_final_a_crash_is_tried_again_and_a_disruption_does_not_count(
    store: Store, live: Live, closed: Close
) -> None:
    """Of three clients, each alone in its pod, with one retry each."""
    distributed = distribute(store, 4)
    crashed, refused, evicted = (batch_of(distributed, store, client) for client in ("p0", "p7", "p14"))
    evictions = k.disrupted("TerminationByKubelet", "The node was low on resource: memory.")

    def fates(batch: int, tried: int) -> Fate:
        if batch == crashed and tried == 0:
            return k.exits(1, message="Segmentation fault")
        if batch == refused:
            return k.exits(42, message="no data")
        return evictions if batch == evicted and tried < 2 else k.RUN

    tried: list[int] = []
    with Node(live.admin, live.namespace, lambda batch, before: (tried.append(batch), fates(batch, before))[1]):
        train(store, distributed, retries=1)
        (job,) = live.jobs()
    assert [tried.count(batch) for batch in (crashed, refused, evicted)] == [2, 1, 3]
    assert job["status"]["conditions"][0]["reason"] == "FailedIndexes"
    assert job["status"]["failedIndexes"] == str(refused)
    closing = closed(distributed)
    assert len(closing.accepted) == 3
    assert why(closing) == {"p7": Why.POD_FAILED}
    assert detail(closing, "p7") == "exit code 42: no data"


def test_a_node_that_vanishes_is_a_reason_of_its_own(store: Store, live: Live, closed: Close) -> None:
    """Kubernetes' garbage collector of pods takes up to a minute to see it; then there is no other node."""
    distributed = distribute(store, 2, deadline_s=150)
    gone = batch_of(distributed, store, "p0")
    with Node(live.admin, live.namespace, {gone: k.HANG}) as node:
        vanishing = threading.Timer(5.0, node.vanish)
        vanishing.start()
        train(store, distributed)
        vanishing.join()
    closing = closed(distributed)
    assert len(closing.accepted) == 1
    assert why(closing)["p0"] is Why.NOT_STARTED
    assert "Unschedulable" in detail(closing, "p0")


def test_the_deadline_ends_the_job(store: Store, live: Live, closed: Close) -> None:
    distributed = distribute(store, 2, deadline_s=4, min_clients=1)
    with Node(live.admin, live.namespace, {batch_of(distributed, store, "p0"): k.HANG}):
        train(store, distributed)
    assert why(closed(distributed)) == {"p0": Why.DEADLINE}
    for job in live.jobs():  # unless the launcher was faster, and deleted it
        assert job["status"]["conditions"][0]["reason"] == "DeadlineExceeded"


def test_a_launcher_that_was_killed_is_run_again_and_finds_its_job(store: Store, live: Live, closed: Close) -> None:
    distributed = distribute(store, 3)
    waiting = threading.Event()
    with Node(live.admin, live.namespace, lambda *_: k.RUN if waiting.is_set() else k.HANG):
        with by_jobs._launcher(store, distributed) as launcher:
            assert launcher.stdout
            assert any("3 running" in line for line in launcher.stdout)
            launcher.kill()
        (before,) = live.jobs()
        live.kubectl("delete", "pod", LAUNCHER, "--now", "--wait=false")
        waiting.set()
        live.kubectl("delete", "pods", "--selector", "batch.kubernetes.io/job-name", "--wait=false")
        live.until(lambda: not any(pod["metadata"]["name"] == LAUNCHER for pod in live.listed("pods")))
        (after,) = live.jobs()
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert not after["metadata"].get("deletionTimestamp")
        _another_launcher(live)
        train(store, distributed)
    assert [job["metadata"]["uid"] for job in live.jobs()] == [before["metadata"]["uid"]]
    assert len(closed(distributed).accepted) == 3


def test_deleting_the_run_removes_its_jobs_and_their_pods(store: Store, live: Live) -> None:
    distributed = distribute(store, 2)
    with Node(live.admin, live.namespace, lambda *_: k.HANG):
        with by_jobs._launcher(store, distributed) as launcher:
            assert launcher.stdout
            assert any("2 running" in line for line in launcher.stdout)
            launcher.kill()
        live.kubectl("delete", "workflow", live.workflow["metadata"]["name"])
        live.until(lambda: not live.jobs() and not live.listed("pods"))


@pytest.mark.parametrize("policy", ["background", "foreground"])
def test_deleting_the_run_does_not_wait_for_what_holds_on(store: Store, live: Live, policy: str) -> None:
    distributed = distribute(store, 1)
    with by_jobs._launcher(store, distributed) as launcher:
        live.until(live.jobs)
        launcher.kill()
    begun = time.monotonic()
    live.kubectl("delete", "workflow", live.workflow["metadata"]["name"], f"--cascade={policy}")
    assert time.monotonic() - begun < 30
    with Node(live.admin, live.namespace):
        live.until(lambda: not live.jobs())


def test_a_namespace_without_quota_is_an_error_that_says_so(
    store: Store, live: Live, capsys: pytest.CaptureFixture[str]
) -> None:
    live.kubectl("create", "quota", "full", "--hard", "pods=1")  # the launcher's own
    live.until(lambda: live.listed("quota")[0].get("status", {}).get("used", {}).get("pods") == "1")
    with a_round.refused(capsys, 6, "could start within 8 s", "exceeded quota: full"):
        train(store, distribute(store, 2), start_s=8)
    live.until(lambda: not live.jobs())


def test_a_quota_of_jobs_is_an_error_that_says_so(store: Store, live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    live.kubectl("create", "quota", "full", "--hard", "count/jobs.batch=0")
    live.until(lambda: live.listed("quota")[0].get("status", {}).get("hard"))
    with a_round.refused(capsys, 6, "exceeded quota: full"):
        train(store, distribute(store, 2))


def test_an_image_that_cannot_be_pulled_is_an_error_that_says_which(
    store: Store, live: Live, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = k.waits("ImagePullBackOff", 'Back-off pulling image "fededge-tensorflow:tests"')
    with (
        Node(live.admin, live.namespace, lambda *_: waits),
        a_round.refused(capsys, 6, "could start within 5 s", "ImagePullBackOff", "fededge-tensorflow:tests"),
    ):
        train(store, distribute(store, 2), start_s=5)


def test_a_missing_right_is_named_with_the_manifest_that_grants_it(
    store: Store, live: Live, capsys: pytest.CaptureFixture[str]
) -> None:
    live.kubectl("delete", "rolebinding", "fededge-runner")
    with a_round.refused(capsys, 6, "get pods", "manifests/base/access.yaml"):
        train(store, distribute(store, 1))


def test_each_device_has_a_job_of_its_own_in_waves(store: Store, live: Live, tmp_path: Path, closed: Close) -> None:
    claims = {client: f"data-of-{client}" for client in ("p0", "p7", "p14")}
    for claim in claims.values():
        live.kubectl("create", "--filename", "-", given=json.dumps(_claim(claim)))
        volume(live.kubectl, live.namespace, claim)
    distributed = by_jobs.distribute_on_devices(store, tmp_path, claims, clients=4)
    with Node(live.admin, live.namespace) as node:
        train(store, distributed, parallelism=1)
    assert sorted(node.ran) == [0, 1, 2, 3]
    modes = sorted(job["spec"]["completionMode"] for job in live.jobs())
    assert modes == ["Indexed", "NonIndexed", "NonIndexed", "NonIndexed"]
    assert len(closed(distributed).accepted) == 4


def _claim(name: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def _another_launcher(live: Live) -> None:
    live.kubectl("create", "--filename", "-", given=json.dumps(a_launcher(live.workflow)))
