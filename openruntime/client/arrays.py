"""NumPy in, NumPy out: arrays, scalars and handles as they stand in a request, and outputs as they come back."""

from collections.abc import Mapping
from math import isfinite, isnan
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

from openruntime.contracts import safetensors
from openruntime.contracts.errors import InvalidParameter
from openruntime.contracts.payload import ITEMSIZE, Array, Buffer


@runtime_checkable
class Referable(Protocol):
    """Stands for an array the server has or will have: a kept tensor, or a task's output."""

    @property
    def reference(self) -> dict[str, str]: ...


class TensorHandle(msgspec.Struct, frozen=True):
    """An array kept by the server; give it wherever an operation takes an array. `nbytes` is in bytes."""

    id: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    created_at: str | None = None
    expires_at: str | None = None

    @property
    def reference(self) -> dict[str, str]:
        return {"tensor": self.id}


class Outputs(dict[str, Any]):
    """Several named outputs: `out["labels"]` or `out.labels`. A name wins over dict's own methods (`out.values` is the output)."""

    def __getattribute__(self, name: str) -> Any:
        return dict.__getitem__(self, name) if dict.__contains__(self, name) else super().__getattribute__(name)


def to_wire(value: Any, field: str) -> Array:
    """A NumPy array, or what converts to one, as contiguous little-endian bytes; no copy where it is that already.

    Raises `InvalidParameter` for dtypes that cannot travel (objects, strings, dates, long doubles).
    """
    array = np.asarray(value)
    if array.dtype.name not in ITEMSIZE:
        why = "holds Python objects, which are never sent" if array.dtype.hasobject else f"has dtype {array.dtype}"
        raise InvalidParameter(f"`{field}` {why}; convert it to one of {', '.join(ITEMSIZE)}", field=field)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)
    return Array(array.dtype.name, array.shape, array.reshape(-1).view(np.uint8).data if array.size else b"")


def from_wire(array: Array) -> Any:
    """An `ndarray` on the received bytes; a NumPy scalar where the shape is (). bfloat16, which NumPy lacks, widens to float32, exactly."""
    if array.dtype == "bfloat16":
        flat = (np.frombuffer(array.view, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        flat = np.frombuffer(array.view, np.dtype(array.dtype).newbyteorder("<"))
    return flat.reshape(array.shape)[()]


def split(parameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Parameters as they travel: plain JSON values, and arrays as bytes."""
    plain: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    for name, value in parameters.items():
        if isinstance(value, np.ndarray | np.generic) or (hasattr(value, "__array__") and not isinstance(value, Referable)):
            arrays[name] = to_wire(value, name)
        else:
            plain[name] = _plain(value, name)
    return plain, arrays


def _plain(value: Any, field: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, complex):
        return {"real": _plain(value.real, field), "imag": _plain(value.imag, field)}
    if isinstance(value, Referable):
        return value.reference
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{field}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(item, field) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), field)
    raise InvalidParameter(f"`{field}` is a {type(value).__name__}; give an array, a number, a string, a list or a handle", field=field)


def outputs(body: Buffer) -> Any:
    """The answer's arrays: the array itself where there is only one, else `Outputs`; what the answer calls JSON is parsed."""
    arrays, metadata = safetensors.decode(body)
    if (spoken := metadata.get(safetensors.JSON_OUTPUT)) in arrays:
        return msgspec.json.decode(arrays[spoken].view)
    if len(arrays) == 1:
        return from_wire(next(iter(arrays.values())))
    return Outputs((name, from_wire(array)) for name, array in arrays.items())


NumericInput = npt.ArrayLike | Referable
