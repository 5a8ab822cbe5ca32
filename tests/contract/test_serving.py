"""What a rollout sends to Seldon and KServe is what they take, and its pods pass pod security `restricted`."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

import fededge
from fededge.rollout.kserve import KServe
from fededge.rollout.platform import Platform
from fededge.rollout.seldon import Seldon
from fededge.rollout.server import Release
from fededge.settings import Deployment, Placement
from tests.contract import compiled
from tests.contract.compiled import FOLDER, ROOT, Compiled, parse
from tests.contract.pod_security import violations
from tests.contract.schemas import problems

Document = dict[str, Any]

IMAGE = f"registry.example.org/fededge-serving-tensorflow:{fededge.__version__}"
V5 = Release("digits", "digits", "v5", "", IMAGE, 1, "500m", "2", "1Gi", "4Gi")
V6 = replace(V5, version="v6", store="s3://models/fededge", replicas=3)
VERBS = {"list": {"list", "watch"}, "create": {"create"}, "replace": {"update"}, "delete": {"delete"}}


def manifest(platform: Platform, name: str) -> Path:
    return ROOT / "manifests" / "components" / type(platform).__name__.lower() / name


@pytest.fixture(params=[Seldon, KServe], ids=["seldon", "kserve"])
def platform(request: pytest.FixtureRequest) -> Platform:
    platform: Platform = request.param()
    return platform


def states(platform: Platform) -> dict[str, Document]:
    """Every form that a service takes."""
    first = platform.alone(V5)
    canary = platform.with_canary(platform.with_canary(first, V6, 0), V6, 25)
    return {
        "first": first,
        "waiting": platform.with_canary(first, V6, 0),
        "canary": canary,
        "promoted": platform.promoted(canary),
        "rolled back": platform.rolled_back(canary),
    }


def pods(service: Document) -> list[Document]:
    spec = service["spec"]
    if "predictors" in spec:
        return [part["spec"] for predictor in spec["predictors"] for part in predictor["componentSpecs"]]
    names = ("serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "containers", "volumes")
    return [{name: spec["predictor"][name] for name in names}]


@pytest.mark.parametrize("state", ["first", "waiting", "canary", "promoted", "rolled back"])
def test_the_platform_takes_every_form_of_a_service(contracts: Path, platform: Platform, state: str) -> None:
    assert problems(contracts, states(platform)[state]) == []


def test_a_misspelt_field_would_be_noticed(contracts: Path) -> None:
    service = KServe().alone(V5)
    service["spec"]["predictor"]["canaryTrafficPercentage"] = 10
    assert problems(contracts, service)


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_kubernetes_takes_the_pods_and_the_restricted_profile_lets_them_in(platform: Platform, version: str) -> None:
    for service in states(platform).values():
        for pod in pods(service):
            document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": pod}
            kubernetes_validate.validate(document, version, strict=True)
            assert violations(pod) == []
            assert pod["serviceAccountName"] == "fededge-client"
            assert pod["automountServiceAccountToken"] is False


def test_every_pod_is_under_the_policies(platform: Platform) -> None:
    (policy,) = yaml.safe_load_all(manifest(platform, "network.yaml").read_text())
    wanted = policy["spec"]["podSelector"]["matchLabels"].items()
    for service in states(platform).values():
        spec = service["spec"]
        for part in spec.get("predictors", [spec.get("predictor")]):
            assert part["labels"].items() >= wanted


def test_the_gateway_reaches_seldons_servers_themselves() -> None:
    """Seldon puts no orchestrator, which would not pass `restricted`, before a predictor with this annotation."""
    (predictor,) = Seldon().alone(V5)["spec"]["predictors"]
    assert predictor["annotations"] == {"seldon.io/no-engine": "true"}
    (container,) = predictor["componentSpecs"][0]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    (policy,) = yaml.safe_load_all(manifest(Seldon(), "network.yaml").read_text())
    gateway, prometheus = ({port["port"] for port in rule["ports"]} for rule in policy["spec"]["ingress"])
    assert gateway == {ports["http"], ports["grpc"]}
    assert prometheus == {ports["metrics"]}


def test_the_example_is_what_is_made(contracts: Path, platform: Platform) -> None:
    (example,) = yaml.safe_load_all(manifest(platform, "example.yaml").read_text())
    assert example == platform.alone(V5)
    assert problems(contracts, example) == []


def test_the_role_grants_what_the_code_asks_for_and_no_more(platform: Platform) -> None:
    role, binding = yaml.safe_load_all(manifest(platform, "access.yaml").read_text())
    tree = ast.parse((ROOT / "fededge" / "rollout" / "service.py").read_text())
    called = {node.attr.partition("_")[0] for node in ast.walk(tree)
              if isinstance(node, ast.Attribute) and node.attr.endswith("_namespaced_custom_object")}  # fmt: skip
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == set().union(*(VERBS[name] for name in called))
    for rule in role["rules"]:
        assert (rule["apiGroups"], rule["resources"]) == ([platform.group], [platform.plural])
    assert [subject["name"] for subject in binding["subjects"]] == ["fededge-runner"]


@pytest.fixture(scope="module")
def pipeline() -> Compiled:
    return parse((FOLDER / "fl_deploy.yaml").read_text())


def test_the_pipeline_keeps_to_the_rules(pipeline: Compiled) -> None:
    for rule in (
        compiled.caching, compiled.artifact_inputs, compiled.conditions, compiled.users, compiled.deadlines,
        compiled.store_settings,
    ):  # fmt: skip
        assert rule(pipeline) == []


def test_an_input_is_the_setting_of_its_name(pipeline: Compiled) -> None:
    inputs = pipeline.spec["root"]["inputDefinitions"]["parameters"]
    resources = {name: field for name, field in Placement.model_fields.items() if name != "data_claim"}
    assert inputs.keys() == {"store", "training", "version", *Deployment.model_fields, *resources}
    for name, field in Deployment.model_fields.items():
        assert (inputs[name]["description"], inputs[name]["defaultValue"]) == (field.description, field.default)
    for name, field in resources.items():
        assert inputs[name]["defaultValue"] == field.default
