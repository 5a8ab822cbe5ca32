"""What a rollout asks of a platform: pure functions of the object that stands for a service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fededge.rollout.server import Release

Document = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """Who gets the requests.

    Attributes:
      stable: the version that gets all that the canary does not.
      canary: another version beside it; empty for none.
      share: percent of the requests that the canary gets.
    """

    stable: str
    canary: str = ""
    share: int = 0

    def __str__(self) -> str:
        canary = f", {self.canary} gets {self.share} % of the requests" if self.canary else ""
        return f"{self.stable} serves{canary}"


@dataclass(frozen=True)
class State:
    """Whether a version can answer.

    Attributes:
      ready: all its pods are.
      detail: why not, in the platform's words.
    """

    ready: bool
    detail: str = ""


class Platform(Protocol):
    """How a platform describes a service.

    Attributes:
      kind: of the object.
      group: of its API.
      version: of its API.
      plural: its name in URLs and roles.
      service_label: of each pod; its value is the service's name.
    """

    kind: str
    group: str
    version: str
    plural: str
    service_label: str

    def check(self, release: Release) -> None:
        """Make sure that the platform can serve a release by this name.

        Raises:
          InputError: it cannot.
        """

    def alone(self, release: Release) -> Document:
        """Make a service of one version."""

    def check_split(self, service: Document) -> None:
        """Make sure that requests can be shared.

        Raises:
          InputError: this service cannot do so.
        """

    def with_canary(self, service: Document, release: Release, share: int) -> Document:
        """Put a release beside the stable one, or give the one that is there another share, which may be 0."""

    def promoted(self, service: Document) -> Document:
        """Give the canary all requests, and take the stable version away."""

    def rolled_back(self, service: Document) -> Document:
        """Give the stable version all requests, and take the canary away."""

    def split(self, service: Document) -> Split:
        """Read who gets the requests."""

    def state(self, service: Document, version: str, ready: Sequence[Document]) -> State:
        """Read whether a version can answer; `ready` are its pods that are."""
