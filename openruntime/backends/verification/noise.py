"""Arithmetic that rounds at random: every step of an operation is off by up to one rounding of a narrower dtype.

How far the answer moves is what no implementation in that dtype can be blamed for. (Monte Carlo arithmetic: Parker, 1997; Vignes' CESTAC, 1974.)
"""

from typing import Any

import numpy as np

# what a processor computes without rounding
_EXACT = frozenset({
    "negative", "positive", "absolute", "fabs", "maximum", "minimum", "fmax", "fmin", "copysign", "sign", "floor", "ceil", "trunc", "rint",
    "conjugate", "nextafter", "ldexp", "frexp", "modf", "fmod", "remainder", "floor_divide",
})  # fmt: skip


class Noisy(np.ndarray[Any, Any]):
    """A float64 or complex128 array; `unit` is the rounding, `rng` where chance comes from. Both go on to what is computed from it."""

    unit: float = 0.0
    rng: Any = None

    def __array_finalize__(self, other: Any) -> None:
        self.unit, self.rng = getattr(other, "unit", 0.0), getattr(other, "rng", None)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if out is not None:
            options["out"] = tuple(_plain(part) for part in out)
        found = getattr(ufunc, method)(*map(_plain, inputs), **{name: _plain(value) for name, value in options.items()})
        moved = self._moved(found, ufunc.__name__ not in _EXACT)
        if out is not None and out[0] is not None:
            out[0][...] = _plain(moved)
            return out[0]
        return moved

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        found = function(*map(_deep, args), **{name: _deep(value) for name, value in options.items()})
        return self._moved(found, function.__name__ in ("einsum", "cumsum", "cumulative_sum", "convolve", "dot", "tensordot", "mean"))

    def _moved(self, found: Any, rounded: bool) -> Any:
        if isinstance(found, tuple | list):
            return type(found)(self._moved(part, rounded) for part in found)
        if not isinstance(found, np.ndarray | np.generic) or found.dtype.kind not in "fc":
            return found
        value = np.asarray(found)
        if rounded:
            value = np.asarray(value * factors(value.shape, self.unit, self.rng))
        return noisy(value, self.unit, self.rng)


def factors(shape: tuple[int, ...], unit: float, rng: np.random.Generator) -> "np.ndarray[Any, Any]":
    """Numbers around 1, evenly from 1 - 1.5 `unit` to 1 + 1.5 `unit`: of two values alone some would cancel each other exactly."""
    return np.asarray(1 + unit * (3 * rng.random(shape) - 1.5))


def noisy(array: "np.ndarray[Any, Any]", unit: float, rng: np.random.Generator) -> Noisy:
    found: Noisy = array.view(Noisy)
    found.unit, found.rng = unit, rng
    return found


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, Noisy) else value


def _deep(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_deep(part) for part in value)
    return _plain(value)
