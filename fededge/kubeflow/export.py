"""Writes a shipped pipeline for another registry, client image, number of rounds, or with digests."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints, TypeAdapter, ValidationError

from fededge.errors import InputError
from fededge.kubeflow.rounds import compile_training
from fededge.kubeflow.yaml_file import CLIENT_COMPONENTS, read_pipeline, replace_images
from fededge.shipped import compiled_pipeline

_DIGESTS = TypeAdapter(dict[str, Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]])
_IMAGE = re.compile(r"[a-zA-Z0-9](?!.*//)[\w.:/@-]*")
_TAG = re.compile(r":[^:/]*$")


@dataclass(frozen=True)
class Images:
    """Which images a pipeline's tasks run on.

    Attributes:
      registry: put before the names of our images, as `harbor.example.org/fededge`; empty for none.
      client: for the tasks that load the workload, whole, with its registry; empty for ours.
      digests: by image `name:tag`, as in the YAML; an image that has one is named by it.
    """

    registry: str = ""
    client: str = ""
    digests: dict[str, str] = field(default_factory=dict)

    def choose(self, component: str, image: str) -> str:
        if self.client and component in CLIENT_COMPONENTS:
            return self._pinned(self.client, self.client)
        return self._pinned(f"{self.registry.rstrip('/')}/{image}" if self.registry else image, image)

    def _pinned(self, image: str, name: str) -> str:
        digest = self.digests.get(name)
        return f"{_TAG.sub('', image)}@{digest}" if digest else image


def read_digests(path: Path) -> dict[str, str]:
    """Read `{"fededge-tensorflow:0.1.0": "sha256:…"}`.

    Raises:
      InputError: the file is not of this form.
    """
    try:
        digests = _DIGESTS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f'{path} is not of the form {{"name:tag": "sha256:…"}}') from error
    return digests


def export_pipeline(name: str, images: Images, rounds: int | None, to: Path) -> None:
    """Write a pipeline's YAML.

    Args:
      name: `fl_round` or `fl_training`.
      images: what to run on.
      rounds: of `fl_training`; None for as many as shipped.
      to: the file.

    Raises:
      InputError: there is no such pipeline, `rounds` is out of range or not for this pipeline, or a digest is for
        an image that the pipeline does not use.
    """
    for image in (images.registry, images.client):
        if image and not _IMAGE.fullmatch(image):
            raise InputError(f"{image!r} is no name of an image or a registry, as harbor.example.org/fededge")
    text = _text(name, rounds)
    used: set[str] = set()

    def choose(component: str, image: str) -> str:
        used.update((image, images.client))
        return images.choose(component, image)

    exported = replace_images(text, choose)
    if unknown := images.digests.keys() - used:
        raise InputError(f"no image {', '.join(sorted(unknown))} in {name}; it uses {', '.join(sorted(used - {''}))}")
    try:
        to.write_text(exported, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{to} cannot be written: {error.strerror}") from error


def _text(name: str, rounds: int | None) -> str:
    if name not in ("fl_round", "fl_training"):
        raise InputError(f"no pipeline {name!r}: there are fl_round and fl_training")
    if rounds is None:
        path = compiled_pipeline(name)
        read_pipeline(path)
        return path.read_text(encoding="utf-8")
    if name != "fl_training":
        raise InputError("--rounds goes with fl_training")
    read_pipeline(compiled_pipeline("fl_round"))
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder, "fl_training.yaml")
        compile_training(compiled_pipeline("fl_round"), rounds, to)
        return to.read_text(encoding="utf-8")
