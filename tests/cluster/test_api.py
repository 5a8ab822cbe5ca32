"""The way to the API server: logging in, waiting, and what is told of a refusal."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.config import incluster_config

from fededge.cluster import api
from fededge.cluster.api import Cluster, connect
from fededge.errors import ClusterError, SetupError
from tests.cluster.api_server import ApiServer
from tests.cluster.certificate import authority_pem
from tests.cluster.made import node

JOB: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "work"},
    "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}}},
}


def create_job(cluster: Cluster) -> Any:
    return cluster.call(cluster.batch.create_namespaced_job, cluster.namespace, JOB, verb="create", resource="jobs")


def names(cluster: Cluster) -> list[str]:
    return cluster.read_all(cluster.core.list_node, resource="nodes", read=lambda one: str(one["metadata"]["name"]))


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again at once, unless the server asks for more."""
    monkeypatch.setattr(api, "_backoff", lambda state: 0.01)


def test_logs_in_by_the_kubeconfig(api_server: ApiServer, cluster: Cluster) -> None:
    api_server.put(node("a"))
    assert (cluster.namespace, cluster.host) == ("fededge", api_server.url)
    assert cluster.call(cluster.core.read_node, "a", verb="get", resource="nodes").metadata.name == "a"


def test_a_named_context_and_namespace(kubeconfig: Path) -> None:
    with connect("elsewhere", namespace="mine") as cluster:
        assert (cluster.host, cluster.namespace) == ("https://127.0.0.1:1", "mine")


def test_a_context_needs_no_current_one(kubeconfig: Path) -> None:
    document = yaml.safe_load(kubeconfig.read_text())
    del document["current-context"]
    kubeconfig.write_text(yaml.safe_dump(document))
    with connect("tests") as cluster:
        assert cluster.namespace == "fededge"
    with pytest.raises(SetupError, match="current-context"):
        connect()


