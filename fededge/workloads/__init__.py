"""What a training is about: the clients and their data, the model, and the metric."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fededge.datasets.files import data_folder
from fededge.errors import WorkloadError
from fededge.learners import Examples, Learner
from fededge.records import Digest, digest_of

__all__ = [
    "BUILT_IN", "HasClientTests", "HasColdTests", "HasRealClients", "HasReportedClients", "Workload", "code_digest",
    "data_folder", "fine_tuning", "image_of", "import_path", "learner_of", "load_workload", "own_defaults",
    "suited_rounds",
]  # fmt: skip

BUILT_IN = {
    "digits": "fededge.workloads.digits:workload",
    "mnist": "fededge.workloads.mnist:workload",
    "wisdm": "fededge.workloads.wisdm:workload",
    "parkinsons": "fededge.workloads.parkinsons:workload",
    "cmapss": "fededge.workloads.cmapss:workload",
    "buildings": "fededge.workloads.buildings:workload",
    "traffic": "fededge.workloads.traffic:workload",
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
          clients: how many there are; 0 for all. A workload whose clients are real checks it; one that makes them up
            obeys, and has a number of its own for 0.

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


@runtime_checkable
class HasClientTests(Protocol):
    """A workload whose clients have held-out examples of their own."""

    def test_clients(self, clients: int) -> Sequence[str]:
        """Name the clients that have held-out examples; those that are not of the population are cold: never trained.

        Args:
          clients: as in `population`.
        """

    def client_test_data(self, client: str, clients: int) -> Examples:
        """Read one client's held-out examples.

        Args:
          client: one of `test_clients(clients)`.
          clients: as in `population`.
        """


@runtime_checkable
class HasReportedClients(HasClientTests, Protocol):
    """A workload whose reported test is some clients' own.

    Attributes:
      metric: as in `Workload`.
      mean_over_clients: whether the metric is the mean of each client's own; else it is that of all their examples.
    """

    metric: str
    mean_over_clients: bool

    def reported_clients(self) -> Sequence[str]:
        """Name them, each one of `test_clients(0)`."""


@runtime_checkable
class HasRealClients(Protocol):
    """A workload whose clients are data holders with names of their own.

    They come and go, and with them their number, which decides nothing of what a client has. Their data may be nowhere
    but on their devices.
    """

    def is_client(self, name: str) -> bool:
        """Whether a name is that of a client who can train, wherever the data are."""


@runtime_checkable
class HasColdTests(HasClientTests, Protocol):
    """A workload that can test a model on clients who never trained."""

    def everyone(self) -> Sequence[str]:
        """Name all clients in the data."""

    def cold_test_data(self, client: str) -> Examples:
        """Read what a client is tested on who never trained: also what it would otherwise have learned from.

        Args:
          client: one of `everyone()`.
        """


def image_of(workload: Workload) -> str:
    """Name the image that has a workload's library, as in the folder `images/`."""
    return getattr(workload, "image", "tensorflow")


def own_defaults(workload: Workload) -> Mapping[str, Any]:
    """Return the settings of a round that suit a workload, where they are not the general defaults."""
    return getattr(workload, "defaults", {})


def suited_rounds(workload: Workload | None) -> int:
    """Say how many rounds suit a workload; 5 where it does not say, or is not known."""
    return int(getattr(workload, "rounds", 5))


def fine_tuning(workload: Workload) -> Mapping[str, Any]:
    """Return the settings with which a client goes on from a model alone, where they are not those of a round."""
    return getattr(workload, "fine_tuning", {})


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


@cache
def learner_of(name: str) -> Learner:
    """Make a workload's learner, once in a process: what it has built for one step serves the next.

    Args:
      name: as in `load_workload`, with the same errors.
    """
    return load_workload(name).learner()


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
