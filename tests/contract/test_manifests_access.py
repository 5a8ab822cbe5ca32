"""Who may do what: each right that FedEdge uses is granted, no other is, and network policies touch no one else."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.contract.builds import BUILDS, MANIFESTS, build
from tests.contract.compiled import FOLDER, PIPELINES, ROOT, parse
from tests.contract.pod_security import pod_specs
from tests.docs import pages

Right = tuple[str, str, str]  # verb, API group, resource

# What a run's tasks ask Kubernetes for, and who asks.
KUBEFLOW: dict[Right, str] = {
    ("create", "argoproj.io", "workflowtaskresults"): "Argo v4.0.5, docs/workflow-rbac.md",
    ("patch", "argoproj.io", "workflowtaskresults"): "Argo v4.0.5, docs/workflow-rbac.md",
    ("get", "", "configmaps"): "KFP 2.17.0, backend/src/v2/config/env.go: kfp-launcher",
    ("get", "", "secrets"): "KFP 2.17.0, backend/src/v2/objectstore/object_store.go: mlpipeline-minio-artifact",
    ("get", "", "pods"): "KFP 2.17.0, backend/src/v2/component/launcher_v2.go: its own pod",
}
FEDEDGE: dict[Right, str] = {
    ("get", "", "configmaps"): "devices in a ConfigMap",
    ("get", "", "pods"): "the launcher's own pod, whose label names the run",
    ("list", "", "pods"): "those of a Job",
    ("watch", "", "pods"): "those of a Job",
    ("get", "argoproj.io", "workflows"): "the run, owner of its Jobs",
    ("create", "batch", "jobs"): "the fan-out",
    ("get", "batch", "jobs"): "the fan-out, adopted after a restart",
    ("list", "batch", "jobs"): "the fan-out, before it is watched",
    ("watch", "batch", "jobs"): "the fan-out",
    ("delete", "batch", "jobs"): "the fan-out, where a round is given up",
    ("list", "", "events"): "why a Job has no pods",
    ("watch", "", "events"): "why a Job has no pods",
}
CLUSTER_WIDE: dict[Right, str] = {
    ("list", "", "nodes"): "devices",
    ("list", "", "pods"): "what is left of them",
}
METHOD = re.compile(
    r"(?P<verb>create|read|get|list|patch|replace|delete)_(namespaced_|cluster_)?"
    r"(?P<what>job|pod|event|node|config_map|secret|custom_object|persistent_volume_claim)(_for_all_namespaces)?"
)
VERBS = {verb: verb for verb in ("create", "get", "list", "patch", "delete")} | {"read": "get", "replace": "update"}
RESOURCES = {"custom_object": "workflows"}  # the only one that fededge.cluster asks for
OURS = {"app.kubernetes.io/part-of": "fededge"}
CLIENT = {**OURS, "app.kubernetes.io/component": "client"}  # of the Jobs that fededge.cluster.jobs makes
# Of a task: KFP 2.17.0 labels all pods of a run, backend/src/v2/compiler/argocompiler/argo.go.
TASK = {**OURS, "app.kubernetes.io/component": "train-clients", "pipelines.kubeflow.org/v2_component": "true"}


def _rights(document: dict[str, Any]) -> Iterator[Right]:
    for rule in document["rules"]:
        for verb in rule["verbs"]:
            for group in rule["apiGroups"]:
                yield from ((verb, group, resource) for resource in rule["resources"])


def _role() -> dict[str, Any]:
    role: dict[str, Any] = next(iter(yaml.safe_load_all((MANIFESTS / "base" / "access.yaml").read_text())))
    return role


def test_the_runner_has_the_rights_of_the_table_and_no_other() -> None:
    rights = list(_rights(_role()))
    assert set(rights) == {*KUBEFLOW, *FEDEDGE}
    assert len(rights) == len(set(rights))


def test_of_secrets_it_may_see_one_that_is_not_fededges() -> None:
    (rule,) = [rule for rule in _role()["rules"] if "secrets" in rule["resources"]]
    assert rule["resourceNames"] == ["mlpipeline-minio-artifact"]


def test_the_rights_on_the_whole_cluster_are_those_of_the_table() -> None:
    (role,) = yaml.safe_load_all((MANIFESTS / "components" / "devices" / "access.yaml").read_text())
    assert set(_rights(role)) == CLUSTER_WIDE.keys()


def test_the_command_of_the_documentation_grants_it_to_a_namespace() -> None:
    build("base")  # skips where there is no kubectl
    page = (ROOT / "docs" / "install.md").read_text()
    (line,) = re.findall(r"^\$ (kubectl create clusterrolebinding .+)$", page, re.MULTILINE)
    command = [*shlex.split(line), "--dry-run=client", "--output=json"]
    binding = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert binding["roleRef"]["name"] == "fededge-devices"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "fededge-runner", "namespace": "my-team"}]


def test_each_rule_says_what_it_is_for() -> None:
    for path in (MANIFESTS / "base" / "access.yaml", MANIFESTS / "components" / "devices" / "access.yaml"):
        verbs = [line for line in path.read_text().splitlines() if line.strip().startswith("verbs:")]
        assert verbs
        assert all("  # " in line for line in verbs)


@pytest.mark.parametrize("name", BUILDS)
def test_nothing_is_granted_wholesale_or_to_others(name: str) -> None:
    for document in build(name):
        if document["kind"] in ("Role", "ClusterRole"):
            assert not any("*" in part for right in _rights(document) for part in right)
        if document["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            assert [subject["name"] for subject in document["subjects"]] == ["fededge-runner"]


def test_clients_may_ask_kubernetes_for_nothing() -> None:
    accounts = {
        document["metadata"]["name"]: document["automountServiceAccountToken"]
        for document in yaml.safe_load_all((MANIFESTS / "base" / "accounts.yaml").read_text())
    }
    assert accounts == {"fededge-runner": True, "fededge-client": False}


def _called() -> Iterator[tuple[str, str, str]]:
    """Yield the verb, the resource and the place of each method of the Kubernetes client that the code names."""
    for path in sorted((ROOT / "fededge" / "cluster").glob("*.py")):
        tree = ast.parse(path.read_text())
        followed = {id(argument) for node in ast.walk(tree) for argument in _followed(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (match := METHOD.fullmatch(node.attr)):
                resource = RESOURCES.get(match["what"], match["what"].replace("_", "") + "s")
                for verb in (VERBS[match["verb"]], *(["watch"] if id(node) in followed else [])):
                    yield verb, resource, f"{path.name}:{node.lineno}"


def _followed(node: ast.AST) -> list[ast.expr]:
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "follow"
    return node.args if is_call and isinstance(node, ast.Call) else []


def test_what_the_code_asks_for_is_granted() -> None:
    granted = {(verb, resource) for verb, _, resource in (*KUBEFLOW, *FEDEDGE, *CLUSTER_WIDE)}
    called = list(_called())
    assert {(verb, resource) for verb, resource, _ in called} >= {
        ("create", "jobs"),
        ("list", "nodes"),
        ("watch", "pods"),
    }
    for verb, resource, place in called:
        assert (verb, resource) in granted, place


@pytest.mark.parametrize("name", BUILDS)
def test_policies_select_fededges_pods_alone(name: str) -> None:
    for document in build(name):
        if (selected := _selected(document)) is not None:
            ours = selected.items() >= OURS.items()
            assert ours or selected["app.kubernetes.io/name"].startswith("fededge-"), document["metadata"]["name"]


def _selected(document: dict[str, Any]) -> dict[str, str] | None:
    """Return the labels of the pods that a policy is about; None if it is no policy."""
    spec = document.get("spec", {})
    if document["kind"] == "NetworkPolicy":
        assert spec["podSelector"].keys() == {"matchLabels"}
        return dict(spec["podSelector"]["matchLabels"])
    if document["kind"] in ("PeerAuthentication", "AuthorizationPolicy", "RequestAuthentication"):
        return dict(spec["selector"]["matchLabels"])
    if document["kind"] == "Sidecar":
        return dict(spec["workloadSelector"]["labels"])
    return None


def _policies(name: str, labels: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the network policies that select a pod, by name."""
    return {
        document["metadata"]["name"]: document["spec"]
        for document in build(name)
        if document["kind"] == "NetworkPolicy" and (_selected(document) or {}).items() <= labels.items()
    }


