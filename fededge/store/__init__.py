"""Where models, updates and versions are kept: one port, a folder and S3 behind it."""

from __future__ import annotations

import os
from pathlib import Path

from fededge.errors import InputError, SetupError
from fededge.store.port import Store

__all__ = ["Store", "open_store"]


def open_store(url: str, *, hurried: bool = False) -> Store:
    """Open the store that a URL names; nothing is contacted yet.

    Args:
      url: `s3://bucket/prefix`, or a folder's path or `file://` URL; empty for `FEDEDGE_STORE`.
      hurried: for a person who waits: a server that does not answer is given up after some 4 s, not half a minute.

    Raises:
      SetupError: `url` and `FEDEDGE_STORE` are empty, or S3 has no endpoint or credentials.
      InputError: the URL is of another kind.
    """
    url = url or os.environ.get("FEDEDGE_STORE", "")
    if not url:
        raise SetupError(
            "no store: pass one, or set FEDEDGE_STORE; on a cluster, fill in the ConfigMap and the Secret "
            "of manifests/base/store.yaml"
        )
    if url.startswith("s3://"):
        from fededge.store.s3 import S3Store  # folders need no network library

        return S3Store.from_environment(url, hurried=hurried)
    if "://" in url and not url.startswith("file://"):
        raise InputError(f"{url}: a store is s3://bucket/prefix or a folder")
    from fededge.store.folder import FolderStore

    return FolderStore(Path(url.removeprefix("file://")).expanduser())
