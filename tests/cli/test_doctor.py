from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kfp
import pytest
import yaml

from fededge import environments
from fededge.doctor import RIGHTS
from fededge.errors import SetupError
from fededge.shipped import compiled_pipeline
from tests.cli.command import Command, error_line
from tests.cluster.api_server import ApiServer
from tests.cluster.made import node
from tests.contract.compiled import ROOT

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
        "environment serving": "unused",
        "environment serving-tensorflow": "unused",
        "environment sklearn": "unused",
        "environment tensorflow": "missing",
        "environment torch": "unused",
        "pipelines": "ok",
        "store": "ok",
        "docker": "unused",
        "cluster": "unused",
    }
    assert "fededge env create tensorflow" in found["environment tensorflow"]["detail"]
    assert "fededge env create torch" in found["environment torch"]["detail"]
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


@pytest.fixture
def namespace(api_server: ApiServer, kubeconfig: Path) -> ApiServer:
    """A cluster whose namespace my-team has what manifests/base puts there, filled in."""
    values = {"FEDEDGE_STORE": "s3://models/fededge", "AWS_ENDPOINT_URL": "https://s3.example.org"}
    keys = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "very secret"}
    _put(api_server, "ServiceAccount", "fededge-runner")
    _put(api_server, "ServiceAccount", "fededge-client")
    _put(api_server, "ConfigMap", "fededge", data=values)
    _put(api_server, "Secret", "fededge", data=_encoded(keys))
    _put(api_server, "PersistentVolumeClaim", "fededge-data", status={"phase": "Bound"})
    return api_server


def _put(server: ApiServer, kind: str, name: str, **rest: Any) -> None:
    server.put({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "my-team"}, **rest})


def _encoded(values: dict[str, str]) -> dict[str, str]:
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


def test_a_namespace_where_all_is_well(look: Look, ready: Path, namespace: ApiServer) -> None:
    code, found = look("--namespace", "my-team")
    assert code == 0
    assert {what: finding["state"] for what, finding in list(found.items())[-9:]} == {
        "docker": "unused",
        "cluster": "ok",
        "service account fededge-runner": "ok",
        "service account fededge-client": "ok",
        "rights of fededge-runner": "ok",
        "right to list nodes": "ok",
        "ConfigMap fededge": "ok",
        "Secret fededge": "ok",
        "claim fededge-data": "ok",
    }
    assert found["cluster"]["detail"] == "Kubernetes v1.36.0"
    assert found["ConfigMap fededge"]["detail"] == "s3://models/fededge"
    reviews = {asked[2:4] for asked in namespace.requests if asked.resource == "localsubjectaccessreviews"}
    assert reviews == {("my-team", "system:serviceaccount:my-team:fededge-runner")}, "not of who asks"


def test_the_rights_are_those_that_the_manifests_grant() -> None:
    role = next(iter(yaml.safe_load_all((ROOT / "manifests" / "base" / "access.yaml").read_text())))
    granted = {
        (rule["apiGroups"][0], rule["resources"][0]): tuple(rule["verbs"])
        for rule in role["rules"]
        if "resourceNames" not in rule
    }
    assert granted == RIGHTS


def test_a_right_that_is_not_granted(look: Look, ready: Path, namespace: ApiServer) -> None:
    namespace.forbid("create", "jobs")
    namespace.forbid("watch", "pods")
    code, found = look("--namespace", "my-team")
    assert code == SetupError.exit_code
    rights = found["rights of fededge-runner"]
    assert rights["state"] == "missing"
    assert rights["detail"].startswith("may not watch pods, create jobs in my-team: apply manifests/base")


def test_only_devices_need_the_right_to_see_nodes(look: Look, ready: Path, namespace: ApiServer) -> None:
    namespace.forbid("list", "nodes")
    code, found = look("--namespace", "my-team")
    assert code == 0
    assert found["right to list nodes"]["state"] == "unused"
    assert "manifests/components/devices" in found["right to list nodes"]["detail"]


