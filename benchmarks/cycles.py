"""Does a backend keep memory? Allocate, run, fail and free, again and again, in one process: its memory must not have risen.

    python -m benchmarks.cycles BACKEND [--cycles 1000] [--device cpu:0]

A cycle: a formula over a megabyte, a product, a call whose answer finds no room, which fails; every tenth one gives back what the pool holds.
Prints JSON: resident bytes after a warm-up (a fifth of the cycles), and at the end.
"""

import argparse
import asyncio
import gc
import json
from typing import Any

import numpy as np
import psutil

from openruntime.contracts.errors import OutOfMemory
from openruntime.contracts.interfaces import ComputeBackend
from openruntime.contracts.payload import Array
from openruntime.contracts.registry import BACKENDS


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


async def run(name: str, device: str, cycles: int) -> dict[str, Any]:
    backend: ComputeBackend = BACKENDS.load(name)(device=device, threads=1)
    generator = np.random.default_rng(0)
    x, a = _payload(generator.random(1 << 18, dtype=np.float32)), _payload(generator.random((128, 128), dtype=np.float32))
    process, warm = psutil.Process(), 0
    for number in range(cycles):
        if number == cycles // 5:
            gc.collect()
            warm = process.memory_info().rss
        await cycle(backend, x, a, number)
    gc.collect()
    return {"backend": name, "cycles": cycles, "warm": warm, "end": process.memory_info().rss}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.cycles", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("backend")
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--device", default="cpu:0")
    options = parser.parse_args()
    print(json.dumps(asyncio.run(run(options.backend, options.device, options.cycles))))


if __name__ == "__main__":
    main()
