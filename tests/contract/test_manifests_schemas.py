"""What the manifests say to Istio, KubeEdge and the others agrees with what those publish, down to each field."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract.builds import BUILDS, build, kustomize, write
from tests.contract.schemas import problems
from tests.contract.test_manifests import is_core

Document = dict[str, Any]
Steps = tuple[str | int, ...]


@pytest.mark.parametrize("name", [name for name in BUILDS if name.startswith("components/")])
def test_other_systems_take_the_objects(contracts: Path, name: str) -> None:
    for document in build(name):
        if not is_core(document):
            assert problems(contracts, document) == [], document["metadata"]["name"]


def _object(kind: str) -> Document:
    documents = (*build("components/istio"), *build("components/istio/external-store"), *build("components/kubeedge"))
    return copy.deepcopy(next(document for document in documents if document["kind"] == kind))


@pytest.mark.parametrize(
    ("kind", "at", "wrong"),
    [
        ("PeerAuthentication", ("spec", "mTLS"), {"mode": "STRICT"}),
        ("PeerAuthentication", ("spec", "mtls", "mode"), "strict"),
        ("PeerAuthentication", ("spec", "mtls", "modes"), "STRICT"),
        ("AuthorizationPolicy", ("spec", "rules", 0, "from", 0, "source", "serviceAccount"), ["fededge-runner"]),
        ("AuthorizationPolicy", ("spec", "action"), "REFUSE"),
        ("Sidecar", ("spec", "outboundTrafficPolicy", "mode"), "NONE"),
        ("Sidecar", ("spec", "egress", 0, "host"), ["./*"]),
        ("ServiceEntry", ("spec", "ports", 0, "number"), "443"),
        ("NodeGroup", ("spec", "matchLabel"), {}),
        ("DeviceModel", ("spec", "properties", 0, "type"), "TEXT"),
        ("Device", ("spec", "node"), "edge-1"),
        ("Device", ("spec", "properties", 0, "visitors", "protocol"), "fededge"),
    ],
)
def test_a_misspelt_field_or_value_is_noticed(contracts: Path, kind: str, at: Steps, wrong: Any) -> None:
    document = _object(kind)
    assert problems(contracts, document) == []
    place: Any = document
    for step in at[:-1]:
        place = place[step]
    place[at[-1]] = wrong
    assert problems(contracts, document)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "PeerAuthentication",
            {"spec": {"portLevelMtls": {"9000": {"mode": "STRICT"}}}},
            "portLevelMtls requires selector",
        ),
        (
            "ServiceEntry",
            {"spec": {"hosts": ["10.0.0.1"], "resolution": "NONE", "addresses": ["10.0.0.1"], "endpoints": [{}],
                      "ports": [{"number": 443, "name": "tls"}]}},
            "NONE mode cannot set endpoints",
        ),
        (
            "AuthorizationPolicy",
            {"spec": {"rules": [{"from": [{"source": {"serviceAccounts": ["a"], "namespaces": ["b"]}}]}]}},
            "Cannot set serviceAccounts with namespaces",
        ),
    ],
)  # fmt: skip
def test_rules_beyond_types_are_run(contracts: Path, kind: str, change: Document, message: str) -> None:
    """Only the schema's own rules, in CEL, refuse these."""
    found = problems(contracts, {**_object(kind), **change})
    assert any(message in problem for problem in found), found


def test_a_kind_that_nobody_publishes_is_noticed(contracts: Path) -> None:
    with pytest.raises(LookupError, match=r"no schema of security\.istio\.io/v2 PeerAuthentication"):
        problems(contracts, {**_object("PeerAuthentication"), "apiVersion": "security.istio.io/v2"})


def test_servers_get_sidecars_that_end_with_them() -> None:
    """A sidecar that is a plain container would keep the Job of the bucket alive for ever."""
    made = [document for document in build("the mesh") if document["kind"] in ("Deployment", "Job")]
    assert {document["metadata"]["name"] for document in made} == {"fededge-minio", "fededge-bucket"}
    for document in made:
        metadata = document["spec"]["template"]["metadata"]
        assert metadata["labels"]["sidecar.istio.io/inject"] == "true"
        assert metadata["annotations"]["sidecar.istio.io/nativeSidecar"] == "true"


@pytest.mark.parametrize("rest", ["", "/", ":9443", ":9443/"])
def test_the_mesh_knows_the_host_of_the_store(tmp_path: Path, rest: str) -> None:
    endpoint = {"op": "replace", "path": "/data/AWS_ENDPOINT_URL", "value": f"https://s3.example.com{rest}"}
    patch = {"target": {"kind": "ConfigMap", "name": "fededge"}, "patch": json.dumps([endpoint])}
    (tmp_path / "settings").mkdir()
    write(tmp_path / "settings", json.dumps({"resources": ["../../base"], "patches": [patch]}))
    component = "../../components/istio/external-store"
    documents = kustomize(write(tmp_path, json.dumps({"resources": ["settings"], "components": [component]})))
    (entry,) = [document for document in documents if document["kind"] == "ServiceEntry"]
    assert entry["spec"]["hosts"] == ["s3.example.com"]


def test_only_the_two_service_accounts_get_through_to_the_store() -> None:
    """By a DENY: an ALLOW would only be added to the one that Kubeflow has for all of a profile."""
    documents = build("the mesh")
    (policy,) = [document for document in documents if document["kind"] == "AuthorizationPolicy"]
    assert policy["spec"]["action"] == "DENY"
    ((source,),) = [rule["from"] for rule in policy["spec"]["rules"]]
    assert source == {"source": {"notServiceAccounts": ["fededge-runner", "fededge-client"]}}
    (server,) = [document for document in documents if document["kind"] == "Deployment"]
    labels = server["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_a_claim_of_a_device_brings_the_pod_to_it() -> None:
    documents = build("components/kubeedge")
    volumes = {
        document["metadata"]["name"]: document for document in documents if document["kind"] == "PersistentVolume"
    }
    nodes = {
        document["metadata"]["name"]: document["spec"]["nodeName"]
        for document in documents
        if document["kind"] == "Device"
    }
    assert len(volumes) == 2
    for name, volume in volumes.items():
        (term,) = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        (expression,) = term["matchExpressions"]
        assert expression == {"key": "kubernetes.io/hostname", "operator": "In", "values": [nodes[name]]}
        (claim,) = [
            d for d in documents if d["kind"] == "PersistentVolumeClaim" and d["spec"].get("volumeName") == name
        ]
        assert claim["spec"]["storageClassName"] == volume["spec"]["storageClassName"]
