"""References: the discrete heat equation's modes, one body at a time, published prices and SciPy's normal distribution."""

from typing import Any

import numpy as np
from scipy import ndimage, stats

from openruntime.testing.cases import Case, close

_random = np.random.default_rng(23)


def _heat2d(
    grid: Any, iterations: int = 100, alpha: float = 1.0, dt: float = 0.2, spacing: float = 1.0, boundary: str = "fixed"
) -> Any:  # fmt: skip
    """The five-point stencil of scipy.ndimage."""
    grid = grid.astype("f8")
    for _ in range(iterations):
        change = ndimage.laplace(grid, mode={"insulated": "nearest", "periodic": "wrap", "fixed": "nearest"}[boundary])
        if boundary == "fixed":
            change[[0, -1]] = 0
            change[:, [0, -1]] = 0
        grid = grid + alpha * dt / spacing**2 * change
    return grid


def _nbody(
    positions: Any, velocities: Any, masses: Any, dt: float = 0.01, iterations: int = 100, softening: float = 0.0, gravity: float = 1.0
) -> dict[str, Any]:
    """Pair after pair."""
    x, v, m = (np.asarray(a, "f8") for a in (positions, velocities, masses))

    def pulls() -> tuple[Any, float]:
        found, potential = np.zeros_like(x), 0.0
        for i in range(len(m)):
            for j in range(len(m)):
                if i != j:
                    away = x[j] - x[i]
                    distance = np.sqrt(away @ away + softening**2)
                    found[i] += gravity * m[j] * away / distance**3
                    potential -= gravity * m[i] * m[j] / distance / 2
        return found, potential

    pull, potential = pulls()
    energy = [(m * (v**2).sum(1)).sum() / 2 + potential]
    for _ in range(iterations):
        v = v + dt / 2 * pull
        x = x + dt * v
        pull, potential = pulls()
        v = v + dt / 2 * pull
        energy.append((m * (v**2).sum(1)).sum() / 2 + potential)
    return {"positions": x, "velocities": v, "energy": np.array(energy)}


def _black_scholes(spot: Any, strike: Any, time: Any, rate: Any, volatility: Any, dividend: Any = 0.0) -> dict[str, Any]:
    s, k, t, r, v, q = (np.asarray(a, "f8") for a in np.broadcast_arrays(spot, strike, time, rate, volatility, dividend))
    d1 = (np.log(s / k) + (r - q + v**2 / 2) * t) / (v * np.sqrt(t))
    d2 = d1 - v * np.sqrt(t)
    paid, owed, normal = s * np.exp(-q * t), k * np.exp(-r * t), stats.norm()
    return {
        "call": paid * normal.cdf(d1) - owed * normal.cdf(d2),
        "put": owed * normal.cdf(-d2) - paid * normal.cdf(-d1),
        "delta": np.exp(-q * t) * normal.cdf(d1),
        "gamma": np.exp(-q * t) * normal.pdf(d1) / (s * v * np.sqrt(t)),
        "vega": paid * normal.pdf(d1) * np.sqrt(t),
    }


def _near_pi(outputs: Any, samples: int, **_: Any) -> None:
    assert abs(float(outputs["output"]) - np.pi) < 5 * 1.642 / np.sqrt(samples)


def _is_the_payoff(outputs: Any, **_: Any) -> None:
    close(outputs["call"], np.array([10.0, 0.0, 0.0]))
    close(outputs["put"], np.array([0.0, 0.0, 10.0]))
    close(outputs["delta"], np.array([1.0, 0.5, 0.0]))
    close(outputs["gamma"], np.zeros(3))


def _only_the_last_is_a_price(outputs: Any, **_: Any) -> None:
    for name, value in outputs.items():
        assert np.isnan(value[:-1]).all(), name
        assert np.isfinite(value[-1]), name


def _quotes(dtype: str = "float64") -> dict[str, Any]:
    low, high = np.array([20, 20, 0.1, -0.02, 0.05, 0.0]), np.array([200, 200, 3, 0.1, 0.8, 0.05])
    names = ("spot", "strike", "time", "rate", "volatility", "dividend")
    return {name: _random.uniform(a, b, 50).astype(dtype) for name, a, b in zip(names, low, high, strict=True)}


_PLATE = _random.random((12, 17))
_BODIES = {"positions": _random.normal(size=(6, 3)), "velocities": _random.normal(size=(6, 3)), "masses": _random.random(6) + 0.5}
_CALL = {"spot": 100.0, "strike": 100.0, "time": 1.0, "rate": 0.05, "volatility": 0.2}

