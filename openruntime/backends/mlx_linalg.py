"""Products, decompositions and Fourier transforms of `mlx_namespace`."""

import math
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from openruntime.backends.failures import INDEFINITE
from openruntime.backends.mlx_arrays import Axes, asarray, matrix_transpose, maximal, minimal, mx, sum
from openruntime.contracts.errors import OperationFailed, UnsupportedOnDevice
from openruntime.operations.dtypes import KIND, name_of

CPU = mx.cpu  # decompositions have no other home; on Apple's chips memory is one


# -- products -----------------------------------------------------------------------------------------------------------------

_LIMB = 16  # bits: the sums of products of two such are exact in float64


def matmul(a: Any, b: Any, /) -> Any:
    name = name_of(a)
    if KIND[name][0] in "iu":
        return _whole_product(a, b, KIND[name][1]).astype(a.dtype)
    if 0 in (*a.shape, *b.shape):
        rows, columns = a.shape[-2:-1], b.shape[-1:] if b.ndim > 1 else ()
        stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return mx.zeros((*stack, *rows, *columns), a.dtype)
    return mx.matmul(a, b)


def _whole_product(a: Any, b: Any, bits: int) -> Any:
    """MLX multiplies matrices of floats only: integers go in pieces that float64 holds, whose products' sums it holds too."""
    if mx.default_device() != CPU:
        raise UnsupportedOnDevice("matmul of integers does not run on Metal: its matrix products are of floating-point numbers")
    total = None
    left, right = a.astype(mx.int64), b.astype(mx.int64)
    for i in range(0, bits, _LIMB):
        for j in range(0, bits - i, _LIMB):
            part = matmul(_limb(left, i, bits), _limb(right, j, bits)).astype(mx.int64) << (i + j)
            total = part if total is None else total + part
    return total


def _limb(x: Any, start: int, bits: int) -> Any:
    found = x >> start
    return (found if start + _LIMB >= bits and bits < 64 else found & ((1 << _LIMB) - 1)).astype(mx.float64)


# -- linear algebra -----------------------------------------------------------------------------------------------------------


def _real(operation: str, x: Any) -> None:
    if KIND[name_of(x)][0] == "c":
        raise UnsupportedOnDevice(f"{operation} of complex matrices does not run on MLX: it decomposes real ones only")