def test_what_the_caller_may_not_see_is_not_missing(look: Look, ready: Path, namespace: ApiServer) -> None:
    namespace.forbid("create", "localsubjectaccessreviews")
    namespace.forbid("get", "secrets")
    code, found = look("--namespace", "my-team")
    assert code == 0
    for what in ("rights of fededge-runner", "Secret fededge"):
        assert found[what]["state"] == "unknown"
        assert found[what]["detail"].startswith("you may not look: ")


def test_a_namespace_that_has_nothing(look: Look, ready: Path, namespace: ApiServer) -> None:
    code, found = look()
    assert code == SetupError.exit_code
    for what in ("service account fededge-runner", "ConfigMap fededge", "Secret fededge", "claim fededge-data"):
        assert found[what]["state"] == "missing"
        assert found[what]["detail"] == "not in kubeflow: apply manifests/base, as docs/install.md says"


def test_placeholders_of_the_manifests(look: Look, ready: Path, namespace: ApiServer) -> None:
    shipped = yaml.safe_load_all((ROOT / "manifests" / "base" / "store.yaml").read_text())
    config, secret, _ = shipped
    _put(namespace, "ConfigMap", "fededge", data=config["data"])
    _put(namespace, "Secret", "fededge", data=_encoded(secret["stringData"]))
    code, found = look("--namespace", "my-team")
    assert code == SetupError.exit_code
    left = "REPLACE- is still in {}: replace it in manifests/base/store.yaml, and apply that again"
    assert found["ConfigMap fededge"]["detail"] == left.format("AWS_ENDPOINT_URL, FEDEDGE_STORE")
    assert found["Secret fededge"]["detail"] == left.format("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY")


def test_credentials_that_are_empty(look: Look, ready: Path, namespace: ApiServer) -> None:
    _put(namespace, "Secret", "fededge", data=_encoded({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "s"}))
    _, found = look("--namespace", "my-team")
    assert found["Secret fededge"]["state"] == "missing"
    assert found["Secret fededge"]["detail"].startswith("has no AWS_ACCESS_KEY_ID: ")


@pytest.mark.parametrize(("phase", "state"), [("Pending", "ok"), ("Lost", "missing")])
def test_a_claim_that_is_not_bound(look: Look, ready: Path, namespace: ApiServer, phase: str, state: str) -> None:
    """Some storage classes bind a claim when its first pod comes."""
    _put(namespace, "PersistentVolumeClaim", "fededge-data", status={"phase": phase})
    _, found = look("--namespace", "my-team")
    assert found["claim fededge-data"]["state"] == state


@pytest.mark.parametrize(
    ("mode", "nodes", "state"),
    [
        ("ReadWriteOnce", {"a": {}, "b": {}}, "warning"),
        ("ReadWriteOnce", {"a": {}}, "ok"),
        ("ReadWriteOnce", {"a": {}, "server": {"taints": [{"key": "x", "effect": "NoSchedule"}]}}, "ok"),
        ("ReadWriteMany", {"a": {}, "b": {}}, "ok"),
        ("ReadWriteOnce", {}, "ok"),
    ],
)
def test_a_claim_that_one_of_several_nodes_can_mount(
    look: Look, ready: Path, namespace: ApiServer, mode: str, nodes: dict[str, Any], state: str
) -> None:
    for name, changed in nodes.items():
        namespace.put(node(name, **changed))
    spec = {"accessModes": [mode]}
    _put(namespace, "PersistentVolumeClaim", "fededge-data", spec=spec, status={"phase": "Bound"})
    code, found = look("--namespace", "my-team")
    assert (code, found["claim fededge-data"]["state"]) == (0, state)
    if state == "warning":
        assert found["claim fededge-data"]["detail"] == (
            "is ReadWriteOnce, and pods can start on 2 nodes: those on a second one wait for it; "
            "make it ReadWriteMany, as docs/install.md says (in my-team)"
        )
        namespace.forbid("list", "nodes")
        assert look("--namespace", "my-team")[1]["claim fededge-data"]["state"] == "ok"


