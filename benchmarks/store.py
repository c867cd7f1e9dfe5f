"""What the SQLite store costs: accepted tasks a second, microseconds a task on the event loop's thread, recovery, memory.

python benchmarks/store.py [--json] [--tasks 20000] [--pending 100000] [--directory DIR]
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, thread_time, time
from typing import Any

from uuid_utils import uuid7

from openruntime.contracts.models import TaskStatus
from openruntime.contracts.payload import Array, Spec
from openruntime.contracts.records import Call, Estimate, Life, Task
from openruntime.stores.memory import MemoryStore
from openruntime.stores.sqlite import SqliteStore

OUTPUTS = {"output": Spec("float32", (1000,))}
DATA = os.urandom(4000)


def make(size: int = 4000) -> Task:
    parameters: dict[str, Any] = {"formula": "2*x + 1", "x": Array("float32", (size // 4,), DATA[:size])}
    now = time()
    return Task(str(uuid7()), Call("expression", 1, parameters, OUTPUTS, Estimate(2000.0, 8000.0, 8000)), "local", "", 5, now, now)


async def end(store: Any, task: Task) -> None:
    task.life = Life(TaskStatus.COMPLETED, task.life.attempt)
    task.outputs = {"output": Array("float32", (1000,), DATA)}
    task.device, task.backend, task.started, task.finished, task.seconds = "cpu:0", "numpy", time(), time(), 1e-5
    if not await store.finish(task, task.life.attempt):
        raise RuntimeError("the store refused a result")


async def executor(store: Any, total: int) -> None:
    done = 0
    while done < total:
        claimed = await store.claim(("",), 64)
        for task in claimed:
            task.life = Life(TaskStatus.RUNNING, task.life.attempt + 1)
            await end(store, task)
        done += len(claimed)
        await asyncio.sleep(0 if claimed else 0.0005)  # else its own turns would be most of what is measured


async def accepted(directory: Path, total: int, clients: int, batch: int = 1) -> dict[str, float]:
    """`clients` submit tasks, each waiting for its promise; another takes and ends them meanwhile."""
    store = SqliteStore(directory / f"accepted-{clients}-{batch}")
    await store.open()
    work, delays = [make() for _ in range(total)], []

    async def client() -> None:
        while work:
            tasks = [work.pop() for _ in range(min(batch, len(work)))]
            begin = perf_counter()
            await store.submit(tasks, promised=True)
            delays.append(perf_counter() - begin)

    begin, busy = perf_counter(), thread_time()
    running = asyncio.create_task(executor(store, total))
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds, loop = perf_counter() - begin, thread_time() - busy
    await running
    await store.close()
    return {"per_second": total / seconds, "loop_us": loop / total * 1e6, "p50_ms": statistics.median(delays) * 1e3}


async def unpromised(store: Any, total: int) -> dict[str, float]:
    """Submit, claim and finish one after the other, as for requests that wait; the loop gets a turn after each, as with sockets."""
    await store.open()
    work = [make() for _ in range(total)]
    begin, busy, slowest = perf_counter(), thread_time(), 0.0
    for task in work:
        start = perf_counter()
        await store.submit((task,), promised=False)
        (claimed,) = await store.claim(("",), 1)
        claimed.life = Life(TaskStatus.RUNNING, 1)
        await end(store, claimed)
        await asyncio.sleep(0)
        slowest = max(slowest, perf_counter() - start)
    seconds, loop = perf_counter() - begin, thread_time() - busy
    begin = perf_counter()
    await store.close()
    return {"per_second": total / seconds, "loop_us": loop / total * 1e6, "slowest_ms": slowest * 1e3, "close_seconds": perf_counter() - begin}


async def recovery(directory: Path, pending: int) -> dict[str, float]:
    store = SqliteStore(directory / "recovery", queue_bound=pending)
    await store.open()
    for start in range(0, pending, 1000):
        await store.submit([make(64) for _ in range(min(1000, pending - start))], promised=True)
    await store.close()
    output = subprocess.run([sys.executable, __file__, "--recover", directory / "recovery"], check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(output)
    if found["pending"] != pending:
        raise RuntimeError(f"recovered {found['pending']} of {pending}")
    return found


async def recover(directory: Path) -> dict[str, float]:
    """In a process of its own, so that the memory it takes is new."""
    store = SqliteStore(directory)
    before, begin = resident(), perf_counter()
    tasks = await store.open()
    seconds, used = perf_counter() - begin, resident() - before
    await store.close()
    return {"pending": len(tasks), "seconds": seconds, "bytes_a_task": used / len(tasks)}


def resident() -> int:
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--pending", type=int, default=100_000)
    parser.add_argument("--directory", type=Path, default=None, help="a directory on the disk to measure")
    parser.add_argument("--recover", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.recover:
        print(json.dumps(asyncio.run(recover(options.recover))))
        return
    directory = Path(tempfile.mkdtemp(dir=options.directory))
    try:
        found = {
            "recovery": asyncio.run(recovery(directory, options.pending)),
            "accepted_1": asyncio.run(accepted(directory, options.tasks // 20, 1)),
            "accepted_16": asyncio.run(accepted(directory, options.tasks, 16)),
            "accepted_64": asyncio.run(accepted(directory, options.tasks, 64)),
            "accepted_16_batches_of_100": asyncio.run(accepted(directory, options.tasks, 16, 100)),
            "unpromised_sqlite": asyncio.run(unpromised(SqliteStore(directory / "unpromised"), options.tasks)),
            "unpromised_memory": asyncio.run(unpromised(MemoryStore(), options.tasks)),
        }
    finally:
        shutil.rmtree(directory)
    if options.json:
        print(json.dumps(found))
        return
    for name, values in found.items():
        print(f"{name:28}", "  ".join(f"{key} {value:,.6g}" for key, value in values.items()))


if __name__ == "__main__":
    main()
