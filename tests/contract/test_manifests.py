"""The manifests build, hold what the compiled pipelines and they themselves refer to, and Kubernetes takes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from fededge.kubeflow import SERVICE_ACCOUNT
from tests.contract.builds import BUILDS, COMPONENTS, MANIFESTS, OVERLAYS, Document, build, kustomize, write
from tests.contract.compiled import FOLDER, PIPELINES, Compiled, parse
from tests.contract.pod_security import containers, pod_specs

BASE = MANIFESTS / "base"
KUBEFLOW = (MANIFESTS / "overlays" / "kubeflow" / "kustomization.yaml").read_text()
OFFERED = tuple(re.findall(r"^# +- \.\./\.\./(components/\S+)", KUBEFLOW, re.MULTILINE))
KUBERNETES = ("1.31", "1.34", "1.37")  # the oldest and the newest that docs/install.md names, and one between
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
KUBERNETES_GROUPS = re.compile(r"(v1|apps/v1|batch/v1|([a-z]+\.)+k8s\.io/v1)")
INPUTS = {"data_claim": "PersistentVolumeClaim", "client_service_account": "ServiceAccount"}  # which name objects

Keys = dict[tuple[str, str], set[str]]  # of each object, by kind and name


def _base() -> list[Document]:
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    return [
        document for name in kustomization["resources"] for document in yaml.safe_load_all((BASE / name).read_text())
    ]


def _provided(documents: list[Document]) -> Keys:
    return {
        (document["kind"], document["metadata"]["name"]): {*document.get("data", {}), *document.get("stringData", {})}
        for document in documents
    }


def _referred_to(pipeline: Compiled) -> Iterator[tuple[str, str, set[str]]]:
    """Yield the kind, the name and the keys of each object that a pipeline's tasks refer to."""
    for config in pipeline.configs.values():
        for source in config.get("configMapAsEnv", []):
            yield "ConfigMap", source["configMapName"], {key["configMapKey"] for key in source["keyToEnv"]}
        for source in config.get("secretAsEnv", []):
            yield "Secret", source["secretName"], {key["secretKey"] for key in source["keyToEnv"]}
        for source in config.get("secretAsVolume", []):
            yield "Secret", source["secretName"], set()
        for mount in config.get("pvcMount", []):
            if "constant" in mount:
                yield "PersistentVolumeClaim", mount["constant"], set()
    for definition in pipeline.dags.values():
        inputs = definition.get("inputDefinitions", {}).get("parameters", {})
        for name, kind in INPUTS.items():
            if "defaultValue" in inputs.get(name, {}):
                yield kind, inputs[name]["defaultValue"], set()


def _needed() -> Keys:
    needed: Keys = {}
    for name in PIPELINES:
        for kind, referred, keys in _referred_to(parse((FOLDER / f"{name}.yaml").read_text())):
            needed.setdefault((kind, referred), set()).update(keys)
    return needed


def is_core(document: Document) -> bool:
    return KUBERNETES_GROUPS.fullmatch(document["apiVersion"]) is not None


def test_each_object_that_a_pipeline_refers_to_is_there_and_no_other() -> None:
    provided = {name for name in _provided(_base()) if name[0] not in ("Role", "RoleBinding", "NetworkPolicy")}
    assert provided == {*_needed(), ("ServiceAccount", SERVICE_ACCOUNT)}


def test_the_keys_are_those_that_the_pipelines_take() -> None:
    provided = _provided(_base())
    for name, keys in _needed().items():
        if keys:
            assert provided[name] == keys, name


def test_the_certificate_is_where_the_comment_says() -> None:
    mounts = {
        source["mountPath"]
        for config in parse((FOLDER / "fl_round.yaml").read_text()).configs.values()
        for source in config["secretAsVolume"]
    }
    (key,) = next(document for document in _base() if document["metadata"]["name"] == "fededge-ca")["stringData"]
    assert {f"{mount}/{key}" for mount in mounts} == {"/etc/fededge/ca/ca.crt"}
    assert "/etc/fededge/ca/ca.crt" in (BASE / "store.yaml").read_text()


