"""What `benchmarks.gpu` measures: each part takes rounds and the seconds that it has, and gives figures as plain values."""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.report import spread
from benchmarks.servers import openruntime as serve
from benchmarks.servers import running
from openruntime.contracts.registry import BACKENDS

ROOT = Path(__file__).parents[1]
SIDES = (4096, 8192)
COPIED = 256 << 20  # bytes
SMALL = 1_000  # tasks
TURNS = 5  # of two ways beside each other
SHARDS = {"cuda": 3, "torch": 2, "jax": 8}  # processes of a suite; JAX compiles each case
GOALS = {"matmul": 0.95, "copies": 0.85}  # of the bare library's rate
SUITE = """
from openruntime.contracts.registry import BACKENDS
from openruntime.testing.backend_suite import BackendSuite

class TestOnTheCard(BackendSuite):
    backend_class = BACKENDS.load({name!r})
    device = {device!r}
"""
SHARD = """
def pytest_collection_modifyitems(items):
    items[:] = items[{number}::{shards}]
"""
SAXPY = """
// tune: BLOCK = 1, 2, 4, 8
extern "C" __global__ void saxpy(const float* x, const float* y, float* out, const float a, const int n) {
    for (int i = (blockIdx.x * blockDim.x + threadIdx.x) * BLOCK, end = min(i + BLOCK, n); i < end; i++) out[i] = a * x[i] + y[i];
}
"""


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


