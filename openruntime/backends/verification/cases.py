"""On what a kernel is tried: sizes around the edges of work-groups, none and one among them, and data that finds mistakes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from openruntime.contracts.kernels import Domain, KernelSpec, Number
from openruntime.contracts.payload import ITEMSIZE
from openruntime.operations.kernel_reference import EDGES, SMALL, WHOLE

Data = "np.ndarray[Any, Any]"

LARGE = {1: (300_007,), 2: (521, 509), 3: (67, 73, 61)}  # by the number of symbols; enough work for every core at once
LARGE_OF_MORE = (17, 19, 13, 11, 7, 5)
MOST_BYTES = 16 << 20  # of all arrays of a case: larger sizes are halved until they fit
MOST_ASKED = 256 << 20  # bytes of a case that somebody asked for
MOST_FLOPS = 3e7  # of the reference, likewise
FLOATS = {"float16": np.float16, "float32": np.float32, "float64": np.float64, "complex64": np.float32, "complex128": np.float64}

NORMAL, WIDE, TINY, ZEROS, SPECIAL = "normal", "wide", "tiny", "zeros", "special"
KINDS = {
    NORMAL: "standard normal numbers; small integers",
    WIDE: "magnitudes from 1e-4 to 1e4 (float16: 1e-2 to 1e2); integers of the whole range",
    TINY: "denormals and the smallest normal numbers",
    ZEROS: "zeros of both signs, ones and minus ones: many are equal",
    SPECIAL: "normal numbers with NaN, infinities, zeros of both signs and denormals among them; the least and greatest integers",
}


class Case(NamedTuple):
    """`rounds`: how often it runs, each time over other memory. `whole`: its arrays can end where a page ends. `asked`: its sizes
    are somebody's, and stay as they are."""

    sizes: dict[str, int]
    data: str
    rounds: int = 2
    whole: bool = False
    asked: bool = False


