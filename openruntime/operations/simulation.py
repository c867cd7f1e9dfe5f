"""Simulations. Those that work in steps report progress after each and stop between two when told to.

Half precisions are computed in float32 and rounded once; integer arrays count as float64.
"""

from math import pi, sqrt
from typing import Annotated, Any, Literal

from array_api_compat import device
from msgspec import Meta

from openruntime.contracts.errors import OperationFailed
from openruntime.contracts.payload import ITEMSIZE
from openruntime.operations import dtypes
from openruntime.operations.definition import Array, Estimate, InvalidParameter, Namespace, Number, Spec, Steps, operation
from openruntime.operations.numerics import blocks, common, constant, joined, need_rank, real, working
from openruntime.operations.random import Seed, words
from openruntime.operations.shapes import broadcast
from openruntime.operations.stacking import elementwise

Iterations = Annotated[int, Meta(ge=0, le=10**9)]
Positive = Annotated[float, Meta(gt=0, le=1e300)]
Boundary = Literal["fixed", "insulated", "periodic"]


def _heat2d(grid: Spec, iterations: int, alpha: float, dt: float, spacing: float, boundary: Boundary) -> Spec:
    need_rank(grid, "grid", "heat2d", "(h, w)")
    ratio = alpha * dt / spacing**2
    if not ratio <= 0.25:
        raise InvalidParameter(
            f"`dt` of heat2d is too long to be stable: alpha * dt / spacing**2 is {ratio:.6g} and must be at most 0.25;"
            f" here `dt` can be at most {0.25 * spacing**2 / alpha:.6g}",
            field="dt",
        )
    return Spec(real("heat2d", grid=grid), grid.shape)


def _heat2d_cost(grid: Spec, iterations: int, **_: Any) -> Estimate:
    """Bytes: each step the grid with its rim and the new grid, both written and read once; the sums between are of a cache's size or fused."""
    size = grid.size * ITEMSIZE[working(grid.dtype)]
    return Estimate(7.0 * grid.size * iterations, 4.0 * size * iterations, 2 * grid.nbytes + 6 * size)


def _surrounded(inner: Array, edges: Array, boundary: Boundary, xp: Namespace) -> Array:
    """The cells that change, with a ring around them of what they border on; `edges` is a grid with the fixed ring."""
    if boundary == "fixed":
        left, right, top, bottom = edges[1:-1, :1], edges[1:-1, -1:], edges[:1, :], edges[-1:, :]
        return xp.concat([top, xp.concat([left, inner, right], axis=1), bottom], axis=0)
    first, last = (slice(0, 1), slice(-1, None)) if boundary == "insulated" else (slice(-1, None), slice(0, 1))
    wide = xp.concat([inner[:, first], inner, inner[:, last]], axis=1)
    return xp.concat([wide[first, :], wide, wide[last, :]], axis=0)


@operation(family="simulation", check=_heat2d, estimate=_heat2d_cost)
def heat2d(
    grid: Array,
    *,
    iterations: Iterations = 100,
    alpha: Positive = 1.0,
    dt: Positive = 0.2,
    spacing: Positive = 1.0,
    boundary: Boundary = "fixed",
    xp: Namespace,
    steps: Steps,
) -> Array:
    """Temperatures after `iterations` steps of the heat equation, du/dt = alpha (d²u/dx² + d²u/dy²); shape of `grid`.

    grid: (h, w), any unit of temperature. alpha: thermal diffusivity, m²/s. dt: seconds a step. spacing: metres between cells.
    boundary: `fixed` keeps the outermost cells as they are, `insulated` lets no heat through the rim, `periodic` joins opposite
    edges. Explicit finite differences (forward in time, centred in space), refused unless alpha dt / spacing² is at most 1/4, where
    they are stable. NaN spreads by one cell a step. An empty grid gives an empty answer.
    Source: Strikwerda, Finite difference schemes and partial differential equations, 2nd edition, 2004, chapter 6.
    """
    dtype, (grid,) = common(xp, grid)
    fixed = boundary == "fixed"
    if grid.size == 0 or (fixed and min(grid.shape) < 3):
        return dtypes.cast(xp, grid, dtype)
    ratio = alpha * dt / spacing**2
    inner = grid[1:-1, 1:-1] if fixed else grid
    for i in range(iterations):
        steps(i, iterations)
        around = _surrounded(inner, grid, boundary, xp)
        change = around[:-2, 1:-1] + around[2:, 1:-1]
        change = change + around[1:-1, :-2]
        change = change + around[1:-1, 2:]
        inner = (1 - 4 * ratio) * inner + ratio * change
    return dtypes.cast(xp, _surrounded(inner, grid, boundary, xp) if fixed else inner, dtype)


