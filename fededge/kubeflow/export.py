"""Writes a shipped pipeline for another registry, client image, number of rounds, or with digests."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from fededge import __version__
from fededge.errors import InputError
from fededge.kubeflow.rounds import compile_training
from fededge.kubeflow.yaml_file import CLIENT_COMPONENTS, join_mesh, read_pipeline, replace_defaults, replace_images
from fededge.registry.reference import parse_place, parse_reference
from fededge.shipped import compiled_pipeline, image_names

PIPELINES = ("fl_round", "fl_training", "fl_round_job", "fl_training_job", "fl_comparison", "fl_deploy")
_ROUND_OF = {"fl_training": "fl_round", "fl_training_job": "fl_round_job"}

_Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
_DIGESTS = TypeAdapter(Annotated[dict[str, _Digest], Field(min_length=1)])
_TAG = re.compile(r":[^:/]*$")


@dataclass(frozen=True)
class Images:
    """Which images a pipeline's tasks, and the servers that it starts, run on.

    Attributes:
      registry: put before the names of our images, as `harbor.example.org/fededge`; empty for none.
      client: for the tasks that load the workload, whole, with its registry; empty for ours.
      library: which of ours they run on, as in the folder `images/`.
      digests: by image `name:tag`, as in the YAML; if there are any, each image of ours needs one, and is named by it.
    """

    registry: str = ""
    client: str = ""
    library: str = "tensorflow"
    digests: dict[str, str] = field(default_factory=dict)

    def choose(self, component: str, image: str) -> str:
        if self.client and component in CLIENT_COMPONENTS:
            return self._pinned(self.client, self.client)
        if component in CLIENT_COMPONENTS:
            image = image.replace("fededge-tensorflow", f"fededge-{self.library}")
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


def export_pipeline(
    name: str,
    images: Images,
    rounds: int | None,
    to: Path,
    defaults: Mapping[str, str | bool | int | float] | None = None,
    sidecars: bool = False,
) -> None:
    """Write a pipeline's YAML.

    Args:
      name: one of `PIPELINES`.
      images: what to run on.
      rounds: of a training; None for as many as shipped.
      to: the file.
      defaults: of inputs, where they are to be others.
      sidecars: put its pods into an Istio mesh.

    Raises:
      InputError: there is no such pipeline, `rounds` is out of range or not for this pipeline, the registry or an
        image has an impossible name, a digest is for an image that neither the pipeline uses nor this FedEdge has, or
        of one of ours there is none.
    """
    if images.registry:
        parse_place(images.registry)
    if images.client:
        parse_reference(images.client)
    text = replace_defaults(_text(name, rounds), defaults or {})
    used: set[str] = set()
    tagged: set[str] = set()

    def choose(component: str, image: str) -> str:
        used.update((image, images.client, image.replace("tensorflow", images.library)) if component else (image,))
        chosen = images.choose(component, image)
        if chosen != images.client and "@" not in chosen:
            tagged.add(chosen)
        return chosen

    exported = replace_images(text, choose)
    released = {f"fededge-{name}:{__version__}" for name in image_names()}  # a push has digests of all
    if unknown := images.digests.keys() - used - released:
        raise InputError(f"no image {', '.join(sorted(unknown))} in {name}; it uses {', '.join(sorted(used - {''}))}")
    if images.digests and tagged:
        raise InputError(f"the digests have none of {', '.join(sorted(tagged))}: `fededge images push` writes them")
    try:
        to.write_text(join_mesh(exported) if sidecars else exported, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{to} cannot be written: {error.strerror}") from error


def _text(name: str, rounds: int | None) -> str:
    if name not in PIPELINES:
        raise InputError(f"no pipeline {name!r}: there are {', '.join(PIPELINES[:-1])} and {PIPELINES[-1]}")
    if rounds is None:
        path = compiled_pipeline(name)
        read_pipeline(path)
        return path.read_text(encoding="utf-8")
    if name not in _ROUND_OF:
        raise InputError(f"--rounds goes with {' and '.join(_ROUND_OF)}")
    one_round = compiled_pipeline(_ROUND_OF[name])
    read_pipeline(one_round)
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder, "training.yaml")
        compile_training(one_round, rounds, to)
        return to.read_text(encoding="utf-8")