def test_logs_in_as_a_pod(api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the files and variables that Kubernetes gives each pod."""
    for name, text in (("token", api_server.token), ("namespace", "fededge\n"), ("ca.crt", authority_pem().decode())):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(api, "_POD_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api_server.server_address[1]))
    api_server.put(node("a"))
    with connect() as cluster:
        assert (names(cluster), cluster.namespace) == (["a"], "fededge")


def test_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SetupError, match=r"no cluster: there is no kubeconfig.*set KUBECONFIG"):
        connect()


def test_no_such_context(kubeconfig: Path) -> None:
    with pytest.raises(SetupError, match="no context factory in the kubeconfig; there are: elsewhere, tests"):
        connect("factory")


@pytest.mark.parametrize("text", ["", "{", "a: b", "[]", "contexts: 3\nclusters: []", "\0"])
def test_a_kubeconfig_that_is_none(kubeconfig: Path, text: str) -> None:
    kubeconfig.write_text(text)
    with pytest.raises(SetupError, match=r"the kubeconfig cannot be used .*kubectl config view"):
        connect()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 0])
def test_asks_a_busy_server_again(api_server: ApiServer, cluster: Cluster, status: int, no_wait: None) -> None:
    api_server.put(node("a"))
    api_server.fail(3, status)
    assert names(cluster) == ["a"]
    assert len(api_server.requests) == 4


def test_waits_as_long_as_the_server_asks(api_server: ApiServer, cluster: Cluster, no_wait: None) -> None:
    api_server.fail(1, 429, retry_after=1)
    begun = time.monotonic()
    names(cluster)
    assert 1 <= time.monotonic() - begun < 3


def test_does_not_begin_to_wait_longer_than_its_patience(api_server: ApiServer, kubeconfig: Path) -> None:
    api_server.fail(1, 503, retry_after=60)
    begun = time.monotonic()
    with connect(patience=5) as cluster, pytest.raises(ClusterError, match=r"cannot list nodes now .503"):
        names(cluster)
    assert time.monotonic() - begun < 2


def test_bears_a_server_that_is_away(api_server: ApiServer, kubeconfig: Path) -> None:
    said: list[str] = []
    api_server.put(node("a"))
    with connect(patience=20, say=said.append) as cluster:
        assert names(cluster) == ["a"]
        api_server.go_away(1.5)
        assert names(cluster) == ["a"]
    assert len(said) == 1
    assert "does not answer" in said[0]
    assert "asking again for up to 20 s" in said[0]


def test_bears_a_connection_that_drops_in_an_answer(api_server: ApiServer, cluster: Cluster, no_wait: None) -> None:
    for i in range(30):
        api_server.put(node(f"n{i:02d}"))
    api_server.cut(2, "list", "nodes")
    assert len(names(cluster)) == 30


def test_nobody_there(kubeconfig: Path) -> None:
    with connect("elsewhere", patience=1) as cluster, pytest.raises(ClusterError, match="does not answer") as caught:
        names(cluster)
    assert caught.value.status == 0
    assert "Connection refused" in str(caught.value)
    assert "<" not in str(caught.value)


def test_a_certificate_that_is_not_trusted_is_not_asked_again(
    api_server: ApiServer, kubeconfig: Path, no_wait: None
) -> None:
    document = yaml.safe_load(kubeconfig.read_text())
    del document["clusters"][0]["cluster"]["certificate-authority-data"]
    kubeconfig.write_text(yaml.safe_dump(document))
    with connect() as cluster, pytest.raises(ClusterError, match="certificate that the kubeconfig does not trust"):
        names(cluster)


def test_an_expired_token(api_server: ApiServer, cluster: Cluster) -> None:
    api_server.token = "the next one"
    with pytest.raises(ClusterError, match=r"refuses the login .401.*expired; log in again") as caught:
        names(cluster)
    assert (caught.value.status, caught.value.exit_code) == (401, 6)


def test_forbidden_names_the_right_and_the_manifest(api_server: ApiServer, cluster: Cluster) -> None:
    api_server.forbid("create", "jobs")
    api_server.forbid("list", "nodes")
    with pytest.raises(
        ClusterError, match=r"fededge-runner create jobs.batch in the namespace .fededge. \(403\)"
    ) as one:
        create_job(cluster)
    assert "manifests/base/access.yaml grants it" in str(one.value)
    with pytest.raises(ClusterError, match=r"list nodes at the cluster scope .403.: manifests/components/devices"):
        names(cluster)
    api_server.forbid("list", "inferenceservices")
    where = ("serving.kserve.io", "v1beta1", "fededge", "inferenceservices")
    with pytest.raises(ClusterError, match="manifests/components/kserve grants it"):
        cluster.call(cluster.custom.list_namespaced_custom_object, *where, verb="list", resource="inferenceservices")


def test_no_quota_left(api_server: ApiServer, cluster: Cluster) -> None:
    api_server.quota("jobs", 0)
    with pytest.raises(ClusterError, match=r"no quota left to create jobs \(403\).*used: count/jobs.batch=0") as caught:
        create_job(cluster)
    assert "access.yaml" not in str(caught.value)


def test_what_is_there_already(api_server: ApiServer, cluster: Cluster) -> None:
    create_job(cluster)
    with pytest.raises(ClusterError, match="AlreadyExists") as caught:
        create_job(cluster)
    assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")


def test_a_create_whose_answer_is_lost_is_told_as_there_already(
    api_server: ApiServer, cluster: Cluster, no_wait: None
) -> None:
    api_server.fail(1, 504, "create", "jobs", after=True)
    with pytest.raises(ClusterError) as caught:
        create_job(cluster)
    assert caught.value.status == 409
    assert api_server.named("jobs") == ["work"]


def test_what_is_not_there(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r'has no such jobs .404.: jobs.batch "none" not found'):
        cluster.call(cluster.batch.read_namespaced_job, "none", "fededge", verb="get", resource="jobs")


def test_an_answer_that_is_not_kubernetes(api_server: ApiServer, cluster: Cluster, no_wait: None) -> None:
    """Such as that of a proxy, or of a login page."""
    api_server.fail(1, 418, message="<html>\nsign in")
    with pytest.raises(ClusterError, match=r"refuses to list nodes .418") as caught:
        names(cluster)
    assert "\n" not in str(caught.value)


def test_pages_are_read_to_the_end(api_server: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PAGE", 7)
    for i in range(30):
        api_server.put(node(f"n{i:02d}"))
    told: list[int] = []
    found = cluster.read_all(
        cluster.core.list_node, resource="nodes", read=lambda one: one["metadata"]["name"], found=told.append
    )
    assert found == [f"n{i:02d}" for i in range(30)]
    assert told == [7, 14, 21, 28, 30]
    assert [asked.query["limit"] for asked in api_server.requests] == ["7"] * 5


def _compact_after(server: ApiServer, pages: int, times: int) -> Callable[[int], None]:
    left = [times]

    def found(count: int) -> None:
        if count == pages * 7 and left[0]:
            left[0] -= 1
            server.put(node("late"))
            server.compact()

    return found


def test_a_list_that_is_too_old_in_its_middle_is_read_again(
    api_server: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PAGE", 7)
    for i in range(30):
        api_server.put(node(f"n{i:02d}"))
    found = cluster.read_all(
        cluster.core.list_node,
        resource="nodes",
        read=lambda one: one["metadata"]["name"],
        found=_compact_after(api_server, 2, times=1),
    )
    assert sorted(found) == sorted(["late", *(f"n{i:02d}" for i in range(30))])


def test_a_list_that_is_always_too_old_is_given_up(
    api_server: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PAGE", 7)
    for i in range(30):
        api_server.put(node(f"n{i:02d}"))
    with pytest.raises(ClusterError) as caught:
        cluster.read_all(
            cluster.core.list_node, resource="nodes", read=str, found=_compact_after(api_server, 2, times=100)
        )
    assert caught.value.status == 410


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_takes_the_server_for_a_cluster(api_server: ApiServer, kubeconfig: Path, tmp_path: Path) -> None:
    def kubectl(*arguments: str) -> str:
        command = ["kubectl", "--cache-dir", str(tmp_path / "cache"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    (tmp_path / "job.json").write_text(json.dumps(JOB))
    kubectl("create", "--validate=false", "-f", str(tmp_path / "job.json"))
    assert api_server.get("jobs", "work")["spec"]["backoffLimit"] == 6
    assert "work" in kubectl("get", "jobs")
    kubectl("delete", "job", "work")
    assert api_server.named("jobs") == []