@pytest.mark.parametrize("name", [name for name in BUILDS if name != "overlays/development"])
def test_every_pod_of_the_manifests_is_under_policies(name: str) -> None:
    for document in build(name):
        if [*pod_specs(document)]:
            policies = _policies(name, document["spec"]["template"]["metadata"]["labels"]).values()
            assert {kind for spec in policies for kind in spec["policyTypes"]} == {"Ingress", "Egress"}


@pytest.mark.parametrize("name", PIPELINES)
def test_every_task_is_under_policies(name: str) -> None:
    for config in parse((FOLDER / f"{name}.yaml").read_text()).configs.values():
        assert config["podMetadata"]["labels"].items() >= OURS.items()


def test_by_default_nothing_gets_in_or_out() -> None:
    policies = _policies("base", TASK)
    assert policies["fededge-deny"] == {"podSelector": {"matchLabels": OURS}, "policyTypes": ["Ingress", "Egress"]}
    assert not any("ingress" in spec for spec in policies.values())


def test_clients_reach_names_and_the_store_alone() -> None:
    """A client Job has no business with the API server or Kubeflow, and no token for either."""
    assert _policies("base", CLIENT).keys() == {"fededge-deny", "fededge-names", "fededge-store"}
    assert _policies("base", TASK).keys() == {*_policies("base", CLIENT), "fededge-kubernetes", "fededge-pipelines"}


def test_tasks_reach_the_api_server_where_it_commonly_listens() -> None:
    """Most clusters, K3s and kubeadm among them, have 443 and 6443; minikube has 8443."""
    (rule,) = _policies("base", TASK)["fededge-kubernetes"]["egress"]
    assert [port["port"] for port in rule["ports"]] == [443, 6443, 8443]


def test_ciliums_policy_of_the_documentation_opens_the_same_for_the_same_pods() -> None:
    blocks = (block.text for block in pages.blocks(ROOT / "docs" / "install.md", "yaml"))
    (policy,) = [found for found in map(yaml.safe_load, blocks) if found["kind"] == "CiliumNetworkPolicy"]
    (ours,) = [document for document in build("base") if document["metadata"]["name"] == policy["metadata"]["name"]]
    assert policy["spec"]["endpointSelector"] == ours["spec"]["podSelector"]
    assert policy["spec"]["egress"] == [{"toEntities": ["kube-apiserver"]}]


@pytest.mark.parametrize("name", ["kserve", "seldon"])
def test_a_server_whose_namespace_gives_it_a_sidecar_reaches_istiod(name: str) -> None:
    server = {**OURS, "app.kubernetes.io/component": "server"}
    (rule,) = _policies(f"components/{name}", server)[f"fededge-{name}"]["egress"]
    assert rule in _policies("components/istio", server)["fededge-istio"]["egress"]


def test_pods_of_others_are_selected_by_no_policy() -> None:
    for name in BUILDS:
        assert _policies(name, {"pipelines.kubeflow.org/v2_component": "true", "pipeline/runid": "1"}) == {}