def plan(spec: KernelSpec, more: Sequence[Mapping[str, int]] = ()) -> list[Case]:
    """The cases of a kernel, small ones first; `more` are sizes that somebody asked for besides."""
    symbols = sorted(spec.symbols)
    kinds = _kinds(spec)
    if not symbols:
        return [Case({}, kind, rounds=6, whole=True) if kind == NORMAL else Case({}, kind) for kind in kinds]

    def sized(sizes: Sequence[int]) -> dict[str, int]:
        return {symbol: sizes[i % len(sizes)] for i, symbol in enumerate(symbols)}

    large = LARGE.get(len(symbols), LARGE_OF_MORE)
    cases = [Case(sized(SMALL), kind) for kind in kinds]
    cases += [Case(sized([1]), kind) for kind in kinds if kind in (NORMAL, SPECIAL)]
    cases += [Case(sized(EDGES), kind) for kind in kinds]
    cases.append(Case(sized(EDGES[::-1]), NORMAL))
    cases.append(Case(sized(WHOLE), NORMAL, whole=True))
    cases.append(Case(sized(large), NORMAL, rounds=6))
    cases += [Case({symbol: max(1, size // 4) for symbol, size in sized(large).items()}, kind) for kind in kinds if kind in (WIDE, SPECIAL)]
    cases += [Case({**sized(SMALL), symbol: 0}, NORMAL) for symbol in symbols]
    cases += [Case(dict(sizes), NORMAL, asked=True) for sizes in more]
    distinct: dict[tuple[Any, ...], Case] = {}
    for case in cases:
        distinct.setdefault((*case.sizes.values(), case.data), case)
    return list(distinct.values())


def _kinds(spec: KernelSpec) -> list[str]:
    """Booleans alone have nothing but values of one kind."""
    dtypes = {argument.dtype for argument in spec.inputs} | {scalar.dtype for scalar in spec.scalars if scalar.name not in spec.symbols}
    if dtypes & FLOATS.keys():
        return list(KINDS)
    return [NORMAL, WIDE, ZEROS, SPECIAL] if dtypes - {"bool"} else [NORMAL]


def fitting(spec: KernelSpec, case: Case, flops: Callable[[dict[str, tuple[int, ...]]], float]) -> Case:
    """The case with sizes halved until arrays and work (`flops`, by the inputs' shapes) are bearable."""
    while not case.asked and max(case.sizes.values(), default=0) > 1:
        named = {argument.name: shape for argument, shape in zip(spec.inputs, input_shapes(spec, case.sizes), strict=True)}
        if bytes_of(spec, case.sizes) <= MOST_BYTES and flops(named) <= MOST_FLOPS:
            break
        case = case._replace(sizes={symbol: -(-value // 2) for symbol, value in case.sizes.items()})
    return case


def bytes_of(spec: KernelSpec, sizes: Mapping[str, int]) -> int:
    """All arrays together."""
    return sum(
        prod(dimension.value(sizes, argument.name) for dimension in spec.shapes[argument.name]) * ITEMSIZE[argument.dtype]
        for argument in (*spec.inputs, *spec.outputs)
    )


def input_shapes(spec: KernelSpec, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
    return [tuple(dimension.value(sizes, argument.name) for dimension in spec.shapes[argument.name]) for argument in spec.inputs]


def inputs(spec: KernelSpec, case: Case, rng: np.random.Generator) -> dict[str, "np.ndarray[Any, Any]"]:
    domains = spec.reference.domain if spec.reference else {}
    shapes = input_shapes(spec, case.sizes)
    return {
        argument.name: array(argument.dtype, shape, case.data, domains.get(argument.name), rng)
        for argument, shape in zip(spec.inputs, shapes, strict=True)
    }


def scalars(spec: KernelSpec, case: Case, rng: np.random.Generator) -> dict[str, Number]:
    """Those that are no sizes. Never NaN or infinite: then nothing else of the case could be seen."""
    domains = spec.reference.domain if spec.reference else {}
    found: dict[str, Number] = {}
    for scalar in spec.scalars:
        if scalar.name not in spec.symbols:
            kind = NORMAL if case.data == SPECIAL else case.data
            found[scalar.name] = array(scalar.dtype, (), kind, domains.get(scalar.name), rng).item()
    return found


def array(dtype: str, shape: tuple[int, ...], kind: str, domain: Domain | None, rng: np.random.Generator) -> "np.ndarray[Any, Any]":
    """An array of that kind, within `domain`; C-contiguous."""
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype in FLOATS:
        width = FLOATS[dtype]
        if dtype.startswith("complex"):
            return _floats(width, (*shape, 2), kind, domain, rng).view(dtype)[..., 0].copy()
        return _floats(width, shape, kind, domain, rng)
    return _integers(np.dtype(dtype), shape, kind, domain, rng)


def _floats(width: Any, shape: tuple[int, ...], kind: str, domain: Domain | None, rng: np.random.Generator) -> "np.ndarray[Any, Any]":
    if domain is not None and domain.bounded:
        low, high = domain.range(-1e4, 1e4)
        return np.asarray(rng.uniform(low, high, shape)).astype(width)
    limits = np.finfo(width)
    if kind == WIDE:
        decades = 2 if width is np.float16 else 4
        found = np.asarray(10 ** rng.uniform(-decades, decades, shape)) * rng.choice([-1.0, 1.0], shape)
    elif kind == TINY:
        lowest = np.log10(float(limits.smallest_subnormal))
        found = np.asarray(10 ** rng.uniform(lowest, np.log10(float(limits.tiny)) + 2, shape)) * rng.choice([-1.0, 1.0], shape)
    elif kind == ZEROS:
        found = np.asarray(rng.choice([0.0, -0.0, 1.0, -1.0], shape))
    else:
        found = np.asarray(rng.standard_normal(shape))
    result = np.ascontiguousarray(found.astype(width)).reshape(shape)
    if kind == SPECIAL:
        values = [0.0, -0.0, float(limits.smallest_subnormal), -float(limits.tiny) / 4]
        if domain is None or not domain.finite:
            values += [np.nan, np.inf, -np.inf, np.nan]
        _sprinkle(result.reshape(-1), np.array(values, width), rng)
    return result


def _integers(dtype: "np.dtype[Any]", shape: tuple[int, ...], kind: str, domain: Domain | None, rng: np.random.Generator) -> "np.ndarray[Any, Any]":
    limits = np.iinfo(dtype)
    least, most = int(limits.min), int(limits.max)
    if domain is not None and domain.bounded:
        low, high = domain.range(least, most)
        return rng.integers(int(low), int(high), shape, dtype, endpoint=True)
    if kind == ZEROS:
        return rng.integers(max(least, -1), 1, shape, dtype, endpoint=True)
    if kind == WIDE or (kind == NORMAL and dtype.itemsize == 1):
        return rng.integers(least, most, shape, dtype, endpoint=True)
    found = rng.integers(max(least, -100), min(most, 100), shape, dtype, endpoint=True)
    found = np.asarray(found, dtype)
    if kind == SPECIAL:
        _sprinkle(found.reshape(-1), np.array([least, most, least + 1, most - 1], dtype), rng)
    return found


def _sprinkle(flat: "np.ndarray[Any, Any]", values: "np.ndarray[Any, Any]", rng: np.random.Generator) -> None:
    """Some of the values at random places, the first and the last element more often than others."""
    count = min(flat.size, max(1, flat.size // 50, min(len(values), flat.size // 4)))
    places = rng.choice(flat.size, count, replace=False) if flat.size else np.empty(0, np.int64)
    flat[places] = rng.permutation(np.resize(values, max(count, len(values))))[:count]
    for place in (0, -1):
        if flat.size and rng.random() < 0.3:
            flat[place] = rng.choice(values)


def poisons(rng: np.random.Generator, dtype: str, nbytes: int) -> Iterator[bytes]:
    """What fills an output before each run: NaN or all bits set first, then numbers that could be answers, then zeros."""
    yield b"\xff" * nbytes
    while True:
        yield _plausible(rng, dtype, nbytes)
        yield bytes(nbytes)


def _plausible(rng: np.random.Generator, dtype: str, nbytes: int) -> bytes:
    if dtype in FLOATS:
        width = FLOATS[dtype]
        return rng.standard_normal(-(-nbytes // np.dtype(width).itemsize)).astype(width).tobytes()[:nbytes]
    return rng.integers(2, 100, nbytes, np.uint8).tobytes()  # no byte of it is a plain true or false
