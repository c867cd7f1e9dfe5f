"""NumPy's `.npy` format, versions 1 to 3, without NumPy and without pickle.

Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import ast
from array import array as numbers
from math import prod
from typing import Any, Literal

from openruntime.contracts.errors import InvalidRequest, NotAcceptable
from openruntime.contracts.payload import ITEMSIZE, Array, Buffer

_MAGIC = b"\x93NUMPY"
_HEADER_LIMIT = 10_000  # bytes, NumPy's own bound for what it hands to literal_eval
_MOVES = 1_000_000  # slices copied to turn Fortran order round; each takes about 0.2 µs
_CODES = {
    "bool": "|b1", "int8": "|i1", "int16": "<i2", "int32": "<i4", "int64": "<i8", "uint8": "|u1", "uint16": "<u2", "uint32": "<u4", "uint64": "<u8",
    "float16": "<f2", "float32": "<f4", "float64": "<f8", "complex64": "<c8", "complex128": "<c16",
}  # fmt: skip
_DTYPES = {code[1:]: dtype for dtype, code in _CODES.items()}
_UNSIGNED: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


def encode(array: Array) -> list[Buffer]:
    """The header, padded to 64 bytes, and a view on the array. Raises `NotAcceptable` for bfloat16, which npy cannot name."""
    code = _CODES.get(array.dtype)
    if code is None:
        raise NotAcceptable(f"npy has no dtype {array.dtype}; ask for application/x-safetensors")
    text = f"{{'descr': '{code}', 'fortran_order': False, 'shape': {array.shape!r}, }}".encode()
    size = -(-(len(text) + 11) // 64) * 64 - 10
    return [_MAGIC + b"\x01\x00" + size.to_bytes(2, "little") + text.ljust(size - 1) + b"\n", array.view]


def decode(body: Buffer) -> Array:
    """A view on `body`, or a copy where byte order or Fortran order had to be turned round. Raises `InvalidRequest`."""
    view = memoryview(body)
    if view.nbytes < 12 or view[:6] != _MAGIC:
        raise InvalidRequest("the body is not an .npy file: it does not begin with \\x93NUMPY; write it with numpy.save")
    if view[6] not in (1, 2, 3):
        raise InvalidRequest(f"the .npy version {view[6]}.{view[7]} is unknown; versions 1 to 3 are read")
    start = 10 if view[6] == 1 else 12
    size = int.from_bytes(view[8:start], "little")
    if size > _HEADER_LIMIT or size > view.nbytes - start:
        raise InvalidRequest(
            f"the .npy header claims {size} bytes; at most {_HEADER_LIMIT} are allowed, and {view.nbytes - start} follow: "
            "the length is wrong or the body was cut off"
        )
    header = _header(bytes(view[start : start + size]), "utf-8" if view[6] == 3 else "latin-1")
    order, dtype = _dtype(header["descr"])
    shape = _shape(header["shape"])
    data = view[start + size :]
    need = prod(shape) * ITEMSIZE[dtype]
    if data.nbytes != need:
        raise InvalidRequest(f"the .npy body holds {data.nbytes} bytes of data, but dtype {dtype} and shape {shape} need {need}")
    if order == ">":
        data = _swapped(data, dtype)
    if header["fortran_order"]:
        data = _row_major(data, shape, ITEMSIZE[dtype])
    return Array(dtype, shape, data)


def _header(text: bytes, encoding: str) -> dict[str, Any]:
    try:
        header = ast.literal_eval(text.decode(encoding).strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise InvalidRequest("the .npy header is not a Python dictionary of literals") from None
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"} or not isinstance(header["fortran_order"], bool):
        raise InvalidRequest("the .npy header must hold exactly `descr`, `fortran_order` (True or False) and `shape`")
    return header


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or len(shape) > 64 or not all(type(n) is int and 0 <= n <= 2**62 for n in shape):
        raise InvalidRequest(f"the .npy header's `shape` must be a tuple of at most 64 non-negative integers, not {str(shape)[:200]}")
    return shape


def _dtype(descr: Any) -> tuple[str, str]:
    """Byte order and dtype. No object dtypes: they would be pickles, which run code when read."""
    if not isinstance(descr, str):
        raise InvalidRequest("the .npy file holds a structured dtype; send one plain array for each parameter")
    if descr.lstrip("|<>=") == "O" or descr[:1] == "O":
        raise InvalidRequest("the .npy file holds Python objects (pickle); only plain numbers and booleans are accepted")
    if descr[1:] == "V2":
        raise InvalidRequest("the .npy file has dtype V2 (perhaps bfloat16, which npy cannot name); send it as application/x-safetensors")
    dtype = _DTYPES.get(descr[1:])
    if dtype is None or descr[0] not in "<>|=":
        raise InvalidRequest(f"the .npy file has dtype {descr[:50]!r}; accepted are {', '.join(_DTYPES.values())}")
    return descr[0], dtype


def _swapped(data: memoryview, dtype: str) -> memoryview:
    width = ITEMSIZE[dtype] // (2 if dtype.startswith("complex") else 1)
    turned = numbers(_UNSIGNED[width])
    turned.frombytes(data)
    turned.byteswap()
    return memoryview(turned).cast("B")


def _row_major(data: memoryview, shape: tuple[int, ...], width: int) -> memoryview:
    """`data` in Fortran order, copied to C order, in as few strided copies as peeling the shorter end gives."""
    lengths = [n for n in shape if n != 1]
    if len(lengths) < 2 or not data.nbytes:
        return data
    if prod(sorted(lengths)[:-1]) > _MOVES:
        raise InvalidRequest("the .npy file is in Fortran order with too many short axes to turn round; send numpy.ascontiguousarray(x)")
    out = memoryview(bytearray(data.nbytes))
    unit = _UNSIGNED[min(width, 8)]
    source, target = data.cast(unit), out.cast(unit)
    parts = width // source.itemsize  # complex128 is wider than any unit: its halves move one after the other
    for part in range(parts):
        _transpose(source[part::parts], target[part::parts], lengths)
    return out


def _transpose(source: memoryview, target: memoryview, lengths: list[int]) -> None:
    if len(lengths) == 1:
        target[:] = source
        return
    first, last = lengths[0], lengths[-1]
    if first <= last:
        block = len(target) // first
        for i in range(first):
            _transpose(source[i::first], target[i * block : (i + 1) * block], lengths[1:])
    else:
        block = len(source) // last
        for i in range(last):
            _transpose(source[i * block : (i + 1) * block], target[i::last], lengths[:-1])
