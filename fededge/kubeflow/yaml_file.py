"""Reads a compiled pipeline's YAML as far as FedEdge needs it, and puts other images into it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from fededge.errors import InputError

# The steps that load the workload, and so run on the user's own image where there is one.
CLIENT_COMPONENTS = (
    "deploy-model",
    "distribute-model",
    "train-clients",
    "train-in-jobs",
    "evaluate-model",
    "plan-comparison",
    "train-arm",
    "compare-arms",
)

_SERVER_IMAGES = ("serving_image", "serving_tensorflow_image")  # inputs

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, and most have it
_ROOT = "\nroot:\n"
_EXECUTOR = re.compile(r"    exec-([a-z-]+?)(-\d+)?:\n")
_IMAGE = re.compile(r"        image: (\S+)\n")
_SERVER_IMAGE = re.compile(rf"^      ({'|'.join(_SERVER_IMAGES)}):\n        defaultValue: (\S+)$", re.MULTILINE)
_LABELS = re.compile(r"(          podMetadata:\n)(            labels:\n(?:              \S.*\n)+)")


def read_pipeline(path: Path) -> dict[str, Any]:
    """Parse a compiled pipeline and make sure that the kfp at hand runs it.

    Raises:
      InputError: it is no compiled pipeline, or of another kfp.
    """
    try:
        document = next(iter(yaml.load_all(path.read_text(encoding="utf-8"), _LOADER)), None)
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


def server_images(document: dict[str, Any]) -> list[str]:
    """List the images that a pipeline's servers run on: they are inputs, since no task is one."""
    inputs = document["root"].get("inputDefinitions", {}).get("parameters", {})
    return sorted(inputs[name]["defaultValue"] for name in _SERVER_IMAGES if name in inputs)


def count_rounds(document: dict[str, Any]) -> int:
    """Count the rounds of a pipeline: each makes one version."""
    return sum(name.startswith("exec-version-model") for name in document["deploymentSpec"]["executors"])


def replace_images(text: str, choose: Callable[[str, str], str]) -> str:
    """Put other images into a pipeline, those of its servers too; every other byte stays.

    Args:
      text: the YAML.
      choose: given a component, as `train-clients`, and its image, returns the image to use; a server is no component,
        and has an empty name.
    """
    component, lines = "", []
    for line in text.splitlines(keepends=True):
        if match := _EXECUTOR.fullmatch(line):
            component = match[1]
        if match := _IMAGE.fullmatch(line):
            line = line.replace(match[1], choose(component, match[1]))
        lines.append(line)
    servers = {name: (image, choose("", image)) for name, image in _SERVER_IMAGE.findall(text)}
    return replace_defaults("".join(lines), {name: new for name, (old, new) in servers.items() if new != old})


def replace_defaults(text: str, values: Mapping[str, str | bool | int | float]) -> str:
    """Give inputs of a pipeline other defaults; every other byte stays.

    Args:
      text: the YAML.
      values: by input.

    Raises:
      InputError: the pipeline has no such input.
    """
    head, root, body = text.partition(_ROOT)
    for name, value in values.items():
        written = json.dumps(float(value) if isinstance(value, int) and not isinstance(value, bool) else value)
        begin = re.search(rf"\n      {name}:\n        defaultValue: ", body)
        if not begin:
            raise InputError(f"the pipeline has no input {name}")
        body = f"{body[: begin.end()]}{written}{body[body.index(chr(10), begin.end()) :]}"
        shown = re.search(rf"\n#    {name}: \w+ \[Default: ", head)
        if shown:
            head = f"{head[: shown.end()]}{value!r}{head[head.index(']' + chr(10), shown.end()) :]}"
    return f"{head}{root}{body}"


def join_mesh(text: str) -> str:
    """Have every pod of a pipeline get an Istio sidecar that ends with its task; every other byte stays.

    Istio goes by the label before it goes by the annotation with which Kubeflow keeps sidecars from all tasks.
    """
    native = "            annotations:\n              sidecar.istio.io/nativeSidecar: 'true'\n"
    return _LABELS.sub(rf"\1{native}\2              sidecar.istio.io/inject: 'true'\n", text)
