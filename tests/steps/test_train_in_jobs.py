"""Rounds whose clients Jobs train: real steps and programs, a stand-in for the cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes.client  # noqa: F401 - takes seconds, which are to be no round's
import pytest

from fededge.cluster import launcher as launching
from fededge.core.updates import ExclusionReason as Why
from fededge.errors import LeaseError
from fededge.records import ClosedBecause, Closing
from fededge.settings import FanOut, Placement
from fededge.steps import aggregate_updates as aggregation
from fededge.steps.aggregate_updates import aggregate_updates
from fededge.steps.distribute_model import Distribution
from fededge.steps.train_in_jobs import train_in_jobs
from fededge.store import Store
from fededge.store.folder import FolderStore
from tests.cluster import kubelet as k
from tests.cluster.api_server import ApiServer
from tests.cluster.kubelet import IMAGE, POD, WORKFLOW, Fate, Kubelet
from tests.cluster.objects import ApiError
from tests.steps import round as a_round


class _ClosedError(Exception):
    pass


@pytest.fixture(autouse=True)
def launcher_pod(api_server: ApiServer, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDEDGE_POD", "launcher")
    api_server.put(POD)


@pytest.fixture
def closed(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[Distribution], Closing]:
    """Close a round as the next step does; what it does then needs TensorFlow."""

    def end(*_: object) -> None:
        raise _ClosedError

    def close(distributed: Distribution) -> Closing:
        monkeypatch.setattr(aggregation, "_aggregate", end)
        with pytest.raises((_ClosedError, SystemExit)):
            aggregate_updates(store.url, distributed.attempt, [])
        trainings = a_round.trainings(store)
        closing = trainings.closing(trainings.attempts("v1")[-1])
        assert closing is not None
        return closing

    return close


def train(store: Store, distributed: Distribution, **fan_out: Any) -> list[dict[str, int | str]]:
    how = {**FanOut().model_dump(), **fan_out}
    return train_in_jobs(store.url, distributed.attempt, Placement().model_dump(), how)


def distribute(store: Store, clients: int = 4, **changed: Any) -> Distribution:
    return a_round.distribute(store, **{"clients": clients, "clients_per_pod": 1, "deadline_s": 600, **changed})


def distribute_on_devices(store: Store, folder: Path, claims: Mapping[str, str], **changed: Any) -> Distribution:
    """Distribute to clients of whom some live on devices, which have the claims."""
    devices = [{"name": claim, "clients": [client], "claim": claim} for client, claim in claims.items()]
    (folder / "devices.json").write_text(json.dumps(devices))
    return distribute(store, devices=str(folder / "devices.json"), **changed)


def batch_of(distributed: Distribution, store: Store, client: str) -> int:
    trainings = a_round.trainings(store)
    batches = trainings.attempt(trainings.attempts("v1")[-1]).batches
    return list(batches.values()).index([client])


def why(closing: Closing) -> dict[str, Why]:
    return {excluded.client: excluded.reason for excluded in closing.excluded}


def detail(closing: Closing, client: str) -> str:
    return next(excluded.detail for excluded in closing.excluded if excluded.client == client)


def created(server: ApiServer) -> int:
    return sum((asked.verb, asked.resource) == ("create", "jobs") for asked in server.requests)


def test_a_round_is_one_indexed_job_that_trains_every_client(
    store: Store, tmp_path: Path, api_server: ApiServer, closed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    distributed = distribute(store, clients=5, clients_per_pod=2)
    with Kubelet(api_server) as kubelet:
        reports = train(store, distributed, parallelism=2)
    assert [(r["batch"], r["delivered"], r["failed"]) for r in reports] == [
        (entry["batch"], size, 0) for entry, size in zip(distributed.plan, (2, 2, 1), strict=True)
    ]
    assert kubelet.at_once == 2
    (name,) = api_server.named("jobs")
    job = api_server.get("jobs", name)
    assert job["metadata"]["ownerReferences"] == [{**WORKFLOW, "blockOwnerDeletion": False}]
    pod, metadata = job["spec"]["template"]["spec"], job["spec"]["template"]["metadata"]
    assert metadata["labels"]["sidecar.istio.io/inject"] == "true"
    assert metadata["annotations"] == {"sidecar.istio.io/nativeSidecar": "true"}
    assert (pod["containers"][0]["image"], pod["containers"][0]["imagePullPolicy"]) == (IMAGE, "Always")
    assert pod["imagePullSecrets"] == [{"name": "harbor"}]
    closing = closed(distributed)
    assert len(closing.accepted) == 5
    assert closing.because is ClosedBecause.ALL_ANSWERED
    assert _deltas(store) == _deltas(_trained_in_tasks(tmp_path / "other"))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    told = [line["detail"] for line in lines if line["kind"] == "progress"]
    assert told[0] == f"{name}: started with 3 batches of clients"
    assert f"{name}: 3 of 3 done, 0 failed, 0 running" in told


def test_it_goes_on_at_success_criteria_met_with_who_has_delivered(
    store: Store, api_server: ApiServer, closed: Any
) -> None:
    distributed = distribute(store, 8, target_clients=5, min_clients=4, close_at_target=True)
    fates = {
        batch_of(distributed, store, "p7"): k.OUT_OF_MEMORY,
        batch_of(distributed, store, "p14"): k.HANG,
        batch_of(distributed, store, "p21"): k.exits(42, message="p21 has no data"),
    }
    with Kubelet(api_server, fates) as kubelet:
        train(store, distributed, retries=1)
        (job,) = [api_server.get("jobs", name) for name in api_server.named("jobs")]
    assert job["spec"]["successPolicy"] == {"rules": [{"succeededCount": 5}]}
    assert [condition["type"] for condition in job["status"]["conditions"]] == ["SuccessCriteriaMet"]
    assert sorted(kubelet.ran) == sorted(set(range(8)) - fates.keys())
    closing = closed(distributed)
    assert len(closing.accepted) == 5
    assert why(closing) == {"p7": Why.OUT_OF_MEMORY, "p14": Why.NOT_NEEDED, "p21": Why.POD_FAILED}
    assert "4Gi" in detail(closing, "p7")
    assert detail(closing, "p21") == "exit code 42: p21 has no data"
    assert closing.because is ClosedBecause.TARGET_REACHED


def test_a_client_that_refuses_is_not_tried_again_and_one_that_crashes_is(
    store: Store, api_server: ApiServer, closed: Any
) -> None:
    """p42 has no data and its program says so; the pod of p0 crashes once."""
    distributed = distribute(store, 7, workload="tests.steps.tiny:faulty")
    empty, crashed = batch_of(distributed, store, "p42"), batch_of(distributed, store, "p0")
    crashes = k.exits(1, message="Segmentation fault")
    with Kubelet(api_server, lambda batch, tried: crashes if (batch, tried) == (crashed, 0) else k.RUN) as kubelet:
        train(store, distributed)
        (job,) = [api_server.get("jobs", name) for name in api_server.named("jobs")]
    assert job["status"]["conditions"][0]["reason"] == "FailedIndexes"
    assert kubelet.ran.count(empty) == 1
    assert kubelet.ran.count(crashed) == 1
    closing = closed(distributed)
    assert "p0" in {accepted.client for accepted in closing.accepted}
    assert why(closing)["p42"] is Why.NO_DATA


@pytest.mark.parametrize(
    ("fate", "reason", "words"),
    [
        (
            k.disrupted("TerminationByKubelet", "The node was low on resource: memory."),
            Why.EVICTED,
            "from node node-0: TerminationByKubelet: The node was low on resource: memory.",
        ),
        (k.disrupted("PreemptionByScheduler", "preempted"), Why.EVICTED, "PreemptionByScheduler"),
        (k.disrupted("DeletionByPodGC", "PodGC: node no longer exists"), Why.NODE_LOST, "node no longer exists"),
        (k.HANG, Why.DEADLINE, "not done after 2 s"),
        (k.unschedulable("0/3 nodes are available"), Why.NOT_STARTED, "Pending: Unschedulable: 0/3 nodes are"),
    ],
)
def test_at_the_deadline_the_reason_of_each_pod_that_is_not_done_is_known(
    store: Store, api_server: ApiServer, closed: Any, fate: Fate, reason: Why, words: str
) -> None:
    distributed = distribute(store, 1, deadline_s=2)
    begun = time.monotonic()
    again = Fate(fate.status)  # of the pod that replaces it, and that of that pod
    with Kubelet(api_server, lambda _, tried: again if tried else fate):
        train(store, distributed)
    assert time.monotonic() - begun >= 1
    assert api_server.named("jobs") == []
    closing = closed(distributed)
    assert why(closing) == {"p0": reason}
    assert words in detail(closing, "p0")


def test_a_launcher_that_was_killed_is_run_again_and_finds_its_job(
    store: Store, api_server: ApiServer, closed: Any
) -> None:
    distributed = distribute(store, 3)
    waiting = threading.Event()
    with Kubelet(api_server, lambda *_: k.RUN if waiting.is_set() else k.HANG):
        with _launcher(store, distributed) as launcher:
            assert launcher.stdout
            assert any("3 running" in line for line in launcher.stdout)
            launcher.kill()
        (before,) = api_server.named("jobs")
        _terminated(api_server, store, distributed)
        waiting.set()
        for name in api_server.named("pods"):
            if name != "launcher":
                api_server.patch_status("pods", name, k.disrupted("TerminationByKubelet", "moved").status or {})
        train(store, distributed)
    assert api_server.named("jobs") == [before]
    assert created(api_server) == 3
    assert len(closed(distributed).accepted) == 3


def test_no_other_run_comes_between_a_launcher_that_is_ended_and_the_next(
    store: Store, api_server: ApiServer, closed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    distributed = distribute(store, 2)
    with Kubelet(api_server, lambda _, tried: k.RUN if tried else k.HANG):
        _terminated(api_server, store, distributed)
        capsys.readouterr()
        with a_round.refused(capsys, LeaseError.exit_code, "run a-test"):
            distribute(store, 2, run="another")
        held = a_round.trainings(store).lease.active()
        assert held is not None
        assert 60 < (held.expires_at - store.now()).total_seconds() <= 120  # for a launcher that does not come back
        for name in api_server.named("pods"):
            if name != "launcher":
                api_server.patch_status("pods", name, k.disrupted("TerminationByKubelet", "moved").status or {})
        train(store, distributed)
    assert len(closed(distributed).accepted) == 2


def test_another_run_takes_the_place_of_a_job_whose_run_has_lost_the_training(
    store: Store, api_server: ApiServer, closed: Any
) -> None:
    first = distribute(store, 2)
    with Kubelet(api_server, lambda *_: k.HANG):
        _terminated(api_server, store, first)
    (name,) = api_server.named("jobs")
    old = api_server.get("jobs", name)
    a_round.trainings(store).lease.release(1)
    second = distribute(store, 2, run="another")
    with Kubelet(api_server):
        train(store, second)
    assert api_server.named("jobs") == [name]
    assert api_server.get("jobs", name)["metadata"]["uid"] != old["metadata"]["uid"]
    assert len(closed(second).accepted) == 2
    assert first.attempt != second.attempt


def test_a_job_that_is_not_ours_is_an_error_and_stays(
    store: Store, api_server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    distributed = distribute(store, 2)
    with Kubelet(api_server, lambda *_: k.HANG):
        _terminated(api_server, store, distributed)
    (name,) = api_server.named("jobs")
    api_server.patch("jobs", name, {"metadata": {"annotations": {"fededge.io/spec": "another"}}})
    with a_round.refused(capsys, 6, f"Job {name} already", f"kubectl delete job {name}"):
        train(store, distributed)
    assert api_server.named("jobs") == [name]


def test_a_launcher_that_is_run_again_takes_over_the_jobs_of_all_waves(
    store: Store, api_server: ApiServer, tmp_path: Path, closed: Any
) -> None:
    """Of four devices, one at a time, all are done but the third."""
    distributed = distribute_on_devices(store, tmp_path, _claims(4), deadline_s=60)
    with Kubelet(api_server, lambda batch, tried: k.HANG if batch == 2 and not tried else k.RUN):
        _terminated(api_server, store, distributed, lambda: _done(api_server) == 3)
        before = {name: api_server.get("jobs", name)["metadata"]["uid"] for name in api_server.named("jobs")}
        ending = threading.Timer(2.5, _end_first_pod, args=(api_server,))
        ending.start()
        train(store, distributed, parallelism=1, start_s=1)
        ending.join()
        assert before == {name: api_server.get("jobs", name)["metadata"]["uid"] for name in api_server.named("jobs")}
    assert len(closed(distributed).accepted) == 4


def test_a_launcher_that_is_run_again_ends_what_the_round_does_not_need(
    store: Store, api_server: ApiServer, tmp_path: Path, closed: Any
) -> None:
    target = {"close_at_target": True, "target_clients": 3, "deadline_s": 60}
    distributed = distribute_on_devices(store, tmp_path, _claims(4), **target)
    with Kubelet(api_server, lambda batch, tried: k.RUN if tried and batch != 3 else k.HANG):
        _terminated(api_server, store, distributed, lambda: len(api_server.named("pods")) == 5)
        for name in api_server.named("pods"):
            if name != "launcher":
                api_server.patch_status("pods", name, k.disrupted("TerminationByKubelet", "moved").status or {})
        _until(lambda: _done(api_server) == 3)
        train(store, distributed, parallelism=1)
    assert len(api_server.named("jobs")) == 3
    assert [*why(closed(distributed)).values()] == [Why.NOT_NEEDED]


def test_watches_that_are_dropped_and_versions_that_are_forgotten_cost_nothing(
    store: Store, api_server: ApiServer, closed: Any
) -> None:
    distributed = distribute(store, 6)
    api_server.bookmarks = 0.2

    def fates(batch: int, _: int) -> Fate:
        if batch % 2:
            api_server.compact()
        api_server.drop_watches()
        return k.RUN

    with Kubelet(api_server, fates):
        train(store, distributed, parallelism=1)
    assert len(closed(distributed).accepted) == 6
    lists = [asked for asked in api_server.requests if (asked.verb, asked.resource) == ("list", "jobs")]
    watches = [asked for asked in api_server.requests if (asked.verb, asked.resource) == ("watch", "jobs")]
    assert len(watches) >= 3
    assert len(lists) <= len(watches)
    assert all(int(asked.query["resourceVersion"]) > 1000 for asked in watches)


def test_a_server_that_is_busy_or_away_for_some_seconds_is_waited_for(
    store: Store, api_server: ApiServer, closed: Any
) -> None:
    distributed = distribute(store, 2)
    api_server.fail(times=1, status=429, verb="create", resource="jobs", retry_after=1)
    api_server.fail(times=1, status=503, verb="watch", resource="jobs")
    api_server.fail(times=1, status=0, verb="list", resource="pods")
    away = threading.Timer(1.0, lambda: api_server.go_away(3))
    away.start()
    begun = time.monotonic()
    with Kubelet(api_server):
        train(store, distributed)
    away.cancel()
    assert time.monotonic() - begun >= 1
    assert created(api_server) == 2
    assert len(api_server.named("jobs")) == 1
    assert len(closed(distributed).accepted) == 2


def test_a_create_whose_answer_was_lost_makes_one_job(store: Store, api_server: ApiServer, closed: Any) -> None:
    distributed = distribute(store, 1)
    api_server.fail(times=1, status=0, verb="create", resource="jobs", after=True)
    with Kubelet(api_server) as kubelet:
        train(store, distributed)
    assert created(api_server) == 2
    assert kubelet.ran == [0]
    assert len(closed(distributed).accepted) == 1


def test_a_right_that_is_missing_is_named_with_the_manifest_that_grants_it(
    store: Store, api_server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api_server.forbid("create", "jobs")
    with a_round.refused(capsys, 6, "create jobs.batch", "manifests/base/access.yaml"):
        train(store, distribute(store, 1))


def test_what_was_made_before_an_error_is_removed(
    store: Store, api_server: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    distributed = distribute_on_devices(store, tmp_path, {"p0": "device-0"})

    def refuse_second(_: object) -> None:
        if api_server.named("jobs"):
            raise ApiError(422, "Invalid", "no second one")

    api_server.kept.checks["jobs"].append(refuse_second)
    with a_round.refused(capsys, 6, "no second one"):
        train(store, distributed)
    assert api_server.named("jobs") == []
    api_server.kept.checks["jobs"].remove(refuse_second)
    api_server.forbid("watch", "pods")
    with a_round.refused(capsys, 6, "watch pods"):
        train(store, distributed)
    assert api_server.named("jobs") == []


def test_without_the_right_to_see_events_the_round_goes_on(store: Store, api_server: ApiServer, closed: Any) -> None:
    distributed = distribute(store, 1)
    api_server.forbid("list", "events")
    with Kubelet(api_server):
        train(store, distributed)
    assert len(closed(distributed).accepted) == 1


QUOTA = 'pods "x" is forbidden: exceeded quota: fededge, requested: pods=1, used: pods=9, limited: pods=9'


def test_a_namespace_without_quota_is_an_error_that_says_so_and_the_round_can_be_tried_again(
    store: Store, api_server: ApiServer, closed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    distributed = distribute(store, 2)
    with Kubelet(api_server) as kubelet:
        kubelet.no_pods = QUOTA
        with a_round.refused(capsys, 6, "no pod of round 1 could start within 1 s", "exceeded quota: fededge"):
            train(store, distributed, start_s=1)
        assert api_server.named("jobs") == []
        kubelet.no_pods = ""
        train(store, distributed)
    assert len(closed(distributed).accepted) == 2


def test_jobs_that_are_over_make_room_for_those_that_the_quota_refuses(
    store: Store, api_server: ApiServer, tmp_path: Path, closed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "_KNOCK", 0.2)
    distributed = distribute_on_devices(store, tmp_path, _claims(4))
    crashes = batch_of(distributed, store, "p7")
    api_server.quota("jobs", 2)
    with Kubelet(api_server, {crashes: k.OUT_OF_MEMORY}):
        train(store, distributed, retries=0)
    closing = closed(distributed)
    assert len(closing.accepted) == 3
    assert why(closing) == {"p7": Why.OUT_OF_MEMORY}


def test_a_round_does_not_wait_for_room_beside_nodes_that_do_not_answer(
    store: Store, api_server: ApiServer, tmp_path: Path, closed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "_RETURN", 1.0)
    monkeypatch.setattr(launching, "_KNOCK", 0.2)
    distributed = distribute_on_devices(store, tmp_path, _claims(3), min_clients=1)
    first = batch_of(distributed, store, "p0")
    api_server.quota("jobs", 2)

    def fates(batch: int, _: int) -> Fate:
        if batch == first:
            return k.VANISHED
        api_server.quota("jobs", 1)  # the lost node's counts, and there is room for no other
        return k.RUN

    with Kubelet(api_server, fates):
        begun = time.monotonic()
        train(store, distributed)
    assert time.monotonic() - begun < 60
    closing = closed(distributed)
    assert len(closing.accepted) == 1
    assert Why.NODE_LOST in why(closing).values()


def test_jobs_that_the_quota_never_lets_be_cost_their_clients(
    store: Store, api_server: ApiServer, tmp_path: Path, closed: Any
) -> None:
    distributed = distribute_on_devices(store, tmp_path, _claims(4))
    api_server.quota("jobs", 1)

    def fates(*_: int) -> Fate:
        api_server.quota("jobs", 0)  # others have taken what there was
        return k.RUN

    with Kubelet(api_server, fates):
        train(store, distributed, start_s=2)
    closing = closed(distributed)
    assert len(closing.accepted) == 1
    assert [*why(closing).values()] == [Why.NOT_STARTED] * 3
    assert all("exceeded quota: fededge" in excluded.detail for excluded in closing.excluded)


def test_a_quota_of_no_jobs_is_an_error_that_says_so(
    store: Store, api_server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    api_server.quota("jobs", 0)
    with a_round.refused(capsys, 6, "exceeded quota"):
        train(store, distribute(store, 1))


def test_an_image_that_cannot_be_pulled_is_an_error_that_says_which(
    store: Store, api_server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f'Back-off pulling image "{IMAGE}"'
    with (
        Kubelet(api_server, lambda *_: k.waits("ImagePullBackOff", words)),
        a_round.refused(capsys, 6, "could start within 1 s", "ImagePullBackOff", IMAGE),
    ):
        train(store, distribute(store, 2), start_s=1)
    assert api_server.named("jobs") == []


VOLUME = 'Multi-Attach error for volume "pvc-1": Volume is already used by pod(s) on another node'


def test_a_volume_that_cannot_be_attached_is_an_error_that_says_so(
    store: Store, api_server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        Kubelet(api_server, lambda *_: k.waits("ContainerCreating", "", VOLUME)),
        a_round.refused(capsys, 6, "could start within 1 s", VOLUME),
    ):
        train(store, distribute(store, 2), start_s=1)
    assert api_server.named("jobs") == []


def test_a_pod_that_waits_for_its_volume_says_so_at_the_deadline(
    store: Store, api_server: ApiServer, closed: Any
) -> None:
    distributed = distribute(store, 2, deadline_s=5)
    with Kubelet(api_server, {0: k.waits("ContainerCreating", "", VOLUME)}):
        train(store, distributed)
    closing = closed(distributed)
    assert len(closing.accepted) == 1
    assert why(closing) == {closing.excluded[0].client: Why.NOT_STARTED}
    assert closing.excluded[0].detail == f"ContainerCreating: {VOLUME}"


@pytest.mark.parametrize("event", ["FailedScheduling", "FailedAttachVolume"])
def test_a_pod_whose_warning_has_passed_may_pull_its_image_for_long(
    store: Store, api_server: ApiServer, closed: Any, event: str
) -> None:
    """A volume that could not be attached at once is there when the containers can start."""
    distributed = distribute(store, 1, deadline_s=4)
    pulls = k.waits("ContainerCreating", "", VOLUME)._replace(event=event)
    if event == "FailedAttachVolume":
        (pulls.status or {})["conditions"] = [{"type": "PodReadyToStartContainers", "status": "True"}]
    with Kubelet(api_server, {0: pulls}):
        train(store, distributed, start_s=1)
    assert why(closed(distributed)) == {"p0": Why.DEADLINE}


def test_one_pod_that_cannot_start_does_not_end_a_job_whose_others_are_about_to(
    store: Store, api_server: ApiServer, closed: Any
) -> None:
    distributed = distribute(store, 2, deadline_s=4)
    with Kubelet(api_server, {0: k.waits("ContainerCreating", "", VOLUME), 1: k.waits("ContainerCreating", "")}):
        train(store, distributed, start_s=1)
    assert sorted(why(closed(distributed)).values()) == [Why.DEADLINE, Why.NOT_STARTED]


def test_a_job_that_cannot_start_costs_its_clients(
    store: Store, api_server: ApiServer, tmp_path: Path, closed: Any
) -> None:
    claims = {"p0": "device-0", "p7": "device-1"}
    distributed = distribute_on_devices(store, tmp_path, claims, close_at_target=True, target_clients=3)
    on_devices = [batch_of(distributed, store, client) for client in claims]
    huge = k.unschedulable("0/3 nodes are available: 3 Insufficient memory.")
    with Kubelet(api_server, dict.fromkeys(on_devices, huge)):
        train(store, distributed, start_s=2)
        (job,) = [api_server.get("jobs", name) for name in api_server.named("jobs")]
    assert "successPolicy" not in job["spec"]
    assert created(api_server) == 3
    closing = closed(distributed)
    assert len(closing.accepted) == 2
    assert why(closing) == dict.fromkeys(claims, Why.NOT_STARTED)
    assert all("Insufficient memory" in excluded.detail for excluded in closing.excluded)


def test_devices_are_jobs_of_their_own_in_waves(
    store: Store, api_server: ApiServer, tmp_path: Path, closed: Any
) -> None:
    distributed = distribute_on_devices(store, tmp_path, _claims(4), clients=5)
    with Kubelet(api_server):
        most = _most_at_once(api_server, lambda: train(store, distributed, parallelism=2))
    jobs = [api_server.get("jobs", name) for name in api_server.named("jobs")]
    assert len(jobs) == 5
    assert most == 2
    devices = [job for job in jobs if job["spec"]["completionMode"] == "NonIndexed"]
    claims = {job["spec"]["template"]["spec"]["volumes"][1]["persistentVolumeClaim"]["claimName"] for job in devices}
    assert claims == set(_claims(4).values())
    assert len(closed(distributed).accepted) == 5


def test_devices_that_are_away_do_not_stop_the_wave_and_the_target_ends_it(
    store: Store, api_server: ApiServer, tmp_path: Path, closed: Any
) -> None:
    distributed = distribute_on_devices(store, tmp_path, _claims(4), close_at_target=True, target_clients=2)
    gone = k.unschedulable("0/3 nodes are available: node(s) had untolerated taint")
    with Kubelet(api_server, {0: gone, 3: k.HANG}):
        train(store, distributed, parallelism=2, start_s=1)
    assert created(api_server) >= 3
    assert len(api_server.named("jobs")) <= 2
    closing = closed(distributed)
    assert len(closing.accepted) == 2
    assert set(why(closing).values()) <= {Why.NOT_STARTED, Why.NOT_NEEDED}


def test_a_round_goes_on_without_a_node_that_does_not_answer(
    store: Store, api_server: ApiServer, closed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "_RETURN", 0.5)
    distributed = distribute(store, 3)
    lost = batch_of(distributed, store, "p0")
    with Kubelet(api_server, {lost: k.VANISHED}):
        train(store, distributed)
    assert api_server.named("jobs") == []
    closing = closed(distributed)
    assert len(closing.accepted) == 2
    assert why(closing) == {"p0": Why.NODE_LOST}
    assert detail(closing, "p0").startswith(f"node node-{lost}: DeletionByTaintManager: ")


def test_a_node_that_answers_again_has_its_clients_tried_again(
    store: Store, api_server: ApiServer, closed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "_RETURN", 60.0)
    distributed = distribute(store, 1)
    with Kubelet(api_server, lambda _, tried: k.RUN if tried else k.VANISHED):
        returning = threading.Thread(target=_end_first_pod, args=(api_server,))
        returning.start()
        train(store, distributed)
        returning.join()
    assert len(closed(distributed).accepted) == 1


def test_devices_that_do_not_answer_leave_their_place_in_the_wave_to_others(
    store: Store, api_server: ApiServer, tmp_path: Path, closed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "_RETURN", 0.5)
    distributed = distribute_on_devices(store, tmp_path, _claims(4))
    with Kubelet(api_server, {0: k.VANISHED, 1: k.VANISHED}):
        train(store, distributed, parallelism=1)
    closing = closed(distributed)
    assert len(closing.accepted) == 2
    assert [*why(closing).values()] == [Why.NODE_LOST] * 2


def test_clients_whose_pods_the_lost_ones_left_no_room_for_are_told_so(
    store: Store, api_server: ApiServer, closed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "_RETURN", 0.5)
    distributed = distribute(store, 3)
    with Kubelet(api_server, {1: k.VANISHED}):
        train(store, distributed, parallelism=1)
    closing = closed(distributed)
    assert len(closing.accepted) == 1
    assert sorted(why(closing).values()) == [Why.NODE_LOST, Why.NOT_STARTED]


def test_too_few_clients_fail_the_round_with_their_reasons(
    store: Store, api_server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    distributed = distribute(store, 3, min_clients=3)
    with Kubelet(api_server, {0: k.OUT_OF_MEMORY, 1: k.HANG}):
        train(store, distributed, retries=0)
    capsys.readouterr()
    with a_round.refused(capsys, 5, "min_clients=3", "1 OUT_OF_MEMORY", "p0: OOMKilled: more memory than 4Gi"):
        aggregate_updates(store.url, distributed.attempt, [])


def test_a_round_that_is_past_its_deadline_starts_nothing(store: Store, api_server: ApiServer, closed: Any) -> None:
    distributed = distribute(store, 2, deadline_s=1)
    time.sleep(1.1)
    train(store, distributed)
    assert created(api_server) == 0
    assert set(why(closed(distributed)).values()) == {Why.DEADLINE}


def test_a_job_that_somebody_deletes_is_over(store: Store, api_server: ApiServer, closed: Any) -> None:
    distributed = distribute(store, 1)
    with Kubelet(api_server, lambda *_: k.HANG):
        deleting = threading.Thread(target=_delete_first_job, args=(api_server,))
        deleting.start()
        train(store, distributed)
        deleting.join()
    assert "somebody deleted the Job" in detail(closed(distributed), "p0")


def test_outside_of_a_cluster_it_says_what_to_run(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDEDGE_POD", "laptop")
    with a_round.refused(capsys, 3, "no pod 'laptop'", "fl_round"):
        train(store, distribute(store, 1))


def test_the_owner_is_found_by_the_label_alone(store: Store, api_server: ApiServer) -> None:
    bare = {**POD, "metadata": {"name": "launcher", "labels": POD["metadata"]["labels"]}}
    api_server.put(bare)
    head = {"apiVersion": WORKFLOW["apiVersion"], "kind": "Workflow"}
    api_server.put({**head, "metadata": {"name": WORKFLOW["name"], "uid": WORKFLOW["uid"]}, "spec": {}})
    with Kubelet(api_server):
        train(store, distribute(store, 1))
    (name,) = api_server.named("jobs")
    assert api_server.get("jobs", name)["metadata"]["ownerReferences"][0]["uid"] == WORKFLOW["uid"]
    api_server.kept.delete(api_server.resource("workflows"), ("workflows", "fededge", WORKFLOW["name"]), {})
    assert api_server.named("jobs") == []


def test_a_pod_that_is_lost_does_not_end_the_lease_of_its_run(store: Store) -> None:
    distributed = distribute(store, 1)
    program = [sys.executable, "-m", "fededge.steps.batch_of_job", "--store", store.url]
    arguments = ["--attempt", distributed.attempt, "--batches", "7"]
    environment = {**os.environ, "PYTHONPATH": str(k.ROOT)}
    done = subprocess.run([*program, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "the plan of 1 batches has none for index 0 of '7'" in done.stderr
    assert a_round.trainings(store).lease.active() is not None


def _trained_in_tasks(folder: Path) -> Store:
    """Train the same clients as `fl_round` does."""
    store = FolderStore(folder)
    a_round.train(store, distribute(store, clients=5, clients_per_pod=5))
    return store


def _deltas(store: Store) -> dict[str, str]:
    """Name what each client delivered: the new model is a function of it."""
    trainings = a_round.trainings(store)
    ref = trainings.attempts("v1")[-1]
    updates = [trainings.update(ref, client) for client in trainings.arrivals(ref)]
    return {update.client: update.delta for update in updates if update}


def _claims(count: int) -> dict[str, str]:
    """Give each of the first clients a device."""
    return {f"p{7 * number}": f"device-{number}" for number in range(count)}


def _launcher(store: Store, distributed: Distribution) -> subprocess.Popen[str]:
    """Run the step in a process that can be killed."""
    program = "import json, sys; from fededge.steps.train_in_jobs import train_in_jobs as s; s(**json.load(sys.stdin))"
    arguments = {"store": store.url, "attempt": distributed.attempt, "placement": Placement().model_dump()}
    environment = {**os.environ, "PYTHONPATH": str(k.ROOT)}
    launcher = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdin
    with launcher.stdin as pipe:
        pipe.write(json.dumps({**arguments, "fan_out": FanOut().model_dump()}))
    return launcher


def _terminated(
    server: ApiServer, store: Store, distributed: Distribution, when: Callable[[], bool] = lambda: True
) -> None:
    """Start the Jobs, and end the launcher as Kubernetes ends a pod."""
    before = created(server)

    def terminate() -> None:
        _until(lambda: created(server) > before and len(server.named("pods")) > 1 and when())
        os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=terminate)
    killer.start()
    with pytest.raises(SystemExit) as ended:
        train(store, distributed)
    killer.join()
    assert ended.value.code == 143


def _until(done: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def _delete_first_job(server: ApiServer) -> None:
    _until(lambda: len(server.named("jobs")) == 1 and len(server.named("pods")) == 2)
    server.remove("jobs", server.named("jobs")[0])


def _done(server: ApiServer) -> int:
    jobs = [server.get("jobs", name) for name in server.named("jobs")]
    return sum("Complete" in str(job.get("status", {}).get("conditions")) for job in jobs)


def _end_first_pod(server: ApiServer) -> None:
    """Have the first pod of a Job that hangs end, as when its node answers again."""

    def hanging() -> list[str]:
        pods = [server.get("pods", name) for name in server.named("pods") if name != "launcher"]
        return [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running"]

    _until(lambda: bool(hanging()))
    server.patch_status("pods", hanging()[0], k.disrupted("DeletionByTaintManager", "its node is back").status or {})


def _most_at_once(server: ApiServer, work: Callable[[], Any]) -> int:
    """Count the most device Jobs that ran at the same time while something was done."""
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.02):
            jobs = [server.get("jobs", name) for name in server.named("jobs")]
            devices = [job for job in jobs if job["spec"]["completionMode"] == "NonIndexed"]
            seen.append(sum(not job.get("status", {}).get("conditions") for job in devices))

    watching = threading.Thread(target=look)
    watching.start()
    try:
        work()
    finally:
        stop.set()
        watching.join()
    return max(seen)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    _until(lambda: not [t for t in threading.enumerate() if t.name.startswith("watch ")], 5)