def _nbody(positions: Spec, velocities: Spec, masses: Spec, iterations: int, **_: float) -> dict[str, Spec]:
    need_rank(positions, "positions", "nbody", "(bodies, dimensions)")
    if positions.size == 0:
        raise InvalidParameter(f"`positions` of nbody must have a body and a dimension at least; it is {list(positions.shape)}", field="positions")
    for field, spec, shape in (("velocities", velocities, positions.shape), ("masses", masses, positions.shape[:1])):
        if spec.shape != shape:
            raise InvalidParameter(f"`{field}` of nbody must have shape {list(shape)} to fit `positions`; it is {list(spec.shape)}", field=field)
    dtype = real("nbody", positions=positions, velocities=velocities, masses=masses)
    return {"positions": Spec(dtype, positions.shape), "velocities": Spec(dtype, positions.shape), "energy": Spec(dtype, (iterations + 1,))}


_TILE = 1 << 18  # pairs at a time: temporaries stay in a processor's cache


def _nbody_cost(positions: Spec, velocities: Spec, masses: Spec, iterations: int, **_: float) -> Estimate:
    """Bytes: what a tile's temporaries take, written and read once."""
    (n, d), width = positions.shape, ITEMSIZE[working(real("nbody", positions=positions, velocities=velocities, masses=masses))]
    pairs = float(n) * n * (iterations + 1)
    held = max(n, min(n * n, _TILE)) * (d + 7) * width + 8 * positions.size * width + iterations * 100
    return Estimate(pairs * (6 * d + 8), pairs * (2 * d + 6) * width, held)


def _pulled(positions: Array, masses: Array, softening: float, xp: Namespace) -> tuple[Array, Array]:
    """Acceleration of every body, (n, d), and the potential energy, (), for a gravitational constant of 1."""
    n, d = positions.shape
    count = xp.arange(n, device=device(positions))
    accelerations, potential = [], xp.zeros_like(masses[0])
    for part in blocks(n, n, _TILE):
        away = [positions[None, :, axis] - positions[part, axis][:, None] for axis in range(d)]
        square = away[0] * away[0] + softening**2
        for offset in away[1:]:
            square = square + offset * offset
        itself = count[part][:, None] == count[None, :]
        square = xp.where(itself, xp.ones_like(square), square)
        if softening == 0 and bool(xp.any(square == 0)):
            raise OperationFailed("nbody: two bodies are at one place, where their force is infinite; give `softening` a length", field="softening")
        inverse = 1 / xp.sqrt(square)
        weight = xp.where(itself, xp.zeros_like(inverse), inverse * masses[None, :])
        potential = potential - xp.sum(masses[part] * xp.sum(weight, axis=1)) / 2
        force = weight * inverse * inverse
        accelerations.append(xp.stack([xp.sum(force * offset, axis=1) for offset in away], axis=1))
    return joined(xp, accelerations), potential


