"""A real control plane, in a namespace of its own with what `manifests/` puts into one.

FEDEDGE_TEST_KUBECONFIG names the kubeconfig of an administrator of a cluster without nodes that nobody else uses: an
API server, a controller manager and a scheduler with their etcd. (Other nodes would take pods from the tests' own.)
Without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fededge.cluster.api import Cluster, connect
from tests.contract.compiled import ROOT

Document = dict[str, Any]

MANIFESTS = ROOT / "manifests"
LAUNCHER = "launcher"


@dataclass(frozen=True)
class Live:
    """A namespace on the cluster.

    Attributes:
      admin: logged in as the administrator.
      kubectl: runs the command as the administrator, and returns what it wrote.
      workflow: the run that the launcher's pod is of.
    """

    admin: Cluster
    namespace: str
    kubectl: Callable[..., str]
    workflow: Document

    def jobs(self) -> list[Document]:
        return self.listed("jobs.batch")

    def listed(self, resource: str) -> list[Document]:
        items: list[Document] = json.loads(self.kubectl("get", resource, "--output", "json"))["items"]
        return items

    def until(self, done: Callable[[], Any], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end
            time.sleep(0.2)


@pytest.fixture(scope="session")
def admin_kubeconfig() -> Path:
    if not (named := os.environ.get("FEDEDGE_TEST_KUBECONFIG")):
        pytest.skip("no control plane to test on: FEDEDGE_TEST_KUBECONFIG names none")
    return Path(named)


@pytest.fixture(scope="session")
def kubectl(admin_kubeconfig: Path) -> Callable[..., str]:
    def run(*arguments: str, given: str | None = None, may_fail: bool = False) -> str:
        command = ["kubectl", "--kubeconfig", str(admin_kubeconfig), *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True)
        assert may_fail or done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def definitions(kubectl: Callable[..., str], contracts: Path) -> None:
    """The kinds of Argo, Istio, KubeEdge, Seldon, KServe and the Prometheus Operator, as these publish them."""
    files = [path for path in contracts.glob("**/*.yaml") if "kind: CustomResourceDefinition" in path.read_text()]
    assert files
    for path in files:
        for definition in yaml.load_all(path.read_text(), yaml.CSafeLoader):
            given = json.dumps(_with_types(definition))
            kubectl("apply", "--server-side", "--force-conflicts", "--filename", "-", given=given)
    time.sleep(1)  # kubectl cannot wait for what has no status yet
    kubectl("wait", "crd", "--all", "--for", "condition=Established", "--timeout", "60s")


def _with_types(schema: Any) -> Any:
    """Say of lists of anything that they are: Seldon's lists have items of no type, which its installer patches."""
    if isinstance(schema, list):
        return [_with_types(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "array" and schema.get("items") == {}:
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        return {**schema, "items": anything}
    return {name: _with_types(one) for name, one in schema.items()}


@pytest.fixture
def live(
    kubectl: Callable[..., str],
    definitions: None,
    admin_kubeconfig: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Live]:
    """FedEdge as installed by its Kubeflow overlay; this process is logged in as the launcher of a run."""
    name = f"fededge-{uuid.uuid4().hex[:8]}"
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": restricted}}
    kubectl("create", "--filename", "-", given=json.dumps(namespace))

    def there(*arguments: str, **how: Any) -> str:
        return kubectl("--namespace", name, *arguments, **how)

    try:
        there("apply", "--kustomize", str(MANIFESTS / "overlays/kubeflow"))
        volume(there, name, "fededge-data")
        workflow = json.loads(there("create", "--filename", "-", "--output", "json", given=json.dumps(_WORKFLOW)))
        there("create", "--filename", "-", given=json.dumps(a_launcher(workflow)))
        monkeypatch.setenv("FEDEDGE_POD", LAUNCHER)
        monkeypatch.setenv("KUBECONFIG", str(_log_in(there, admin_kubeconfig, name, tmp_path)))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        with _as(admin_kubeconfig, name) as admin:
            yield Live(admin, name, there, workflow)
    finally:
        kubectl("delete", "namespace", name, "--wait=false")
        kubectl("delete", "persistentvolume", "--all", "--wait=false")


def volume(kubectl: Callable[..., str], namespace: str, claim: str) -> None:
    """Make a volume for a claim; Kubernetes binds the two."""
    spec = {
        "capacity": {"storage": "10Gi"},
        "accessModes": ["ReadWriteOnce"],
        "claimRef": {"namespace": namespace, "name": claim},
        "hostPath": {"path": "/nowhere"},
    }
    document = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{namespace}-{claim}"}}
    kubectl("create", "--filename", "-", given=json.dumps({**document, "spec": spec}))
    kubectl("wait", f"persistentvolumeclaim/{claim}", "--for", "jsonpath={.status.phase}=Bound", "--timeout", "60s")


def _as(kubeconfig: Path, namespace: str) -> Cluster:
    before = os.environ.get("KUBECONFIG")
    os.environ["KUBECONFIG"] = str(kubeconfig)
    try:
        return connect(namespace=namespace)
    finally:
        if before is None:
            del os.environ["KUBECONFIG"]
        else:
            os.environ["KUBECONFIG"] = before


def _log_in(there: Callable[..., str], admin: Path, namespace: str, folder: Path) -> Path:
    """Write a kubeconfig for the service account of runs."""
    config = yaml.safe_load(admin.read_text())
    config["users"] = [{"name": "runner", "user": {"token": there("create", "token", "fededge-runner").strip()}}]
    cluster = config["clusters"][0]["name"]
    context = {"cluster": cluster, "user": "runner", "namespace": namespace}
    config.update({"contexts": [{"name": "runner", "context": context}], "current-context": "runner"})
    path = folder / "runner.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


_WORKFLOW: Document = {
    "apiVersion": "argoproj.io/v1alpha1",
    "kind": "Workflow",
    "metadata": {"generateName": "fl-round-job-"},
    "spec": {"entrypoint": "root"},
}


def a_launcher(workflow: Document) -> Document:
    """Make the pod that Argo would have made for the step."""
    name, uid = workflow["metadata"]["name"], workflow["metadata"]["uid"]
    confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": name, "uid": uid}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": LAUNCHER,
            "labels": {"workflows.argoproj.io/workflow": name},
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "spec": {
            "serviceAccountName": "fededge-runner",
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {"name": "wait", "image": "argoexec", "securityContext": confined},
                {"name": "main", "image": "fededge-tensorflow:tests", "securityContext": confined},
            ],
        },
    }


def moved(document: Any, namespace: str) -> Any:
    """Put what a build has in a namespace, and whom it refers to there, into another one."""
    if isinstance(document, list):
        return [moved(one, namespace) for one in document]
    if not isinstance(document, dict):
        return document
    return {
        key: namespace if key == "namespace" and isinstance(value, str) else moved(value, namespace)
        for key, value in document.items()
    }
