"""Joining against NumPy."""

from typing import Any

import numpy as np

from openruntime.testing.cases import Case

_random = np.random.default_rng(23)
_DTYPES = ("bool", "int8", "uint64", "float16", "float32", "float64", "complex64", "complex128")


def _array(dtype: str, *shape: int) -> Any:
    return (_random.normal(size=shape) * 5).astype("int64" if dtype == "uint64" else dtype).astype(dtype)


def _concat(arrays: Any, axis: int | None = 0) -> Any:
    return np.concatenate(arrays, axis=axis)


def _stack(arrays: Any, axis: int = 0) -> Any:
    return np.stack(arrays, axis=axis)


_A, _B, _EMPTY = _array("float64", 3, 4), _array("float64", 3, 4), np.zeros((0, 4))

CASES: list[Case] = [
    *(Case("concat", {"arrays": [_array(dtype, 2, 3), _array(dtype, 4, 3)]}, _concat) for dtype in _DTYPES),
    *(Case("concat", {"arrays": [_A, _B, _A[:, ::-1]], "axis": axis}, _concat) for axis in (0, 1, -1, -2)),
    Case("concat", {"arrays": [_A, _B[:1], np.float64(7)], "axis": None}, _concat),
    *(Case("concat", {"arrays": arrays}, _concat) for arrays in ([_A], [_A, _EMPTY], [_EMPTY, _EMPTY], [_A.astype("int32"), _B.astype("float32")])),
    Case("concat", {"arrays": [np.arange(20_000.0), np.arange(30_000.0)]}, _concat),
    *(Case("stack", {"arrays": [_array(dtype, 2, 3), _array(dtype, 2, 3)]}, _stack) for dtype in _DTYPES),
    *(Case("stack", {"arrays": [_A, _B, _A], "axis": axis}, _stack) for axis in (0, 1, 2, -1, -3)),
    *(Case("stack", {"arrays": arrays}, _stack) for arrays in ([np.float64(1), np.float64(2)], [_EMPTY, _EMPTY], [_A], [_A[0] > 0, _A[1]])),
    Case("concat", {"arrays": []}, refused="arrays"), Case("stack", {"arrays": _A}, refused="arrays"),
    Case("concat", {"arrays": 3}, refused="arrays"),
    Case("concat", {"arrays": [[1], 2]}, refused="arrays.1"), Case("concat", {"arrays": [_A, _A[0]]}, refused="arrays.1"),
    Case("concat", {"arrays": [_A, _A[:, :2]]}, refused="arrays.1"), Case("concat", {"arrays": [_A], "axis": 2}, refused="axis"),
    Case("concat", {"arrays": [np.float64(1)]}, refused="axis"), Case("concat", {}, refused="arrays"),
    Case("stack", {"arrays": [_A, _A, _A[:1]]}, refused="arrays.2"), Case("stack", {"arrays": [_A], "axis": 3}, refused="axis"),
]  # fmt: skip
