from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kfp
import pytest
import yaml

from fededge import environments
from fededge.errors import SetupError
from fededge.shipped import compiled_pipeline
from tests.cli.command import Command, error_line

Findings = dict[str, dict[str, str]]
Look = Callable[..., tuple[int, Findings]]


@pytest.fixture
def look(fededge: Command) -> Look:
    """Call the command for JSON; returns its exit code and findings by name."""

    def look(*arguments: str) -> tuple[int, Findings]:
        done = fededge("doctor", "--json", *arguments)
        assert done.err == ""
        return done.code, {finding["what"]: finding for finding in json.loads(done.out)}

    return look


@pytest.fixture
def ready() -> Path:
    """An environment that looks as if it had been made."""
    path = environments.environment("tensorflow").path
    path.mkdir(parents=True)
    (path / environments._COMPLETE).touch()
    return path


def test_on_a_new_machine_the_environment_is_missing(look: Look) -> None:
    code, found = look()
    assert code == SetupError.exit_code
    assert {what: finding["state"] for what, finding in found.items()} == {
        "environment tensorflow": "missing",
        "pipelines": "ok",
        "store": "ok",
        "docker": "unused",
        "cluster": "unused",
    }
    assert "fededge env create tensorflow" in found["environment tensorflow"]["detail"]
    assert found["pipelines"]["detail"] == f"compiled with kfp-{kfp.__version__}"
    assert "DOCKER_HOST" in found["docker"]["detail"]
    assert "KUBECONFIG" in found["cluster"]["detail"]


def test_a_local_run_needs_neither_docker_nor_a_cluster(look: Look, ready: Path) -> None:
    code, found = look()
    assert code == 0
    assert found["environment tensorflow"] == {
        "what": "environment tensorflow",
        "state": "ok",
        "detail": str(ready),
    }


def test_scripts_read_one_json_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    program = "from fededge.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "doctor", "--json"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (SetupError.exit_code, "")
    assert [finding["what"] for finding in json.loads(done.stdout)][-2:] == ["docker", "cluster"]


def test_people_see_what_was_looked_at_and_what_is_missing(fededge: Command) -> None:
    done = fededge("doctor")
    assert error_line(done, SetupError.exit_code) == "error: missing: environment tensorflow"
    for part in ("environment tensorflow", "fededge env create tensorflow", "unused", "can be read and written"):
        assert part in done.out


def test_people_see_that_all_is_well(fededge: Command, ready: Path) -> None:
    assert "missing" not in fededge.works("doctor")


