"""Builds the manifests with kubectl, as they are installed.

FEDEDGE_REQUIRE_KUBECTL=1 makes it an error that this machine has no kubectl with kustomize.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.compiled import ROOT

Document = dict[str, Any]

MANIFESTS = ROOT / "manifests"
NAMESPACE = "my-team"


def _folders(below: str) -> tuple[str, ...]:
    return tuple(
        sorted(str(path.parent.relative_to(MANIFESTS)) for path in MANIFESTS.glob(f"{below}/kustomization.yaml"))
    )


OVERLAYS = _folders("overlays/*")
COMPONENTS = _folders("components/**")
# Each component alone in the Kubeflow overlay, and what goes together.
TOGETHER = {
    "the mesh": ("components/minio", "components/istio"),
    "all": (
        *("components/minio", "components/istio", "components/kubeedge", "components/devices", "components/quota"),
        *("components/harbor", "components/seldon", "components/kserve", "components/monitoring"),
    ),
}
BUILDS = ("base", *OVERLAYS, *COMPONENTS, *TOGETHER)


@functools.cache
def build(name: str) -> tuple[Document, ...]:
    """Build an overlay, or the Kubeflow overlay with components, as one would in a folder of one's own.

    Args:
      name: one of `BUILDS`.
    """
    if name in OVERLAYS or name == "base":
        return kustomize(MANIFESTS / name)
    with tempfile.TemporaryDirectory() as folder:
        return kustomize(_write(Path(folder), TOGETHER.get(name, (name,))))


def _write(folder: Path, components: tuple[str, ...]) -> Path:
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": ["../../overlays/kubeflow"],
        "components": [f"../../{component}" for component in components],
    }
    return write(folder, yaml.safe_dump(kustomization))


def write(folder: Path, kustomization: str) -> Path:
    """Write a kustomization into a folder; its paths are those of an overlay, beginning with `../../`."""
    manifests = os.path.relpath(MANIFESTS, folder.resolve())
    (folder / "kustomization.yaml").write_text(kustomization.replace("../../", f"{manifests}/"))
    return folder


def kustomize(folder: Path) -> tuple[Document, ...]:
    """Build a folder that has a kustomization."""
    if lacking := _missing():
        if os.environ.get("FEDEDGE_REQUIRE_KUBECTL") == "1":
            pytest.fail(f"FEDEDGE_REQUIRE_KUBECTL=1, but {lacking}")
        pytest.skip(lacking)
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.load_all(done.stdout, yaml.CSafeLoader))


@functools.cache
def _missing() -> str:
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    command = ["kubectl", "version", "--client", "--output", "json"]
    version = json.loads(subprocess.run(command, capture_output=True, text=True).stdout or "{}")
    kustomize = str(version.get("kustomizeVersion", "unknown"))
    return "" if kustomize.startswith("v5.") else f"kubectl has kustomize {kustomize}, not v5"
