"""Random numbers with explicit seeds: one counter-based generator, so that a seed gives the same numbers on every backend.

Philox4x32-10. Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11; checked against the
vectors of their Random123 library. The 64-bit arithmetic is done in int64, which every library wraps alike.
"""

from collections.abc import Callable
from functools import partial
from math import pi, prod
from typing import Annotated, Any, Literal

from msgspec import Meta

from openruntime.contracts.payload import ITEMSIZE
from openruntime.operations.definition import Array, Estimate, InvalidParameter, Namespace, Spec, operation
from openruntime.operations.dtypes import KIND

Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Shape = Annotated[tuple[Annotated[int, Meta(ge=0, le=2**62)], ...], Meta(max_length=64)]
Floating = Literal["float32", "float64"]
Integer = Literal["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]

_LOW = (1 << 32) - 1
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_FLOPS = 60.0  # a word, roughly


def _high(x: Any) -> Any:
    return (x >> 32) & _LOW


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[Any, Any, Any, Any]:
    """Ten rounds of Philox4x32. Words are int64 arrays that hold 32 bits."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = _high(right) ^ c1 ^ k0, right & _LOW, _high(left) ^ c3 ^ k1, left & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def words(xp: Namespace, seed: int, start: int, blocks: int, stream: int = 0) -> tuple[Any, Any, Any, Any]:
    """Four words of 32 bits, as int64, for each of the blocks `start`, `start + 1`, ... of a seed's `stream` (0 to 2³² - 1)."""
    index = xp.arange(start, start + blocks, dtype=xp.int64)
    zero = xp.zeros_like(index)
    return philox((index & _LOW, _high(index), zero, zero + stream), (seed & _LOW, seed >> 32))


def uniforms(xp: Namespace, seed: int, start: int, count: int, dtype: str = "float64", stream: int = 0) -> Any:
    """`count` numbers in [0, 1), from number `start` (a multiple of 4) of a seed's stream on.

    float64 has 53 random bits, of two words; float32 24, of one.
    """
    each = 2 if dtype == "float64" else 4
    w0, w1, w2, w3 = words(xp, seed, start // each, -(-count // each), stream)
    if dtype == "float64":
        parts = [xp.astype((high >> 5) * (1 << 26) + (low >> 6), xp.float64) * 2.0**-53 for high, low in ((w0, w1), (w2, w3))]
    else:
        parts = [xp.astype(word >> 8, xp.float32) * 2.0**-24 for word in (w0, w1, w2, w3)]
    return xp.reshape(xp.stack(parts, axis=-1), (-1,))[:count]


def normals(xp: Namespace, seed: int, start: int, count: int, dtype: str = "float64", stream: int = 0) -> Any:
    """`count` standard normal numbers, from number `start` (a multiple of 4) of a seed's stream on. Box and Muller, 1958."""
    pairs = xp.reshape(uniforms(xp, seed, start, count + count % 2, dtype, stream), (-1, 2))
    radius = xp.sqrt(-2.0 * xp.log(1.0 - pairs[:, 0]))  # in (0, 1]: no logarithm of 0
    angle = 2.0 * pi * pairs[:, 1]
    return xp.reshape(xp.stack([radius * xp.cos(angle), radius * xp.sin(angle)], axis=-1), (-1,))[:count]


def scaled_uniforms(xp: Namespace, seed: int, low: float, high: float, dtype: str, start: int, count: int) -> Any:
    """`uniforms` in [`low`, `high`)."""
    found = uniforms(xp, seed, start, count, dtype)
    return found if (low, high) == (0.0, 1.0) else low + (high - low) * found


def scaled_normals(xp: Namespace, seed: int, mean: float, std: float, dtype: str, start: int, count: int) -> Any:
    """`normals` of this mean and standard deviation."""
    return mean + std * normals(xp, seed, start, count, dtype)


def scaled_integers(xp: Namespace, seed: int, low: int, high: int, dtype: str, start: int, count: int) -> Any:
    """`count` integers from `low` to `high` - 1: low + floor((high - low) w / 2¹²⁸) of a block's 128 bits w."""
    size = high - low
    w = tuple(reversed(words(xp, seed, start, count)))
    product: list[Any] = [0] * 6  # limbs of 32 bits, lowest first
    for j, factor in enumerate((size & _LOW, size >> 32)):
        carry: Any = 0
        for i in range(4):
            total = w[i] * factor + product[i + j] + carry  # at most 2⁶⁴ - 1: the carries fit
            product[i + j], carry = total & _LOW, _high(total)
        product[4 + j] = carry
    found = product[4] + (product[5] << 32)  # wraps beyond 2⁶³, and so does adding `low`: the bits are right
    found = found + (low - (1 << 64) if low >= 1 << 63 else low)
    return xp.astype(found, getattr(xp, dtype))


def in_chunks(xp: Namespace, shape: tuple[int, ...], make: Callable[[int, int], Any], chunk: int = 1 << 20) -> Any:
    """`make(start, count)` for all numbers of `shape`, a bounded number at a time so that temporaries stay small."""
    size = prod(shape)
    parts = [make(start, min(chunk, size - start)) for start in range(0, size, chunk)] or [make(0, 0)]
    return xp.reshape(parts[0] if len(parts) == 1 else xp.concat(parts), shape)


def _cost(shape: tuple[int, ...], dtype: str, **_: Any) -> Estimate:
    size = prod(shape)
    return Estimate(_FLOPS * size, memory=2 * size * ITEMSIZE[dtype] + 100 * min(size, 1 << 20))


def _twice(shape: tuple[int, ...], dtype: str, **_: Any) -> Estimate:
    """Two words of the generator a number, or as much arithmetic beside one."""
    cost = _cost(shape, dtype)
    return Estimate(2 * cost.flops, memory=cost.memory)


def _between(shape: tuple[int, ...], low: float, high: float, dtype: str, **_: Any) -> Spec:
    if not -1e308 <= low <= high <= 1e308:
        raise InvalidParameter(f"`high` of uniform is {high}, and must be finite and not below `low`, which is {low}", field="high")
    return Spec(dtype, shape)


@operation(check=_between, estimate=_cost)
def uniform(shape: Shape, seed: Seed, low: float = 0.0, high: float = 1.0, dtype: Floating = "float64", *, xp: Namespace) -> Array:
    """Numbers drawn evenly from [`low`, `high`), in `shape`. A seed gives the same numbers on every backend.

    `low + (high - low) u`, u of 53 bits (float64) or 24 (float32); rounding may give `high` itself where it is far from 0.
    """
    return in_chunks(xp, shape, partial(scaled_uniforms, xp, seed, low, high, dtype))


def _bell(shape: tuple[int, ...], mean: float, std: float, dtype: str, **_: Any) -> Spec:
    if not (0 <= std <= 1e308 and -1e308 <= mean <= 1e308):
        raise InvalidParameter(f"`std` of normal must be finite and not below 0, and `mean` finite; they are {std} and {mean}", field="std")
    return Spec(dtype, shape)


@operation(check=_bell, estimate=_twice)
def normal(shape: Shape, seed: Seed, mean: float = 0.0, std: float = 1.0, dtype: Floating = "float64", *, xp: Namespace) -> Array:
    """Numbers from the normal distribution of this mean and standard deviation, in `shape`.

    A seed gives the same numbers on every backend, to the rounding of its log, sin and cos. Source: Box and Muller, 1958.
    """
    return in_chunks(xp, shape, partial(scaled_normals, xp, seed, mean, std, dtype))


def _whole(shape: tuple[int, ...], low: int, high: int, dtype: str, **_: Any) -> Spec:
    kind, bits = KIND[dtype]
    least, most = (0, (1 << bits) - 1) if kind == "u" else (-(1 << bits - 1), (1 << bits - 1) - 1)
    if not low < high:
        raise InvalidParameter(f"`high` of integers is {high}, and must be above `low`, which is {low}", field="high")
    if low < least or high > most + 1:
        raise InvalidParameter(f"`dtype` of integers is {dtype}, which holds {least} to {most}, not {low} to {high - 1}", field="dtype")
    return Spec(dtype, shape)


@operation(check=_whole, estimate=_twice)
def integers(shape: Shape, seed: Seed, high: int, low: int = 0, dtype: Integer = "int64", *, xp: Namespace) -> Array:
    """Integers drawn evenly from `low` to `high` - 1, in `shape`. A seed gives the same numbers on every backend.

    Each takes 128 random bits w and is floor(w (high - low) / 2¹²⁸) + low: without a modulo, no value is likelier than another by
    more than one part in 2⁶⁴. Source of the multiplication: Lemire, "Fast random integer generation in an interval", 2019.
    """
    return in_chunks(xp, shape, partial(scaled_integers, xp, seed, low, high, dtype))
