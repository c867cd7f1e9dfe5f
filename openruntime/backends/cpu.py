"""NumPy on the CPU: the backend that is always there, and the reference for all others.

A routine of its own stands in for a generic operation only where it was measured to be faster (docs/decisions/numpy-natives.md).
"""

import ctypes
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from openruntime.backends import fused
from openruntime.backends.array_backend import ArrayBackend, Native
from openruntime.backends.namespace import xp
from openruntime.contracts.errors import OpenRuntimeError, OperationFailed
from openruntime.operations import fourier, random, sorting
from openruntime.operations.definition import Operation
from openruntime.operations.dtypes import cast, complex_of, inexact, is_complex, name_of, promote, real

_CHUNK = 1 << 15  # random numbers made at a time: their temporaries stay in the cache
_FAILURES = {
    "Singular matrix": "the matrix is singular, so it has no inverse; lstsq finds a least-squares solution",
    "Matrix is not positive definite": "the matrix is not positive definite",
    "SVD did not converge": "the singular values did not converge; does the input hold NaN or infinity?",
    "SVD did not converge in Linear Least Squares": "the singular values did not converge; does the input hold NaN or infinity?",
    "Integers to negative integer powers are not allowed.": "an integer to a negative power is no integer; give one of the two as float64",
    "Eigenvalues did not converge": "the eigenvalues did not converge; does the input hold NaN or infinity?",
}
_SET_THREADS = ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads")


def _matmul(a: Any, b: Any, *, empty: Callable[..., Any]) -> Any:
    dtype = promote(name_of(a), name_of(b))
    a, b = cast(xp, a, dtype), cast(xp, b, dtype)
    if a.ndim != 2 or b.ndim != 2:
        return np.matmul(a, b)
    return np.matmul(a, b, out=empty((a.shape[0], b.shape[1]), dtype))


def _einsum(subscripts: str, a: Any, b: Any = None, c: Any = None, d: Any = None) -> Any:
    operands = [x for x in (a, b, c, d) if x is not None]
    dtype = name_of(operands[0])
    for operand in operands:
        dtype = promote(dtype, name_of(operand))
    return np.einsum(subscripts.replace(" ", ""), *(cast(xp, x, dtype) for x in operands), optimize=len(operands) > 1)


def _transform(name: str, x: Any, *, shape: Any = None, axes: Any = (-2, -1), **options: Any) -> Any:
    """SciPy's transforms use that real input needs half the work, and keep single precision."""
    from scipy import fft  # 0.1 s that a worker which transforms nothing saves

    if name.endswith("2"):
        options |= {"s": shape, "axes": axes}
    dtype = name_of(x)
    wide = complex_of(dtype)
    return cast(xp, getattr(fft, name)(cast(xp, x, wide if is_complex(dtype) else real(wide)), **options), wide)


def _convolve(a: Any, b: Any, mode: str = "full") -> Any:
    if a.ndim != 1 or min(a.size, b.size) > fourier.DIRECT:
        return fourier.convolve(a, b, mode, xp=xp)
    dtype = inexact(promote(name_of(a), name_of(b)))
    work = promote(dtype, "float32")
    full = np.convolve(cast(xp, a, work), cast(xp, b, work))
    start, length = fourier.kept(a.size, b.size, mode)
    return cast(xp, full[start : start + length], dtype)


def _top_k(x: Any, k: int, axis: int = -1, largest: bool = True) -> dict[str, Any]:
    """For one dimension: the k-th number by partition, then only what is at least as good is sorted."""
    if x.ndim != 1 or not 0 < k < x.size // 8:
        return sorting.top_k(x, k, axis, largest, xp=xp)  # type: ignore[no-any-return]
    limit = np.partition(x, x.size - k if largest else k - 1)[x.size - k if largest else k - 1]
    worse = x < limit if largest else x > limit  # NaN is worse than nothing among the largest, and is left in below
    where = np.flatnonzero(~worse)
    best = sorting.top_k(x[where], k, 0, largest, xp=xp)
    return {"values": best["values"], "indices": where[best["indices"]]}


def _drawn(make: Callable[..., Any], shape: tuple[int, ...], dtype: str, empty: Callable[..., Any]) -> Any:
    """`make(start, count)` in chunks, into place."""
    out = empty(shape, dtype)
    flat = out.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        flat[start : start + _CHUNK] = make(start, min(_CHUNK, flat.size - start))
    return out


def _uniform(shape: Any, seed: int, low: float = 0.0, high: float = 1.0, dtype: str = "float64", *, empty: Callable[..., Any]) -> Any:
    return _drawn(partial(random.scaled_uniforms, xp, seed, low, high, dtype), shape, dtype, empty)


def _normal(shape: Any, seed: int, mean: float = 0.0, std: float = 1.0, dtype: str = "float64", *, empty: Callable[..., Any]) -> Any:
    return _drawn(partial(random.scaled_normals, xp, seed, mean, std, dtype), shape, dtype, empty)


def _integers(shape: Any, seed: int, high: int, low: int = 0, dtype: str = "int64", *, empty: Callable[..., Any]) -> Any:
    return _drawn(partial(random.scaled_integers, xp, seed, low, high, dtype), shape, dtype, empty)


class NumpyBackend(ArrayBackend):
    """NumPy, and SciPy's Fourier transforms. BLAS threads are set for the whole process."""

    name = "numpy"
    xp = xp
    native: ClassVar[Mapping[str, Native]] = {
        **{name: partial(_transform, name) for name in ("fft", "ifft", "rfft", "fft2", "ifft2")},
        "expression": fused.expression,
        "matmul": _matmul,
        "einsum": _einsum,
        "convolve": _convolve,
        "top_k": _top_k,
        "uniform": _uniform,
        "normal": _normal,
        "integers": _integers,
    }
    native_outputs = frozenset({"expression", "matmul", "uniform", "normal", "integers"})

    def set_threads(self, threads: int) -> None:
        """How many threads BLAS uses from now on, where NumPy's BLAS is OpenBLAS."""
        self.threads = threads
        library = ctypes.CDLL(np.linalg._umath_linalg.__file__)
        setter = next((getattr(library, name) for name in _SET_THREADS if hasattr(library, name)), None)
        if setter is not None:
            setter(ctypes.c_int(threads))

    def _run(self, operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        with np.errstate(all="ignore"):  # infinities and NaN are answers here, not news for stderr
            return super()._run(operation, arguments)

    def from_host(self, array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        return array

    def translate(self, operation: str, error: Exception) -> OpenRuntimeError | None:
        if isinstance(error, np.linalg.LinAlgError) or str(error) in _FAILURES:
            return OperationFailed(f"{operation} failed: {_FAILURES.get(str(error), str(error))}")
        return super().translate(operation, error)
