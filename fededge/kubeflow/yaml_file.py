"""Reads a compiled pipeline's YAML as far as FedEdge needs it, and puts other images into it."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from fededge.errors import InputError

# The steps that load the workload, and so run on the user's own image where there is one.
CLIENT_COMPONENTS = ("distribute-model", "train-clients", "evaluate-model")

_EXECUTOR = re.compile(r"    exec-([a-z-]+?)(-\d+)?:\n")
_IMAGE = re.compile(r"        image: (\S+)\n")


def read_pipeline(path: Path) -> dict[str, Any]:
    """Parse a compiled pipeline and make sure that the kfp at hand runs it.

    Raises:
      InputError: it is no compiled pipeline, or of another kfp.
    """
    try:
        document = next(iter(yaml.safe_load_all(path.read_text(encoding="utf-8"))), None)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict) or not _executors(document):
        raise InputError(f"{path} is no compiled pipeline; `fededge pipelines export` writes one")
    ours = f"kfp-{metadata.version('kfp')}"
    if document.get("sdkVersion") != ours:
        raise InputError(
            f"{path} was compiled with {document.get('sdkVersion')} and this FedEdge has {ours}: write it anew with "
            "`fededge pipelines export`"
        )
    return document


def _executors(document: dict[str, Any]) -> Any:
    deployment = document.get("deploymentSpec")
    return deployment.get("executors") if isinstance(deployment, dict) else None


def images(document: dict[str, Any]) -> list[str]:
    """List the images that a pipeline's tasks run on."""
    executors = document["deploymentSpec"]["executors"].values()
    return sorted({executor["container"]["image"] for executor in executors})


def count_rounds(document: dict[str, Any]) -> int:
    """Count the rounds of a pipeline: each makes one version."""
    return sum(name.startswith("exec-version-model") for name in document["deploymentSpec"]["executors"])


def replace_images(text: str, choose: Callable[[str, str], str]) -> str:
    """Put other images into a pipeline; every other byte stays.

    Args:
      text: the YAML.
      choose: given a component, as `train-clients`, and its image, returns the image to use.
    """
    component, lines = "", []
    for line in text.splitlines(keepends=True):
        if match := _EXECUTOR.fullmatch(line):
            component = match[1]
        if match := _IMAGE.fullmatch(line):
            line = line.replace(match[1], choose(component, match[1]))
        lines.append(line)
    return "".join(lines)
