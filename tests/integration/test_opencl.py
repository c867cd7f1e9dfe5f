"""The OpenCL backend in a real server: found, asked for, refused for what it lacks, its programs kept for the next worker."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import pytest

import openruntime
from benchmarks.servers import Server
from openruntime.contracts.errors import UnsupportedOnDevice

opencl = pytest.importorskip("openruntime.backends.opencl", reason="PyOpenCL is not installed", exc_type=ImportError)
pytestmark = pytest.mark.skipif(not opencl.OpenCLBackend.probe(), reason="no OpenCL platform drives the processor here")


def test_a_server_computes_with_opencl_where_it_is_asked_for(tmp_path: Path, start_server: Callable[..., AbstractContextManager[Server]]) -> None:
    random = np.random.default_rng(3)
    x, y = (random.random((400, 300), dtype="float32") for _ in range(2))
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    with start_server(store="memory", environment=environment) as server, openruntime.connect(server.url) as rt:
        (device,) = rt.devices()
        assert device["id"] == "cpu:0"
        assert "opencl" in device["backends"]
        futures = {
            "expression": rt.submit("expression", formula="exp(-x) * y + 3", x=x, y=y, device="opencl"),
            "matmul": rt.submit("matmul", a=x, b=y.T.copy(), device="cpu:0/opencl"),
            "sum": rt.submit("sum", x=x, axis=0, device="opencl"),
        }
        wanted = {"expression": np.exp(-x) * y + 3, "matmul": x @ y.T, "sum": x.sum(0)}
        for name, future in futures.items():
            np.testing.assert_allclose(future.result(timeout=60), wanted[name], rtol=1e-4)
        workers = httpx.get(f"{server.url}/devices/cpu:0").json()["workers"]
        assert any(worker["backend"] == "opencl" and worker["pid"] for worker in workers)
        with pytest.raises(UnsupportedOnDevice, match="factorises matrices"):
            rt.submit("svd", x=x, device="opencl").result(timeout=60)
        assert len(list((tmp_path / "openruntime" / "kernels").glob("*.opencl"))) >= 3
