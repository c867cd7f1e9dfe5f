"""What `benchmarks.gpu` does on a card works on a processor, where it can be shown without one; figures come from a machine that has a card."""

import json
import os
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_parts
from benchmarks.servers import openruntime as serve

SAXPY = """
// tune: BLOCK = 1, 2
kernel void saxpy(global const float* x, global const float* y, global float* out, const float a, const int n) {
    for (int i = get_global_id(0) * BLOCK, end = min(i + BLOCK, n); i < end; i++) out[i] = a * x[i] + y[i];
}
"""


def test_small_tasks_are_compared_batched_and_not() -> None:
    found = gpu_parts.tasks(1, 60.0, place="cpu:0/numpy", count=30)
    assert set(found["tasks_a_second"]) == {"batched", "each by itself"}
    assert found["batched_over_not"]["min"] <= found["batched_over_not"]["median"] <= found["batched_over_not"]["max"]


def test_a_kernel_goes_through_verify_and_tune() -> None:
    pytest.importorskip("pyopencl", reason="the extra opencl is not installed")
    found = gpu_parts.kernel(1, 120.0, place="cpu:0", language="opencl", source=SAXPY, size=1 << 12)
    assert found["verified"], found["verdict"]
    assert found["gain"] > 0


def test_suites_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_parts, "SHARD", gpu_parts.SHARD.replace("items[{number}::{shards}]", "items[{number}:40:{shards}]"))
    found = gpu_parts.conformance(1, 75.0, {"numpy": 2}, device="cpu:0")["numpy"]
    assert found["failed"] == []
    assert found["against NumPy"] == {"passed": 40, "failed": 0}
    assert sum(outcome["passed"] for outcome in found["table"]["operations"].values()) == 40
    assert all(ending.startswith("20 passed") for ending in found["endings"])


def test_a_part_is_a_process_of_its_own_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "failed" in gpu._apart("copies", 1, 60.0)  # there is no card, or it is busy with a test
    assert gpu._apart("conformance", 1, 0.5) == {"failed": "not done within 0 s"}


def test_every_part_is_in_the_file_also_where_nothing_runs(tmp_path: Path) -> None:
    if gpu.missing() is None:
        pytest.skip("not run here: there is a card")
    gpu.measure(list(gpu.PARTS), 1, 60.0, tmp_path / "gpu.json")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert all(found[name].startswith("not run here: no CUDA device") for name in gpu.PARTS)
    assert "load_after" in found["machine"]


def test_a_server_starts_where_openruntime_is_on_the_path_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.servers.sys.executable", os.fspath(tmp_path / "python"))
    assert serve(store="memory")[:3] == [os.fspath(tmp_path / "python"), "-m", "openruntime.cli.main"]
