"""Reductions against NumPy."""

from typing import Any

import numpy as np

from openruntime.testing.cases import Case

_random = np.random.default_rng(17)
_REAL = ("bool", "int8", "int32", "int64", "uint8", "uint64", "float16", "float32", "float64")
_ALL = (*_REAL, "complex64", "complex128")
_AXES: tuple[Any, ...] = (None, 0, -1, [0, 2], [2, 1, 0])
_NAN = np.array([[1.0, np.nan, 3.0], [4.0, 5.0, 2.0]])
_MANY = _random.normal(size=(50, 40))


def _array(dtype: str, *shape: int) -> Any:
    found = _random.normal(size=shape) * 3
    if dtype.startswith("complex"):
        found = found + 1j * _random.normal(size=shape)
    return (found > 0) if dtype == "bool" else np.abs(found).astype(dtype) if "uint" in dtype else found.astype(dtype)


def _like(name: str, wide: str | None = None) -> Any:
    """NumPy's function, in double precision for what is summed in floating point."""

    def reference(x: Any, axis: Any = None, **options: Any) -> Any:
        if wide and x.dtype.kind in "fc":
            x = x.astype("complex128" if x.dtype.kind == "c" else wide)
        return getattr(np, name)(x, axis=tuple(axis) if isinstance(axis, list) else axis, **options)

    return reference


def _sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    found = _like("sum", "float64")(x, axis=axis, keepdims=keepdims)
    return found.astype("uint64") if x.dtype.kind == "u" else found


def _cumulative(x: Any, axis: int = 0, include_initial: bool = False) -> Any:
    found = np.cumulative_sum(x, axis=axis, include_initial=include_initial)
    return found


def _precision(dtype: str) -> float | None:
    return 1e-2 if dtype == "float16" else None


def _refused(operation: str, field: str, **parameters: Any) -> Case:
    return Case(operation, parameters, refused=field)


_REFERENCES = {"sum": _sum, "mean": _like("mean", "float64"), "std": _like("std", "float64"), "var": _like("var", "float64"),
               "min": _like("min"), "max": _like("max")}  # fmt: skip
_KINDS = {"sum": _ALL, "mean": _ALL, "std": _REAL, "var": _REAL, "min": _REAL, "max": _REAL}

