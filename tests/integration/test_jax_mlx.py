"""JAX and MLX in a real server: asked for by name, with NumPy's numbers, a random seed's among them, and what compiling took."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import numpy as np
import pytest

import openruntime
from benchmarks.servers import Server

_random = np.random.default_rng(3)


@pytest.fixture(scope="module")
def running(start_server: Callable[..., AbstractContextManager[Server]]) -> Iterator[tuple[Server, openruntime.Runtime]]:
    with start_server(store="memory") as server, openruntime.connect(server.url) as rt:
        (device,) = (device for device in rt.devices() if device["id"] == "cpu:0")
        assert {"numpy", "jax", "mlx"} <= set(device["backends"])
        yield server, rt


def ran(server: Server, future: Any) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/tasks/{future.task_id}/explain").json()
    return found


def test_jax_compiles_once_for_a_shape(running: tuple[Server, openruntime.Runtime]) -> None:
    server, rt = running
    x, y = _random.normal(size=(2, 300_017)).astype("float32")
    tasks = []
    for shift in (0, 1):  # other numbers: the result cache must not answer
        future = rt.submit("expression", formula="exp(-x) + sin(y)**2", x=x + shift, y=y, device="jax")
        np.testing.assert_allclose(future.result(), np.exp(-(x + shift)) + np.sin(y) ** 2, rtol=2e-5)
        tasks.append(ran(server, future))
    assert [(task["device"], task["backend"]) for task in tasks] == [("cpu:0", "jax")] * 2
    first, second = tasks
    assert first["compile"] > 0
    assert first["compile"] + first["compute"] <= first["actual"]
    assert second["compile"] == 0


def test_mlx_decomposes_as_numpy_does(running: tuple[Server, openruntime.Runtime]) -> None:
    server, rt = running
    a = _random.normal(size=(200, 120))
    future = rt.submit("svd", a, device="cpu:0/mlx")
    found = future.result()
    assert ran(server, future)["backend"] == "mlx"
    np.testing.assert_allclose(found["s"], np.linalg.svd(a, compute_uv=False), rtol=1e-12)
    np.testing.assert_allclose(found["u"] * found["s"] @ found["vh"], a, atol=1e-12)


@pytest.mark.parametrize("backend", ["jax", "mlx"])
def test_a_seed_gives_the_same_numbers_on_every_backend(backend: str, running: tuple[Server, openruntime.Runtime]) -> None:
    _, rt = running
    for operation, more in (("uniform", {"dtype": "float32"}), ("uniform", {}), ("integers", {"high": 2**40})):
        mine, reference = (rt.submit(operation, shape=[70_001], seed=2**50 + 9, device=where, **more).result() for where in (backend, "numpy"))
        np.testing.assert_array_equal(mine, reference)