def _ratio(values: list[float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in spread(values).items()}


def matmul(rounds: int, limit: float) -> list[dict[str, Any]]:
    """Arrays on the card already: the operation as the backend runs it, beside CuPy bare and the backend's own library bare."""
    import cupy

    cuda = BACKENDS.load("cuda")(device="cuda:0", index=0)
    torch = _torch()
    rows = []
    for side in SIDES:
        for dtype in ("float32", "bfloat16"):
            bare: dict[str, Callable[[], Any] | str] = {"cupy": _bare_cupy(side, dtype)}
            ours: list[tuple[Any, list[Any]]] = []
            if dtype == "float32":
                ours.append((cuda, [cupy.random.random((side, side), dtype=cupy.float32) for _ in "ab"]))
            if torch is not None:
                library, backend = torch
                pair = [library.rand((side, side), device="cuda:0").to(getattr(library, dtype)) for _ in "ab"]
                bare["torch"] = lambda library=library, pair=pair: library.matmul(*pair)  # type: ignore[misc]
                ours.append((backend, pair))
            rows += [_compared(backend, dtype, pair, bare, cupy.cuda.runtime.deviceSynchronize, rounds) for backend, pair in ours]
    return rows


def _torch() -> tuple[Any, Any] | None:
    try:
        import torch
    except ModuleNotFoundError:
        return None
    return torch, BACKENDS.load("torch")(device="cuda:0", index=0)


def _bare_cupy(side: int, dtype: str) -> Callable[[], Any] | str:
    """CuPy's product of two arrays of its own; a sentence where it has none."""
    import cupy

    try:
        if dtype == "bfloat16":
            import ml_dtypes

            kind = np.dtype(ml_dtypes.bfloat16)  # of which CuPy knows since version 14
        else:
            kind = np.dtype(dtype)
        a, b = (cupy.asarray(np.random.default_rng(0).random((side, side), dtype=np.float32).astype(kind)) for _ in "ab")
        cupy.matmul(a, b)
        cupy.cuda.runtime.deviceSynchronize()
    except Exception as error:
        return f"CuPy does not multiply {dtype} here: {type(error).__name__}: {error}"[:300]
    return lambda: cupy.matmul(a, b)


def _compared(
    backend: Any, dtype: str, pair: list[Any], bare: Mapping[str, Callable[[], Any] | str], wait: Callable[[], None], rounds: int
) -> dict[str, Any]:
    """Bare and ours in turn, so that a warmer card slows both. The goal is CuPy's rate, or where CuPy has none, the backend's own library's."""
    operation, (a, b) = backend.catalogue.get("matmul"), pair
    given = {"a": a, "b": b} if "matmul" in backend.native else {"a": a, "b": b, "xp": backend.xp}
    alone = {name: run for name, run in bare.items() if not isinstance(run, str)}
    ratios: dict[str, list[float]] = {name: [] for name in alone}
    rates = []
    for _ in range(TURNS):
        seconds = {name: _timed(run, wait, rounds) for name, run in alone.items()}
        with_us = _timed(lambda: backend._run(operation, given), wait, rounds)
        for name, bare_seconds in seconds.items():
            ratios[name].append(bare_seconds / with_us)
        rates.append(2 * a.shape[0] ** 3 / with_us / 1e12)
    judged = ratios.get("cupy") or ratios[backend.name]
    return {
        "backend": backend.name, "dtype": dtype, "side": a.shape[0], "tflops": _ratio(rates),
        "of_bare": {name: _ratio(values) for name, values in ratios.items()} | {name: run for name, run in bare.items() if isinstance(run, str)},
        "goal": GOALS["matmul"], "reached": median(judged) >= GOALS["matmul"],
    }  # fmt: skip


def copies(rounds: int, limit: float) -> dict[str, Any]:
    """Host to device from memory that the gateway shares (pinned once by the worker), against a copy from CuPy's own pinned memory."""
    import mmap

    import cupy

    cuda = BACKENDS.load("cuda")(device="cuda:0", index=0)
    shared = memoryview(mmap.mmap(-1, COPIED))
    ours = np.frombuffer(shared, np.float32)
    ours[:] = 1.0  # its pages are there
    cuda.pin(shared)
    pinned = cupy.cuda.alloc_pinned_memory(COPIED)
    bare = np.frombuffer(pinned, np.float32, ours.size)
    bare[:] = 1.0
    target, stream = cupy.empty(ours.size, cupy.float32), cupy.cuda.Stream(non_blocking=True)
    ratios, rates = [], []
    for _ in range(TURNS):
        alone = _timed(lambda: target.data.copy_from_host_async(bare.ctypes.data, COPIED, stream), stream.synchronize, rounds)
        with_us = _timed(lambda: cuda.from_host(ours), cuda.synchronise, rounds)
        ratios.append(alone / with_us)
        rates.append(COPIED / with_us / 1e9)
    was_pinned = bool(cuda._pinned)
    cuda.unpin(shared)
    return {
        "gigabytes_a_second": _ratio(rates), "of_bare": _ratio(ratios), "pinned": was_pinned, "goal": GOALS["copies"],
        "reached": median(ratios) >= GOALS["copies"],
    }  # fmt: skip


@contextmanager
def _served(backend: str, **environment: str) -> Iterator[Any]:
    """A client of a server that knows what `backend` drives."""
    import openruntime

    environment["OPENRUNTIME_BACKENDS"] = backend
    with running(serve(store="memory"), ready="/health/ready", environment=environment) as server, openruntime.connect(server.url) as rt:
        end = time.monotonic() + 120
        while time.monotonic() < end and any(row["status"] == "looking" for row in rt.devices(backends=True)):
            time.sleep(0.1)
        yield rt


def tasks(rounds: int, limit: float, place: str = "cuda:0/cuda", count: int = SMALL) -> dict[str, Any]:
    """1,000 separate small tasks on the card, a second: alike ones run as one, and each by itself, in turns. The first turn is not counted."""
    vectors = np.random.default_rng(0).random((count, 1000), dtype=np.float32)
    rates: dict[str, list[float]] = {"batched": [], "each by itself": []}
    with ExitStack() as stack:
        clients = [stack.enter_context(_served(place.partition("/")[2], OPENRUNTIME_BATCH=batch)) for batch in ("64", "1")]
        for turn in range(TURNS + 1):
            for rt, kept in zip(clients, rates.values(), strict=True):
                began = time.perf_counter()
                futures = [rt.submit("expression", formula="2*x + 1", x=vector, device=place, cache="no-store") for vector in vectors]
                answers = np.stack([future.result(60) for future in futures])
                if turn:
                    kept.append(count / (time.perf_counter() - began))
                np.testing.assert_allclose(answers, 2 * vectors + 1, rtol=1e-6)
    gains = [a / b for a, b in zip(*rates.values(), strict=True)]
    return {"tasks": count, "tasks_a_second": {name: _ratio(values) for name, values in rates.items()}, "batched_over_not": _ratio(gains)}


def kernel(rounds: int, limit: float, place: str = "cuda:0", language: str = "cuda", source: str = SAXPY, size: int = 1 << 24) -> dict[str, Any]:
    """A CUDA kernel of a user's: registered, verified against its reference, tuned."""
    with _served(language) as rt:
        kernels: Any = rt.kernels
        kernels.add(
            "saxpy", language=language, source=source, inputs=["x: float32[n]", "y: float32[n]"], outputs=["out: float32[n]"],
            scalars=["a: float32", "n: int32"], grid=["n"], reference={"operation": "expression", "parameters": {"formula": "a*x + y"}},
        )  # fmt: skip
        verified = kernels.verify("saxpy", device=place)
        tuned = kernels.tune("saxpy", device=place, sizes={"n": size})
        return {
            "verified": verified["ok"], "verdict": verified["verdict"], "cases": len(verified["cases"]),
            **{name: tuned.get(name) for name in ("winner", "gain", "gain_spread", "tried", "rejected")},
        }  # fmt: skip


def placement(rounds: int, limit: float) -> dict[str, Any]:
    """`python -m benchmarks.placement`, with the card among the places."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "placement.json"
        command = [sys.executable, "-m", "benchmarks.placement", "--out", str(out), "--scratch", str(Path(folder) / "data")]
        done = subprocess.run(command, cwd=ROOT, check=False, timeout=limit, stdout=sys.stderr)
        if not out.is_file():
            raise RuntimeError(f"benchmarks.placement ended with status {done.returncode}; its last lines stand in the log")
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def conformance(rounds: int, limit: float, shards: Mapping[str, int] = SHARDS, device: str = "cuda:0") -> dict[str, Any]:
    """Cases passed, skipped and failed on the card, by backend; the suites run beside each other, each in parts."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            name: [_suite(Path(folder) / f"{name}-{number}", name, number, count, device, limit - 15) for number in range(count)]
            for name, count in shards.items()
        }
        return {name: _gathered(parts) for name, parts in runs.items()}


