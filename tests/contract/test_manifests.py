"""The manifests hold what the compiled pipelines refer to, by the same names and keys, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.contract.compiled import FOLDER, PIPELINES, ROOT, Compiled, parse

BASE = ROOT / "manifests" / "base"
KUBERNETES = ("1.30", "1.32", "1.36")  # versions whose schemas the manifests keep to

Document = dict[str, Any]
Keys = dict[tuple[str, str], set[str]]  # of each object, by kind and name


def _resources() -> list[Document]:
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    return [
        document for name in kustomization["resources"] for document in yaml.safe_load_all((BASE / name).read_text())
    ]


def _provided() -> Keys:
    return {
        (document["kind"], document["metadata"]["name"]): {*document.get("data", {}), *document.get("stringData", {})}
        for document in _resources()
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
        claim = definition.get("inputDefinitions", {}).get("parameters", {}).get("data_claim", {})
        if "defaultValue" in claim:
            yield "PersistentVolumeClaim", claim["defaultValue"], set()


def _needed() -> Keys:
    needed: Keys = {}
    for name in PIPELINES:
        for kind, referred, keys in _referred_to(parse((FOLDER / f"{name}.yaml").read_text())):
            needed.setdefault((kind, referred), set()).update(keys)
    return needed


def test_each_object_that_a_pipeline_refers_to_is_there_and_no_other() -> None:
    assert _provided().keys() == _needed().keys()


def test_the_keys_are_those_that_the_pipelines_take() -> None:
    provided = _provided()
    for name, keys in _needed().items():
        if keys:
            assert provided[name] == keys, name


def test_the_certificate_is_where_the_comment_says() -> None:
    mounts = {
        source["mountPath"]
        for config in parse((FOLDER / "fl_round.yaml").read_text()).configs.values()
        for source in config["secretAsVolume"]
    }
    (key,) = next(document for document in _resources() if document["metadata"]["name"] == "fededge-ca")["stringData"]
    assert {f"{mount}/{key}" for mount in mounts} == {"/etc/fededge/ca/ca.crt"}
    assert "/etc/fededge/ca/ca.crt" in (BASE / "store.yaml").read_text()


def test_no_credential_is_a_real_one() -> None:
    for document in _resources():
        for name, value in document.get("stringData", {}).items():
            assert value == "" or value.startswith("REPLACE-"), name


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_objects(version: str) -> None:
    for document in _resources():
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_refuse_what_is_wrong() -> None:
    document = next(document for document in _resources() if document["kind"] == "ConfigMap")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**document, "dta": {}}, KUBERNETES[0], strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_builds_all_of_it() -> None:
    command = ["kubectl", "kustomize", str(BASE)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def names(documents: list[Document]) -> list[tuple[str, str]]:
        return sorted((document["kind"], document["metadata"]["name"]) for document in documents)

    assert names(list(yaml.safe_load_all(built))) == names(_resources())
