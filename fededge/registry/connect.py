"""Finds a registry, and the Harbor behind it, from what a person says of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fededge.errors import InputError, RegistryError
from fededge.registry.credentials import find_credentials
from fededge.registry.harbor import BASE_PATH, Harbor
from fededge.registry.reference import Reference, is_loopback
from fededge.registry.registry import Registry
from fededge.registry.server import PATIENCE, Say, Server

# The name that images have, and where they are.
_DOCKER_HUB = ("docker.io", "registry-1.docker.io")


@dataclass(frozen=True)
class Way:
    """How to get to registries.

    Attributes:
      ca: a PEM file: the only authorities that are trusted; none for those that this machine trusts.
      plain_http: speak no TLS; to this machine itself nobody does unless `ca` is given.
      api: URL of Harbor's API; empty for the one at the registry's own address.
      patience: seconds for which a server may be busy.
      say: is told when it is.
    """

    ca: Path | None = None
    plain_http: bool = False
    api: str = ""
    patience: float = PATIENCE
    say: Say = field(default=lambda _: None)

    def registry(self, host: str) -> Registry:
        """Find a registry by the host in its images' names."""
        return Registry(self._server(self._url(host)), find_credentials(host))

    def harbor(self, host: str) -> Harbor:
        """Find the API of a Harbor by the host in its images' names.

        Raises:
          InputError: `api` is no URL.
        """
        if self.api and not self.api.startswith(("http://", "https://")):
            raise InputError(f"--api {self.api} is no URL, as https://{host}{BASE_PATH}")
        server = self._server(self.api or self._url(host) + BASE_PATH)
        return Harbor(Server(server.url, find_credentials(host), server.ca, server.patience, server.say))

    def digest(self, image: Reference) -> str:
        """Ask a registry which digest an image has; where Harbor holds it back for a scan, Harbor itself.

        Raises:
          RegistryError: neither tells.
        """
        try:
            return self.registry(image.host).digest(image)
        except RegistryError as error:
            if error.status != 412:
                raise
            artifact = self.harbor(image.host).artifact(image.repository, image.version)
            if artifact is None:
                raise
            return artifact.digest

    def _server(self, url: str) -> Server:
        return Server(url, ca=self.ca, patience=self.patience, say=self.say)

    def _url(self, host: str) -> str:
        plain = self.plain_http or (is_loopback(host) and not self.ca)
        name, other = _DOCKER_HUB
        return f"{'http' if plain else 'https'}://{other if host == name else host}"
