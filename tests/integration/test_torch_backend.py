"""PyTorch in a real server: listed, asked for, with the dtype that NumPy has not; and what is said where it is not installed."""

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import pytest

import openruntime
from benchmarks.servers import Server
from openruntime.contracts.errors import NoSuchDevice

Starter = Callable[..., AbstractContextManager[Server]]


def test_a_task_runs_on_torch(start_server: Starter) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    x = np.random.default_rng(1).normal(size=(300, 500)).astype("float32")
    with start_server(store="memory") as server, openruntime.connect(server.url) as rt:
        assert {row["name"]: row["status"] for row in rt.devices(backends=True)}["torch"] == "ready"
        (cpu,) = (device for device in rt.devices() if device["id"] == "cpu:0")
        assert "torch" in cpu["backends"]
        task = rt.submit("softmax", x, device="torch")
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        np.testing.assert_allclose(task.result(60), e / e.sum(axis=-1, keepdims=True), rtol=2e-5)
        told = task.status()
        assert (told.backend, told.device_used) == ("torch", "cpu:0")
        # a seed is the same everywhere
        np.testing.assert_array_equal(rt.uniform((1000,), 7, device="cpu:0/torch"), rt.uniform((1000,), 7, device="numpy"))

        # bfloat16, which NumPy has not, finds its way by itself
        half = np.arange(8, dtype="float32")
        head = json.dumps({
            "x": {"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]}, "__metadata__": {"task": '{"operation": "cumulative_sum"}'},
        }).encode()  # fmt: skip
        body = len(head).to_bytes(8, "little") + head + (half.view("<u4") >> 16).astype("<u2").tobytes()
        answer = httpx.post(
            f"{server.url}/tasks", content=body, headers={"Content-Type": "application/x-safetensors", "Prefer": "wait=30"}, timeout=40
        )
        told = answer.json()
        assert (answer.status_code, told["backend"], told["result"]) == (200, "torch", {"output": np.cumsum(half).tolist()})


def test_without_torch_the_extra_is_named(tmp_path: Path, start_server: Starter) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    environment = {"PYTHONPATH": path, "OPENRUNTIME_BACKENDS": "torch"}
    with start_server(store="memory", environment=environment) as server, openruntime.connect(server.url) as rt:
        row = {row["name"]: row for row in rt.devices(backends=True)}["torch"]
        assert (row["status"], row["remedy"]) == ("absent", "pip install 'openruntime[torch]'")
        assert "torch is not installed" in row["reason"]
        with pytest.raises(NoSuchDevice, match=r"torch is not installed.*; install it with `pip install 'openruntime\[torch\]'`"):
            rt.sum(np.ones(3), device="torch")
        assert rt.sum(np.ones(3)) == 3
