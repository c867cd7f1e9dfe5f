"""Operations of which JAX cannot trace the whole, since they depend on values, are long, or take a seed: compiled in parts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from openruntime.backends.jax_namespace import jax, jnp, xp
from openruntime.backends.namespace import xp as host
from openruntime.contracts.errors import OperationFailed
from openruntime.operations import dtypes, learning, numerics, random, simulation

_CHUNK = 1 << 24  # random numbers in one loop: their temporaries are fused away
_SAMPLES = 1 << 17
_WORK = 1 << 24  # elements that a program of several steps may go through: the task can be stopped between two

Call = Callable[..., Any]
"""Compiles a function for its arrays, and calls it."""


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    found: Callable[..., Any] = jax.jit(function)
    return found


def uniform(shape: Any, seed: Any, low: float = 0.0, high: float = 1.0, dtype: str = "float64") -> Any:
    return random.in_chunks(xp, shape, lambda start, count: random.scaled_uniforms(xp, seed, low, high, dtype, start, count), _CHUNK)


def normal(shape: Any, seed: Any, mean: float = 0.0, std: float = 1.0, dtype: str = "float64") -> Any:
    return random.in_chunks(xp, shape, lambda start, count: random.scaled_normals(xp, seed, mean, std, dtype, start, count), _CHUNK)


def integers(shape: Any, seed: Any, high: int, low: int = 0, dtype: str = "int64") -> Any:
    return random.in_chunks(xp, shape, lambda start, count: random.scaled_integers(xp, seed, low, high, dtype, start, count), _CHUNK)


def _silent(done: int, total: int, message: str | None = None) -> None:
    """Within a program nobody hears of steps."""


def _heated(grid: Any, count: Any, xp: Any, **options: Any) -> Any:
    """`count` steps, which is an argument of the program."""
    return jax.lax.fori_loop(0, count, lambda _, before: simulation.heat2d.function(before, iterations=1, steps=_silent, xp=xp, **options), grid)


def heat2d(call: Call, grid: Any, steps: Any, xp: Any, iterations: int = 100, **options: Any) -> Any:
    dtype = dtypes.inexact(dtypes.name_of(grid))
    grid = dtypes.cast(xp, grid, numerics.working(dtype))
    each = max(1, _WORK // max(1, grid.size))
    for start in range(0, iterations, each):
        steps(start, iterations)
        grid = call(_heated, grid=grid, count=np.int64(min(each, iterations - start)), xp=xp, **options)
    return dtypes.cast(xp, grid, dtype)


def nbody(call: Call, positions: Any, velocities: Any, masses: Any, steps: Any, xp: Any, iterations: int = 100, **options: Any) -> dict[str, Any]:
    dtype, (positions, velocities, masses) = numerics.common(xp, positions, velocities, masses)
    each = max(1, min(4, _WORK // masses.size**2))
    found = {"positions": positions, "velocities": velocities}
    energy: list[Any] = []
    for start in range(0, iterations, each):
        steps(start, iterations)
        count = min(each, iterations - start)
        found = call(
            simulation.nbody.function, positions=found["positions"], velocities=found["velocities"], masses=masses, iterations=count, steps=_silent,
            xp=xp, **options,
        )  # fmt: skip
        energy.append(np.asarray(found["energy"])[bool(energy) :])
    if not energy:
        found = call(simulation.nbody.function, **found, masses=masses, iterations=0, steps=_silent, xp=xp, **options)
        energy.append(np.asarray(found["energy"]))
    found = {"positions": found["positions"], "velocities": found["velocities"], "energy": jnp.asarray(np.concatenate(energy))}
    return {name: dtypes.cast(xp, value, dtype) for name, value in found.items()}


def _within(start: Any, seed: Any, count: int) -> Any:
    """As in the generic operation, with the block's start and the seed as arguments of one program."""
    index = start // 2 + jnp.arange(-(-count // 2))
    zero = jnp.zeros_like(index)
    low = (1 << 32) - 1
    words = random.philox((index & low, index >> 32, zero, zero), (seed & low, seed >> 32))
    a, b, c, d = (word >> 1 for word in words)
    return jnp.count_nonzero(a * a + b * b < 1 << 62) + jnp.count_nonzero((c * c + d * d < 1 << 62)[: count // 2])


def monte_carlo_pi(call: Call, samples: int, steps: Any, xp: Any, seed: int = 0) -> Any:
    inside = 0
    for start in range(0, samples, _SAMPLES):
        steps(start, samples)
        inside += int(call(_within, start=np.int64(start), seed=np.int64(seed), count=min(_SAMPLES, samples - start)))
    return xp.asarray(4 * inside / samples, dtype=xp.float64)


@_compiled
def _runs(x: Any) -> tuple[Any, Any]:
    """The numbers sorted, and where a new one begins; NaN is equal to none."""
    x = jnp.sort(jnp.reshape(x, (-1,)))
    return x, jnp.concatenate([jnp.ones((1,), bool), x[1:] != x[:-1]])[: x.size]


def unique(x: Any) -> dict[str, Any]:
    values, begins = _runs(x)
    places = np.flatnonzero(np.asarray(begins))
    return {"values": np.asarray(values)[places], "counts": np.diff(places, append=values.size)}


@_compiled
def _sorted(x: Any) -> Any:
    return jnp.sort(jnp.reshape(x, (-1,)).astype(jnp.float64))


@_compiled
def _counted(values: Any, edges: Any) -> Any:
    before = jnp.searchsorted(values, edges, side="left", method="sort" if edges.size > 64 else "scan")
    until = jnp.searchsorted(values, edges[-1:], side="right")
    return jnp.diff(jnp.concatenate([before[:-1], until])).astype(jnp.int64)


def histogram(x: Any, bins: int = 10, range: tuple[float, float] | None = None) -> dict[str, Any]:
    values = _sorted(x)
    low, high = range or ((float(values[0]), float(values[-1])) if values.size else (0.0, 1.0))
    if not (low > float("-inf") and high < float("inf")):
        raise OperationFailed("histogram failed: `x` holds NaN or infinity; give `range` to leave them out", field="x")
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    return {"counts": _counted(values, edges), "edges": edges}


@partial(jax.jit, static_argnames="k")
def _lloyd(x: Any, squares: Any, centroids: Any, k: int) -> tuple[Any, ...]:
    """Each row's centroid and squared distance, the means of the rows, and how many they are."""
    labels, nearest = learning._assigned(x, squares, centroids, xp)
    sums, counts = jnp.zeros_like(centroids), jnp.zeros_like(centroids[:, 0])
    for part in numerics.blocks(x.shape[0], k):
        member = (jnp.arange(k)[:, None] == labels[part][None, :]).astype(x.dtype)
        sums, counts = sums + member @ x[part], counts + jnp.sum(member, axis=1)
    return labels, nearest, sums / jnp.maximum(counts, 1)[:, None], counts


@_compiled
def _moved(old: Any, labels: Any, before: Any, centroids: Any) -> tuple[Any, Any]:
    return jnp.all(labels == old), jnp.sum((centroids - before) ** 2)


@_compiled
def _inertia(x: Any, centroids: Any, labels: Any) -> Any:
    return jnp.sum((x - centroids[labels]) ** 2)


@_compiled
def _next_centroid(x: Any, squares: Any, nearest: Any, chances: Any) -> tuple[Any, Any]:
    reached = jnp.cumsum(nearest)
    candidates = jnp.clip(jnp.searchsorted(reached, chances * reached[-1]), 0, x.shape[0] - 1)
    closer = jnp.minimum(nearest[:, None], learning._distances(x, squares, x[candidates], xp))
    best = jnp.argmin(jnp.sum(closer, axis=0))
    return x[candidates[best]], closer[:, best]


@_compiled
def _centred(x: Any) -> tuple[Any, ...]:
    centre = jnp.mean(x, axis=0, keepdims=True)
    squares = jnp.sum((x - centre) ** 2, axis=1)
    return jnp.all(jnp.isfinite(x)), centre, x - centre, squares, jnp.mean(squares)


@_compiled
def _distance(x: Any, squares: Any, point: Any) -> Any:
    return learning._distances(x, squares, point[None, :], xp)[:, 0]


def kmeans(x: Any, steps: Any, k: int, seed: int = 0, iterations: int = 300, tolerance: float = 1e-4) -> dict[str, Any]:
    """The generic operation, its rounds as programs."""
    dtype = dtypes.inexact(dtypes.name_of(x))
    finite, centre, x, squares, spread = _centred(dtypes.cast(xp, x, numerics.working(dtype)))
    if not finite:
        raise OperationFailed("kmeans needs finite numbers: `x` holds NaN or infinity", field="x")
    chances = np.asarray(random.uniforms(host, seed, 0, k * learning._trials(k), dtypes.name_of(x))).reshape(k, -1)
    chosen = [x[min(x.shape[0] - 1, int(chances[0, 0] * x.shape[0]))]]
    nearest = _distance(x, squares, chosen[0])
    for i in range(1, k):
        steps(0, 1, f"choosing centroid {i + 1} of {k}")
        one, nearest = _next_centroid(x, squares, nearest, chances[i])
        chosen.append(one)
    centroids = jnp.asarray(np.stack(list(map(np.asarray, chosen))))
    labels, nearest, means, counts = _lloyd(x, squares, centroids, k)
    enough = tolerance * float(spread) / x.shape[1]
    for i in range(iterations):
        steps(i, iterations)
        before, old = centroids, labels
        centroids = means if np.asarray(counts).all() else learning._moved(x, labels, nearest, before, xp)
        labels, nearest, means, counts = _lloyd(x, squares, centroids, k)
        settled, movement = _moved(old, labels, before, centroids)
        if settled or movement <= enough:
            break
    found = {"centroids": centroids + centre, "labels": labels, "inertia": _inertia(x, centroids, labels)}
    return {name: dtypes.cast(xp, value, "int64" if name == "labels" else dtype) for name, value in found.items()}