@pytest.fixture
def policy(namespace: ApiServer) -> dict[str, Any]:
    """That of manifests/base for Kubeflow Pipelines, put on the cluster."""
    shipped = yaml.safe_load_all((ROOT / "manifests" / "base" / "network.yaml").read_text())
    (found,) = [one for one in shipped if one["metadata"]["name"] == "fededge-pipelines"]
    namespace.put({**found, "metadata": {**found["metadata"], "namespace": "my-team"}})
    return dict(found)


def test_a_policy_that_names_another_namespace_than_that_of_kubeflow_pipelines(
    look: Look, ready: Path, namespace: ApiServer, policy: dict[str, Any]
) -> None:
    what = "network policy fededge-pipelines"
    code, found = look("--namespace", "my-team")
    assert (code, found[what]["state"]) == (0, "warning")
    assert found[what]["detail"] == (
        "lets tasks reach Kubeflow Pipelines in kubeflow, where there is no Service ml-pipeline: "
        "name its namespace, as docs/install.md says"
    )
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ml-pipeline", "namespace": "kubeflow"}}
    namespace.put({**service, "spec": {"ports": [{"port": 8888}]}})
    assert look("--namespace", "my-team")[1][what]["state"] == "ok"
    namespace.forbid("get", "services")
    assert look("--namespace", "my-team")[1][what]["state"] == "unknown"


def test_a_policy_of_ones_own_that_names_no_namespace(
    look: Look, ready: Path, namespace: ApiServer, policy: dict[str, Any]
) -> None:
    egress = [{"to": [{"namespaceSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}]}, {}]
    metadata = {**policy["metadata"], "namespace": "my-team"}
    namespace.put({**policy, "metadata": metadata, "spec": {**policy["spec"], "egress": egress}})
    code, found = look("--namespace", "my-team")
    assert code == 0
    assert "network policy fededge-pipelines" not in found


def test_the_secret_that_images_are_pulled_with(look: Look, ready: Path, namespace: ApiServer) -> None:
    _put(namespace, "ServiceAccount", "fededge-runner", imagePullSecrets=[{"name": "fededge-registry"}])
    what = "Secret fededge-registry of fededge-runner"
    code, found = look("--namespace", "my-team")
    assert (code, found[what]["state"]) == (SetupError.exit_code, "missing")
    assert "fededge images harbor-setup" in found[what]["detail"]
    _put(namespace, "Secret", "fededge-registry", data={})
    code, found = look("--namespace", "my-team")
    assert (code, found[what]["state"]) == (0, "ok")


def test_a_cluster_that_refuses(look: Look, ready: Path, namespace: ApiServer) -> None:
    namespace.token = "another"
    exit_code, found = look()
    assert exit_code == SetupError.exit_code
    assert found["cluster"]["state"] == "missing"
    assert "refuses the login (401)" in found["cluster"]["detail"]


def test_a_cluster_that_is_gone(look: Look, ready: Path, kubeconfig: Path) -> None:
    exit_code, found = look("--context", "elsewhere")
    assert exit_code == SetupError.exit_code
    assert found["cluster"]["state"] == "missing"
    assert "kubectl cluster-info" in found["cluster"]["detail"]
    assert "\n" not in found["cluster"]["detail"]


def test_a_context_that_there_is_not(look: Look, ready: Path, kubeconfig: Path) -> None:
    exit_code, found = look("--context", "nowhere")
    assert exit_code == SetupError.exit_code
    assert found["cluster"]["detail"] == "no context nowhere in the kubeconfig; there are: elsewhere, tests"


@pytest.mark.parametrize("content", ["", "[", "a: b", "apiVersion: v1\nkind: Config\ncurrent-context: gone\n"])
def test_a_kubeconfig_that_is_broken_is_not_one_that_is_absent(
    look: Look, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "kubeconfig").write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    code, found = look()
    assert (code, found["cluster"]["state"]) == (0, "unused")
    assert found["cluster"]["detail"].startswith("the kubeconfig cannot be used (")


def test_a_cluster_is_missing_if_a_namespace_was_typed(look: Look, ready: Path) -> None:
    code, found = look("--namespace", "my-team")
    assert code == SetupError.exit_code
    assert found["cluster"]["state"] == "missing"
    assert found["cluster"]["detail"].startswith("no cluster: there is no kubeconfig")