@operation(family="simulation", check=_nbody, estimate=_nbody_cost, outputs=("positions", "velocities", "energy"))
def nbody(
    positions: Array,
    velocities: Array,
    masses: Array,
    *,
    dt: Positive = 0.01,
    iterations: Iterations = 100,
    softening: Annotated[float, Meta(ge=0, le=1e300)] = 0.0,
    gravity: Annotated[float, Meta(ge=0, le=1e300)] = 1.0,
    xp: Namespace,
    steps: Steps,
) -> dict[str, Array]:
    """Bodies under their own gravity, after `iterations` steps of `dt`, every pair counted.

    positions, velocities: (n, d). masses: (n,). Any consistent units, such as metres, seconds and kilograms with
    gravity = 6.6743e-11. softening: a length added in squares to every distance (Plummer), which bounds the forces. Answers
    positions and velocities (n, d), and energy (iterations + 1,), kinetic and potential, before the first step and after each: its
    drift shows whether `dt` is short enough. Raises `OperationFailed` when two bodies meet without softening. NaN makes all bodies NaN
    within two steps.
    Source: Verlet, Computer "experiments" on classical fluids, 1967 (kick, drift, kick); Aarseth, Gravitational N-body simulations, 2003.
    """
    dtype, (positions, velocities, masses) = common(xp, positions, velocities, masses)

    def energy() -> Array:
        return xp.sum(masses[:, None] * velocities * velocities) / 2 + gravity * potential

    pull, potential = _pulled(positions, masses, softening, xp)
    energies = [energy()]
    for i in range(iterations):
        steps(i, iterations)
        velocities = velocities + (dt * gravity / 2) * pull
        positions = positions + dt * velocities
        pull, potential = _pulled(positions, masses, softening, xp)
        velocities = velocities + (dt * gravity / 2) * pull
        energies.append(energy())
    found = {"positions": positions, "velocities": velocities, "energy": xp.stack(energies)}
    return {name: dtypes.cast(xp, value, dtype) for name, value in found.items()}


_SAMPLES = 1 << 17  # a block: two samples from each of the generator's
_COORDINATE = 1 << 31


def _pi_cost(samples: int, seed: int) -> Estimate:
    return Estimate(70.0 * samples, 8.0 * samples, 60 * min(samples, _SAMPLES))


@operation(family="simulation", check=lambda samples, seed: Spec("float64", ()), estimate=_pi_cost)
def monte_carlo_pi(*, samples: Annotated[int, Meta(ge=1, le=10**12)], seed: Seed = 0, xp: Namespace, steps: Steps) -> Array:
    """An estimate of pi: four times the share of `samples` points, drawn evenly from the unit square, within the quarter circle.

    A float64 number whose standard error is 1.642 / sqrt(samples). Memory is constant; the points (31 bits a coordinate) depend on
    nothing but their number and the seed, so that every backend counts the same.
    """
    inside = 0
    for start in range(0, samples, _SAMPLES):
        steps(start, samples)
        inside += _within(start, min(_SAMPLES, samples - start), seed, xp)
    return xp.asarray(4 * inside / samples, dtype=xp.float64)


