"""What placement is measured on: operations in several sizes and dtypes; the profile is made of other sizes than those that are judged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openruntime.contracts.payload import Array

Given = Mapping[str, Any]  # parameters; NumPy arrays among them


@dataclass(frozen=True)
class Case:
    label: str
    operation: str
    dtype: str
    size: int
    parameters: dict[str, Any]
    arrays: dict[str, Array]

    def __str__(self) -> str:
        return f"{self.label} {self.dtype} {self.size}"


@dataclass(frozen=True)
class Family:
    """`make(size, dtype, rng)` gives the parameters; `judged` and `profiled` are sizes, none in both."""

    operation: str
    make: Callable[[int, str, np.random.Generator], Given]
    judged: Sequence[int]
    profiled: Sequence[int]
    dtypes: Sequence[str] = ("float32",)
    label: str | None = None


def cases(*, profile: bool = False) -> list[Case]:
    """Those that are judged, or those that the profile is made of."""
    found = []
    for family in FAMILIES:
        for dtype in family.dtypes:
            for size in family.profiled if profile else family.judged:
                given = family.make(size, dtype, np.random.default_rng(size))
                arrays = {name: _payload(value) for name, value in given.items() if isinstance(value, np.ndarray)}
                rest = {name: value for name, value in given.items() if name not in arrays}
                found.append(Case(family.label or family.operation, family.operation, dtype, size, rest, arrays))
    return found


def _payload(array: Any) -> Array:
    return Array(str(array.dtype), array.shape, np.ascontiguousarray(array).tobytes())


def _line(name: str = "x", **rest: Any) -> Callable[[int, str, np.random.Generator], Given]:
    return lambda n, dtype, rng: {name: rng.random(n).astype(dtype), **rest}


def _square(name: str = "x", **rest: Any) -> Callable[[int, str, np.random.Generator], Given]:
    return lambda n, dtype, rng: {name: rng.random((n, n)).astype(dtype), **rest}


def _spd(n: int, dtype: str, rng: np.random.Generator) -> Any:
    a = rng.random((n, n))
    return (a @ a.T + n * np.eye(n)).astype(dtype)


LIGHT, HEAVY = "2*x + 1", "exp(-x*x) * sin(3*x) + sqrt(x + 1)"
FAMILIES = (
    Family("expression", _line(formula=LIGHT), (1_000, 100_000, 1_000_000, 8_000_000), (4_000, 300_000, 3_000_000)),
    Family("expression", _line(formula=HEAVY), (100_000, 1_000_000, 4_000_000), (300_000, 2_000_000), label="expression (long)"),
    Family("expression", _line(formula=HEAVY), (200_000, 2_000_000), (600_000,), ("float64",), "expression (long)"),
    Family("matmul", lambda n, d, r: {"a": r.random((n, n)).astype(d), "b": r.random((n, n)).astype(d)}, (64, 256, 512, 1024), (24, 128, 384, 768)),
    Family("matmul", lambda n, d, r: {"a": r.random((n, n)).astype(d), "b": r.random((n, n)).astype(d)}, (256, 640), (96, 448), ("float64",)),
    Family("linear", lambda n, d, r: {"x": r.random((64, n)).astype(d), "weight": r.random((n, n)).astype(d)}, (256, 1024), (100, 512)),
    Family(
        "einsum",
        lambda n, d, r: {"subscripts": "bij,bjk->bik", "a": r.random((16, n, n)).astype(d), "b": r.random((16, n, n)).astype(d)},
        (64, 160),
        (100,),
    ),
    Family("softmax", _square(), (100, 500, 2000), (30, 250, 1000)),
    Family("layer_norm", _square(), (200, 1000, 2000), (50, 500, 1500)),
    Family("attention", lambda n, d, r: {k: r.random((1, 4, n, 64)).astype(d) for k in "qkv"}, (128, 512), (32, 256)),
    Family("conv2d", lambda n, d, r: {"x": r.random((4, 16, n, n)).astype(d), "weight": r.random((16, 16, 3, 3)).astype(d)}, (32, 64, 128), (48, 96)),
    Family("sum", _line(), (100_000, 4_000_000), (20_000, 1_000_000)),
    Family("std", _square(axis=0), (300, 2000), (100, 1000)),
    Family("argmax", _square(axis=1), (300, 2000), (100, 1000)),
    Family("cumulative_sum", _line(), (100_000, 4_000_000), (20_000, 1_000_000)),
    Family("sort", _line(), (30_000, 1_000_000), (200_000,)),
    Family("sort", _line(), (300_000,), (100_000,), ("float64",)),
    Family("argsort", _line(), (300_000,), (100_000,)),
    Family("top_k", _line(k=100), (1_000_000,), (300_000,)),
    Family("unique", lambda n, d, r: {"x": r.integers(0, n // 10, n).astype(d)}, (300_000,), (100_000,), ("int64",)),
    Family("histogram", _line(bins=100), (1_000_000,), (300_000,)),
    Family("quantile", _line(q=0.9), (1_000_000,), (300_000,)),
    Family("fft", _line(), (1 << 14, 1 << 20), (1 << 11, 1 << 17)),
    Family("fft2", _square(), (256, 1024), (100, 512)),
    Family("convolve", lambda n, d, r: {"a": r.random(n).astype(d), "b": r.random(301).astype(d)}, (200_000,), (60_000,)),
    Family("svd", _square(), (64, 256), (20, 128)),
    Family("eigh", lambda n, d, r: {"x": _spd(n, d, r)}, (64, 320), (20, 160)),
    Family("cholesky", lambda n, d, r: {"x": _spd(n, d, r)}, (128, 768), (40, 384)),
    Family("solve", lambda n, d, r: {"a": _spd(n, d, r), "b": r.random((n, 8)).astype(d)}, (128, 768), (40, 384)),
    Family("qr", _square(), (320,), (160,)),
    Family("inv", lambda n, d, r: {"x": _spd(n, d, r)}, (384,), (192,)),
    Family("gaussian_blur", _square("image", sigma=2.0), (256, 1500), (100, 700)),
    Family("sobel", _square("image"), (256, 1500), (100, 700)),
    Family("resize", _square("image", height=600, width=600), (1500,), (700,)),
    Family(
        "knn", lambda n, d, r: {"x": r.random((n, 16)).astype(d), "queries": r.random((200, 16)).astype(d), "k": 5}, (1_000, 10_000), (300, 4_000)
    ),
    Family("kmeans", lambda n, d, r: {"x": r.random((n, 8)).astype(d), "k": 8, "seed": 1}, (4_000,), (2_000,)),
    Family(
        "nbody",
        lambda n, d, r: {
            "positions": r.random((n, 3)).astype(d),
            "velocities": r.random((n, 3)).astype(d),
            "masses": r.random(n).astype(d),
            "iterations": 3,
        },
        (200,),
        (120,),
        ("float64",),
    ),
    Family("uniform", lambda n, d, r: {"shape": [n], "seed": 1, "dtype": d}, (1_000_000,), (300_000,)),
    Family("normal", lambda n, d, r: {"shape": [n], "seed": 1, "dtype": d}, (1_000_000,), (300_000,)),
)
