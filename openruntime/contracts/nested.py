"""Arrays as JSON: nested lists of numbers or booleans. Made for small data; large arrays travel as bytes."""

import struct
from array import array as numbers
from itertools import chain
from math import isfinite, prod
from typing import Any

from openruntime.contracts.errors import InvalidParameter
from openruntime.contracts.payload import Array

_NAMED = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_FORMATS: dict[str, Any] = {  # of struct; Any because mypy knows `cast` by literals only
    "bool": "?", "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q",
    "float16": "e", "bfloat16": "H", "float32": "f", "float64": "d", "complex64": "f", "complex128": "d",
}  # fmt: skip


def to_array(value: Any, field: str) -> Array:
    """Nested lists, or one number: all-boolean is bool, all-integer int64, other numbers float64, `{"real", "imag"}` complex128.

    The strings `NaN`, `Infinity` and `-Infinity` count as numbers. Raises `InvalidParameter` naming `field`.
    """
    if isinstance(value, dict) and value.keys() == {"real", "imag"}:
        return _complex(to_array(value["real"], f"{field}.real"), to_array(value["imag"], f"{field}.imag"), field)
    flat, shape = _flatten(value, field)
    kinds = set(map(type, flat))
    if kinds == {bool}:
        return Array("bool", shape, bytes(flat))
    try:
        if kinds == {int}:
            return Array("int64", shape, numbers("q", flat).tobytes())
        if str in kinds:
            flat = [_NAMED.get(x, x) if type(x) is str else x for x in flat]
            kinds = set(map(type, flat))
        if kinds <= {int, float}:
            return Array("float64", shape, numbers("d", flat).tobytes())
    except OverflowError:
        raise InvalidParameter(f"`{field}` holds an integer that does not fit int64; send it as bytes, or as a float", field=field) from None
    if bool in kinds:
        raise InvalidParameter(f"`{field}` mixes booleans with other values; use one kind in an array", field=field)
    odd = next(x for x in flat if type(x) not in (int, float))
    raise InvalidParameter(
        f"`{field}` holds {_name(odd)}, which is no number; arrays are nested lists of numbers or booleans, "
        '{"tensor": id} or {"task": id} ("NaN", "Infinity" and "-Infinity" stand for what JSON lacks)',
        field=field,
    )


def cast(array: Array, dtype: str, field: str) -> Array:
    """What `to_array` read, in a dtype that is known from elsewhere. Raises `InvalidParameter` where a value does not fit it."""
    if array.dtype == dtype:
        return array
    flat: list[Any] = array.view.cast(_FORMATS[array.dtype]).tolist() if array.size else []
    whole, pairs = "int" in dtype, dtype.startswith("complex") and not array.dtype.startswith("complex")
    if not array.size:
        return Array(dtype, array.shape, b"")
    if dtype in ("bool", "bfloat16") or array.dtype == "bool" or (array.dtype.startswith("complex") and not dtype.startswith("complex")):
        raise InvalidParameter(f"`{field}` must be {dtype}, and these lists are {array.dtype}; send the array as bytes", field=field)
    if whole and array.dtype != "int64":
        odd = next((x for x in flat if not isfinite(x) or not x.is_integer()), None)
        if odd is not None:
            raise InvalidParameter(f"`{field}` must be {dtype}, and holds {odd!r}", field=field)
        flat = [int(x) for x in flat]
    if pairs:
        flat = [part for x in flat for part in (x, 0.0)]
    try:
        return Array(dtype, array.shape, struct.pack(f"<{len(flat)}{_FORMATS[dtype]}", *flat))
    except (OverflowError, struct.error):
        raise InvalidParameter(f"`{field}` holds a value that {dtype} does not", field=field) from None


def from_array(array: Array) -> Any:
    """The reverse of `to_array`: not-finite numbers as their names, complex arrays as `{"real": …, "imag": …}`."""
    view = array.view
    if array.dtype == "float16":
        flat: list[Any] = list(struct.unpack(f"<{array.size}e", view))
    elif array.dtype == "bfloat16":
        flat = numbers("f", numbers("I", [x << 16 for x in view.cast("H")]).tobytes()).tolist()
    else:
        flat = view.cast(_FORMATS[array.dtype]).tolist() if view.nbytes else []
    if array.dtype.startswith("complex"):
        return {"real": _nest(_plain(flat[::2]), array.shape), "imag": _nest(_plain(flat[1::2]), array.shape)}
    return _nest(_plain(flat) if "float" in array.dtype else flat, array.shape)


def _flatten(value: Any, field: str) -> tuple[list[Any], tuple[int, ...]]:
    flat: list[Any] = [value]
    shape: list[int] = []
    while flat and type(flat[0]) is list:
        length = len(flat[0])
        if len(shape) == 64:
            raise InvalidParameter(f"`{field}` is nested deeper than 64 lists", field=field)
        if not all(type(x) is list and len(x) == length for x in flat):
            raise InvalidParameter(f"`{field}` is ragged: the lists at depth {len(shape) + 1} differ in length; make them equally long", field=field)
        shape.append(length)
        flat = list(chain.from_iterable(flat))
    if any(type(x) is list for x in flat):
        raise InvalidParameter(f"`{field}` is ragged: numbers and lists stand side by side at depth {len(shape)}", field=field)
    return flat, tuple(shape)


def _complex(real: Array, imag: Array, field: str) -> Array:
    if real.shape != imag.shape or "complex128" in (real.dtype, imag.dtype):
        raise InvalidParameter(f"`{field}.real` and `{field}.imag` must be real and of one shape", field=field)
    pairs = numbers("d", bytes(16 * real.size))
    for i, part in enumerate((real, imag)):
        pairs[i::2] = numbers("d", part.view.cast(_FORMATS[part.dtype]).tolist() if part.size else [])
    return Array("complex128", real.shape, pairs.tobytes())


def _plain(flat: list[Any]) -> list[Any]:
    if all(map(isfinite, flat)):
        return flat
    return [x if isfinite(x) else "NaN" if x != x else "Infinity" if x > 0 else "-Infinity" for x in flat]


def _nest(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    for axis in range(len(shape) - 1, 0, -1):
        n = shape[axis]
        flat = [flat[i * n : (i + 1) * n] for i in range(prod(shape[:axis]))]
    return flat


def _name(value: Any) -> str:
    return "null" if value is None else f"{str(value)[:40]!r}" if isinstance(value, str) else f"a {type(value).__name__}"
