"""The API that every registry has, as far as it tells which digest a tag stands for.

Source: the OCI distribution specification, and distribution's token authentication, which Harbor has too.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from pydantic import BaseModel, TypeAdapter

from fededge.errors import RegistryError
from fededge.registry.credentials import PASSWORD, USER, Credentials
from fededge.registry.reference import Reference
from fededge.registry.server import Answer, Server

_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


class _Token(BaseModel):
    token: str = ""
    access_token: str = ""


_TOKEN = TypeAdapter(_Token)


@dataclass(frozen=True)
class Registry:
    """A registry.

    Attributes:
      server: without credentials: they go where the registry says, in the way that it says.
      credentials: ours; none for public images.
    """

    server: Server
    credentials: Credentials | None = None

    def digest(self, image: Reference) -> str:
        """Ask which digest an image has.

        Raises:
          RegistryError: there is no such image (status 404), a policy holds it back (412), or it is not for us.
        """
        path = f"/v2/{image.repository}/manifests/{image.version}"
        answer = self._ask("HEAD", path)
        if answer.status != 200:
            raise _refused(image, answer)
        digest = answer.headers.get("Docker-Content-Digest", "")
        if not digest:  # which the specification allows
            digest = f"sha256:{hashlib.sha256(self._ask('GET', path).body).hexdigest()}"
        if not _DIGEST.fullmatch(digest):
            raise RegistryError(f"{self.server.url} names no SHA-256 digest for {image}: is it a registry?")
        return digest

    def _ask(self, method: str, path: str) -> Answer:
        headers = {"Accept": _MANIFESTS}
        answer = self.server.ask(method, path, headers=headers)
        if answer.status != 401:
            return answer
        scheme, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
        if scheme.lower() == "bearer":
            token = self._token(dict(_PARAMETER.findall(rest)))
            return self.server.ask(method, path, headers={**headers, "Authorization": f"Bearer {token}"})
        if scheme.lower() == "basic" and self.credentials:
            return replace(self.server, credentials=self.credentials).ask(method, path, headers=headers)
        return answer

    def _token(self, challenge: dict[str, str]) -> str:
        """Get a token from where the registry says."""
        realm = challenge.get("realm", "")
        if urlsplit(realm).scheme != "https" and urlsplit(self.server.url).scheme == "https":
            raise RegistryError(
                f"{self.server.url} wants credentials sent to {realm or 'nowhere'}, without TLS: refused"
            )
        query: dict[str, str | int] = {name: challenge[name] for name in ("service", "scope") if name in challenge}
        answer = replace(self.server, credentials=self.credentials).ask("GET", realm, query)
        if answer.status != 200:
            raise _denied(self.server.url, answer)
        token = answer.read(_TOKEN)
        return token.token or token.access_token


def _refused(image: Reference, answer: Answer) -> RegistryError:
    if answer.status in (401, 403):
        return _denied(answer.server, answer)
    text = {
        404: f"has no image {image}: push it with `fededge images push`",
        412: f"holds {image} back: a policy of its project does, until a scan finds nothing that is too bad",
    }.get(answer.status, f"does not tell about {image} (HTTP status {answer.status})")
    return RegistryError(f"{answer.server} {text}", answer.status)


def _denied(url: str, answer: Answer) -> RegistryError:
    advice = f"`docker login`, or set {USER} and {PASSWORD}, as somebody who may pull"
    return RegistryError(f"{url} does not let us see the image: {advice}", answer.status)
