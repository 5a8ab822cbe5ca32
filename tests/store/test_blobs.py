from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fededge.core.tensors import Tensors, signature
from fededge.errors import CorruptError, FormatError, InputError, NotFoundError
from fededge.records import FORMAT, Pointer
from fededge.store import Store, blobs, keys

TENSORS: Tensors = {
    "0000/dense/kernel": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    "0001/dense/bias": np.array([np.nan, np.inf, -0.0], np.float32),
    "steps": np.array(2**40, np.int64),
    "empty": np.zeros((0, 5), np.float32),
}


def test_tensors_come_back_bit_for_bit(store: Store) -> None:
    digest = blobs.put_tensors(store, TENSORS)
    found = blobs.get_tensors(store, digest)
    assert signature(found) == signature(TENSORS)
    assert {name: a.tobytes() for name, a in found.items()} == {name: a.tobytes() for name, a in TENSORS.items()}


def test_a_blob_is_kept_under_the_digest_of_its_bytes(folder_store: Store) -> None:
    digest = blobs.put_bytes(folder_store, b"some bytes")
    assert digest == f"sha256:{hashlib.sha256(b'some bytes').hexdigest()}"
    assert blobs.put_bytes(folder_store, b"some bytes") == digest
    assert folder_store.keys("blobs/") == [keys.blob(digest)]
    assert blobs.get_bytes(folder_store, digest) == b"some bytes"


def test_the_same_tensors_have_one_digest(folder_store: Store) -> None:
    backwards = dict(reversed(TENSORS.items()))
    assert blobs.put_tensors(folder_store, TENSORS) == blobs.put_tensors(folder_store, backwards)


def test_a_blob_that_is_not_there(folder_store: Store) -> None:
    with pytest.raises(NotFoundError):
        blobs.get_bytes(folder_store, f"sha256:{'0' * 64}")


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:" + "0" * 63, "sha256:" + "G" * 64, "0" * 64, "md5:" + "0" * 64]
)
def test_what_is_no_digest_is_refused(folder_store: Store, digest: str) -> None:
    with pytest.raises(InputError, match="is no digest"):
        blobs.get_bytes(folder_store, digest)


def _damage(store: Store, key: str, data: bytes) -> None:
    store.replace(key, data, store.get(key).tag)


@pytest.mark.parametrize("change", ["bit", "cut", "longer", "empty"])
def test_a_damaged_blob_is_found_out(folder_store: Store, change: str) -> None:
    digest = blobs.put_tensors(folder_store, TENSORS)
    data = folder_store.get(keys.blob(digest)).data
    damaged = {"bit": data[:-1] + bytes([data[-1] ^ 1]), "cut": data[:-1], "longer": data + b"\0", "empty": b""}
    _damage(folder_store, keys.blob(digest), damaged[change])
    with pytest.raises(CorruptError, match="is damaged") as caught:
        blobs.get_tensors(folder_store, digest)
    assert keys.blob(digest) in str(caught.value)


def test_swapped_blobs_are_found_out(folder_store: Store) -> None:
    first = blobs.put_bytes(folder_store, b"first")
    second = blobs.put_bytes(folder_store, b"second")
    _damage(folder_store, keys.blob(first), b"second")
    _damage(folder_store, keys.blob(second), b"first")
    for digest in (first, second):
        with pytest.raises(CorruptError):
            blobs.get_bytes(folder_store, digest)


_HEADER = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no tensors",
        b"\xff" * 100,
        b"\x80\x04\x95pickle",
        len(_HEADER).to_bytes(8, "little") + _HEADER + b"\0" * 7,
        len(_HEADER).to_bytes(8, "little") + _HEADER.replace(b"[2]", b"[3]") + b"\0" * 8,
        len(_HEADER).to_bytes(8, "little") + _HEADER.replace(b"F32", b"XYZ") + b"\0" * 8,
        (2**62).to_bytes(8, "little") + _HEADER + b"\0" * 8,
    ],
)
def test_a_whole_blob_that_holds_no_tensors(folder_store: Store, data: bytes) -> None:
    digest = blobs.put_bytes(folder_store, data)
    with pytest.raises(CorruptError, match="is no safetensors file"):
        blobs.get_tensors(folder_store, digest)


@given(st.binary(max_size=200))
def test_any_bytes_are_corrupt_and_no_other_error(data: bytes) -> None:
    with pytest.raises(CorruptError) as caught:
        blobs.decode_tensors(data, "a blob")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("extra", [{}, {"more": 1}])
def test_a_document_of_a_newer_fededge(extra: dict[str, int]) -> None:
    newer = json.dumps({"format": FORMAT + 1, "version": "v1"} | extra).encode()
    with pytest.raises(FormatError, match="upgrade FedEdge"):
        Pointer.load(newer, "a/key")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"{}",
        b'{"format": "one", "version": "v1"}',
        b'{"format": 3}',
        b'{"format": 3, "version": 1}',
        b'{"format": 3, "version": "v1", "unknown": 1}',
        b'{"format": 3, "version": "v1"} {}',
        Pointer(version="v1", manifest="").dump()[:-1],
    ],
)
def test_what_is_no_document_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptError, match="a/key") as caught:
        Pointer.load(data, "a/key")
    assert len(str(caught.value).splitlines()) == 1


def test_a_document_comes_back_as_it_was() -> None:
    pointer = Pointer(version="v3-b1", manifest="", branch=1)
    assert Pointer.load(pointer.dump(), "a/key") == pointer


def test_tensors_come_back_however_they_lie_in_memory(folder_store: Store) -> None:
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    tensors = {
        "fortran": np.asfortranarray(base),
        "transposed": base.T,
        "strided": base[::2, 1::3],
        "0-d": base[1, 1] * np.ones(()),
    }
    back = blobs.get_tensors(folder_store, blobs.put_tensors(folder_store, tensors))
    for name, array in tensors.items():
        assert back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)


def test_a_blob_that_is_damaged_is_mended_by_whoever_has_its_bytes(folder_store: Store) -> None:
    digest = blobs.put_bytes(folder_store, b"right")
    value = folder_store.get(keys.blob(digest))
    folder_store.replace(keys.blob(digest), b"wrong", value.tag)
    with pytest.raises(CorruptError):
        blobs.get_bytes(folder_store, digest)
    assert blobs.put_bytes(folder_store, b"right") == digest
    assert blobs.get_bytes(folder_store, digest) == b"right"
