"""Does a backend keep memory? Allocate, run, fail and free, a thousand times: neither the process nor the device's pool may hold more after.

    python -m benchmarks.cycles [BACKEND ...] [--cycles 1000] [--seconds 40] [--out FILE]

Every backend that drives something here, on each kind of device that it drives, one after the other, each in a process of its own. A cycle: a
formula over a megabyte, a product, a call whose answer finds no room, which fails; every tenth one gives back what the pool holds. After a
warm-up of a fifth of the cycles memory is read after every fortieth: resident bytes, and of a library that has a pool, what is in use and what is
held. `--seconds` bounds each backend; one that is slower does fewer cycles, and the table says how many.
"""

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.report import machine, versions
from openruntime.contracts.errors import OutOfMemory
from openruntime.contracts.interfaces import ComputeBackend
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Probe
from openruntime.contracts.registry import BACKENDS
from openruntime.runtimes.probe import ask, make

ROOT = Path(__file__).parents[1]
LIBRARIES = ("torch", "jax", "mlx", "pyopencl", "wgpu", "cupy-cuda13x", "cupy-cuda12x")
MIB = 1 << 20
EVERY = 40  # cycles between two readings
FLAT = {"resident": 16 * MIB, "in use": MIB, "held": 4 * MIB}  # what each may rise by
Pool = Callable[[], tuple[int, int]]  # bytes in use, and held


def pool_of(backend: Any) -> Pool | None:
    """What a library says of its own memory; None for one that says nothing."""
    processor = backend.device.startswith("cpu:")
    match backend.name:
        case "torch" if not processor:
            return lambda: (backend._library.memory_allocated(), backend._library.memory_reserved())
        case "jax":
            return _jax(backend._device)
        case "cuda":
            return lambda: (backend._pool.used_bytes(), backend._pool.total_bytes())
        case "mlx":
            import mlx.core as mx

            return lambda: (mx.get_active_memory(), mx.get_active_memory() + mx.get_cache_memory())
        case "webgpu" | "metal":
            kernels = backend.kernels
            return lambda: (sum(buffer.size for buffer in kernels._used), kernels.held)
        case "opencl":
            return lambda: backend.engine.device.pooled
    return None


def _jax(device: Any) -> Pool:
    import jax

    def read() -> tuple[int, int]:
        if (told := device.memory_stats()) is not None:
            return told["bytes_in_use"], told.get("pool_bytes", told["bytes_in_use"])
        alive = sum(array.nbytes for array in jax.live_arrays(device.platform))  # on processors it has no pool
        return alive, alive

    return read


def _payload(array: Any) -> Array:
    return Array(array.dtype.name, array.shape, memoryview(array.tobytes()))


def _no_room(nbytes: int) -> memoryview:
    raise MemoryError("the test gives none")


async def cycle(backend: ComputeBackend, x: Array, a: Array, number: int) -> None:
    result = await backend.execute("expression", {"formula": "2*x + 1", "x": x})
    assert result.outputs["output"].nbytes == x.nbytes
    await backend.execute("matmul", {"a": a, "b": a})
    try:
        await backend.execute("expression", {"formula": "x + x", "x": x, "allocate": _no_room})
    except OutOfMemory:
        pass
    else:
        raise AssertionError("an answer without room did not fail")
    if number % 10 == 0:
        backend.trim()


async def run(backend: ComputeBackend, cycles: int, seconds: float) -> dict[str, Any]:
    """Bytes at each reading, in this process."""
    generator = np.random.default_rng(0)
    x, a = _payload(generator.random(1 << 18, dtype=np.float32)), _payload(generator.random((128, 128), dtype=np.float32))
    process, pool, warm, began = psutil.Process(), pool_of(backend), cycles // 5, perf_counter()
    readings: dict[str, list[int]] = {what: [] for what in (FLAT if pool else ("resident",))}
    for number in range(1, cycles + 1):
        await cycle(backend, x, a, number)
        if number >= warm and (number % EVERY == 0 or number == cycles):
            gc.collect()
            readings["resident"].append(process.memory_info().rss)
            for name, value in zip(("in use", "held"), pool() if pool else (), strict=False):
                readings[name].append(value)
            if perf_counter() - began > seconds:
                break
    return {"cycles": number, "seconds": round(perf_counter() - began, 1), "readings": readings}


def measure(name: str, probe: Probe, cycles: int, seconds: float) -> dict[str, Any]:
    """One backend on one device, in a process of its own. Raises `RuntimeError` where that fails."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.cycles",
        name,
        "--cycles",
        str(cycles),
        "--seconds",
        str(seconds),
        "--here",
        f"{probe.platform}:{probe.index}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    memory = {
        what: {
            "first": values[0],
            "end": values[-1],
            "rise": values[-1] - values[0],
            "median": median(values),
            "min": min(values),
            "max": max(values),
        }
        for what, values in found.pop("readings").items()
    }
    return {
        "backend": name, "device": f"{probe.platform}:{probe.index}", **found, "bytes": memory,
        "flat": all(memory[what]["rise"] <= FLAT[what] for what in memory),
    }  # fmt: skip


def places(name: str) -> Iterator[Probe]:
    """The first device of each platform that a backend drives here. Raises `LookupError` with the reason where there is none."""
    report = asyncio.run(ask(name))
    if not report.probes:
        raise LookupError(report.failure or report.nothing or "it drives nothing here")
    yield from {probe.platform: probe for probe in reversed(report.probes)}.values()


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(
        "backend", "device", "cycles", "s", "resident, MiB: first, end (min to max)", "rise, KiB", "pool in use: first, end, MiB", "held, end", "flat"
    )
    for row in rows:
        if "not run here" in row:
            table.add_row(row["backend"], "-", "", "", f"not run here: {row['not run here']}", "", "", "", "")
            continue
        resident, used, held = (row["bytes"].get(what) for what in FLAT)
        table.add_row(
            row["backend"], row["device"], str(row["cycles"]), f"{row['seconds']:.0f}",
            f"{resident['first'] / MIB:.1f}, {resident['end'] / MIB:.1f} ({resident['min'] / MIB:.1f} to {resident['max'] / MIB:.1f})",
            f"{resident['rise'] / 1024:,.0f}", f"{used['first'] / MIB:.2f}, {used['end'] / MIB:.2f}" if used else "no pool",
            f"{held['end'] / MIB:.2f}" if held else "", "yes" if row["flat"] else "[bold]no[/bold]",
        )  # fmt: skip
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.cycles", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backends", nargs="*", metavar="BACKEND", help="all that are built in, unless named")
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=40.0, help="after which a backend is not gone on with")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/cycles.json")
    parser.add_argument("--here", metavar="DEVICE", help="measure the one backend named in this process, and print JSON: what is started for each")
    options = parser.parse_args()
    if options.here:
        kind, _, index = options.here.partition(":")
        backend = make(BACKENDS.load(options.backends[0]), Probe(options.backends[0], kind, int(index)))
        print(json.dumps(asyncio.run(run(backend, options.cycles, options.seconds))))
        return
    found: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "versions": versions(LIBRARIES)}
    rows: list[dict[str, Any]] = []
    for name in options.backends or [name for name in BACKENDS.names() if BACKENDS.builtin(name)]:
        try:
            rows += [measure(name, probe, options.cycles, options.seconds) for probe in places(name)]
        except LookupError as error:
            rows.append({"backend": name, "not run here": str(error)})
    found["machine"]["load_after"] = [round(value, 2) for value in os.getloadavg()]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found | {"may rise by, bytes": FLAT, "rows": rows}, indent=1) + "\n")
    show(rows)


if __name__ == "__main__":
    main()
