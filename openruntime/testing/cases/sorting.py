"""Sorting against NumPy."""

from typing import Any

import numpy as np

from openruntime.testing.cases import Case

_random = np.random.default_rng(19)
_DTYPES = ("bool", "int8", "int64", "uint8", "uint64", "float16", "float32", "float64")
_NAN = np.array([2.0, np.nan, -np.inf, 1.0, np.nan, np.inf, 1.0])
_X = _random.integers(0, 9, (5, 8)).astype("float64")  # with many equals


def _array(dtype: str, *shape: int) -> Any:
    found = _random.integers(0, 2 if dtype == "bool" else 100, shape)
    return found.astype(dtype)


def _argsort(x: Any, axis: int = -1, descending: bool = False) -> Any:
    if not descending:
        return np.argsort(x, axis=axis, stable=True)
    return x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis=axis, stable=True), axis)


def _sort(x: Any, axis: int = -1, descending: bool = False) -> Any:
    return np.flip(np.sort(x, axis=axis), axis) if descending else np.sort(x, axis=axis)


def _top_k(x: Any, k: int, axis: int = -1, largest: bool = True) -> Any:
    order = np.take(_argsort(x, axis, largest), np.arange(k), axis=axis)
    return {"values": np.take_along_axis(x, order, axis=axis), "indices": order}


def _unique(x: Any) -> Any:
    return dict(zip(("values", "counts"), np.unique(x, return_counts=True, equal_nan=False), strict=True))


def _refused(operation: str, field: str, **parameters: Any) -> Case:
    return Case(operation, parameters, refused=field)


_ORDERS = (("sort", _sort), ("argsort", _argsort))

CASES: list[Case] = [
    *(Case(name, {"x": _array(dtype, 6, 7), "descending": falling}, f) for name, f in _ORDERS for dtype in _DTYPES for falling in (False, True)),
    *(Case(name, {"x": _X, "axis": axis, "descending": falling}, f) for name, f in _ORDERS for axis in (0, 1, -2) for falling in (False, True)),
    *(Case(name, {"x": x, "descending": falling}, f) for name, f in _ORDERS
      for x in (_NAN, np.zeros((3, 0)), np.ones(1), np.arange(5000.0)[::-1].copy())
      for falling in (False, True)),
    *(_refused(name, "axis", x=_X, axis=2) for name, _ in _ORDERS), *(_refused(name, "axis", x=np.float64(1)) for name, _ in _ORDERS),
    *(_refused(name, "x", x=np.ones(3, "complex64")) for name in ("sort", "argsort", "unique")),
    *(Case("top_k", {"x": _array(dtype, 6, 7), "k": 3}, _top_k) for dtype in _DTYPES),
    *(Case("top_k", {"x": _X, "k": k, "axis": axis, "largest": largest}, _top_k) for k in (0, 1, 5) for axis in (0, -1) for largest in (False, True)),
    *(Case("top_k", {"x": _NAN, "k": 4, "largest": largest}, _top_k) for largest in (False, True)),
    Case("top_k", {"x": np.zeros((2, 0)), "k": 0}, _top_k),
    *(Case("top_k", {"x": _random.normal(size=20_000), "k": 10, "largest": largest}, _top_k) for largest in (False, True)),
    _refused("top_k", "k", x=_X, k=9), _refused("top_k", "k", x=_X, k=-1), _refused("top_k", "k", x=_X), _refused("top_k", "axis", x=_X, k=1, axis=5),
    _refused("top_k", "k", x=_X, k=1.5), _refused("top_k", "x", x=np.ones(3, "complex64"), k=1),
    *(Case("unique", {"x": _array(dtype, 30, 2)}, _unique) for dtype in _DTYPES), Case("unique", {"x": _NAN}, _unique),
    *(Case("unique", {"x": x}, _unique) for x in (np.zeros((0, 3)), np.float64(2), np.ones(4))), _refused("unique", "axis", x=_X, axis=0),
]  # fmt: skip
