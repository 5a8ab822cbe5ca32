"""A robot account's secret as Kubernetes takes it: a manifest of the kind that service accounts pull images with."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from fededge.errors import InputError

NAME = "fededge-registry"  # what manifests/components/harbor refers to


def pull_secret(host: str, user: str, password: str) -> str:
    """Return the manifest, as YAML."""
    login = {"username": user, "password": password, "auth": _base64(f"{user}:{password}")}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": NAME, "labels": {"app.kubernetes.io/part-of": "fededge"}},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": _base64(json.dumps({"auths": {host: login}}))},
        },
        sort_keys=False,
    )


@contextlib.contextmanager
def secret_file(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Yield what writes a file that its owner alone can read, whole or not at all.

    It is made sure at once that it can be written: a secret that is told once is not lost to a missing folder.

    Args:
      path: the file; None writes nothing.

    Raises:
      InputError: it cannot be written.
    """
    if path is None:
        yield lambda _: None
        return
    try:
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # with mode 0600
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:

        def write(text: str) -> None:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            Path(partial).rename(path)

        try:
            yield write
        finally:
            Path(partial).unlink(missing_ok=True)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