CASES: list[Case] = [
    *(Case(name, {"x": _array(dtype, 7, 5)}, f, precision=_precision(dtype)) for name, f in _REFERENCES.items() for dtype in _KINDS[name]),
    *(Case(name, {"x": _array("float64", 3, 4, 5), "axis": axis, "keepdims": keepdims}, f)
      for name, f in _REFERENCES.items() for axis in _AXES for keepdims in (False, True)),
    *(Case(name, {"x": np.float64(2.5)}, f) for name, f in _REFERENCES.items()),
    *(Case(name, {"x": np.zeros((3, 0)), "axis": 0}, f) for name, f in _REFERENCES.items()),
    *(Case(name, {"x": _NAN, "axis": 1}, f) for name, f in _REFERENCES.items()),
    *(Case(name, {"x": np.zeros((3, 0)), "axis": 1}, np.full(3, np.nan)) for name in ("mean", "std", "var")),
    Case("sum", {"x": np.zeros((0,))}, np.float64(0)), Case("mean", {"x": np.zeros((0,), "int64")}, np.float64("nan")),
    *(Case(name, {"x": _array("float64", 6, 2), "axis": 0, "correction": 1},
           lambda x, axis, correction, f=name: getattr(np, f)(x, axis=axis, ddof=correction)) for name in ("std", "var")),
    *(Case(name, {"x": np.ones((1, 2)), "axis": 0, "correction": 1}, np.full(2, np.nan)) for name in ("std", "var")),
    Case("var", {"x": 1e8 + _random.normal(size=1000)}, lambda x: np.var(x - 1e8), precision=1e-6),
    Case("sum", {"x": np.ones(100_003, "float32")}, np.float32(100_003)),
    *(_refused(name, "axis", x=_MANY, axis=2) for name in _REFERENCES), *(_refused(name, "axis", x=_MANY, axis=[0, 0]) for name in _REFERENCES),
    *(_refused(name, "x", x=_array("complex64", 3)) for name in ("std", "var", "min", "max", "argmin", "argmax", "histogram")),
    _refused("quantile", "x", x=_array("complex64", 3), q=0.5),
    *(_refused(name, "x", x=np.zeros((0, 3)), axis=0) for name in ("min", "max", "argmin", "argmax")),
    _refused("std", "correction", x=_MANY, correction=-1),
    _refused("sum", "keepdim", x=_MANY, keepdim=True), _refused("sum", "axis", x=_MANY, axis="rows"), _refused("mean", "x", x=3),
    *(Case(name, {"x": _array(dtype, 5, 4), **options}, lambda x, f=name, **options: getattr(np, f)(x, **options))
      for name in ("argmin", "argmax") for dtype in ("bool", "uint8", "int64", "float16", "float32")
      for options in ({}, {"axis": 0}, {"axis": -1, "keepdims": True})),
    *(Case(name, {"x": _NAN, "axis": 1}, lambda x, axis, f=name: getattr(np, f)(x, axis=axis)) for name in ("argmin", "argmax")),
    _refused("argmax", "axis", x=_MANY, axis=[0, 1]), _refused("argmin", "axis", x=_MANY, axis=3),
    *(Case("quantile", {"x": _array(dtype, 9, 6), "q": 0.3}, lambda x, q: np.quantile(x.astype("float64"), q), precision=_precision(dtype))
      for dtype in _REAL),
    *(Case("quantile", {"x": _MANY, "q": q, "axis": axis, "keepdims": keepdims},
           lambda x, q, axis, keepdims: np.quantile(x, q, axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=keepdims))
      for q in (0, 0.5, 1, np.array([0.25, 0.9, 0.1])) for axis in (None, 0, 1, [1, 0]) for keepdims in (False, True)),
    Case("quantile", {"x": _NAN, "q": 0.5, "axis": 1}, np.array([np.nan, 4.0])), Case("quantile", {"x": np.array([7.0]), "q": 0.9}, np.float64(7)),
    Case("quantile", {"x": np.array([-np.inf, 1, np.inf, np.inf]), "q": np.array([0.0, 1.0, 0.9])}, np.array([-np.inf, np.inf, np.inf])),
    Case("quantile", {"x": _MANY, "q": np.array([0.5, 1.5])}, fails="between 0 and 1"),
    _refused("quantile", "q", x=_MANY, q=1.5), _refused("quantile", "q", x=_MANY, q=np.full((2, 2), 0.5)), _refused("quantile", "q", x=_MANY),
    _refused("quantile", "x", x=np.zeros((0, 2)), q=0.5, axis=0), _refused("quantile", "q", x=_MANY, q="NaN"),
    *(Case("histogram", {"x": _array(dtype, 40)}, lambda x: dict(zip(("counts", "edges"), np.histogram(x.astype("float64")), strict=True)))
      for dtype in _REAL),
    *(Case("histogram", {"x": _MANY, "bins": bins, "range": bounds},
           lambda x, bins, range: dict(zip(("counts", "edges"), np.histogram(x, bins, range), strict=True)))
      for bins in (1, 7, 1000) for bounds in (None, [-1, 1], [0.5, 0.5])),
    Case("histogram", {"x": np.zeros(0), "bins": 3}, {"counts": np.zeros(3, int), "edges": np.linspace(0, 1, 4)}),
    Case("histogram", {"x": np.array([1.0, np.nan, np.inf, 2.0]), "bins": 2, "range": [0, 2]}, {"counts": np.array([0, 2]),
      "edges": np.array([0, 1.0, 2])}),
    Case("histogram", {"x": _NAN}, fails="NaN"), _refused("histogram", "bins", x=_MANY, bins=0),
    _refused("histogram", "range", x=_MANY, range=[2, 1]),
    _refused("histogram", "range", x=_MANY, range=[1]),
    *(Case("cumulative_sum", {"x": _array(dtype, 9)}, lambda x: np.cumulative_sum(x, dtype=x.dtype if x.dtype.kind in "fc" else None),
           precision=_precision(dtype)) for dtype in _ALL),
    *(Case("cumulative_sum", {"x": _array("float64", 3, 4), "axis": axis, "include_initial": initial}, _cumulative)
      for axis in (0, -1) for initial in (False, True)),
    Case("cumulative_sum", {"x": np.zeros((0,))}, np.zeros(0)),
    Case("cumulative_sum", {"x": np.array([1, np.nan, 2])}, np.array([1, np.nan, np.nan])),
    _refused("cumulative_sum", "axis", x=_MANY), _refused("cumulative_sum", "axis", x=np.float64(3)),
    _refused("cumulative_sum", "axis", x=_MANY, axis=2),
]  # fmt: skip
