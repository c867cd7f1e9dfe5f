"""Arrays as they travel and rest: bytes, a dtype and a shape. No library's array type crosses a process or a socket."""

from math import prod
from typing import Any

import msgspec

from openruntime.contracts.errors import InvalidParameter, nearest

Buffer = bytes | bytearray | memoryview

# name -> bytes an element; the names are the Array API standard's, plus the two half precisions
ITEMSIZE: dict[str, int] = {
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip


class _Sized(msgspec.Struct, frozen=True, gc=False):
    """What has a dtype and a shape; `size` in elements, `nbytes` in bytes."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEMSIZE[self.dtype]


class Spec(_Sized, frozen=True, gc=False):
    """What is known of an array before it exists. `shape` is exact, or an upper bound where `exact` is false."""

    exact: bool = True


class Array(_Sized, frozen=True, eq=False, gc=False):
    """An array at rest: C-contiguous, little-endian.

    `data` may be a view into shared memory; the memory is given back when the last view on it is dropped.
    `blob` is the digest under which the bytes rest in the blob store; then `data` may be absent.
    """

    data: Any = None  # Buffer | None, which msgspec cannot decode: it has no unions of bytes and views
    blob: str | None = None

    @property
    def spec(self) -> Spec:
        return Spec(self.dtype, self.shape)

    @property
    def view(self) -> memoryview:
        """The bytes, flat. Raises `ValueError` when they rest in a blob and were not loaded."""
        if self.data is None:
            raise ValueError(f"the bytes of this array rest in blob {self.blob}; load them first")
        return memoryview(self.data).cast("B")


class Reference(msgspec.Struct, frozen=True, tag_field="kind", tag="reference"):
    """Stands for an array in a request: `{"tensor": id}`, or `{"task": id}` for that task's (first or named) output."""

    tensor: str | None = None
    task: str | None = None
    output: str | None = None


def check_dtype(name: str, field: str) -> str:
    """`name` itself when it is a dtype that arrays can have; raises `InvalidParameter` naming `field` otherwise."""
    if name not in ITEMSIZE:
        raise InvalidParameter(f"`{field}` has dtype {name!r}, which no array can have{nearest(name, ITEMSIZE)}", field=field)
    return name
