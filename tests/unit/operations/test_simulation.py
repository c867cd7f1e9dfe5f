"""Simulations against what physics, mathematics and arbitrage demand."""

import tracemalloc
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import pytest
from scipy.special import ndtr

from openruntime.contracts.errors import InvalidParameter, TaskCancelled
from openruntime.contracts.payload import Spec
from openruntime.operations import simulation
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.operations.simulation import black_scholes, heat2d, monte_carlo_pi, nbody, normal_cdf

random = np.random.default_rng(33)


def quiet(done: int, total: int, message: str | None = None) -> None:
    """Nobody watches."""


@pytest.mark.parametrize("boundary", ["insulated", "periodic"])
def test_closed_plates_keep_their_heat_and_become_even(boundary: Any) -> None:
    grid = random.random((16, 20))
    found = heat2d(grid, iterations=3000, boundary=boundary, xp=xp, steps=quiet)
    assert found.sum() == pytest.approx(grid.sum(), rel=1e-12)
    np.testing.assert_allclose(found, grid.mean(), rtol=1e-3)


def test_a_cooling_mode_decays_as_the_analytic_solution() -> None:
    n, spacing, alpha, dt, iterations = 51, 0.02, 0.1, 5e-4, 1000
    place = np.arange(n) * spacing  # a plate of one metre
    mode = np.sin(np.pi * place)[:, None] * np.sin(np.pi * place)
    mode[[0, -1]] = mode[:, [0, -1]] = 0.0
    found = heat2d(mode, iterations=iterations, alpha=alpha, dt=dt, spacing=spacing, xp=xp, steps=quiet)
    np.testing.assert_allclose(found, mode * np.exp(-2 * np.pi**2 * alpha * dt * iterations), atol=1e-3)


def test_edges_keep_their_temperature() -> None:
    grid = random.random((9, 11))
    found = heat2d(grid, iterations=50, xp=xp, steps=quiet)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        np.testing.assert_array_equal(found[edge], grid[edge])
    assert found.min() >= grid.min()
    assert found.max() <= grid.max()


def test_an_unstable_step_is_refused_with_the_longest_that_is_not() -> None:
    catalogue, grid = OperationCatalogue(), Spec("float64", (8, 8))
    with pytest.raises(InvalidParameter, match=r"at most 0\.05$") as caught:
        catalogue.bind("heat2d", {"grid": grid, "alpha": 5.0})
    assert caught.value.field == "dt"
    assert catalogue.bind("heat2d", {"grid": grid, "alpha": 5.0, "dt": 0.05}).outputs["output"] == grid


def test_a_planet_comes_back_after_a_year() -> None:
    positions, velocities = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 1.0]])
    found = nbody(positions, velocities, np.array([1.0, 1e-9]), dt=2 * np.pi / 2000, iterations=2000, xp=xp, steps=quiet)
    np.testing.assert_allclose(found["positions"][1], [1.0, 0.0], atol=1e-4)


def _cluster() -> dict[str, Any]:
    local = np.random.default_rng(1)
    return {
        "positions": local.normal(size=(20, 3)),
        "velocities": local.normal(size=(20, 3)) * 0.3,
        "masses": local.random(20) / 20,
        "softening": 0.3,
    }


def test_energy_and_momentum_are_kept() -> None:
    bodies = _cluster()
    found = nbody(**bodies, dt=0.01, iterations=500, xp=xp, steps=quiet)
    energy = found["energy"]
    assert energy.shape == (501,)
    assert np.abs(energy / energy[0] - 1).max() < 1e-4
    before, after = (bodies["masses"] @ v for v in (bodies["velocities"], found["velocities"]))
    np.testing.assert_allclose(after, before, atol=1e-14)


def test_the_error_is_of_second_order() -> None:
    drifts = []
    for halvings in range(3):
        energy = nbody(**_cluster(), dt=0.08 / 2**halvings, iterations=25 * 2**halvings, xp=xp, steps=quiet)["energy"]
        drifts.append(np.abs(energy - energy[0]).max())
    assert 3.5 < drifts[0] / drifts[1] < 4.5
    assert 3.5 < drifts[1] / drifts[2] < 4.5


