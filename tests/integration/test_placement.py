"""Placement in a real runtime: measured at the first start, kept across restarts, explained; every result beside its roofline."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest

import openruntime
from benchmarks.servers import Server
from openruntime.contracts.models import TaskRequest
from openruntime.contracts.payload import Array
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime, running
from openruntime.devices import calibration

CPU = ("cpu:0", "numpy")


async def done(runtime: Runtime, operation: str, /, **arrays: Array) -> str:
    task = await runtime.tasks.submit(TaskRequest(operation=operation), arrays, cache="no-store")
    assert await runtime.tasks.wait(task, 30)
    return task.id


async def test_it_is_calibrated_once_and_what_was_learned_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "BUDGET", 0.5)
    monkeypatch.setattr("openruntime.core.learning.SETTLED", 0.0)
    monkeypatch.setattr("openruntime.core.runtime.BACKENDS", _Only())
    settings = Settings.load({"store": "sqlite", "data_dir": str(tmp_path), "threads": 1, "calibrate": True})
    async with running(settings) as runtime:
        found = next(task for task in runtime._background if task.get_name() == "backends")
        await found
        starts = runtime.cost.dump()["fits"]
        assert runtime.cost.knows("matmul", *CPU)
        call = runtime.catalogue.bind("matmul", {"a": Array("float32", (512, 512)), "b": Array("float32", (512, 512))})
        assert runtime.cost.samples(call, *CPU) == 1
        predicted = runtime.cost.predict(call, *CPU)
        assert 1e-4 < predicted < 1
        assert all(slot.worker is None for slot in runtime.executor.slots if not slot.warm), "its workers are gone"
        assert starts
    async with running(settings) as runtime:
        await next(task for task in runtime._background if task.get_name() == "backends")
        assert runtime.cost.predict(call, *CPU) == predicted
        assert runtime.cost.samples(call, *CPU) == 1, "it was not measured again"


async def test_a_library_that_comes_later_is_calibrated_too_and_kernels_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "BUDGET", 0.2)
    settings = Settings.load({"store": "memory", "threads": 1, "calibrate": False, "backends": ["webgpu"]})
    async with running(settings) as runtime:
        await runtime.devices.found()
        if ("cpu:0", "webgpu") not in runtime.devices.places("any", "matmul"):
            pytest.skip("not run here: webgpu, which makes no random numbers, drives nothing on the processor")
        calibrator = calibration.Calibrator(
            runtime.catalogue, runtime.runtimes, runtime.cost, runtime.devices.roofline, runtime.pool, runtime.executor.calm
        )
        calibrator.done = {CPU}
        assert await calibrator.run() == 1
        assert calibrator.done == {CPU, ("cpu:0", "webgpu")}


class _Only:
    """No backend but NumPy."""

    def names(self) -> list[str]:
        return ["numpy"]


async def test_a_result_is_judged_and_explained(tmp_path: Path) -> None:
    async with running(Settings.load({"store": "memory", "threads": 1, "backends": "numpy"})) as runtime:
        square, line = Array("float32", (700, 700), bytes(1_960_000)), Array("float32", (1 << 23,), bytes(1 << 25))
        first = await done(runtime, "matmul", a=square, b=square)
        assert "not measured yet" in (await runtime.tasks.explain(first))["achieved"]["reason"]
        task = await runtime.tasks.submit(TaskRequest(operation="expression", parameters={"formula": "x + y"}), {"x": line, "y": line})
        assert await runtime.tasks.wait(task, 30)
        found = await runtime.tasks.explain(await done(runtime, "matmul", a=square, b=square))
    achieved = found["achieved"]
    assert achieved["flops"] == 2 * 700**3 - 700**2 or achieved["flops"] == 2 * 700**3
    assert achieved["gflops"] == pytest.approx(achieved["flops"] / found["compute"] / 1e9)
    assert (achieved["bound"], achieved["reason"]) == ("arithmetic", None)
    assert 0.01 < achieved["fraction"] <= 1
    (row,) = found["candidates"]
    assert (row["backend"], row["chosen"]) == ("numpy", True)
    assert row["predicted"] == pytest.approx(found["predicted"])
    assert found["actual"] >= found["compute"] > 0
    assert (found["transfer"], found["compile"]) == (0, 0)


def test_every_result_carries_what_it_achieved(server: Server) -> None:
    body = {"operation": "matmul", "parameters": {name: np.ones((90, 90)).tolist() for name in "ab"}}
    answer = httpx.post(f"{server.url}/tasks", json=body, headers={"Prefer": "wait=20", "Cache-Control": "no-store"}, timeout=30).json()
    achieved = answer["achieved"]
    assert achieved.keys() == {"flops", "bytes", "gflops", "gbytes", "fraction", "bound", "reason"}
    assert achieved["gflops"] or achieved["reason"]
    with openruntime.connect(server.url) as rt:
        future = rt.submit("matmul", np.ones((400, 400)), np.ones((400, 400)), cache="no-store")
        future.result(30)
        told = future.status().achieved
        assert told is not None
        assert told.flops == pytest.approx(2 * 400**3, rel=0.01)
        assert told.gflops
        waiting = rt.submit("matmul", np.ones((400, 400)), np.ones((400, 400)), cache="no-store")
        waiting.cancel()


def test_bench_prints_the_table_and_draws_the_roofline(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from openruntime.cli.main import main; main()", "bench", "--device", "numpy", "--server", server.url]
    picture = tmp_path / "roofline.svg"
    found = subprocess.run([*command, "-p", str(picture), "--json"], env=os.environ, capture_output=True, text=True, check=True, timeout=100)
    document = json.loads(found.stdout)
    rows = {(row["operation"], row["dtype"]): row for row in document["results"]}
    assert {("matmul", "float64"), ("expression", "float32"), ("fft", "float32")} <= rows.keys()
    assert all(row["fraction"] is not None and row["gflops"] >= 0 for row in rows.values()), rows
    assert document["ceilings"]["cpu:0"]["flops"] > 1e9
    assert document["ceilings"]["cpu:0"]["backends"]["bandwidth"] == "numpy"
    drawn = [text.text for text in ElementTree.parse(picture).getroot().iter("{http://www.w3.org/2000/svg}text")]
    assert {"Roofline", "GFLOP/s", "cpu:0 float32", "cpu:0/numpy"} <= set(drawn)