CASES = [
    *(Case("heat2d", {"grid": _PLATE.astype(t), "iterations": 30, "boundary": boundary}, _heat2d)
      for t in ("float32", "float64") for boundary in ("fixed", "insulated", "periodic")),
    Case("heat2d", {"grid": _PLATE.astype("float16"), "iterations": 10}, _heat2d),
    Case("heat2d", {"grid": np.eye(5, dtype="int64"), "iterations": 3, "alpha": 2.0, "dt": 0.4, "spacing": 2.0}, _heat2d, note="of integers"),
    Case("heat2d", {"grid": _PLATE, "iterations": 0}, _PLATE),
    Case("heat2d", {"grid": np.ones((2, 5))}, np.ones((2, 5)), note="nothing within"),
    Case("heat2d", {"grid": np.array([[3.0]]), "boundary": "periodic"}, np.array([[3.0]])),
    Case("heat2d", {"grid": np.zeros((0, 5))}, np.zeros((0, 5))),
    Case("heat2d", {"grid": np.where(np.arange(49).reshape(7, 7) == 24, np.nan, 1.0), "iterations": 2},
         np.where(np.abs(np.arange(7) - 3)[:, None] + np.abs(np.arange(7) - 3) <= 2, np.nan, 1.0), note="NaN spreads"),
    Case("heat2d", {"grid": _PLATE, "alpha": 2.0}, refused="dt"),
    Case("heat2d", {"grid": _PLATE, "spacing": 0.5}, refused="dt"),
    Case("heat2d", {"grid": _PLATE, "alpha": -1.0}, refused="alpha"),
    Case("heat2d", {"grid": _PLATE[0]}, refused="grid"),
    Case("heat2d", {"grid": _PLATE, "iterations": -1}, refused="iterations"),
    Case("heat2d", {"grid": _PLATE, "boundary": "open"}, refused="boundary"),
    Case("nbody", _BODIES | {"iterations": 20}, _nbody, precision=1e-8),
    Case("nbody", {name: value.astype("float32") for name, value in _BODIES.items()} | {"iterations": 5, "softening": 0.2}, _nbody),
    Case("nbody", {name: value[:, :2] if value.ndim > 1 else value for name, value in _BODIES.items()}
         | {"iterations": 5, "softening": 0.1, "gravity": 3.0}, _nbody, note="in a plane"),
    Case("nbody", {"positions": np.zeros((1, 2)), "velocities": np.ones((1, 2)), "masses": np.ones(1), "iterations": 10, "dt": 0.1},
         {"positions": np.ones((1, 2)), "velocities": np.ones((1, 2)), "energy": np.ones(11)}, note="alone"),
    Case("nbody", _BODIES | {"masses": np.ones(5)}, refused="masses"),
    Case("nbody", _BODIES | {"velocities": np.ones((6, 2))}, refused="velocities"),
    Case("nbody", _BODIES | {"positions": np.ones(6)}, refused="positions"),
    Case("nbody", {"positions": np.ones((0, 3)), "velocities": np.ones((0, 3)), "masses": np.ones(0)}, refused="positions"),
    Case("nbody", _BODIES | {"dt": 0.0}, refused="dt"),
    Case("nbody", {"positions": np.zeros((2, 3)), "velocities": np.zeros((2, 3)), "masses": np.ones(2)}, fails="at one place"),
    Case("monte_carlo_pi", {"samples": 300_001, "seed": 5}, verify=_near_pi),
    Case("monte_carlo_pi", {"samples": 1}, verify=lambda outputs, **_: close(outputs["output"] % 4, np.array(0.0))),
    Case("monte_carlo_pi", {"samples": 0}, refused="samples"),
    Case("monte_carlo_pi", {"samples": 10**12 + 1}, refused="samples"),
    Case("monte_carlo_pi", {"samples": 10, "seed": -1}, refused="seed"),
    Case("monte_carlo_pi", {"samples": 1.5}, refused="samples"),
    Case("black_scholes", _CALL, {"call": np.array(10.450583572185565), "put": np.array(5.573526022256971), "delta": np.array(0.6368306511756191),
                                  "gamma": np.array(0.018762017345846895), "vega": np.array(37.52403469169379)}, note="of numbers"),
    Case("black_scholes", _quotes(), _black_scholes),
    Case("black_scholes", _quotes("float32"), _black_scholes, precision=1e-4),
    Case("black_scholes", _CALL | {"spot": np.array([[90.0], [100.0]]), "strike": np.array([80.0, 100.0, 120.0])}, _black_scholes),
    Case("black_scholes", _CALL | {"spot": np.array([100]), "strike": 1000, "time": 0.1}, _black_scholes, note="far out of the money"),
    Case("black_scholes", _CALL | {"spot": np.array([110.0, 100.0, 90.0]), "time": 0.0}, verify=_is_the_payoff),
    Case("black_scholes", _CALL | {"spot": np.array([np.nan, 0.0, -1.0, 90.0])}, verify=_only_the_last_is_a_price),
    Case("black_scholes", _CALL | {"volatility": np.zeros(0)}, dict.fromkeys(("call", "put", "delta", "gamma", "vega"), np.zeros(0))),
    Case("black_scholes", _CALL | {"spot": 0.0}, refused="spot"),
    Case("black_scholes", _CALL | {"volatility": -0.1}, refused="volatility"),
    Case("black_scholes", _CALL | {"spot": np.ones(3), "strike": np.ones(4)}, refused="strike"),
]  # fmt: skip