def test_looking_leaves_nothing_in_the_store(look: Look, ready: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    code, found = look("--store", str(folder))
    assert code == 0
    assert str(folder) in found["store"]["detail"]
    assert list(folder.rglob("*")) == []


def test_a_store_that_cannot_be_one(look: Look, ready: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, found = look("--store", str(tmp_path / "file"))
    assert code == SetupError.exit_code
    assert found["store"]["state"] == "missing"
    assert "choose another with --store" in found["store"]["detail"]


def test_a_store_in_s3_without_its_settings(look: Look, ready: Path) -> None:
    code, found = look("--store", "s3://bucket/prefix")
    assert code == SetupError.exit_code
    assert "AWS_ENDPOINT_URL is not set" in found["store"]["detail"]


def test_shipped_pipelines_of_another_kfp(
    look: Look, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = compiled_pipeline("fl_round").read_text()
    (tmp_path / "old.yaml").write_text(shipped.replace(f"sdkVersion: kfp-{kfp.__version__}", "sdkVersion: kfp-1.0.0"))
    monkeypatch.setattr("fededge.doctor.compiled_pipeline", lambda _: tmp_path / "old.yaml")
    code, found = look()
    assert code == SetupError.exit_code
    assert found["pipelines"]["state"] == "missing"
    assert "kfp-1.0.0" in found["pipelines"]["detail"]


VERSION = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.5+k3s1",
    "gitCommit": "a",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "go1.23",
    "compiler": "gc",
    "platform": "linux/amd64",
}


class Cluster(ThreadingHTTPServer):
    """A Kubernetes API server, as far as the doctor asks."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, dict[str, Any]]] = {"/version/": (200, VERSION)}
        self.forbidden: set[str] = set()
        self.asked: list[str] = []

    def add_settings(self, namespace: str) -> None:
        metadata = {"name": "fededge", "namespace": namespace}
        document = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": {}}
        self.answers[f"/api/v1/namespaces/{namespace}/configmaps/fededge"] = (200, document)


class Handler(BaseHTTPRequestHandler):
    server: Cluster

    def do_GET(self) -> None:
        self._answer(*self.server.answers.get(self.path, (404, {"kind": "Status", "reason": "NotFound", "code": 404})))

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        wanted = review["spec"]["resourceAttributes"]
        self.server.asked.append(wanted["namespace"])
        right = f"{wanted['verb']} {wanted.get('group', '')} {wanted['resource']}"
        self._answer(201, {**review, "status": {"allowed": right not in self.server.forbidden}})

    def _answer(self, code: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster on loopback that the kubeconfig names."""
    with Cluster() as cluster:
        thread = threading.Thread(target=cluster.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        _write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{cluster.server_port}")
        _use_kubeconfig(monkeypatch, tmp_path / "kubeconfig")
        yield cluster
        cluster.shutdown()
        thread.join()


def _use_kubeconfig(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Set KUBECONFIG; the client has read it when it was imported."""
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setattr("kubernetes.config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))


@pytest.fixture(autouse=True)
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use_kubeconfig(monkeypatch, tmp_path / "no-kubeconfig")


def _write_kubeconfig(path: Path, server: str) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }
    path.write_text(yaml.safe_dump(document))


def test_a_cluster_where_all_is_well(look: Look, ready: Path, cluster: Cluster) -> None:
    cluster.add_settings("my-team")
    code, found = look("--namespace", "my-team")
    assert code == 0
    assert found["cluster"]["detail"] == "Kubernetes v1.32.5+k3s1"
    rights = {what for what in found if what.startswith("right to")}
    assert rights == {"right to list nodes", "right to create jobs", "right to get configmaps"}
    assert all(found[right]["state"] == "ok" for right in rights)
    assert found["ConfigMap fededge"]["state"] == "ok"
    assert set(cluster.asked) == {"my-team"}


def test_a_right_that_is_not_granted(look: Look, ready: Path, cluster: Cluster) -> None:
    cluster.add_settings("kubeflow")
    cluster.forbidden = {"create batch jobs"}
    code, found = look()
    assert code == SetupError.exit_code
    assert found["right to create jobs"]["state"] == "missing"
    assert "not in kubeflow: ask its administrator to grant" in found["right to create jobs"]["detail"]
    assert found["right to list nodes"]["state"] == "ok"


def test_a_cluster_without_the_stores_settings(look: Look, ready: Path, cluster: Cluster) -> None:
    code, found = look()
    assert code == SetupError.exit_code
    assert found["ConfigMap fededge"]["state"] == "missing"
    assert "in kubeflow" in found["ConfigMap fededge"]["detail"]


@pytest.mark.parametrize("code", [401, 403, 500])
def test_a_cluster_that_refuses(look: Look, ready: Path, cluster: Cluster, code: int) -> None:
    cluster.answers = {"/version/": (code, {"kind": "Status", "code": code})}
    exit_code, found = look()
    assert exit_code == SetupError.exit_code
    assert found["cluster"]["state"] == "missing"
    assert "kubectl cluster-info" in found["cluster"]["detail"]
    assert "\n" not in found["cluster"]["detail"]


def test_a_cluster_that_is_gone(look: Look, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:9")
    _use_kubeconfig(monkeypatch, tmp_path / "kubeconfig")
    exit_code, found = look()
    assert exit_code == SetupError.exit_code
    assert found["cluster"]["state"] == "missing"


@pytest.mark.parametrize("content", ["", "[", "a: b", "apiVersion: v1\nkind: Config\ncurrent-context: gone\n"])
def test_a_kubeconfig_that_is_none(
    look: Look, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "kubeconfig").write_text(content)
    _use_kubeconfig(monkeypatch, tmp_path / "kubeconfig")
    _, found = look()
    assert found["cluster"]["state"] in ("missing", "unused")
