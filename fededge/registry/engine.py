"""What a Docker engine does for a release: pushes images, and shows what is in one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import docker
from docker.errors import APIError, ContainerError, DockerException, ImageNotFound

from fededge.errors import RegistryError, SetupError
from fededge.registry.credentials import Credentials
from fededge.registry.reference import Reference

# Told the bytes of all layers that are sent, and that there are to send.
Watch = Callable[[int, int], None]


class Engine:
    """A Docker engine."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client

    def push(self, image: str, to: Reference, credentials: Credentials | None, watch: Watch) -> str:
        """Give an image another name and push it.

        Args:
          image: as the engine calls it.
          to: the name, with a tag.
          credentials: none for those of `docker login`.
          watch: is told how far it is.

        Returns:
          The digest that the engine computed.

        Raises:
          SetupError: the engine has no such image, or fails.
          RegistryError: the registry refuses it.
        """
        with _translated(image):
            self._client.images.get(image).tag(to.name, to.tag)
            login = {"username": credentials.user, "password": credentials.password} if credentials else None
            lines = self._client.images.push(to.name, to.tag, stream=True, decode=True, auth_config=login)
            return _follow(lines, to, watch)

    def run(self, image: str, *command: str) -> str:
        """Run a command in a container without a network or privileges, and return what it prints."""
        with _translated(image):
            printed: bytes = self._client.containers.run(
                image, list(command), remove=True, network_mode="none", cap_drop=["ALL"], read_only=True
            )
        return printed.decode()


@contextlib.contextmanager
def open_engine() -> Iterator[Engine]:
    """Connect to the engine of DOCKER_HOST, or this machine's.

    Raises:
      SetupError: none answers.
    """
    with contextlib.ExitStack() as stack:
        try:
            # The time-out in seconds: a layer of 2 GB is packed in the meantime.
            client = stack.enter_context(contextlib.closing(docker.from_env(timeout=600)))
            client.ping()
        except DockerException as error:
            raise SetupError("no Docker engine answers: start one, or set DOCKER_HOST") from error
        yield Engine(client)


@contextlib.contextmanager
def _translated(image: str) -> Iterator[None]:
    try:
        yield
    except ImageNotFound as error:
        raise SetupError(f"no image {image} on the Docker engine: `make images` builds ours") from error
    except ContainerError as error:
        raise SetupError(f"{image} cannot be looked into: {' '.join(str(error).split())[-300:]}") from error
    except APIError as error:
        raise SetupError(f"the Docker engine fails on {image}: {error.explanation or error}") from error


def _follow(lines: Iterable[dict[str, Any]], to: Reference, watch: Watch) -> str:
    digest = wrong = ""
    layers: dict[str, tuple[int, int]] = {}
    for line in lines:  # to the end, also after an error: that gives the connection back
        wrong = wrong or " ".join(str(line.get("error") or "").split())
        digest = (line.get("aux") or {}).get("Digest") or digest
        progress = line.get("progressDetail") or {}
        if "current" in progress:
            layers[line["id"]] = progress["current"], max(progress.get("total", 0), progress["current"])
            watch(sum(sent for sent, _ in layers.values()), sum(size for _, size in layers.values()))
    if wrong:
        raise RegistryError(f"{to} is not pushed: {_advice(wrong, to)}")
    return digest


def _advice(wrong: str, to: Reference) -> str:
    if "immutable" in wrong:
        return f"{wrong}; the tag {to.tag} is there and cannot change: release another version"
    if "denied" in wrong or "unauthorized" in wrong or "authentication" in wrong or "credentials" in wrong:
        return f"{wrong}; `docker login {to.host}` as somebody who may push"
    if "server gave HTTP response to HTTPS client" in wrong:
        return f"{wrong}; the registry has no TLS, which Docker takes from this machine's own alone"
    return wrong