def test_blocks_of_pairs_do_not_change_an_orbit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = nbody(**_cluster(), iterations=10, xp=xp, steps=quiet)
    monkeypatch.setattr(simulation, "_TILE", 45)
    blocked = nbody(**_cluster(), iterations=10, xp=xp, steps=quiet)
    for name in whole:
        np.testing.assert_allclose(blocked[name], whole[name], rtol=1e-12)


@pytest.mark.parametrize("samples", [1, 2, 1001, 54_321])
def test_pi_does_not_depend_on_the_blocks(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = monte_carlo_pi(samples=samples, seed=9, xp=xp, steps=quiet)
    for block in (2, 64, 1000) if samples < 2000 else (1000, 1 << 14):
        monkeypatch.setattr(simulation, "_SAMPLES", block)
        assert monte_carlo_pi(samples=samples, seed=9, xp=xp, steps=quiet) == whole


def test_pi_comes_closer_with_the_root_of_the_samples() -> None:
    for samples in (10_000, 3_000_000):
        errors = [float(monte_carlo_pi(samples=samples, seed=seed, xp=xp, steps=quiet)) - np.pi for seed in range(4)]
        assert 0 < np.sqrt(np.mean(np.square(errors))) < 2.5 * 1.642 / np.sqrt(samples)


def test_pi_of_a_trillion_samples_takes_constant_memory_and_stops_when_told() -> None:
    seen: list[int] = []

    def steps(done: int, total: int, message: str | None = None) -> None:
        assert total == 10**12
        seen.append(done)
        if len(seen) == 6:
            raise TaskCancelled("enough")

    tracemalloc.start()
    with pytest.raises(TaskCancelled):
        monte_carlo_pi(samples=10**12, seed=0, xp=xp, steps=steps)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == sorted(set(seen))
    assert peak < 30e6


def test_the_normal_distribution_is_that_of_scipy() -> None:
    x = np.linspace(-37, 37, 100_001)
    np.testing.assert_allclose(normal_cdf(x, xp), ndtr(x), rtol=1e-8, atol=0)
    np.testing.assert_allclose(normal_cdf(x, xp), ndtr(x), rtol=0, atol=1e-15)


def test_prices_leave_no_arbitrage() -> None:
    strike = np.linspace(50.0, 150.0, 201)
    call, put = (black_scholes(100.0, strike, 2.0, 0.03, 0.25, 0.01, xp=xp)[name] for name in ("call", "put"))
    np.testing.assert_allclose(call - put, 100 * np.exp(-0.02) - strike * np.exp(-0.06), rtol=0, atol=1e-11)
    assert (np.diff(call) < 0).all()
    assert (np.diff(call, 2) > 0).all()


def test_greeks_are_the_derivatives_of_the_call() -> None:
    def call(spot: Any, volatility: Any) -> Any:
        return black_scholes(spot, 105.0, 0.7, 0.03, volatility, 0.02, xp=xp)["call"]

    spot, step = np.linspace(70.0, 140.0, 30), 1e-3
    found = black_scholes(spot, 105.0, 0.7, 0.03, 0.3, 0.02, xp=xp)
    np.testing.assert_allclose(found["delta"], (call(spot + step, 0.3) - call(spot - step, 0.3)) / (2 * step), rtol=1e-6)
    np.testing.assert_allclose(
        found["gamma"], (call(spot + step, 0.3) - 2 * call(spot, 0.3) + call(spot - step, 0.3)) / step**2, rtol=1e-4, atol=1e-7
    )
    np.testing.assert_allclose(found["vega"], (call(spot, 0.3 + 1e-5) - call(spot, 0.3 - 1e-5)) / 2e-5, rtol=1e-6)


def test_at_expiry_or_without_volatility_a_price_is_its_discounted_payoff() -> None:
    spot = np.array([80.0, 130.0])
    certain = black_scholes(spot, 100.0, 2.0, 0.05, 0.0, xp=xp)
    np.testing.assert_allclose(certain["call"], np.maximum(spot - 100 * np.exp(-0.1), 0), atol=1e-12)
    np.testing.assert_allclose(certain["put"], np.maximum(100 * np.exp(-0.1) - spot, 0), atol=1e-12)
