"""Simulations on OpenCL: one kernel a step. Definitions and sources as in `operations/simulation.py`."""

from collections import deque
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from openruntime.backends.opencl_arrays import Engine, Tensor, common_dtype, contiguous, scalar
from openruntime.backends.opencl_reduce import sum_
from openruntime.backends.opencl_source import C_TYPE
from openruntime.contracts.errors import OperationFailed
from openruntime.contracts.interfaces import Steps
from openruntime.operations.numerics import working
from openruntime.operations.simulation import _ABOVE, _BELOW, _OUTPUTS

_AHEAD = 4  # steps that may wait in the queue: what progress tells is done, and a cancel is soon heard

_HEAT = """
__kernel void heat(const long rows, const long height, const long width, const T ratio, __global const T *restrict x, __global T *restrict out) {
    FOR_EACH(item, rows) {
        const size_t row = item + RING, here = row * width, above = ABOVE * width, below = BELOW * width;
        for (size_t i = 1; i + 1 < (size_t)width; ++i) {
            const T around = x[above + i] + x[below + i] + x[here + i - 1] + x[here + i + 1];
            out[here + i] = (1 - 4 * ratio) * x[here + i] + ratio * around;
        }
        EDGES
    }
}"""
_EDGE = """for (size_t e = 0; e < 2; ++e) {
            const size_t i = e ? width - 1 : 0;
            const T around = x[above + i] + x[below + i] + x[here + BEFORE] + x[here + AFTER];
            out[here + i] = (1 - 4 * ratio) * x[here + i] + ratio * around;
        }"""
_BOUNDARIES = {
    "fixed": ("1", "(row - 1)", "(row + 1)", "", ""),
    "insulated": ("0", "(row ? row - 1 : 0)", "min(row + 1, (size_t)height - 1)", "(i ? i - 1 : 0)", "min(i + 1, (size_t)width - 1)"),
    "periodic": ("0", "(row ? row - 1 : height - 1)", "((row + 1) % height)", "(i ? i - 1 : width - 1)", "((i + 1) % width)"),
}


class _Pace:
    """Lets the host be a few steps ahead of the device and no more."""

    def __init__(self) -> None:
        self._events: deque[Any] = deque()

    def __call__(self, event: Any) -> None:
        self._events.append(event)
        if len(self._events) > _AHEAD:
            self._events.popleft().wait()


def heat2d(
    engine: Engine, grid: Tensor, *, iterations: int = 100, alpha: float = 1.0, dt: float = 0.2, spacing: float = 1.0, boundary: str = "fixed",
    steps: Steps,
) -> Tensor:  # fmt: skip
    dtype = common_dtype(grid)
    wide = working(dtype)
    fixed = boundary == "fixed"
    if not grid.size or (fixed and min(grid.shape) < 3) or not iterations:
        return engine.cast(grid, dtype)
    height, width = grid.shape
    ring, above, below, before, after = _BOUNDARIES[boundary]
    edges = "" if fixed else _EDGE.replace("BEFORE", before).replace("AFTER", after)
    text = _HEAT.replace("EDGES", edges).replace("RING", ring).replace("ABOVE", above).replace("BELOW", below)
    source = f"#define T {C_TYPE[wide][1]}\n{text}"
    x = engine.cast(grid, wide)
    pair = [engine.output(grid.shape, wide), engine.empty(grid.shape, wide)]
    if iterations % 2 == 0:
        pair.reverse()  # the last step writes into the output
    if fixed:
        for target in pair:
            engine.copy(x, target, grid.shape, contiguous(grid.shape))
    rows, ratio, pace = height - 2 * fixed, scalar(alpha * dt / spacing**2, wide), _Pace()
    for i in range(iterations):
        steps(i, iterations)
        target = pair[i % 2]
        pace(engine.run(source, "heat", rows, rows, height, width, ratio, x, target, work=8 * width))
        x = target
    return engine.cast(x, dtype)


