"""Transforms against `numpy.fft` in double precision, convolutions against their definition."""

from itertools import product
from typing import Any

import numpy as np

from openruntime.testing.cases import Case

_random = np.random.default_rng(13)
_SMALL = ("bool", "int16", "float16", "float32", "float64", "complex64", "complex128")


def _array(dtype: str, *shape: int) -> Any:
    found = _random.normal(size=shape)
    if dtype.startswith("complex"):
        found = found + 1j * _random.normal(size=shape)
    return (found > 0) if dtype == "bool" else np.round(found * 9).astype(dtype) if "int" in dtype else found.astype(dtype)


def _like(name: str) -> Any:
    def reference(x: Any, shape: Any = None, **options: Any) -> Any:
        more = options if shape is None else {**options, "s": shape, "axes": options.get("axes", (-2, -1))}
        return getattr(np.fft, name)(x.astype("complex128" if x.dtype.kind == "c" else "float64"), **more)

    return reference


def _precision(dtype: str) -> float:
    return 1e-12 if dtype in ("bool", "int16", "float64", "complex128") else 1e-5


def _convolve(a: Any, b: Any, mode: str = "full") -> Any:
    """The definition, in double precision."""
    full = np.zeros([m + n - 1 for m, n in zip(a.shape, b.shape, strict=True)], np.result_type(a, b, "float64"))
    for index in product(*map(range, b.shape)):
        full[tuple(slice(i, i + m) for i, m in zip(index, a.shape, strict=True))] += a * b[index]
    if mode == "full":
        return full
    if mode == "same":
        return full[tuple(slice((n - 1) // 2, (n - 1) // 2 + m) for m, n in zip(a.shape, b.shape, strict=True))]
    ends = ((min(m, n) - 1, max(m, n)) for m, n in zip(a.shape, b.shape, strict=True))
    return full[tuple(slice(start, stop) for start, stop in ends)]


def _convolved(a: Any, b: Any, mode: str = "full", precision: float = 1e-12) -> Case:
    return Case("convolve", {"a": a, "b": b, "mode": mode}, _convolve, precision=precision)


def _refused(operation: str, field: str, **parameters: Any) -> Case:
    return Case(operation, parameters, refused=field)


_X = _array("float64", 4, 6)
_LINES = ("fft", "ifft", "rfft", "irfft")

CASES: list[Case] = [
    *(Case(name, {"x": _array(dtype, 4, 12)}, _like(name), precision=_precision(dtype)) for name in _LINES for dtype in _SMALL
      if not (name == "rfft" and dtype.startswith("complex"))),
    *(Case(name, {"x": _array("float64", n)}, _like(name), precision=1e-11) for name in _LINES for n in (2, 7, 64, 97, 1000)),
    *(Case(name, {"x": _X, "n": n, "axis": axis, "norm": norm}, _like(name), precision=1e-12) for name in _LINES
      for n, axis, norm in ((3, 0, "ortho"), (9, -1, "forward"), (4, 1, "backward"))),
    *(Case(name, {"x": np.ones(1)}, _like(name)) for name in ("fft", "ifft", "rfft")),
    *(Case(name, {"x": np.zeros((0, 4))}, _like(name)) for name in _LINES),
    Case("fft", {"x": np.array([1.0, np.nan, 2.0])}, np.full(3, np.nan + 1j * np.nan)),
    *(_refused(name, "x", x=np.zeros((4, 0))) for name in _LINES),
    *(_refused(name, "axis", x=np.ones(4), axis=2) for name in _LINES),
    *(_refused(name, "axis", x=np.float64(1)) for name in _LINES),
    *(_refused(name, "n", x=np.ones(4), n=0) for name in _LINES),
    _refused("fft", "norm", x=np.ones(4), norm="full"), _refused("fft", "x", x="abc"), _refused("irfft", "x", x=np.ones(1)),
    _refused("rfft", "x", x=_array("complex64", 4)),
    *(Case(name, {"x": _array(dtype, 3, 8, 5)}, _like(name), precision=_precision(dtype)) for name in ("fft2", "ifft2") for dtype in _SMALL),
    *(Case(name, {"x": _X, "shape": [5, 3], "norm": "ortho"}, _like(name)) for name in ("fft2", "ifft2")),
    *(Case(name, {"x": _array("float64", 3, 4, 5), "axes": [0, 2]}, _like(name)) for name in ("fft2", "ifft2")),
    *(_refused(name, "x", x=np.ones(4)) for name in ("fft2", "ifft2")), _refused("fft2", "axes", x=_X, axes=[0]),
    _refused("fft2", "axes", x=_X, axes=[1, 1]),
    _refused("ifft2", "shape", x=_X, shape=[4]), _refused("fft2", "x", x=np.zeros((4, 0))),
    *(_convolved(_array("float64", m), _array("float64", n), mode) for mode in ("full", "same", "valid")
      for m, n in ((9, 3), (3, 9), (5, 4), (1, 1), (200, 90))),
    *(_convolved(_array("float64", 30, 21), _array("float64", *kernel), mode) for mode in ("full", "same", "valid") for kernel in ((3, 3), (9, 8))),
    *(_convolved(_array(dtype, 50), _array(dtype, n), precision=_precision(dtype) if dtype != "float16" else 4e-3) for dtype in _SMALL
      for n in (4, 40)),
    _convolved(_array("int16", 12), _array("float32", 3), precision=1e-6), _convolved(_array("float64", 4, 5, 6), _array("float64", 2, 3, 2)),
    _convolved(np.array([1.0, np.nan, 2, 3]), np.array([1.0, 1.0])),
    _refused("convolve", "b", a=np.ones(4), b=np.zeros(0)), _refused("convolve", "b", a=np.ones(4), b=np.ones((2, 2))),
    _refused("convolve", "b", a=np.ones((4, 2)), b=np.ones((2, 4)), mode="valid"), _refused("convolve", "a", a=np.float64(1), b=np.float64(2)),
    _refused("convolve", "mode", a=np.ones(4), b=np.ones(2), mode="circular"),
]  # fmt: skip
