"""A release: images in a registry, and the digests by which pipelines name them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fededge import __version__
from fededge.errors import InputError, RegistryError
from fededge.registry.connect import Way
from fededge.registry.credentials import find_credentials
from fededge.registry.reference import Place, parse_reference
from fededge.shipped import image_names

if TYPE_CHECKING:
    from fededge.registry.engine import Engine, Watch  # which loads Docker's client


def released_images(names: Sequence[str], tag: str = "") -> dict[str, str]:
    """Return images of ours as pipelines name them, by their names in the folder `images/`.

    Args:
      names: such as `torch`; all where there are none.
      tag: the version of this FedEdge where empty.

    Raises:
      InputError: there is no such image.
    """
    known = image_names()
    if unknown := sorted(set(names) - set(known)):
        raise InputError(f"no image {', '.join(unknown)}: there are {', '.join(known)}")
    return {name: f"fededge-{name}:{tag or __version__}" for name in names or known}


def push(engine: Engine, image: str, place: Place, way: Way, watch: Watch) -> str:
    """Push an image and return the digest that the registry has for it.

    Raises:
      RegistryError: it is refused, or the registry has another image by that name.
    """
    to = parse_reference(place.image(image))
    ours = engine.push(image, to, find_credentials(place.host), watch)
    theirs = way.digest(to)
    if ours and ours != theirs:
        raise RegistryError(f"{to} is {theirs} in the registry and {ours} was pushed: somebody else pushed it as well")
    return theirs


def look_up(images: Sequence[str], place: Place, way: Way) -> dict[str, str]:
    """Ask a registry for the digests of images that are in it."""
    return {image: way.digest(parse_reference(place.image(image))) for image in images}


def write_digests(digests: Mapping[str, str], to: Path) -> None:
    """Write what `fededge pipelines export --digests` reads, whole or not at all.

    Raises:
      InputError: it cannot be written.
    """
    write_text(json.dumps(dict(sorted(digests.items())), indent=1) + "\n", to)


def write_text(text: str, to: Path) -> None:
    """Write a file, whole or not at all.

    Raises:
      InputError: it cannot be written.
    """
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=to.parent, prefix=f".{to.name}-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(partial).chmod(0o644)
        Path(partial).rename(to)
    except OSError as error:
        raise InputError(f"{to} cannot be written: {error.strerror}") from error
