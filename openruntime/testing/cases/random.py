"""Random numbers: the generator's published vectors, its numbers bit for bit from Python's integers, and its distributions."""

from math import cos, log, pi, prod, sin, sqrt
from typing import Any

import numpy as np

from openruntime.testing.cases import Case, close

_MASK = (1 << 32) - 1


def _block(index: int, seed: int) -> tuple[int, int, int, int]:
    """Philox4x32-10 of Salmon et al. 2011, in Python's integers."""
    counter, key = (index & _MASK, index >> 32, 0, 0), (seed & _MASK, seed >> 32)
    for _ in range(10):
        left, right = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = (right >> 32 ^ counter[1] ^ key[0], right & _MASK, left >> 32 ^ counter[3] ^ key[1], left & _MASK)
        key = ((key[0] + 0x9E3779B9) & _MASK, (key[1] + 0xBB67AE85) & _MASK)
    return counter


def _shares(count: int, seed: int, dtype: str) -> list[float]:
    found: list[float] = []
    for index in range(count // (2 if dtype == "float64" else 4) + 1):
        w = _block(index, seed)
        if dtype == "float64":
            found += [((w[i] >> 5) * (1 << 26) + (w[i + 1] >> 6)) / (1 << 53) for i in (0, 2)]
        else:
            found += [(word >> 8) / (1 << 24) for word in w]
    return found


def _uniform(shape: Any, seed: int, low: float = 0.0, high: float = 1.0, dtype: str = "float64") -> Any:
    return (low + (high - low) * np.array(_shares(prod(shape), seed, dtype)[: prod(shape)])).reshape(shape)


def _normal(shape: Any, seed: int, mean: float = 0.0, std: float = 1.0, dtype: str = "float64") -> Any:
    shares = _shares(prod(shape) + 1, seed, dtype)
    pairs = zip(shares[::2], shares[1::2], strict=False)
    found = [sqrt(-2 * log(1 - u)) * f(2 * pi * v) for u, v in pairs for f in (cos, sin)]
    return (mean + std * np.array(found[: prod(shape)])).reshape(shape)


def _integers(shape: Any, seed: int, high: int, low: int = 0, dtype: str = "int64") -> Any:
    found = []
    for index in range(prod(shape)):
        w = _block(index, seed)
        word = w[0] << 96 | w[1] << 64 | w[2] << 32 | w[3]
        found.append((word * (high - low) >> 128) + low)
    return np.array(found, dtype=dtype).reshape(shape)


def _even(outputs: Any, shape: Any, seed: int, **_: Any) -> None:
    x = outputs["output"]
    assert x.min() >= 0 and x.max() < 1  # noqa: PT018
    close(x.mean(), 0.5, 0.01)
    close(x.std(), 12**-0.5, 0.01)


def _bell(outputs: Any, shape: Any, seed: int, **_: Any) -> None:
    x = outputs["output"]
    assert abs(x.mean()) < 0.01
    close(x.std(), 1.0, 0.01)
    close((np.abs(x) < 1).mean(), 0.6827, 0.01)


def _fair(outputs: Any, shape: Any, seed: int, high: int) -> None:
    close(np.bincount(outputs["output"], minlength=high) / prod(shape), np.full(high, 1 / high), 0.03)


def _refused(operation: str, field: str, **parameters: Any) -> Case:
    return Case(operation, parameters, refused=field)


_SHAPES: list[list[int]] = [[5], [2, 3], [], [0], [3, 0, 2], [4, 1, 3]]
_SEEDS = (0, 1, 2**40 + 7, 2**63 - 1)
_BOUNDS = [(0, 6, "int64"), (-5, 5, "int8"), (0, 256, "uint8"), (-(2**63), 2**63 - 1, "int64"), (2**63 - 3, 2**63 + 3, "uint64"), (7, 8, "int32"),
           (0, 2**32, "int64"), (0, 2**33 + 1, "uint64")]  # fmt: skip

CASES: list[Case] = [
    *(Case(name, {"shape": shape, "seed": seed, "dtype": dtype}, f)
      for name, f in (("uniform", _uniform), ("normal", _normal)) for shape in _SHAPES for seed in _SEEDS for dtype in ("float32", "float64")),
    Case("uniform", {"shape": [7], "seed": 3, "low": -2, "high": 5.5}, _uniform),
    Case("normal", {"shape": [7], "seed": 3, "mean": 10, "std": 0}, _normal),
    Case("uniform", {"shape": [100_000], "seed": 5}, verify=_even),
    Case("uniform", {"shape": [100_000], "seed": 6, "dtype": "float32"}, verify=_even),
    Case("normal", {"shape": [100_000], "seed": 5}, verify=_bell), Case("normal", {"shape": [99_999], "seed": 6, "dtype": "float32"}, verify=_bell),
    *(Case("integers", {"shape": [9], "seed": seed, "low": low, "high": high, "dtype": dtype}, _integers)
      for seed in _SEEDS for low, high, dtype in _BOUNDS),
    *(Case("integers", {"shape": shape, "seed": 4, "high": 10}, _integers) for shape in _SHAPES),
    Case("integers", {"shape": [100_000], "seed": 5, "high": 6}, verify=_fair),
    *(_refused(name, "seed", shape=[3], **more) for name, more in (("uniform", {}), ("normal", {}), ("integers", {"high": 3}))),
    *(_refused(name, "seed", shape=[3], seed=seed, **more) for name, more in (("uniform", {}), ("integers", {"high": 3}))
      for seed in (-1, 2**63, 1.5, "x")),
    *(_refused(name, "shape", shape=shape, seed=1) for name in ("uniform", "normal") for shape in ([-1], [1.5], 3, None, [1] * 65)),
    _refused("uniform", "high", shape=[3], seed=1, low=2), _refused("uniform", "dtype", shape=[3], seed=1, dtype="int32"),
    _refused("normal", "std", shape=[3], seed=1, std=-1), _refused("integers", "high", shape=[3], seed=1, low=3, high=3),
    _refused("integers", "dtype", shape=[3], seed=1, high=300, dtype="uint8"), _refused("integers", "high", shape=[3], seed=1),
    _refused("integers", "high", shape=[3], seed=1, high=2**64),
]  # fmt: skip
