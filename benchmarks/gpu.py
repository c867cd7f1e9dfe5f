"""What a graphics card does under OpenRuntime, beside the same library bare, in one run.

    python -m benchmarks.gpu [--rounds 15] [--only PART] [--out FILE]

Parts: `conformance` (every backend's suite on the card), `matmul` (on arrays that lie there already), `copies` (host to device, against a bare pinned
copy), `tasks` (1,000 small ones through a server, batched and not), `kernel` (a CUDA kernel of a user's, verified and tuned), `placement` (how near
`auto` comes to the best with processor and card together). Without a CUDA device it says so, and measures nothing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.report import machine, versions
from benchmarks.servers import openruntime as serve
from benchmarks.servers import running
from openruntime.contracts.errors import OpenRuntimeError
from openruntime.contracts.registry import BACKENDS

ROOT = Path(__file__).parents[1]
SIDES = (4096, 8192)
COPIED = 256 << 20  # bytes
SMALL = 1_000  # tasks
GOALS = {"matmul": 0.95, "copies": 0.85}  # of the bare library's rate
SUITE = """
from openruntime.contracts.registry import BACKENDS
from openruntime.testing.backend_suite import BackendSuite

class TestOnTheCard(BackendSuite):
    backend_class = BACKENDS.load({name!r})
    device = "cuda:0"
"""
SAXPY = """
// tune: BLOCK = 1, 2, 4, 8
extern "C" __global__ void saxpy(const float* x, const float* y, float* out, const float a, const int n) {
    for (int i = (blockIdx.x * blockDim.x + threadIdx.x) * BLOCK, end = min(i + BLOCK, n); i < end; i++) out[i] = a * x[i] + y[i];
}
"""


def missing() -> str | None:
    """Why nothing can be measured here; None with a CUDA device."""
    try:
        BACKENDS.load("cuda").probe()
    except OpenRuntimeError as error:
        return f"no CUDA device: {error.message}"
    return None


def conformance(rounds: int) -> dict[str, Any]:
    """Cases passed, skipped and failed on the card, by backend."""
    found: dict[str, Any] = {}
    for name in ("cuda", "torch", "jax"):
        with tempfile.TemporaryDirectory() as folder:
            suite, out = Path(folder) / f"test_{name}_on_the_card.py", Path(folder) / "found.json"
            suite.write_text(SUITE.format(name=name))
            options = ["-q", "-p", "tools.backends", "--backends", str(out), "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
            done = subprocess.run([sys.executable, "-m", "pytest", *options, str(suite)], cwd=ROOT, capture_output=True, text=True, check=False)
            lines = done.stdout.strip().splitlines()
            failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
            found[name] = {"summary": lines[-1] if lines else done.stderr[-500:], "failed": failed[:50]}
    return found


def _timed(run: Callable[[], Any], wait: Callable[[], None], rounds: int) -> float:
    """Seconds of one run, the median of `rounds`."""
    run()
    wait()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def matmul(rounds: int) -> list[dict[str, Any]]:
    """Arrays on the card already: the operation as the backend runs it, beside the bare library. bfloat16 is PyTorch's."""
    import cupy

    cuda = BACKENDS.load("cuda")(device="cuda:0", index=0)
    rows = []
    for side in SIDES:
        pair = [cupy.random.random((side, side), dtype=cupy.float32) for _ in "ab"]
        rows.append(_compared(cuda, "float32", pair, cupy.matmul, cupy.cuda.runtime.deviceSynchronize, rounds))
    try:
        import torch
    except ModuleNotFoundError:
        return rows
    backend = BACKENDS.load("torch")(device="cuda:0", index=0)
    for side in SIDES:
        for dtype in (torch.float32, torch.bfloat16):
            pair = [torch.rand((side, side), device="cuda:0").to(dtype) for _ in "ab"]
            rows.append(_compared(backend, str(dtype).partition(".")[2], pair, torch.matmul, torch.cuda.synchronize, rounds))
    return rows


def _compared(backend: Any, dtype: str, pair: list[Any], bare: Callable[..., Any], wait: Callable[[], None], rounds: int) -> dict[str, Any]:
    """Bare and ours in turn, so that a warmer card slows both."""
    operation, (a, b) = backend.catalogue.get("matmul"), pair
    given = {"a": a, "b": b} if "matmul" in backend.native else {"a": a, "b": b, "xp": backend.xp}
    side = a.shape[0]
    ratios, rates = [], []
    for _ in range(5):
        alone, with_us = _timed(lambda: bare(a, b), wait, rounds), _timed(lambda: backend._run(operation, given), wait, rounds)
        ratios.append(alone / with_us)
        rates.append(2 * side**3 / with_us / 1e12)
    return {
        "library": backend.name, "dtype": dtype, "side": side, "tflops": round(median(rates), 2), "of_bare": round(median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)], "goal": GOALS["matmul"], "reached": median(ratios) >= GOALS["matmul"],
    }  # fmt: skip


