"""Several arrays as one, on OpenCL: each is copied to its place, and cast on the way."""

from collections.abc import Sequence
from math import prod

from openruntime.backends.opencl_arrays import Engine, Tensor, contiguous
from openruntime.operations.dtypes import promote


def _dtype(arrays: Sequence[Tensor]) -> str:
    found = arrays[0].dtype
    for array in arrays[1:]:
        found = promote(found, array.dtype)
    return found


def concat(engine: Engine, arrays: Sequence[Tensor], axis: int | None = 0) -> Tensor:
    if axis is None:
        arrays, axis = [array.reshaped(array.size) for array in arrays], 0
    at = axis % arrays[0].ndim
    length = sum(array.shape[at] for array in arrays)
    shape = (*arrays[0].shape[:at], length, *arrays[0].shape[at + 1 :])
    out = engine.output(shape, _dtype(arrays))
    strides, start = contiguous(shape), 0
    for array in arrays:
        engine.copy(array, out, array.shape, contiguous(array.shape), strides, start=start)
        start += array.shape[at] * strides[at]
    return out


def stack(engine: Engine, arrays: Sequence[Tensor], axis: int = 0) -> Tensor:
    shape = arrays[0].shape
    at = axis % (len(shape) + 1)
    lifted = [array.reshaped(*shape[:at], 1, *shape[at:]) for array in arrays]
    assert all(prod(array.shape) == prod(shape) for array in lifted)
    return concat(engine, lifted, at)
