"""The safetensors codec against the reference library, and against headers that lie."""

import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from openruntime.contracts import safetensors as codec
from openruntime.contracts.errors import InvalidRequest, NotAcceptable
from openruntime.contracts.payload import ITEMSIZE, Array


def body(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def of(x: Any) -> Array:
    return Array(x.dtype.name, x.shape, x.tobytes())


@pytest.mark.parametrize("dtype", [name for name in ITEMSIZE if name not in ("bfloat16", "complex64", "complex128")])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_reference_library_agrees(dtype: str, shape: tuple[int, ...]) -> None:
    x = np.ones(shape, dtype)
    ours = b"".join(codec.encode({"x": of(x)}, {"key": "värde"}))
    theirs = safetensors.numpy.load(ours)["x"]
    assert theirs.dtype == x.dtype
    assert np.array_equal(theirs, x)
    arrays, metadata = codec.decode(safetensors.numpy.save({"x": x}, {"key": "värde"}))
    assert (arrays["x"].dtype, arrays["x"].shape, bytes(arrays["x"].view)) == (dtype, shape, x.tobytes())
    assert metadata == {"key": "värde"}


def test_order_is_kept_and_arrays_are_aligned() -> None:
    arrays = {"flag": of(np.ones(3, bool)), "wide": of(np.ones(2, "complex128")), "half": Array("bfloat16", (1,), b"ab"), "x": of(np.ones(1, "f4"))}
    encoded = b"".join(codec.encode(arrays))
    found, metadata = codec.decode(encoded)
    assert list(found) == ["flag", "wide", "half", "x"]
    assert metadata == {}
    size = int.from_bytes(encoded[:8], "little")
    header = json.loads(encoded[8 : 8 + size])
    assert (8 + size) % 8 == 0
    assert all(item["data_offsets"][0] % min(8, ITEMSIZE[found[name].dtype]) == 0 for name, item in header.items())
    assert header["wide"]["dtype"] == "C128"
    assert {name: bytes(a.view) for name, a in found.items()} == {name: bytes(a.view) for name, a in arrays.items()}


def test_decoding_copies_nothing_large() -> None:
    encoded = bytearray(b"".join(codec.encode({"x": of(np.zeros(codec.COPIED + 1, "u1"))})))
    array = codec.decode(encoded)[0]["x"]
    encoded[-1] = 9
    assert bytes(array.view)[-2:] == b"\x00\x09"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_small_array_does_not_hold_the_body_it_came_in(kind: type) -> None:
    encoded = b"".join(codec.encode({"x": of(np.arange(3, dtype="u1")), "y": of(np.arange(4, dtype="u1"))}))
    arrays, _ = codec.decode(kind(encoded))
    assert {name: array.data for name, array in arrays.items()} == {"x": b"\x00\x01\x02", "y": b"\x00\x01\x02\x03"}
    copied = bytearray if kind is bytearray else bytes  # what came in writable memory stays writable: the SDK's answers do
    assert all(type(array.data) is copied for array in arrays.values())


def test_metadata_may_look_like_a_tensor() -> None:
    found, metadata = codec.decode(body({"__metadata__": {"shape": "[1]", "dtype": "F32"}, "x": entry()}, b"abcd"))
    assert metadata == {"shape": "[1]", "dtype": "F32"}
    assert list(found) == ["x"]


def test_a_tensor_may_be_called_data_offsets() -> None:
    assert list(codec.decode(body({"data_offsets": entry()}, b"abcd"))[0]) == ["data_offsets"]


DISGUISED = rb'{"x":{"dtype":"F32","shape":[1],"data_\u006fffsets":[0,4]},"\u0078":%b}' % json.dumps(entry()).encode()
LIES: dict[str, tuple[bytes, str, str | None]] = {
    "no length": (b"abc", "8 bytes", None),
    "length beyond the body": (body({}, length=1 << 20), "only 2 follow", None),
    "length of 2^64-1": (body({}, length=2**64 - 1), "limit", None),
    "length over 100 MB": (body({}, length=100_000_001), "limit", None),
    "not JSON": (body(b"{"), "not JSON", None),
    "not UTF-8": (body(b'{"\xff": 1}'), "UTF-8", None),
    "a list": (body([]), "object", None),
    "nested deeply": (body(b'{"x":' + b"[" * 100_000), "deep", None),
    "entry is no object": (body({"x": 5}), "Expected `object`", "x"),
    "metadata is no text": (body({"__metadata__": {"a": 1}}), "Expected `str`", "__metadata__"),
    "metadata is null": (body({"__metadata__": None}), "`__metadata__`", "__metadata__"),
    "no shape": (body({"x": {"dtype": "F32", "data_offsets": [0, 4]}}, b"abcd"), "lacks", "x"),
    "no offsets": (body({"x": {"dtype": "F32", "shape": [1]}}, b"abcd"), "lacks", "x"),
    "no dtype": (body({"x": {"shape": [1], "data_offsets": [0, 4]}}, b"abcd"), "unknown dtype", "x"),
    "unknown dtype": (body({"x": entry("F31")}, b"abcd"), "F32", "x"),
    "object dtype": (body({"x": entry("O")}, b"abcd"), "unknown dtype", "x"),
    "negative dimension": (body({"x": entry(shape=(-1,))}, b"abcd"), ">= 0", "x"),
    "two negative dimensions": (body({"x": entry(shape=(-1, -1))}, b"abcd"), ">= 0", "x"),
    "huge dimension": (body({"x": entry(shape=(2**61,))}, b"abcd"), "need", "x"),
    "dimension beyond 64 bits": (body({"x": entry(shape=(10**30,))}, b"abcd"), "`x`", "x"),
    "product beyond memory": (body({"x": entry(shape=(2**40, 2**40))}, b"abcd"), "need", "x"),
    "65 dimensions": (body({"x": entry(shape=(1,) * 65)}, b"abcd"), "`x`", "x"),
    "fractional dimension": (body({"x": entry(shape=(1.5,))}, b"abcd"), "`x`", "x"),
    "too few bytes": (body({"x": entry(shape=(2,))}, b"abcd"), "need 8", "x"),
    "negative offset": (body({"x": entry(offsets=(-4, 0))}, b"abcd"), ">= 0", "x"),
    "end before start": (body({"x": entry(offsets=(4, 0))}, b"abcd"), "before its start", "x"),
    "beyond the data": (body({"x": entry(shape=(2,), offsets=(0, 8))}, b"abcd"), "cut off", "x"),
    "overlap": (body({"x": entry(offsets=(0, 4)), "y": entry(offsets=(2, 6))}, b"abcdef"), "inside", "y"),
    "same place twice": (body({"x": entry(), "y": entry()}, b"abcd"), "inside", "y"),
    "hole": (body({"x": entry(), "y": entry(offsets=(8, 12))}, b"a" * 12), "hole", "y"),
    "hole at the start": (body({"x": entry(offsets=(4, 8))}, b"a" * 8), "hole", "x"),
    "bytes after the last": (body({"x": entry()}, b"a" * 8), "8 bytes were sent", None),
    "three offsets": (body({"x": entry(offsets=(0, 4, 8))}, b"abcd"), "`x`", "x"),
    "twice the same name": (body(b'{"x":%b,"x":%b}' % ((json.dumps(entry()).encode(),) * 2), b"abcd"), "twice", "x"),
    "the same name in disguise": (body(DISGUISED, b"abcd"), "twice", "x"),
    "two metadata": (body(b'{"__metadata__":{"a":"1"},"__metadata__":{"a":"2"}}'), "twice", "__metadata__"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused_by_name(lie: str) -> None:
    sent, said, field = LIES[lie]
    with pytest.raises(InvalidRequest) as caught:
        codec.decode(sent)
    assert said in caught.value.message
    assert caught.value.field == field


@given(st.binary(max_size=200), st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_any_damage_is_refused_or_harmless(noise: bytes, at: int) -> None:
    good = b"".join(codec.encode({"a": of(np.arange(3.0)), "b": of(np.arange(2))}, {"task": "{}"}))
    damaged = good[:at] + noise + good[at + len(noise) :]
    arrays = {}
    with contextlib.suppress(InvalidRequest):
        arrays, _ = codec.decode(damaged)
    assert all(array.view.nbytes == array.nbytes for array in arrays.values())


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_split_complex_arrays_open_with_the_reference_library(dtype: str, shape: tuple[int, ...]) -> None:
    x = np.full(shape, 1 + 2j, dtype)
    sent = b"".join(codec.encode({"x": of(x), "n": of(np.arange(2))}, {"key": "value"}, split=True))
    theirs = safetensors.numpy.load(sent)
    assert np.array_equal(theirs["x"][..., 0] + 1j * theirs["x"][..., 1], x)
    arrays, metadata = codec.decode(sent)
    assert (arrays["x"].dtype, arrays["x"].shape, bytes(arrays["x"].view)) == (dtype, shape, x.tobytes())
    assert (arrays["n"].dtype, metadata) == ("int64", {"key": "value"})


@pytest.mark.parametrize(
    ("names", "entry_", "field"),
    [("y", entry(shape=(2,), offsets=(0, 8)), "complex"), ("x", entry("I32", (2,), (0, 8)), "x"), ("x", entry(shape=(2, 1), offsets=(0, 8)), "x"),
     ("x,x", entry(shape=(2,), offsets=(0, 8)), "x"), (",", entry(shape=(2,), offsets=(0, 8)), "complex")],
)  # fmt: skip
def test_what_is_said_to_be_split_must_be_pairs(names: str, entry_: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        codec.decode(body({"__metadata__": {"complex": names}, "x": entry_}, b"12345678"))
    assert caught.value.field == field


def test_a_name_with_a_comma_cannot_be_listed() -> None:
    with pytest.raises(NotAcceptable, match="comma"):
        codec.encode({"a,b": of(np.ones(1, "complex64"))}, split=True)
    assert codec.encode({"a,b": of(np.ones(1))}, split=True)