def test_no_credential_is_a_real_one() -> None:
    for document in _base():
        for name, value in document.get("stringData", {}).items():
            assert value == "" or value.startswith("REPLACE-"), name


def test_there_is_an_overlay_for_each_kind_of_cluster() -> None:
    assert {name.removeprefix("overlays/") for name in OVERLAYS} == {"kubeflow", "k3s", "development"}
    assert {name.split("/")[1] for name in COMPONENTS} >= {"devices", "istio", "kubeedge", "minio", "quota"}


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_objects(version: str) -> None:
    different = {json.dumps(document) for name in BUILDS for document in build(name) if is_core(document)}
    for document in sorted(different):
        kubernetes_validate.validate(json.loads(document), version, strict=True)
    assert len(different) > 30


@pytest.mark.parametrize("version", KUBERNETES)
def test_a_misspelt_field_of_kubernetes_is_noticed(version: str) -> None:
    policy = next(document for document in _base() if document["kind"] == "NetworkPolicy")
    misspelt = {**policy, "spec": {**policy["spec"], "podSelectors": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(misspelt, version, strict=True)


@pytest.mark.parametrize("name", BUILDS)
def test_names_and_labels_are_well_formed(name: str) -> None:
    for document in build(name):
        metadata = document["metadata"]
        assert NAME.fullmatch(metadata["name"])
        assert metadata.keys() <= {"name", "namespace", "labels", "annotations"}
        assert all(LABEL.fullmatch(value) for value in metadata.get("labels", {}).values())
        assert all(isinstance(value, str) for value in metadata.get("annotations", {}).values())


@pytest.mark.parametrize("name", BUILDS)
def test_everything_says_whose_it_is(name: str) -> None:
    for document in build(name):
        assert document["metadata"]["labels"]["app.kubernetes.io/part-of"] == "fededge", document["metadata"]["name"]


@pytest.mark.parametrize("name", BUILDS)
def test_nothing_is_there_twice(name: str) -> None:
    found = [(document["kind"], document["metadata"]["name"]) for document in build(name)]
    assert len(found) == len(set(found))


@pytest.mark.parametrize("name", BUILDS)
def test_what_an_object_refers_to_is_there(name: str) -> None:
    documents = list(build(name))
    provided = _provided(documents)
    for document in documents:
        for kind, referred, keys in _references(document):
            assert (kind, referred) in provided, f"{document['kind']} {document['metadata']['name']} lacks it"
            assert keys <= provided[kind, referred]


def _references(document: Document) -> Iterator[tuple[str, str, set[str]]]:
    spec = document.get("spec", {})
    for pod in pod_specs(document):
        yield from _pod_references(pod)
    for subject in document.get("subjects", []):
        yield "ServiceAccount", subject["name"], set()
    if role := document.get("roleRef"):
        yield role["kind"], role["name"], set()
    if document["kind"] == "PersistentVolumeClaim" and "volumeName" in spec:
        yield "PersistentVolume", spec["volumeName"], set()
    if document["kind"] == "PersistentVolume":
        yield "StorageClass", spec["storageClassName"], set()
    if document["kind"] == "Device":
        yield "DeviceModel", spec["deviceModelRef"]["name"], set()
    for rule in spec.get("rules", []) if document["kind"] == "AuthorizationPolicy" else ():
        for source in rule.get("from", []):
            for account in source["source"].get("notServiceAccounts", []):
                yield "ServiceAccount", account, set()


def _pod_references(pod: dict[str, Any]) -> Iterator[tuple[str, str, set[str]]]:
    yield "ServiceAccount", pod["serviceAccountName"], set()
    for volume in pod.get("volumes", []):
        if claim := volume.get("persistentVolumeClaim"):
            yield "PersistentVolumeClaim", claim["claimName"], set()
        if (source := volume.get("configMap")) and not source.get("optional"):
            yield "ConfigMap", source["name"], set()
        if (source := volume.get("secret")) and not source.get("optional"):
            yield "Secret", source["secretName"], set()
    for container in containers(pod):
        for kind, key in (("ConfigMap", "configMap"), ("Secret", "secret")):
            for variable in container.get("env", []):
                if (source := variable.get("valueFrom", {}).get(f"{key}KeyRef")) and not source.get("optional"):
                    yield kind, source["name"], {source["key"]}
            for variable in container.get("envFrom", []):
                if (source := variable.get(f"{key}Ref")) and not source.get("optional"):
                    yield kind, source["name"], set()


@pytest.mark.parametrize("name", BUILDS)
def test_a_service_has_pods_behind_it(name: str) -> None:
    documents = build(name)
    labels = [document["spec"]["template"]["metadata"]["labels"] for document in documents if [*pod_specs(document)]]
    for document in documents:
        if document["kind"] == "Service":
            assert any(document["spec"]["selector"].items() <= found.items() for found in labels)


def test_the_overlay_for_kubeflow_leaves_the_namespace_as_it_is() -> None:
    """It neither makes nor labels one, and nothing in it counts or changes pods that are not FedEdge's."""
    kinds = {document["kind"] for document in build("overlays/kubeflow")}
    assert not kinds & {"Namespace", "ResourceQuota", "LimitRange", "Profile"}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding", "PersistentVolume", "StorageClass"}
    assert all("namespace" not in document["metadata"] for document in build("overlays/kubeflow"))


def test_the_overlay_for_kubeflow_offers_what_is_for_everybodys_namespace() -> None:
    assert {*OFFERED} == {*COMPONENTS} - {"components/devices", "components/quota"}


@pytest.mark.parametrize("name", OFFERED)
def test_each_line_of_the_overlay_for_kubeflow_can_be_uncommented(name: str, tmp_path: Path) -> None:
    documents = kustomize(write(tmp_path, _uncommented(name)))
    expected = {(document["kind"], document["metadata"]["name"]) for document in build(name)}
    assert {(document["kind"], document["metadata"]["name"]) for document in documents} == expected


def test_all_lines_of_the_overlay_for_kubeflow_can_be_uncommented(tmp_path: Path) -> None:
    documents = kustomize(write(tmp_path, _uncommented(*OFFERED)))
    sidecars = {
        document["metadata"]["name"]: document["spec"]["template"]["metadata"]["labels"]["sidecar.istio.io/inject"]
        for document in documents
        if [*pod_specs(document)]
    }
    assert {name for name, joins in sidecars.items() if joins == "false"} == {"fededge-pushgateway"}


def _uncommented(*components: str) -> str:
    lines = "|".join(("components:", *(rf" +- \.\./\.\./{re.escape(name)}\b(?!/)" for name in components)))
    text, count = re.subn(rf"^# ?({lines})", r"\1", KUBEFLOW, flags=re.MULTILINE)
    assert count == len(components) + 1
    return text


@pytest.mark.parametrize(("overlay", "namespace"), [("overlays/k3s", "kubeflow"), ("overlays/development", "fededge")])
def test_the_other_overlays_are_whole(overlay: str, namespace: str) -> None:
    documents = build(overlay)
    (binding,) = [document for document in documents if document["kind"] == "ClusterRoleBinding"]
    assert [subject["namespace"] for subject in binding["subjects"]] == [namespace]
    (settings,) = [document for document in documents if document["kind"] == "ConfigMap"]
    (service,) = [document for document in documents if document["kind"] == "Service"]
    (port,) = service["spec"]["ports"]
    assert settings["data"]["AWS_ENDPOINT_URL"] == f"http://{service['metadata']['name']}:{port['port']}"


def test_on_k3s_the_volumes_are_of_its_own_storage_class() -> None:
    claims = [document for document in build("overlays/k3s") if document["kind"] == "PersistentVolumeClaim"]
    assert {claim["metadata"]["name"] for claim in claims} == {"fededge-data", "fededge-minio"}
    assert {claim["spec"]["storageClassName"] for claim in claims} == {"local-path"}


def test_development_needs_nothing_replaced() -> None:
    assert "REPLACE" not in yaml.safe_dump_all(build("overlays/development"))