def copies(rounds: int) -> dict[str, Any]:
    """Host to device from memory that the gateway shares (pinned once by the worker), against a copy from CuPy's own pinned memory."""
    import mmap

    import cupy

    cuda = BACKENDS.load("cuda")(device="cuda:0", index=0)
    shared = memoryview(mmap.mmap(-1, COPIED))
    cuda.pin(shared)
    ours = np.frombuffer(shared, np.float32)
    pinned = cupy.cuda.alloc_pinned_memory(COPIED)
    bare = np.frombuffer(pinned, np.float32, ours.size)
    target, stream = cupy.empty(ours.size, cupy.float32), cupy.cuda.Stream(non_blocking=True)
    ratios, rates = [], []
    for _ in range(5):
        alone = _timed(lambda: target.data.copy_from_host_async(bare.ctypes.data, COPIED, stream), stream.synchronize, rounds)
        with_us = _timed(lambda: cuda.from_host(ours), cuda.synchronise, rounds)
        ratios.append(alone / with_us)
        rates.append(COPIED / with_us / 1e9)
    cuda.unpin(shared)
    return {
        "gigabytes_a_second": round(median(rates), 2), "of_bare": round(median(ratios), 3), "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "goal": GOALS["copies"], "reached": median(ratios) >= GOALS["copies"],
    }  # fmt: skip


def tasks(rounds: int) -> dict[str, Any]:
    """1,000 separate small tasks on the card, a second, alike ones run as one and each by itself."""
    import openruntime

    vectors = np.random.default_rng(0).random((SMALL, 1000), dtype=np.float32)
    found = {}
    for name, batch in (("batched", "64"), ("each by itself", "1")):
        with running(serve(store="memory"), ready="/health/ready", environment={"OPENRUNTIME_BATCH": batch}) as server:
            with openruntime.connect(server.url) as rt:
                rt.expression(formula="2*x + 1", x=vectors[0], device="cuda:0")
                began = time.perf_counter()
                futures = [rt.submit("expression", formula="2*x + 1", x=vector, device="cuda:0", cache="no-store") for vector in vectors]
                answers = np.stack([future.result(60) for future in futures])
                found[name] = round(SMALL / (time.perf_counter() - began))
            np.testing.assert_allclose(answers, 2 * vectors + 1, rtol=1e-6)
    return {"tasks_a_second": found}


def kernel(rounds: int) -> dict[str, Any]:
    """A CUDA kernel of a user's: registered, verified against its reference, tuned."""
    import openruntime

    with running(serve(store="memory"), ready="/health/ready") as server, openruntime.connect(server.url) as rt:
        kernels: Any = rt.kernels  # type: ignore[attr-defined,unused-ignore]
        kernels.add(
            "saxpy", language="cuda", source=SAXPY, inputs=["x: float32[n]", "y: float32[n]"], outputs=["out: float32[n]"],
            scalars=["a: float32", "n: int32"], grid=["n"], reference={"operation": "expression", "parameters": {"formula": "a*x + y"}},
        )  # fmt: skip
        verified = kernels.verify("saxpy", device="cuda:0")
        tuned = kernels.tune("saxpy", device="cuda:0", sizes={"n": 1 << 24})
        return {"verified": verified["ok"], "verdict": verified.get("verdict"), "gain": tuned["gain"], "spread": tuned.get("gain_spread")}


def placement(rounds: int) -> dict[str, Any]:
    """`python -m benchmarks.placement`, with the card among the places."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "placement.json"
        command = [sys.executable, "-m", "benchmarks.placement", "--out", str(out)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        found: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {"failed": (done.stdout + done.stderr)[-2000:]}
        return found


PARTS: dict[str, Callable[[int], Any]] = {
    "conformance": conformance, "matmul": matmul, "copies": copies, "tasks": tasks, "kernel": kernel, "placement": placement,
}  # fmt: skip


def measure(names: list[str], rounds: int) -> dict[str, Any]:
    """Each part's figures; one that fails says why, and the others go on."""
    why = missing()
    found: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "versions": versions()}
    for name in names:
        if why is not None:
            found[name] = f"not run here: {why}"
            continue
        try:
            found[name] = PARTS[name](rounds)
        except Exception as error:  # a figure that cannot be had must not cost the others: the card is lent by the minute
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        print(f"{name}: {json.dumps(found[name])[:2000]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu.json")
    options = parser.parse_args()
    found = measure(options.only or list(PARTS), options.rounds)
    if (why := missing()) is not None:
        print(f"not run here: {why}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
