"""The Array API standard over `mlx.core`: MLX's own function where it is as the standard wants it, else that of `mlx_arrays`, `mlx_linalg`."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from openruntime.backends import mlx_arrays as arrays
from openruntime.backends import mlx_linalg as linalg
from openruntime.backends.mlx_arrays import mx
from openruntime.contracts.errors import UnsupportedOnDevice
from openruntime.operations.dtypes import KIND

_MLX = (
    "abs", "acos", "acosh", "add", "asin", "asinh", "atan", "atan2", "atanh", "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_or",
    "bitwise_right_shift", "bitwise_xor", "broadcast_arrays", "broadcast_to", "ceil", "conj", "cosh", "divide", "einsum", "equal", "expm1", "floor",
    "floor_divide", "greater", "greater_equal", "imag", "isfinite", "isinf", "isnan", "less", "less_equal", "log", "log10", "log1p", "log2",
    "logical_and", "logical_not", "logical_or", "logical_xor", "maximum", "minimum", "multiply", "negative", "not_equal", "ones_like", "permute_dims",
    "real", "reciprocal", "remainder", "reshape", "round", "sinh", "sqrt", "square", "stack", "subtract", "take", "take_along_axis", "tan", "tanh",
    "tril", "trunc", "where", "zeros_like",
)  # fmt: skip
_OWN = (
    "arange", "argmax", "argmin", "argsort", "asarray", "astype", "clip", "concat", "copysign", "cos", "count_nonzero", "cumulative_sum", "exp",
    "flip", "full", "full_like", "hypot", "isdtype", "linspace", "logaddexp", "matrix_transpose", "mean", "nextafter", "ones", "pow", "searchsorted",
    "sign", "signbit", "sin", "sort", "std", "sum", "unique_counts", "var", "zeros",
)  # fmt: skip
_LINALG = ("cholesky", "det", "eigh", "inv", "matrix_norm", "qr", "solve", "svd", "vector_norm")
_FFT = ("fft", "ifft", "rfft", "irfft", "fftn", "ifftn", "rfftn", "irfftn")


def _missing(name: str) -> Any:
    if name == "complex128":
        raise UnsupportedOnDevice("MLX has no complex128")
    raise AttributeError(f"the namespace of MLX has no {name!r}", name=name)


def _namespace(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> ModuleType:
    found, inner, fft = ModuleType("mlx.core"), ModuleType("mlx.core.linalg"), ModuleType("mlx.core.fft")
    functions: dict[str, Any] = {name: getattr(mx, name) for name in _MLX} | {name: getattr(arrays, name) for name in _OWN}
    functions |= {"all": arrays.every, "any": arrays.some, "max": arrays.maximal, "min": arrays.minimal, "matmul": linalg.matmul}
    vars(found).update({name: wrap(function) for name, function in functions.items()})
    vars(found).update({name: arrays.dtype_of(name) for name in KIND if name != "complex128"})
    vars(inner).update({name: wrap(getattr(linalg, name)) for name in _LINALG})
    vars(fft).update({name: wrap(linalg.transform(name)) for name in _FFT})
    vars(found).update(
        linalg=inner, fft=fft, finfo=lambda dtype: np.finfo(arrays.name_of_dtype(dtype)), iinfo=lambda dtype: np.iinfo(arrays.name_of_dtype(dtype)),
        __getattr__=_missing,
    )  # fmt: skip
    return found


def _at_once(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        mx.eval(found)
        return found

    return call


LAZY = _namespace(lambda function: function)
EAGER = _namespace(_at_once)  # for what works in steps: its progress is real, and no graph grows from step to step
