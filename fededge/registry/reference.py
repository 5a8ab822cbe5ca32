"""Names of images."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fededge.errors import InputError

# A first part with a dot, a colon or of this name is a host, as Docker has it.
_LOCAL = "localhost"
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.|(?=:|$)))+(?::\d{1,5})?")
_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """An image's name, taken apart.

    Attributes:
      host: with its port; empty where the name has none.
      repository: as `fededge/fededge-torch`.
      tag: `latest` where the name has neither tag nor digest; empty where it has a digest alone.
      digest: `sha256:…`; empty for none.
    """

    host: str
    repository: str
    tag: str
    digest: str

    @property
    def name(self) -> str:
        """Host and repository."""
        return f"{self.host}/{self.repository}" if self.host else self.repository

    @property
    def version(self) -> str:
        """What says which image of the repository: the digest if there is one."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return f"{self.name}{f':{self.tag}' if self.tag else ''}{f'@{self.digest}' if self.digest else ''}"


def parse_reference(image: str) -> Reference:
    """Take an image's name apart.

    Raises:
      InputError: it is none.

    Source: the grammar in github.com/distribution/reference.
    """
    rest, at, digest = image.partition("@")
    first, slash, _ = rest.partition("/")
    host = first if slash and _is_host(first) else ""
    repository, _, tag = rest.removeprefix(f"{host}/" if host else "").partition(":")
    wrong = (
        (at and not _DIGEST.fullmatch(digest))
        or (tag and not _TAG.fullmatch(tag))
        or (host and not _HOST.fullmatch(host))
        or not _REPOSITORY.fullmatch(repository)
        or rest.endswith(":")
    )
    if wrong:
        raise InputError(f"{image!r} is no name of an image, as harbor.example.org/fededge/fededge-torch:0.1.0")
    return Reference(host, repository, tag or ("" if digest else "latest"), digest)


@dataclass(frozen=True)
class Place:
    """Where images are pushed to: a host and the path before their names, as `harbor.example.org/fededge`."""

    host: str
    path: str

    def image(self, name: str) -> str:
        return f"{self}/{name}"

    def __str__(self) -> str:
        return f"{self.host}/{self.path}" if self.path else self.host


def parse_place(registry: str) -> Place:
    """Take `host[:port][/project]` apart.

    Raises:
      InputError: it is no such thing.
    """
    host, _, path = registry.rstrip("/").partition("/")
    if not _is_host(host) or not _HOST.fullmatch(host) or (path and not _REPOSITORY.fullmatch(path)):
        raise InputError(f"{registry!r} is no registry, as harbor.example.org/fededge: a host, then a path in it")
    return Place(host, path)


def is_loopback(host: str) -> bool:
    """Tell whether a registry is on this machine, where Docker needs no TLS either."""
    name = host.partition(":")[0]
    return name == _LOCAL or name.startswith("127.")


def _is_host(first: str) -> bool:
    return "." in first or ":" in first or first == _LOCAL