# coordinates stand apart, each padded to whole vectors of sixteen bodies
_NBODY = """
__kernel void pulled(const long n, const long padded, const T softening, const T kick, const T gravity, __global const T *restrict x,
        __global T *restrict v, __global const T *restrict masses, __global T *restrict pull, __global T *restrict energy,
        volatile __global int *failed) {
    FOR_EACH(i, n) {
        T own[D];
        T16 force[D], away[D], potential = 0;
        for (int a = 0; a < D; ++a) { own[a] = x[a * padded + i]; force[a] = 0; }
        for (size_t j = 0; j < (size_t)padded; j += 16) {
            T16 square = softening;
            for (int a = 0; a < D; ++a) { away[a] = vload16(0, x + a * padded + j) - own[a]; square += away[a] * away[a]; }
            const I16 lane = (I16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) + (I)j, other = lane != (I)i && lane < (I)n;
            if (any(other && square == 0)) *failed = 1;
            const T16 inverse = 1 / sqrt(other ? square : (T16)1);
            const T16 weight = other ? inverse * vload16(0, masses + j) : (T16)0, strength = weight * inverse * inverse;
            potential += weight;
            for (int a = 0; a < D; ++a) force[a] += strength * away[a];
        }
        T line[16], total = 0, moving = 0;
        vstore16(potential, 0, line);
        for (int l = 0; l < 16; ++l) total += line[l];
        for (int a = 0; a < D; ++a) {
            T sum = 0;
            vstore16(force[a], 0, line);
            for (int l = 0; l < 16; ++l) sum += line[l];
            pull[a * padded + i] = sum;
            const T faster = v[a * padded + i] + kick * sum;
            v[a * padded + i] = faster;
            moving += faster * faster;
        }
        energy[i] = masses[i] * (moving - gravity * total) / 2;
    }
}
__kernel void drifted(const long n, const T kick, const T dt, __global T *restrict x, __global T *restrict v, __global const T *restrict pull) {
    FOR_EACH(i, n) {
        const T faster = v[i] + kick * pull[i];
        v[i] = faster;
        x[i] += dt * faster;
    }
}"""


