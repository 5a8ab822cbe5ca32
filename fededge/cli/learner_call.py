"""Has a program of a learner's run in the environment of its image; this one has no framework."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fededge.cli.output import say
from fededge.environments import environment, link_library, make
from fededge.errors import FedEdgeError, InputError, RunError
from fededge.store.trainings import TrainingStore

WEIGHTS = "weights.safetensors"
_IMAGES = {"torch": "torch", "scikit-learn": "sklearn", "tensorflow": "tensorflow"}  # by the library that trained


def image_of_training(trainings: TrainingStore) -> str:
    """Name the image that a training was begun on, as in the folder `images/`."""
    oldest = list(trainings.lineage("current"))[-1]
    return next((image for library, image in _IMAGES.items() if library in oldest.runtime.libraries), "tensorflow")


def call_learner(
    image: str,
    packages: Sequence[str],
    module: str,
    arguments: Sequence[str],
    weights: bytes,
    failed: str,
    given: str = "",
) -> str:
    """Run `python -m module` with the model beside it, and return what it prints.

    Args:
      image: as in the folder `images/`.
      packages: of the user's own.
      module: of ours.
      arguments: of it; `WEIGHTS` stands for the file with the weights.
      weights: the model, safetensors.
      failed: what could not be done, for the message.
      given: to its standard input.

    Raises:
      FedEdgeError: the program failed; its last line says why.
    """
    wanted = environment(image, packages)
    make(wanted, say)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / WEIGHTS).write_bytes(weights)
        named = [str(folder / WEIGHTS) if argument == WEIGHTS else argument for argument in arguments]
        variables = wanted.variables(link_library(folder))
        if "FEDEDGE_DATA" in os.environ:
            variables["FEDEDGE_DATA"] = os.environ["FEDEDGE_DATA"]
        command = [str(wanted.python), "-m", module, *named]
        done = subprocess.run(command, env=variables, input=given, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        raise _error(done.returncode, done.stderr, failed)
    return done.stdout


def _error(code: int, output: str, failed: str) -> FedEdgeError:
    reason = (output.strip().splitlines() or [f"exit code {code}"])[-1]
    kind = InputError if code == InputError.exit_code else RunError
    return kind(f"{failed}: {reason}")
