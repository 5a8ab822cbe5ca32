"""A Job is created once, and none is deleted but the one that is meant."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from fededge.cluster import job_calls
from fededge.cluster.api import Cluster
from fededge.cluster.job_calls import create_or_adopt, delete
from fededge.cluster.jobs import pooled_job
from fededge.errors import ClusterError
from fededge.settings import Placement
from tests.cluster.api_server import ApiServer
from tests.cluster.test_jobs import a_round


def job(**changed: Any) -> dict[str, Any]:
    made: dict[str, Any] = pooled_job(a_round(**changed), Placement(), range(3), 60, 1)
    return made


NAME = job()["metadata"]["name"]


def test_asked_twice_it_is_created_once(cluster: Cluster, api_server: ApiServer) -> None:
    first, is_new = create_or_adopt(cluster, job())
    assert is_new
    again, is_new = create_or_adopt(cluster, job())
    assert not is_new
    assert again["metadata"]["uid"] == first["metadata"]["uid"]


def test_one_of_a_run_before_gives_way_and_one_of_a_run_after_does_not(cluster: Cluster, api_server: ApiServer) -> None:
    before, _ = create_or_adopt(cluster, job(sitting="digits/v4/1/6"))
    now, is_new = create_or_adopt(cluster, job(sitting="digits/v4/1/7"))
    assert is_new
    assert now["metadata"]["uid"] != before["metadata"]["uid"]
    with pytest.raises(ClusterError, match="not this round's") as refused:
        create_or_adopt(cluster, job(sitting="digits/v4/1/6"))
    assert refused.value.status == 409
    assert api_server.get("jobs", NAME)["metadata"]["uid"] == now["metadata"]["uid"]


@pytest.mark.parametrize("metadata", [{"annotations": None, "labels": None}, {"annotations": {"fededge.io/spec": "x"}}])
def test_one_that_is_not_ours_is_left_alone(cluster: Cluster, api_server: ApiServer, metadata: dict[str, Any]) -> None:
    create_or_adopt(cluster, job())
    api_server.patch("jobs", NAME, {"metadata": metadata})
    with pytest.raises(ClusterError, match=f"kubectl describe job {NAME}"):
        create_or_adopt(cluster, job())
    assert api_server.named("jobs") == [NAME]


def test_one_that_is_being_deleted_is_waited_for(cluster: Cluster, api_server: ApiServer) -> None:
    old, _ = create_or_adopt(cluster, job())
    going = {"metadata": {"finalizers": ["foregroundDeletion"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    api_server.patch("jobs", NAME, going)

    def go() -> None:
        api_server.patch("jobs", NAME, {"metadata": {"finalizers": None}})
        api_server.remove("jobs", NAME)

    timer = threading.Timer(0.5, go)
    timer.start()
    new, is_new = create_or_adopt(cluster, job())
    timer.join()
    assert is_new
    assert new["metadata"]["uid"] != old["metadata"]["uid"]


def test_one_that_does_not_go_is_an_error(
    cluster: Cluster, api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_calls, "_PATIENCE", 0.5)
    create_or_adopt(cluster, job())
    api_server.patch("jobs", NAME, {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
    with pytest.raises(ClusterError, match=f"is being deleted for longer than .* `kubectl describe job {NAME}`"):
        create_or_adopt(cluster, job())


def test_a_conflict_about_the_quota_is_no_refusal(cluster: Cluster, api_server: ApiServer) -> None:
    words = 'Operation cannot be fulfilled on resourcequotas "fededge": the object has been modified'
    api_server.fail(times=2, status=409, verb="create", resource="jobs", message=words)
    _, is_new = create_or_adopt(cluster, job())
    assert is_new


def test_a_conflict_that_does_not_end_is_an_error(
    cluster: Cluster, api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_calls, "_PATIENCE", 0.3)
    api_server.fail(times=99, status=409, verb="create", resource="jobs", message="the object has been modified")
    with pytest.raises(ClusterError, match="has been modified"):
        create_or_adopt(cluster, job())


def test_another_that_has_the_name_by_now_is_not_deleted(cluster: Cluster, api_server: ApiServer) -> None:
    made, _ = create_or_adopt(cluster, job())
    delete(cluster, NAME, "of-another")
    assert api_server.named("jobs") == [NAME]
    delete(cluster, NAME, made["metadata"]["uid"])
    delete(cluster, NAME, made["metadata"]["uid"])
    assert api_server.named("jobs") == []
