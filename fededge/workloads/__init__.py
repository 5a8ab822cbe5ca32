"""What a training is about: the clients and their data, the model, and the metric."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from fededge.errors import SetupError, WorkloadError
from fededge.learners import Examples, Learner
from fededge.records import Digest, digest_of

__all__ = ["BUILT_IN", "Workload", "code_digest", "data_folder", "import_path", "load_workload"]

BUILT_IN = {
    "digits": "fededge.workloads.digits:workload",
    "mnist": "fededge.workloads.mnist:workload",
}


@runtime_checkable
class Workload(Protocol):
    """Everything that FedEdge asks of an application.

    Attributes:
      metric: the name of the metric that people watch; `evaluate` of the learner returns it.
    """

    metric: str

    def population(self, clients: int) -> Sequence[str]:
        """Name all clients.

        Args:
          clients: how many there are. A workload whose clients are real checks it; one that makes them up obeys.

        Raises:
          WorkloadError: there cannot be so many.
        """

    def train_data(self, client: str, clients: int) -> Examples:
        """Read one client's own examples; called only where the client is.

        Args:
          client: one of `population(clients)`.
          clients: as in `population`.

        Raises:
          WorkloadError: they are missing or unreadable.
        """

    def test_data(self) -> Examples:
        """Read the held-out examples that each new model is measured on."""

    def learner(self) -> Learner:
        """Make the learner."""


def load_workload(name: str) -> Workload:
    """Load a workload by its name, or by the import path of the user's own.

    Args:
      name: a key of `BUILT_IN`, or `package.module:attribute`.

    Raises:
      WorkloadError: there is no such workload, or what the path names is none.
    """
    module_name, attribute = import_path(name)
    try:
        workload = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise WorkloadError(
            f"workload {name}: {error}; install its package with --with, or build an image that holds it"
        ) from error
    except AttributeError as error:
        raise WorkloadError(f"workload {name}: {module_name} has no {attribute}") from error
    if not isinstance(workload, Workload):
        raise WorkloadError(f"workload {name}: {attribute} lacks what fededge.workloads.Workload names")
    return workload


def code_digest(name: str) -> Digest:
    """Digest the source of a workload's module; not of what that imports, which the image pins."""
    module = importlib.import_module(import_path(name)[0])
    return digest_of(Path(module.__file__).read_bytes() if module.__file__ else b"")


def import_path(name: str) -> tuple[str, str]:
    """Return the module and the attribute that a workload's name stands for; nothing is imported.

    Raises:
      WorkloadError: it is no name of ours and no import path.
    """
    module, _, attribute = BUILT_IN.get(name, name).partition(":")
    if not module or not attribute:
        raise WorkloadError(
            f"unknown workload {name!r}: choose {', '.join(BUILT_IN)}, or name your own as package.module:attribute"
        )
    return module, attribute


def data_folder() -> Path:
    """Find the folder of the data sets that users download themselves.

    Raises:
      SetupError: `FEDEDGE_DATA` is not set, or names no folder.
    """
    name = os.environ.get("FEDEDGE_DATA")
    if not name:
        raise SetupError("this workload reads its data from FEDEDGE_DATA: set it to the folder that has them")
    if not Path(name).is_dir():
        raise SetupError(f"FEDEDGE_DATA={name} is no folder: set it to the one that has the workload's data")
    return Path(name)
