from __future__ import annotations

import json

import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fededge.core.headers import HeaderError, data_size, header_room, read_header
from fededge.core.tensors import Tensors, signature

DTYPES = ("float64", "float32", "float16", "int64", "uint64", "int32", "uint32", "int16", "uint16", "int8", "uint8")
DTYPES = (*DTYPES, "bool", "complex64")
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda name: name != "__metadata__")
tensors = st.dictionaries(
    names, hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3))
)


def _encode(header: object, data: bytes = b"\0" * 12) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _tensor(dtype: object = "F32", shape: object = (3,), data_offsets: object = (0, 12)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}


@settings(derandomize=True, deadline=None, max_examples=100)
@given(tensors, st.none() | st.dictionaries(names, names, min_size=1, max_size=3))
def test_what_is_written_is_described_before_it_is_decoded(tensors: Tensors, metadata: dict[str, str] | None) -> None:
    encoded = safetensors.numpy.save(tensors, metadata)
    assert read_header(encoded, len(encoded)) == signature(tensors)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(tensors)
def test_there_is_room_for_every_way_to_write_a_header(tensors: Tensors) -> None:
    described = signature(tensors)
    assert data_size(described) == sum(array.nbytes for array in tensors.values())
    header = {name: _tensor("BOOL" * 2, array.shape, (10**19, 10**19)) for name, array in tensors.items()}
    assert len(json.dumps(header, indent=1)) <= header_room(described)


def test_a_dtype_that_numpy_lacks_is_named() -> None:
    assert read_header(_encode({"w": _tensor("BF16", [6])}), 200) == {"w": "unknown BF16[6]"}
    assert read_header(_encode({"w": _tensor("F8_E4M3", [12])}), 200) == {"w": "unknown F8_E4M3[12]"}


def test_tensors_may_lie_in_any_order_and_be_empty() -> None:
    header = {
        "b": _tensor(shape=[1], data_offsets=[8, 12]),
        "empty": _tensor(shape=[0, 7], data_offsets=[8, 8]),
        "none": _tensor(shape=[3, 0], data_offsets=[0, 0]),
        "a": _tensor(shape=[2, 1], data_offsets=[0, 8]),
    }
    described = {"a": "float32[2,1]", "b": "float32[1]", "empty": "float32[0,7]", "none": "float32[3,0]"}
    assert read_header(_encode(header), 1000) == described
    assert signature(safetensors.numpy.load(_encode(header))) == described


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\0" * 7,
        b"\0" * 8,
        b"\xff" * 8,
        b"\xff" * 100,
        (10).to_bytes(8, "little") + b"{}",
        _encode(b""),
        _encode(b"[]"),
        _encode(b"7"),
        _encode(b"null"),
        _encode(b"{} {}"),
        _encode(b"\xff\xfe{\0}\0"),
        _encode('{"w": ÿ}'.encode("latin-1")),
        _encode(b"[" * 100_000),
        _encode(b'{"w":' * 100_000),
        _encode(b'{"w": ' + b"1" * 5000 + b"}"),
        _encode(b'{"w": NaN}'),
        _encode(b'{"w": -Infinity}'),
        _encode(json.dumps({"w": _tensor()}).replace("12", "NaN").encode()),
        _encode({}),
        _encode({"w": None}),
        _encode({"w": ["F32", [3], [0, 12]]}),
        _encode({"w": {"dtype": "F32", "shape": [3]}}),
        _encode({"w": {**_tensor(), "more": 1}}),
        _encode({"w": _tensor(dtype=5)}),
        _encode({"w": _tensor(dtype=None)}),
        _encode({"w": _tensor(dtype=["F32"])}),
        _encode({"w": _tensor(shape="3")}),
        _encode({"w": _tensor(shape=3)}),
        _encode({"w": _tensor(shape=[3.0])}),
        _encode({"w": _tensor(shape=[True, 3])}),
        _encode({"w": _tensor(shape=[-3])}),
        _encode({"w": _tensor(shape=[-1, -3])}),
        _encode({"w": _tensor(shape=[10**30])}),
        _encode({"w": _tensor(shape=[2**62, 4, 3])}),
        _encode({"w": _tensor(shape=[3] + [1] * 40)}),
        _encode({"w": _tensor(shape=[9] * 100_000)}),
        _encode({"w": _tensor(shape=[[3]])}),
        _encode({"w": _tensor(shape=[4])}),
        _encode({"w": _tensor(data_offsets=[0])}),
        _encode({"w": _tensor(data_offsets=[0, 12, 12])}),
        _encode({"w": _tensor(data_offsets={"0": 12})}),
        _encode({"w": _tensor(data_offsets=[-12, 0])}),
        _encode({"w": _tensor(data_offsets=[12, 0])}),
        _encode({"w": _tensor(data_offsets=[12, 24])}),
        _encode({"w": _tensor(data_offsets=[0.0, 12.0])}),
        _encode({"w": _tensor(data_offsets=[False, 12])}),
        _encode({"w": _tensor(data_offsets=[4, 16])}, b"\0" * 16),
        _encode({"w": _tensor()}, b"\0" * 11),
        _encode({"w": _tensor()}, b"\0" * 13),
        _encode({"v": _tensor(), "w": _tensor()}),
        _encode({"v": _tensor(), "w": _tensor(data_offsets=[8, 20])}, b"\0" * 20),
        _encode({"v": _tensor(), "w": _tensor(data_offsets=[16, 28])}, b"\0" * 28),
        _encode({"v": _tensor("BF16", [6], [0, 12]), "w": _tensor("BF16", [6], [12, 0])}),
        _encode(b'{"w": %b, "w": %b}' % ((json.dumps(_tensor()).encode(),) * 2)),
        _encode(json.dumps({"w": _tensor()}).replace('"shape"', '"dtype": "F64", "shape"').encode()),
        _encode(b'{"__metadata__": {}, "__metadata__": {}, "w": %b}' % json.dumps(_tensor()).encode()),
        _encode({"__metadata__": None, "w": _tensor()}),
        _encode({"__metadata__": ["a"], "w": _tensor()}),
        _encode({"__metadata__": {"a": 1}, "w": _tensor()}),
        _encode({"__metadata__": {"a": {"b": "c"}}, "w": _tensor()}),
    ],
)
def test_what_is_no_header_is_an_error(encoded: bytes) -> None:
    with pytest.raises(HeaderError):
        read_header(encoded, 10**6)


def test_a_header_is_not_parsed_beyond_its_room() -> None:
    encoded = _encode({"w": _tensor()})
    length = int.from_bytes(encoded[:8], "little")
    assert read_header(encoded, length) == {"w": "float32[3]"}
    with pytest.raises(HeaderError, match=f"it may have {length - 1}"):
        read_header(encoded, length - 1)


def test_the_decoder_alone_would_take_a_name_given_twice() -> None:
    """Should it not any more, ours is still right."""
    tensor = json.dumps(_tensor())
    encoded = _encode(f'{{"w": {tensor}, "w": {tensor}}}'.encode())
    assert signature(safetensors.numpy.load(encoded)) == {"w": "float32[3]"}
    with pytest.raises(HeaderError, match="twice"):
        read_header(encoded, 1000)


def test_sizes_of_signatures() -> None:
    assert data_size({}) == 0
    assert data_size({"a": "float32[]", "b": "float32[2,3]", "c": "float16[5]", "d": "int64[0,9]"}) == 4 + 24 + 10
    assert header_room({"a": "float32[]"}) < header_room({"a": "float32[]", "b": "float32[2,3]"}) < 6000