def vector_norm(x: Any, /, *, axis: Axes = None, keepdims: bool = False, ord: float = 2) -> Any:
    size = mx.abs(x)
    if ord == math.inf:
        return maximal(size, axis=axis, keepdims=keepdims)
    if ord == -math.inf:
        return minimal(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        return sum((size != 0).astype(size.dtype), axis=axis, keepdims=keepdims)
    if ord == 1:
        return sum(size, axis=axis, keepdims=keepdims)
    if ord == 2:
        return mx.sqrt(sum(size * size, axis=axis, keepdims=keepdims))
    power = asarray(ord, dtype=size.dtype)
    return sum(size**power, axis=axis, keepdims=keepdims) ** (1 / power)


def matrix_norm(x: Any, /, *, ord: Any = "fro") -> Any:
    if ord == "fro":
        return vector_norm(x, axis=(-2, -1))
    if ord in ("nuc", 2, -2):
        values = svd(x)[1]
        return sum(values, axis=-1) if ord == "nuc" else values[..., 0 if ord == 2 else -1]
    sums = sum(mx.abs(x), axis=-2 if abs(ord) == 1 else -1)
    return (maximal if ord > 0 else minimal)(sums, axis=-1)


def svd(x: Any, /, *, full_matrices: bool = False) -> tuple[Any, Any, Any]:
    """Of a tall matrix without its full left factor: by that of R in QR, which is square."""
    m, n = x.shape[-2:]
    if full_matrices or m == n:
        u, s, vh = mx.linalg.svd(x, stream=CPU)
        return u, s, vh
    if m < n:
        v, s, uh = svd(matrix_transpose(x))
        return matrix_transpose(uh), s, matrix_transpose(v)
    if KIND[name_of(x)][0] == "c":  # of which MLX has no QR
        u, s, vh = mx.linalg.svd(x, stream=CPU)
        return u[..., :n], s, vh
    q, r = mx.linalg.qr(x, stream=CPU)
    u, s, vh = mx.linalg.svd(r, stream=CPU)
    return mx.matmul(q, u, stream=CPU), s, vh


def qr(x: Any, /, *, mode: str = "reduced") -> tuple[Any, Any]:
    _real("qr", x)
    *stack, m, n = x.shape
    if mode == "complete" and m > n:  # what follows the columns of x spans the rest of the space
        q, r = mx.linalg.qr(mx.concatenate([x, mx.broadcast_to(mx.eye(m, dtype=x.dtype), (*stack, m, m))], axis=-1), stream=CPU)
        return q, r[..., :n]
    q, r = mx.linalg.qr(x, stream=CPU)
    return q, r


def eigh(x: Any, /) -> tuple[Any, Any]:
    values, vectors = mx.linalg.eigh(x, UPLO="L", stream=CPU)
    return values, vectors


def solve(a: Any, b: Any, /) -> Any:
    _real("solve", a)
    if not a.size or not b.size:
        return mx.zeros(b.shape if b.ndim > 1 else (*a.shape[:-2], a.shape[-1]), b.dtype)
    right = b[:, None] if b.ndim == 1 else b
    stack = np.broadcast_shapes(a.shape[:-2], right.shape[:-2])
    found = mx.linalg.solve(mx.broadcast_to(a, (*stack, *a.shape[-2:])), mx.broadcast_to(right, (*stack, *right.shape[-2:])), stream=CPU)
    return found[..., 0] if b.ndim == 1 else found


def inv(x: Any, /) -> Any:
    _real("inv", x)
    if not x.size:
        return x
    return mx.linalg.inv(x, stream=CPU)


def det(x: Any, /) -> Any:
    _real("det", x)
    n = x.shape[-1]
    if not x.size:
        return mx.ones(x.shape[:-2], x.dtype)
    lu, pivots = mx.linalg.lu_factor(x, stream=CPU)
    exchanged = mx.sum((pivots.astype(mx.int64) != mx.arange(n, dtype=mx.int64)).astype(mx.int64), axis=-1)
    return mx.prod(mx.diagonal(lu, axis1=-2, axis2=-1), axis=-1) * (1 - 2 * (exchanged % 2)).astype(x.dtype)


def cholesky(x: Any, /) -> Any:
    _real("cholesky", x)
    if not x.size:
        return x
    lower = mx.linalg.cholesky(x, stream=CPU)
    if bool(mx.any(~(mx.diagonal(lower, axis1=-2, axis2=-1) > 0))):  # LAPACK stops at the first pivot that is not positive
        raise OperationFailed(f"cholesky failed: {INDEFINITE}")
    return lower


# -- Fourier transforms -------------------------------------------------------------------------------------------------------


def transform(name: str) -> Callable[..., Any]:
    inverse, plane = name.startswith("i"), name.endswith("n")

    def call(x: Any, /, *, n: int | None = None, s: Any = None, axis: int = -1, axes: Any = None, norm: str = "backward") -> Any:
        if name_of(x) == "float64":
            raise UnsupportedOnDevice("MLX transforms single precision only; send float32 or complex64")
        where = {"s": s, "axes": axes} if plane else {"n": n, "axis": axis}
        shape = list(x.shape)
        over = [one % x.ndim for one in (axes if axes is not None else range(x.ndim))] if plane else [axis % x.ndim]
        lengths = list(s or [shape[one] for one in over]) if plane else [n or shape[over[0]]]
        if name.startswith("ir"):
            lengths[-1] = (s[-1] if s else 2 * (shape[over[-1]] - 1)) if plane else n or 2 * (shape[over[0]] - 1)
        if not prod(shape):
            for one, length in zip(over, lengths, strict=True):
                shape[one] = length
            if name.startswith("r"):
                shape[over[-1]] = lengths[-1] // 2 + 1
            return mx.zeros(shape, mx.float32 if name.startswith("ir") else mx.complex64)
        found = getattr(mx.fft, name)(x, **{key: value for key, value in where.items() if value is not None})
        if norm == "backward":
            return found
        scale = float(prod(lengths)) ** (0.5 if norm == "ortho" else 1.0)
        return found * scale if inverse else found / scale

    return call
