"""Who we are to a registry: what the environment says, or else what `docker login` keeps."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from fededge.errors import SetupError

USER = "FEDEDGE_REGISTRY_USER"
PASSWORD = "FEDEDGE_REGISTRY_PASSWORD"  # noqa: S105 a variable's name


@dataclass(frozen=True)
class Credentials:
    user: str
    password: str = field(repr=False)


def find_credentials(host: str) -> Credentials | None:
    """Find the credentials for a registry; None if there are none, which is enough for a public one.

    Raises:
      SetupError: a user without a password, or Docker's credential helper fails.
    """
    if user := os.environ.get(USER, "").strip():
        if not (password := os.environ.get(PASSWORD, "")):
            raise SetupError(f"{USER} is set and {PASSWORD} is not: set both, or neither after `docker login {host}`")
        return Credentials(user, password)
    return _of_docker(host)


def _of_docker(host: str) -> Credentials | None:
    from docker import auth
    from docker.errors import DockerException

    try:
        found = auth.load_config().resolve_authconfig(host)
    except DockerException as error:
        raise SetupError(
            f"Docker's credentials for {host} cannot be read ({error}): set {USER} and {PASSWORD}"
        ) from error
    if not found or not found.get("username"):
        return None
    return Credentials(found["username"], found.get("password") or "")
