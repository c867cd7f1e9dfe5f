"""MLX, and the Array API's functions that it lacks or answers differently; `mlx_linalg` has products and transforms.

Products of matrices are BLAS's: on Linux a system's OpenBLAS is loaded first, so that MLX's own, 30 times slower, is never called.
"""

import ctypes
import math
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from math import prod
from typing import Any

import numpy as np

from openruntime.backends.failures import NEGATIVE_POWER
from openruntime.contracts.errors import OperationFailed
from openruntime.operations.dtypes import KIND, name_of
from openruntime.operations.shapes import reduced


def _openblas() -> ctypes.CDLL | None:
    """Before MLX, and for all to see: the linker binds MLX's calls to the first BLAS it meets."""
    try:
        return ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return None


BLAS = _openblas() if sys.platform == "linux" else None

import mlx.core as mx  # noqa: E402

mx.array.device = None  # type: ignore[attr-defined]  # the standard's attribute, for what makes an array beside another; MLX's arrays are on none
METAL = mx.metal.is_available()

__all__ = [
    "BLAS", "METAL", "arange", "argmax", "argmin", "argsort", "asarray", "astype", "clip", "concat", "copysign", "cos", "count_nonzero",
    "cumulative_sum", "dtype_of", "every", "exp", "flip", "full", "full_like", "hypot", "isdtype", "linspace", "logaddexp", "matrix_transpose",
    "maximal", "mean", "minimal", "mx", "name_of_dtype", "nextafter", "ones", "pow", "searchsorted", "sign", "signbit", "sin", "some", "sort", "std",
    "sum", "unique_counts", "var", "zeros",
]  # fmt: skip

Axes = int | Sequence[int] | None


def dtype_of(name: str) -> Any:
    return getattr(mx, "bool_" if name == "bool" else name)


def _half(x: Any) -> bool:
    return KIND[name_of(x)] == ("f", 16)


def _widened(function: Callable[..., Any]) -> Callable[..., Any]:
    """Half precisions are summed in float32 and rounded once."""

    @wraps(function)
    def call(x: Any, /, **options: Any) -> Any:
        return function(x.astype(mx.float32), **options).astype(x.dtype) if _half(x) else function(x, **options)

    return call


def _count(x: Any, axis: Axes) -> int:
    axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
    return prod(x.shape[one] for one in axes)


# -- making arrays ------------------------------------------------------------------------------------------------------------