def nbody(
    engine: Engine, positions: Tensor, velocities: Tensor, masses: Tensor, *, dt: float = 0.01, iterations: int = 100, softening: float = 0.0,
    gravity: float = 1.0, steps: Steps,
) -> dict[str, Tensor]:  # fmt: skip
    dtype = common_dtype(positions, velocities, masses)
    wide = working(dtype)
    n, d = positions.shape
    padded = -(-n // 16) * 16

    def apart(tensor: Tensor) -> Tensor:
        found = engine.filled((d, padded), wide)
        engine.copy(tensor, found, (n, d), (d, 1), (1, padded))
        return found

    x, v = apart(positions), apart(velocities)
    weights, pull, parts = engine.filled((padded,), wide), engine.filled((d, padded), wide), engine.empty((n,), wide)
    engine.copy(masses, weights, (n,), (1,))
    energies, failed = engine.output((iterations + 1,), wide), engine.filled((1,), "int32")
    whole = "long" if wide == "float64" else "int"
    t = C_TYPE[wide][1]
    source = f"#define T {t}\n#define T16 {t}16\n#define I {whole}\n#define I16 {whole}16\n#define D {d}\n{_NBODY}"

    def pulled(kick: float, at: int) -> Any:
        where = (padded, scalar(softening**2, wide), scalar(kick, wide), scalar(gravity, wide), x, v, weights, pull, parts, failed)
        engine.run(source, "pulled", n, n, *where, work=(4 + 2 * d) * n // 2)
        return engine.copy(sum_(engine, parts), energies, (1,), (1,), start=at)

    pulled(0.0, 0)
    _check(engine, failed)
    kick, pace = dt * gravity / 2, _Pace()
    for i in range(iterations):
        steps(i, iterations)
        engine.run(source, "drifted", d * padded, d * padded, scalar(kick, wide), scalar(dt, wide), x, v, pull)
        pace(pulled(kick, i + 1))
    _check(engine, failed)
    found = {"positions": x, "velocities": v}
    together = {name: engine.rearranged(tensor, (n, d), (1, padded)) for name, tensor in found.items()}
    return {name: engine.cast(tensor, dtype) for name, tensor in {**together, "energy": energies}.items()}


def _check(engine: Engine, failed: Tensor) -> None:
    if engine.read(failed)[0]:
        raise OperationFailed("nbody: two bodies are at one place, where their force is infinite; give `softening` a length", field="softening")


_PRICES = """
V normal_V(V x) {
    const V size = fabs(x), near = min(size, (V)(T)7.1);
    V above = (T)ABOVE0 * near + (T)ABOVE1, below = (T)BELOW0 * near + (T)BELOW1;
    POLYNOMIALS
    V fraction = size + (T)0.65;
    fraction = size + 4 / fraction; fraction = size + 3 / fraction; fraction = size + 2 / fraction; fraction = size + 1 / fraction;
    const V ratio = size < (T)7.07106781186547 ? above / below : 1 / (fraction * (T)2.506628274631);
    const V tail = exp(-size * size / 2) * ratio;
    return x > 0 ? 1 - tail : tail;
}
void prices_V(V spot, V strike, V time, V rate, V volatility, V dividend, V *call, V *put, V *delta, V *gamma, V *vega) {
    const V one = 1, none = 0, unknown = (V)NAN;
    const W valid = spot > 0 && strike > 0 && time >= 0 && volatility >= 0 && rate == rate && dividend == dividend;
    spot = valid ? spot : one;
    strike = valid ? strike : one;
    const V root = sqrt(valid ? time : none);
    const V paid = spot * exp(-dividend * time), owed = strike * exp(-rate * time);
    const V moneyness = log(spot / strike) + (rate - dividend) * time, spread = volatility * root;
    const W certain = !(spread > 0);
    const V safe = certain ? one : spread;
    const V sign_ = moneyness > 0 ? one : moneyness < 0 ? -one : moneyness == 0 ? none : moneyness;
    const V d1 = certain ? (T)1e4 * sign_ : moneyness / safe + spread / 2, d2 = d1 - spread;
    const V density = exp(-d1 * d1 / 2) * (T)0.3989422804014327;
    *call = valid ? paid * normal_V(d1) - owed * normal_V(d2) : unknown;
    *put = valid ? owed * normal_V(-d2) - paid * normal_V(-d1) : unknown;
    *delta = valid ? paid / spot * normal_V(d1) : unknown;
    *gamma = valid ? (certain ? none : paid / spot * density / (spot * safe)) : unknown;
    *vega = valid ? paid * density * root : unknown;
}
"""


@lru_cache(maxsize=64)
def _pricing(dtype: str, modes: str) -> str:
    """`modes`: of each quote, `n` a number, `s` an array of one, `f` an array of all. Eight at a time: drivers have functions of vectors."""
    t = C_TYPE[dtype][1]
    whole = "long" if dtype == "float64" else "int"
    polynomials = " ".join(f"above = above * near + (T){c!r};" for c in _ABOVE[2:]) + " ".join(
        f"below = below * near + (T){c!r};" for c in _BELOW[2:]
    )
    text = _PRICES.replace("POLYNOMIALS", polynomials)
    for name, value in (("ABOVE0", _ABOVE[0]), ("ABOVE1", _ABOVE[1]), ("BELOW0", _BELOW[0]), ("BELOW1", _BELOW[1])):
        text = text.replace(name, repr(value))
    both = "".join(
        f"#define V {v}\n#define W {w}\n{text.replace('_V(', f'_{v}(')}#undef V\n#undef W\n" for v, w in ((t, "int"), (f"{t}8", f"{whole}8"))
    )
    parameters = ", ".join(f"const T q{i}" if mode == "n" else f"__global const T *restrict q{i}" for i, mode in enumerate(modes))
    one = ", ".join({"n": f"q{i}", "s": f"q{i}[0]", "f": f"q{i}[i]"}[mode] for i, mode in enumerate(modes))
    eight = ", ".join({"n": f"({t}8)q{i}", "s": f"({t}8)q{i}[0]", "f": f"vload8(b, q{i})"}[mode] for i, mode in enumerate(modes))
    outputs = ", ".join(f"__global T *restrict {name}" for name in _OUTPUTS)
    found = ", ".join(f"&{name}_" for name in _OUTPUTS)
    declared = ", ".join(f"{name}_" for name in _OUTPUTS)
    kept = " ".join(f"vstore8({name}_, b, {name});" for name in _OUTPUTS)
    singly = " ".join(f"{name}[i] = {name}_;" for name in _OUTPUTS)
    return f"""
#define T {t}
{both}
__kernel void prices(const long blocks, const long n, {parameters}, {outputs}) {{
    FOR_EACH(b, blocks) {{
        if ((b + 1) * 8 <= (size_t)n) {{ {t}8 {declared}; prices_{t}8({eight}, {found}); {kept} }}
        else for (size_t i = b * 8; i < (size_t)n; ++i) {{ {t} {declared}; prices_{t}({one}, {found}); {singly} }}
    }}
}}"""


def black_scholes(engine: Engine, spot: Any, strike: Any, time: Any, rate: Any, volatility: Any, dividend: Any = 0.0) -> dict[str, Tensor]:
    quotes = [spot, strike, time, rate, volatility, dividend]
    arrays = [quote for quote in quotes if isinstance(quote, Tensor)]
    dtype = common_dtype(*arrays) if arrays else "float64"
    wide = working(dtype)
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    modes = ""
    given: list[Any] = []
    for quote in quotes:
        if not isinstance(quote, Tensor):
            modes += "n"
            given.append(scalar(float(quote), wide))
            continue
        small = quote.size == 1
        modes += "s" if small else "f"
        given.append(engine.cast(quote if small else engine.broadcast(quote, shape), wide))
    outputs = {name: engine.output(shape, wide) for name in _OUTPUTS}
    size = prod(shape)
    blocks = -(-size // 8)
    engine.run(_pricing(wide, modes), "prices", blocks, blocks, size, *given, *outputs.values(), work=400)
    return {name: engine.cast(tensor, dtype) for name, tensor in outputs.items()}
