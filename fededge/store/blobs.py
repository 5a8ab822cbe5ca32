"""Tensors in the store, by the digest of their bytes."""

from __future__ import annotations

import numpy as np
import safetensors
import safetensors.numpy

from fededge.core.tensors import Tensors
from fededge.errors import CorruptError, ExistsError, NotFoundError
from fededge.records import Digest, digest_of
from fededge.store import keys
from fededge.store.port import Store


def put_bytes(store: Store, data: bytes) -> Digest:
    """Write bytes under their own digest; writing them again changes nothing, but mends what is damaged."""
    digest = digest_of(data)
    key = keys.blob(digest)
    try:
        store.create(key, data)
    except ExistsError:  # what is there is not what its name says
        store.replace(key, data, store.get(key).tag)
    return digest


def get_bytes(store: Store, digest: Digest, limit: int | None = None) -> bytes:
    """Read bytes and check them against their digest.

    Raises:
      NotFoundError: there is no such blob.
      TooLargeError: the blob has more bytes than `limit`.
      CorruptError: the blob is truncated or altered.
    """
    key = keys.blob(digest)
    try:
        data = store.get(key, limit).data
    except NotFoundError as error:
        raise NotFoundError(f"{key} is missing from {store.url}; restore it from a backup") from error
    if digest_of(data) != digest:
        raise CorruptError(f"{key} in {store.url} is damaged ({len(data)} bytes); restore it from a backup")
    return data


def put_tensors(store: Store, tensors: Tensors) -> Digest:
    return put_bytes(store, encode_tensors(tensors))


def get_tensors(store: Store, digest: Digest) -> Tensors:
    """Read tensors.

    Raises:
      NotFoundError: there is no such blob.
      CorruptError: the blob is truncated, altered, or holds no tensors.
    """
    return decode_tensors(get_bytes(store, digest), keys.blob(digest))


def encode_tensors(tensors: Tensors) -> bytes:
    # The library writes an array's memory as it lies there, whatever its strides are.
    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in tensors.items()})


def decode_tensors(data: bytes, name: str) -> Tensors:
    try:
        return dict(safetensors.numpy.load(data))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CorruptError(f"{name} is no safetensors file: {error}") from error