def _within(start: int, count: int, seed: int, xp: Namespace) -> int:
    """How many of `count` points, from point `start` on, which is even, lie within the circle."""
    a, b, c, d = (word >> 1 for word in words(xp, seed, start // 2, -(-count // 2)))
    odd = a * a + b * b < _COORDINATE**2
    even = (c * c + d * d < _COORDINATE**2)[: count // 2]
    return int(xp.count_nonzero(odd)) + int(xp.count_nonzero(even))


def _black_scholes(**quotes: Spec | float) -> dict[str, Spec]:
    arrays = {name: quote for name, quote in quotes.items() if isinstance(quote, Spec)}
    for name, quote in quotes.items():
        if isinstance(quote, Spec) or name in ("rate", "dividend"):
            continue
        if not (quote >= 0 if name in ("time", "volatility") else quote > 0):
            least = "at least 0" if name in ("time", "volatility") else "above 0"
            raise InvalidParameter(f"`{name}` of black_scholes must be {least}, and is {quote}", field=name)
    shape = broadcast("black_scholes", [(name, spec.shape) for name, spec in arrays.items()])
    dtype = real("black_scholes", **arrays) if arrays else "float64"
    return dict.fromkeys(_OUTPUTS, Spec(dtype, shape))


_OUTPUTS = ("call", "put", "delta", "gamma", "vega")


def _black_scholes_cost(**quotes: Spec | float) -> Estimate:
    out = _black_scholes(**quotes)["call"]
    moved = sum(quote.nbytes for quote in quotes.values() if isinstance(quote, Spec)) + 5 * out.nbytes
    work = out.size * ITEMSIZE[working(out.dtype)]
    return Estimate(160.0 * out.size, moved + 200.0 * work, moved + 22 * work)


@operation(family="simulation", check=_black_scholes, estimate=_black_scholes_cost, outputs=_OUTPUTS, version=2, batch=elementwise)
def black_scholes(
    spot: Number, strike: Number, time: Number, rate: Number, volatility: Number, dividend: Number = 0.0, *, xp: Namespace
) -> dict[str, Array]:
    """Prices of European options: `call`, `put`, and the call's `delta`, `gamma` and `vega`, each of the broadcast shape.

    spot, strike: prices, above 0. time: years to expiry. rate, dividend: a year, continuously compounded (0.05 is 5%). volatility: of
    the logarithm of the price, a square root of a year. Arrays that broadcast, or numbers. With no time or no volatility left the
    prices are the discounted payoff, gamma is 0. Where an element is NaN or outside its domain, so are its answers NaN.
    The put's delta is the call's minus exp(-dividend time); its gamma and vega are the call's.
    Source: Black and Scholes, The pricing of options and corporate liabilities, 1973; Merton, Theory of rational option pricing, 1973.
    """
    quotes: list[Any] = [spot, strike, time, rate, volatility, dividend]
    dtype, arrays = common(xp, *(None if isinstance(quote, float | int) else quote for quote in quotes))
    like = next((array for array in arrays if array is not None), xp.zeros((), dtype=xp.float64))
    given = [constant(xp, quote, like) if array is None else array for quote, array in zip(quotes, arrays, strict=True)]
    spot, strike, time, rate, volatility, dividend = xp.broadcast_arrays(*given)

    valid = (spot > 0) & (strike > 0) & (time >= 0) & (volatility >= 0) & ~xp.isnan(rate) & ~xp.isnan(dividend)
    one, zero, nan = xp.ones_like(spot), xp.zeros_like(spot), xp.full_like(spot, float("nan"))
    spot, strike = xp.where(valid, spot, one), xp.where(valid, strike, one)
    root = xp.sqrt(xp.where(valid, time, zero))
    paid, owed = spot * xp.exp(-dividend * time), strike * xp.exp(-rate * time)
    moneyness, spread = xp.log(spot / strike) + (rate - dividend) * time, volatility * root
    certain = ~(spread > 0)
    d1 = xp.where(certain, 1e4 * xp.sign(moneyness), moneyness / xp.where(certain, one, spread) + spread / 2)
    d2 = d1 - spread
    density = xp.exp(-d1 * d1 / 2) / sqrt(2 * pi)
    found = {
        "call": paid * normal_cdf(d1, xp) - owed * normal_cdf(d2, xp),
        "put": owed * normal_cdf(-d2, xp) - paid * normal_cdf(-d1, xp),
        "delta": paid / spot * normal_cdf(d1, xp),
        "gamma": xp.where(certain, zero, paid / spot * density / (spot * xp.where(certain, one, spread))),
        "vega": paid * density * root,
    }
    return {name: dtypes.cast(xp, xp.where(valid, value, nan), dtype) for name, value in found.items()}


_ABOVE = (3.52624965998911e-2, 0.700383064443688, 6.37396220353165, 33.912866078383, 112.079291497871, 221.213596169931, 220.206867912376)
_BELOW = (8.83883476483184e-2, 1.75566716318264, 16.064177579207, 86.7807322029461, 296.564248779674, 637.333633378831, 793.826512519948,
          440.413735824752)  # fmt: skip


def normal_cdf(x: Array, xp: Namespace) -> Array:
    """The standard normal distribution's integral up to `x`, to 1e-15 absolute and, in the tails, 1e-8 relative in float64.

    Source: Hart, Computer approximations, 1968, algorithm 5666; as given by West, Better approximations to cumulative normal
    functions, Wilmott, 2005.
    """
    size = xp.abs(x)
    near = xp.clip(size, None, 7.1)
    above, below = _ABOVE[0] * near + _ABOVE[1], _BELOW[0] * near + _BELOW[1]
    for factor in _ABOVE[2:]:
        above = above * near + factor
    for factor in _BELOW[2:]:
        below = below * near + factor
    fraction = size + 0.65
    for factor in (4, 3, 2, 1):
        fraction = size + factor / fraction
    ratio = xp.where(size < 7.07106781186547, above / below, 1 / (fraction * 2.506628274631))
    tail = xp.exp(-size * size / 2) * ratio
    return xp.where(x > 0, 1 - tail, tail)
