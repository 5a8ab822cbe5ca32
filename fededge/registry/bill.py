"""The bill of materials of an image of ours: its lock, and what the image or its environment tells beside."""

from __future__ import annotations

from pathlib import Path

from fededge.environments import environment
from fededge.registry.contents import look_into, read_lock, run_in_environment
from fededge.registry.engine import Engine
from fededge.registry.reference import Place
from fededge.registry.sbom import Subject, write_bill
from fededge.shipped import shipped_file


def image_bill(name: str, image: str, engine: Engine, place: Place | None = None, digest: str = "") -> str:
    """Write the bill of an image on the engine.

    Args:
      name: as in the folder `images/`, for its lock.
      image: as the engine calls it.
      engine: has it.
      place: where it was pushed to; None for nowhere.
      digest: what it is called there.

    Raises:
      SetupError: there is no such image, or it does not tell what is in it.
    """
    contents = look_into(lambda *command: engine.run(image, *command), image)
    where = place.image(image).rpartition(":")[0] if place else ""
    return write_bill(Subject(image, where, digest), read_lock(_lock(name)), contents, ())


def lock_bill(name: str, image: str) -> str:
    """Write the bill of an image's lock: without Debian, and with licences if its environment is on this machine."""
    made = environment(name)
    known = look_into(run_in_environment(made.python), name).packages if made.ready else ()
    return write_bill(Subject(image), read_lock(_lock(name)), None, known)


def _lock(name: str) -> Path:
    return shipped_file(f"images/{name}/requirements.lock")