def _suite(folder: Path, name: str, number: int, shards: int, device: str, limit: float) -> tuple[Path, "subprocess.Popen[bytes]"]:
    folder.mkdir()
    suite = folder / f"test_{name}_on_the_card.py"
    suite.write_text(SUITE.format(name=name, device=device))
    (folder / "conftest.py").write_text(SHARD.format(number=number, shards=shards))
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "tools.backends", "--backends", str(folder / "found.json"), "-c", str(ROOT / "pyproject.toml"),
        "--rootdir", str(ROOT), f"--confcutdir={folder}", f"--session-timeout={limit:.0f}", "-W", "default", "-p", "no:cacheprovider", str(suite),
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        return folder, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def _gathered(parts: "list[tuple[Path, subprocess.Popen[bytes]]]") -> dict[str, Any]:
    counts: Counter[str] = Counter()
    failed: list[str] = []
    table: dict[str, Any] = {}
    endings: list[str] = []
    for folder, process in parts:
        process.wait()
        lines = (folder / "log").read_text(errors="replace").strip().splitlines()
        failed += [line[:300] for line in lines if line.startswith(("FAILED", "ERROR"))]
        endings.append(lines[-1] if lines else "it said nothing")
        if not (folder / "found.json").is_file():
            continue
        for about in json.loads((folder / "found.json").read_text()).values():
            operations = table.setdefault("operations", {})
            table = {**about, "operations": operations}
            for operation, outcome in about["operations"].items():
                known = operations.setdefault(operation, {"passed": 0, "failed": 0, "unsupported": {}})
                for what in ("passed", "failed"):
                    known[what] += outcome[what]
                    counts[what] += outcome[what]
                for reason, times in outcome["unsupported"].items():
                    known["unsupported"][reason] = known["unsupported"].get(reason, 0) + times
                    counts["unsupported"] += times
    return {"against NumPy": dict(counts), "endings": endings, "failed": failed[:50], "table": table}
