"""The npy codec against NumPy, and against files that must not be read."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy_format

from openruntime.contracts import npy as codec
from openruntime.contracts.errors import InvalidRequest, NotAcceptable
from openruntime.contracts.payload import ITEMSIZE, Array


def saved(x: Any, **kwargs: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, x, **kwargs)
    return file.getvalue()


def array(found: Array) -> Any:
    return np.frombuffer(found.view, found.dtype).reshape(found.shape)


@pytest.mark.parametrize("dtype", [name for name in ITEMSIZE if name != "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0, 3), (4,), (2, 3)])
def test_numpy_agrees(dtype: str, shape: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    found = codec.decode(saved(x))
    assert (found.dtype, found.shape, bytes(found.view)) == (dtype, shape, x.tobytes())
    back = np.load(io.BytesIO(b"".join(codec.encode(found))), allow_pickle=False)
    assert back.dtype == x.dtype
    assert np.array_equal(back, x)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions(version: tuple[int, int]) -> None:
    file = io.BytesIO()
    npy_format.write_array(file, np.arange(3), version)
    assert array(codec.decode(file.getvalue())).tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [">i2", ">u4", ">f8", ">c8", ">c16", "=f4", "<f2"])
def test_byte_order_is_turned_round(dtype: str) -> None:
    x = np.array([1, 2, 300]).astype(dtype)
    assert np.array_equal(array(codec.decode(saved(x))), x)


@pytest.mark.parametrize("shape", [(2, 3), (3, 1, 4), (5, 4, 3), (2, 3, 4, 5), (1, 7), (100, 3)])
@pytest.mark.parametrize("dtype", ["bool", "int16", "float32", "complex64", "complex128"])
def test_fortran_order_is_turned_round(shape: tuple[int, ...], dtype: str) -> None:
    x = np.asfortranarray(np.arange(np.prod(shape)).reshape(shape).astype(dtype))
    assert np.array_equal(array(codec.decode(saved(x))), x)


def test_fortran_order_that_would_take_for_ever_is_refused() -> None:
    x = np.asfortranarray(np.zeros((2,) * 22, np.int8))
    with pytest.raises(InvalidRequest, match="ascontiguousarray"):
        codec.decode(saved(x))


def test_encoded_data_is_aligned() -> None:
    header, view = codec.encode(Array("float64", (3, 1), bytes(24)))
    assert len(header) % 64 == 0
    assert len(view) == 24


def header(text: str, data: bytes = b"", size: int | None = None, version: bytes = b"\x01\x00") -> bytes:
    encoded = text.encode()
    return b"\x93NUMPY" + version + (len(encoded) if size is None else size).to_bytes(2, "little") + encoded + data


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n"
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not an .npy"),
    "text": (b"hello, this is no array", "not an .npy"),
    "pickled objects": (saved(np.array([{"a": 1}], dtype=object), allow_pickle=True), "pickle"),
    "structured": (saved(np.zeros(1, [("a", "f4")])), "structured"),
    "bfloat16 in disguise": (header(GOOD.replace("<f4", "<V2"), b"ab"), "bfloat16"),
    "text dtype": (saved(np.array(["a"])), "accepted are"),
    "dates": (saved(np.array(["2020-01-01"], "M8[D]")), "accepted are"),
    "version 4": (header(GOOD, b"abcd", version=b"\x04\x00"), "versions 1 to 3"),
    "cut off in the header": (saved(np.arange(3))[:40], "cut off"),
    "cut off in the data": (saved(np.arange(3))[:-1], "need 24"),
    "bytes after the data": (saved(np.arange(3)) + b"x", "need 24"),
    "code in the header": (header("__import__('os').system('true')\n"), "dictionary"),
    "a list": (header("[1]\n"), "exactly"),
    "an extra key": (header(GOOD.replace("}", "'more': 1}")), "exactly"),
    "order is no boolean": (header(GOOD.replace("False", "0")), "exactly"),
    "huge header": (b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b"{}", "claims"),
    "header nested deeply": (header("(" * 9000), "dictionary"),
    "negative dimension": (header(GOOD.replace("(1,)", "(-1,)"), b"abcd"), "`shape`"),
    "boolean dimension": (header(GOOD.replace("(1,)", "(True,)"), b"abcd"), "`shape`"),
    "huge dimension": (header(GOOD.replace("(1,)", "(2**3,)"), b"abcd"), "dictionary"),
    "product beyond memory": (header(GOOD.replace("(1,)", "(4611686018427387904, 4)"), b"abcd"), "need"),
    "65 dimensions": (header(GOOD.replace("(1,)", str((1,) * 65)), b"abcd"), "`shape`"),
    "shape is no tuple": (header(GOOD.replace("(1,)", "[1]"), b"abcd"), "`shape`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    sent, said = REFUSED[case]
    with pytest.raises(InvalidRequest, match=said):
        codec.decode(sent)


def test_npy_cannot_name_bfloat16() -> None:
    with pytest.raises(NotAcceptable, match="safetensors"):
        codec.encode(Array("bfloat16", (1,), b"ab"))