def asarray(value: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
    if isinstance(value, mx.array):
        return value.astype(dtype) if dtype is not None and dtype != value.dtype else mx.array(value) if copy else value
    host = np.asarray(value, None if dtype is None or dtype == mx.bfloat16 else name_of_dtype(dtype))
    return mx.array(host, dtype=dtype or dtype_of(host.dtype.name))  # without a dtype float64 would become float32


def name_of_dtype(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2].rstrip("_")


def astype(x: Any, dtype: Any, /, *, copy: bool = True) -> Any:
    return x.astype(dtype)


def arange(start: float, /, stop: float | None = None, step: float = 1, *, dtype: Any = None, device: Any = None) -> Any:
    start, stop = (0, start) if stop is None else (start, stop)
    whole = all(isinstance(value, int) for value in (start, stop, step))
    return mx.arange(start, stop, step, dtype=dtype or (mx.int64 if whole else mx.float64))


def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    return mx.broadcast_to(asarray(fill_value, dtype=dtype), shape if isinstance(shape, Sequence) else (shape,))


def zeros(shape: Any, *, dtype: Any = None, device: Any = None) -> Any:
    return mx.zeros(shape, dtype or mx.float64)


def ones(shape: Any, *, dtype: Any = None, device: Any = None) -> Any:
    return mx.ones(shape, dtype or mx.float64)


def full_like(x: Any, /, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    return full(x.shape, fill_value, dtype=dtype or x.dtype)


def linspace(start: float, stop: float, /, num: int, *, dtype: Any = None, device: Any = None, endpoint: bool = True) -> Any:
    return asarray(np.linspace(start, stop, num, endpoint=endpoint), dtype=dtype or mx.float64)


# -- shapes -------------------------------------------------------------------------------------------------------------------


def concat(arrays: Sequence[Any], /, *, axis: int | None = 0) -> Any:
    return mx.concatenate([mx.reshape(x, (-1,)) for x in arrays], axis=0) if axis is None else mx.concatenate(list(arrays), axis=axis)


def flip(x: Any, /, *, axis: int) -> Any:
    return x[tuple(slice(None, None, -1) if i == axis % x.ndim else slice(None) for i in range(x.ndim))]


def matrix_transpose(x: Any, /) -> Any:
    return mx.swapaxes(x, -1, -2)


_KINDS = {
    "bool": "b", "signed integer": "i", "unsigned integer": "u", "integral": "iu", "real floating": "f", "complex floating": "c",
    "numeric": "iufc",
}  # fmt: skip


def isdtype(dtype: Any, kind: Any) -> bool:
    if isinstance(kind, tuple):
        return any(isdtype(dtype, one) for one in kind)
    if not isinstance(kind, str):
        return bool(dtype == kind)
    return KIND[name_of_dtype(dtype)][0] in _KINDS[kind]


# -- elementwise --------------------------------------------------------------------------------------------------------------

_BITS = {"float16": "int16", "bfloat16": "int16", "float32": "int32", "float64": "int64"}


def _as_bits(x: Any) -> Any:
    return x.view(dtype_of(_BITS[name_of(x)]))


def exp(x: Any, /) -> Any:
    """MLX's own, like its sine and cosine, has float32's digits in float64 too; `expm1` and `tan` have all."""
    if name_of(x) != "float64":
        return mx.exp(x)
    size = mx.expm1(mx.abs(x)) + 1
    return mx.where(x < 0, 1 / size, size)


def sin(x: Any, /) -> Any:
    if name_of(x) != "float64":
        return mx.sin(x)
    t = mx.tan(x / 2)
    return 2 * t / (1 + t * t)


def cos(x: Any, /) -> Any:
    if name_of(x) != "float64":
        return mx.cos(x)
    t = mx.tan(x / 2)
    return (1 - t * t) / (1 + t * t)


def logaddexp(x: Any, y: Any, /) -> Any:
    return mx.where(x == y, x + math.log(2), mx.maximum(x, y) + mx.log1p(exp(-mx.abs(x - y))))


def pow(x: Any, y: Any, /) -> Any:
    if KIND[name_of(y)][0] == "i" and bool(mx.any(y < 0)):
        raise OperationFailed(f"expression failed: {NEGATIVE_POWER}")
    return mx.power(x, y)


def signbit(x: Any, /) -> Any:
    return _as_bits(x) < 0


def copysign(x: Any, y: Any, /) -> Any:
    return mx.where(signbit(x) == signbit(y), x, -x)


def hypot(x: Any, y: Any, /) -> Any:
    """Scaled, so that squares cannot overflow; infinite where either is, NaN or not."""
    x, y = mx.abs(x), mx.abs(y)
    big, small = mx.maximum(x, y), mx.minimum(x, y)
    ratio = small / mx.where(big == 0, mx.ones_like(big), big)
    found = big * mx.sqrt(1 + ratio * ratio)
    return mx.where(mx.isinf(x) | mx.isinf(y), full_like(x, math.inf), found)


def nextafter(x: Any, y: Any, /) -> Any:
    """The bits of floats of one sign are in their order, so that the next one's are one more or less."""
    kind = name_of(x)
    bits = _as_bits(x)
    one = mx.ones_like(bits)
    stepped = mx.where((y > x) == (x > 0), bits + one, bits - one).view(x.dtype)
    least = copysign(one.view(x.dtype), y)
    found = mx.where(x == 0, least, stepped)
    found = mx.where(x == y, y, found)
    nan = mx.isnan(x) | mx.isnan(y)
    return mx.where(nan, full_like(x, math.nan, dtype=dtype_of(kind)), found)


def sign(x: Any, /) -> Any:
    found = mx.sign(x)
    return mx.where(mx.isnan(x), x, found) if KIND[name_of(x)][0] == "f" else found


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    if min is not None:
        x = mx.maximum(x, asarray(min, dtype=x.dtype))
    return x if max is None else mx.minimum(x, asarray(max, dtype=x.dtype))


# -- reductions ---------------------------------------------------------------------------------------------------------------


def _of_none(function: Callable[..., Any], answer: Any) -> Callable[..., Any]:
    """MLX's reductions of no numbers may run for ever (0.32.4)."""

    def call(x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Any:
        found = mx.zeros((1,) * x.ndim, x.dtype) if not x.size else x
        found = function(found, axis=axis, keepdims=keepdims)
        if x.size:
            return found
        axes = range(x.ndim) if axis is None else [one % x.ndim for one in ([axis] if isinstance(axis, int) else axis)]
        return full(reduced(x.shape, list(axes), keepdims=keepdims), answer, dtype=found.dtype)

    return call


_sum, every, some = _of_none(mx.sum, 0), _of_none(mx.all, True), _of_none(mx.any, False)


@_widened
def sum(x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Any:
    return _sum(x, axis=axis, keepdims=keepdims)


@_widened
def mean(x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Any:
    return _sum(x, axis=axis, keepdims=keepdims) / asarray(_count(x, axis), dtype=x.dtype)


@_widened
def var(x: Any, /, *, axis: Axes = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    centred = x - mean(x, axis=axis, keepdims=True)
    return _sum(centred * centred, axis=axis, keepdims=keepdims) / asarray(_count(x, axis) - correction, dtype=x.dtype)


@_widened
def std(x: Any, /, *, axis: Axes = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    return mx.sqrt(var(x, axis=axis, correction=correction, keepdims=keepdims))


def _extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    """NaN where one is among the numbers."""

    def call(x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Any:
        found = function(x, axis=axis, keepdims=keepdims)
        if KIND[name_of(x)][0] != "f":
            return found
        return mx.where(mx.any(mx.isnan(x), axis=axis, keepdims=keepdims), full_like(found, math.nan), found)

    return call


def _place(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where the first NaN stands, if there is one."""

    def call(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
        found = function(x, axis=axis, keepdims=keepdims)
        if KIND[name_of(x)][0] == "f":
            nan = mx.isnan(x)
            first = mx.argmax(nan.astype(mx.uint8), axis=axis, keepdims=keepdims)
            found = mx.where(mx.any(nan, axis=axis, keepdims=keepdims), first, found)
        return found.astype(mx.int64)

    return call


@_widened
def cumulative_sum(x: Any, /, *, axis: int | None = None, include_initial: bool = False) -> Any:
    axis = 0 if axis is None else axis % x.ndim
    found = mx.cumsum(x, axis=axis) if x.size else x
    if not include_initial:
        return found
    first = mx.zeros((*x.shape[:axis], 1, *x.shape[axis + 1 :]), x.dtype)
    return mx.concatenate([first, found], axis=axis)


def count_nonzero(x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Any:
    return _sum((x != 0).astype(mx.int64), axis=axis, keepdims=keepdims)


maximal, minimal = _extreme(mx.max), _extreme(mx.min)
argmax, argmin = _place(mx.argmax), _place(mx.argmin)

# -- order --------------------------------------------------------------------------------------------------------------------


def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    found = mx.sort(x, axis=axis) if x.size else x
    return flip(found, axis=axis) if descending else found


def argsort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    if not x.size:
        return mx.zeros(x.shape, mx.int64)
    if not descending:
        return mx.argsort(x, axis=axis).astype(mx.int64)
    return x.shape[axis] - 1 - flip(mx.argsort(flip(x, axis=axis), axis=axis).astype(mx.int64), axis=axis)


def searchsorted(x: Any, values: Any, /, *, side: str = "left", sorter: Any = None) -> Any:
    """By bisection of all values at once."""
    low, high = mx.zeros(values.shape, mx.int64), full(values.shape, x.shape[0], dtype=mx.int64)
    if not x.size:
        return low
    for _ in range(x.shape[0].bit_length()):
        middle = (low + high) // 2
        pivot = mx.take(x, mx.minimum(middle, x.shape[0] - 1))
        # NaN stands at the end of what is sorted
        below = (
            (pivot < values) | (mx.isnan(values) & ~mx.isnan(pivot))
            if side == "left"
            else ~((values < pivot) | (mx.isnan(pivot) & ~mx.isnan(values)))
        )
        below = below & (low < high)
        low, high = mx.where(below, middle + 1, low), mx.where(below, high, mx.where(low < high, middle, high))
    return low


def unique_counts(x: Any, /) -> tuple[Any, Any]:
    values = sort(mx.reshape(x, (-1,)))
    count = values.shape[0]
    if not count:
        return values, mx.zeros((0,), mx.int64)
    new = mx.concatenate([mx.array([True]), values[1:] != values[:-1]])
    places = mx.sort(mx.where(new, mx.arange(count, dtype=mx.int64), count))[: int(mx.sum(new))]
    ends = mx.concatenate([places[1:], mx.array([count], dtype=mx.int64)])
    return mx.take(values, places), ends - places
