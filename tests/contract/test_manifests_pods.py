"""The pods of the manifests pass pod security `restricted`, and checkov finds nothing that is not explained."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from fededge.cluster.environment import DATA_PATH, UID
from tests.contract.builds import BUILDS, TOGETHER, build
from tests.contract.compiled import ROOT
from tests.contract.pod_security import pod_specs, violations
from tests.contract.test_manifests import KUBERNETES
from tests.docs import pages

CHECKOV = "checkov==3.3.30"  # its hundred dependencies go with no environment of ours
WRONG = "wrong.yaml"

Pod = dict[str, Any]
Change = Callable[[Pod], Any]


@pytest.mark.parametrize("name", BUILDS)
def test_pods_pass_the_restricted_profile(name: str) -> None:
    for document in build(name):
        for pod in pod_specs(document):
            assert violations(pod) == [], document["metadata"]["name"]


@pytest.mark.parametrize("name", BUILDS)
def test_pods_are_in_a_mesh_only_with_its_component(name: str) -> None:
    """A namespace that puts every pod into the mesh would put them there too, where the policies cut them off."""
    for document in build(name):
        if [*pod_specs(document)] and "istio" not in name and name not in TOGETHER:
            assert document["spec"]["template"]["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
            assert "sidecar.istio.io/inject" not in document["spec"].get("selector", {}).get("matchLabels", {})


def test_the_pod_of_the_documentation_that_loads_data_has_the_claim_and_passes_too() -> None:
    blocks = (block.text for block in pages.blocks(ROOT / "docs" / "install.md", "yaml"))
    (document,) = [found for found in map(yaml.safe_load, blocks) if found["kind"] == "Pod"]
    kubernetes_validate.validate(document, KUBERNETES[-1], strict=True)
    pod = document["spec"]
    assert violations(pod) == []
    claims = {one["metadata"]["name"] for one in build("base") if one["kind"] == "PersistentVolumeClaim"}
    assert {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]} == claims
    assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == DATA_PATH
    assert pod["securityContext"]["runAsUser"] == UID


@pytest.fixture
def server() -> Pod:
    pods = [pod for document in build("components/minio") for pod in pod_specs(document)]
    return copy.deepcopy(next(pod for pod in pods if pod["containers"][0]["name"] == "minio"))


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda pod: pod.update(hostNetwork=True), "hostNetwork"),
        (lambda pod: pod["volumes"].append({"name": "disk", "hostPath": {"path": "/"}}), "volume disk"),
        (lambda pod: pod["securityContext"].update(runAsUser=0), "pod: runAsUser is root"),
        (lambda pod: pod["securityContext"].pop("runAsNonRoot"), "minio: runAsNonRoot is not true"),
        (lambda pod: pod["securityContext"].pop("seccompProfile"), "minio: seccompProfile is not RuntimeDefault"),
        (lambda pod: pod["securityContext"].update(sysctls=[{"name": "kernel.msgmax"}]), "sysctl kernel.msgmax"),
        (lambda pod: _of(pod).update(privileged=True), "minio: privileged"),
        (lambda pod: _of(pod).pop("allowPrivilegeEscalation"), "minio: allowPrivilegeEscalation is not false"),
        (lambda pod: _of(pod).pop("capabilities"), "minio: capabilities are not dropped"),
        (lambda pod: _of(pod)["capabilities"].update(add=["NET_ADMIN"]), "minio: capabilities are added"),
        (lambda pod: _of(pod).update(procMount="Unmasked"), "minio: procMount"),
        (lambda pod: _of(pod).update(seLinuxOptions={"type": "spc_t"}), "minio: seLinuxOptions"),
        (lambda pod: _of(pod).update(appArmorProfile={"type": "Unconfined"}), "minio: appArmorProfile"),
        (lambda pod: pod["containers"][0]["ports"][0].update(hostPort=9000), "minio: hostPort"),
        (
            lambda pod: pod["containers"][0]["livenessProbe"]["httpGet"].update(host="a"),
            "minio: a probe of another host",
        ),
    ],
)  # fmt: skip
def test_a_pod_that_does_not_pass_is_noticed(server: Pod, change: Change, wrong: str) -> None:
    assert violations(server) == []
    change(server)
    assert wrong in violations(server)


def _of(pod: Pod) -> dict[str, Any]:
    context: dict[str, Any] = pod["containers"][0]["securityContext"]
    return context


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What checkov says of all builds, and of one pod that is wrong on purpose.

    FEDEDGE_REQUIRE_CHECKOV=1 makes it an error that checkov cannot be had.
    """
    folder = tmp_path_factory.mktemp("manifests")
    different = {json.dumps(_in_a_namespace(document)) for name in BUILDS for document in build(name)}
    (folder / "all.yaml").write_text(yaml.safe_dump_all(json.loads(document) for document in sorted(different)))
    (folder / WRONG).write_text(yaml.safe_dump(_privileged()))
    return _checkov(folder)


def _in_a_namespace(document: Pod) -> Pod:
    """Do what `kubectl apply --namespace` does; to checkov, no namespace is the one called default."""
    return {**document, "metadata": {"namespace": "my-team", **document["metadata"]}}


def _privileged() -> Pod:
    spec = next(pod for document in build("components/minio") for pod in pod_specs(document))
    spec = copy.deepcopy(spec)
    _of(spec)["privileged"] = True
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "wrong", "namespace": "my-team"}, "spec": spec}
    kubernetes_validate.validate(pod, "1.37", strict=True)
    return pod


def _checkov(folder: Path) -> dict[str, Any]:
    uv = [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--python", sys.executable]
    options = ["--directory", str(folder), "--framework", "kubernetes", "--output", "json", "--skip-download"]
    environment = {**os.environ, "LOG_LEVEL": "ERROR"}
    done = subprocess.run(
        [*uv, "--from", CHECKOV, "checkov", *options], capture_output=True, text=True, env=environment
    )
    if not done.stdout.startswith("{"):
        lacking = f"checkov cannot be run: {(done.stderr.strip() or 'it says nothing').splitlines()[-1]}"
        if os.environ.get("FEDEDGE_REQUIRE_CHECKOV") == "1":
            pytest.fail(f"FEDEDGE_REQUIRE_CHECKOV=1, but {lacking}")
        pytest.skip(lacking)
    found: dict[str, Any] = json.loads(done.stdout)["results"]
    return found


def test_checkov_finds_nothing(report: dict[str, Any]) -> None:
    failed = {f"{check['check_id']} {check['resource']}" for check in report["failed_checks"] if not _is_wrong(check)}
    assert failed == set()
    assert len(report["passed_checks"]) > 400
    assert report["parsing_errors"] == []


def test_checkov_notices_what_is_wrong(report: dict[str, Any]) -> None:
    assert "CKV_K8S_16" in {check["check_id"] for check in report["failed_checks"] if _is_wrong(check)}


def _is_wrong(check: dict[str, Any]) -> bool:
    return str(check["file_path"]).endswith(WRONG)


def test_each_check_that_is_skipped_has_its_reason_in_place(report: dict[str, Any]) -> None:
    assert report["skipped_checks"]
    for check in report["skipped_checks"]:
        assert len(check["check_result"]["suppress_comment"]) > 20, check["check_id"]
