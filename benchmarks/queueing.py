"""How the queue grows: a million tasks submitted while the only worker is busy, and then run. Memory a task, and the rates on the way."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy

from benchmarks.durable import SUBMIT, accepted
from benchmarks.load import ask, drive, request
from benchmarks.servers import Server, openruntime, running
from benchmarks.vitals import private
from benchmarks.works import FORMULA, completed

ELEMENTS = 16  # float32 of each task: 64 bytes
BATCH = 500
CONNECTIONS = 4
BUSY = {"operation": "monte_carlo_pi", "parameters": {"samples": 10**12, "seed": 1}, "priority": 10}
DRAIN = 240.0  # seconds after which what is left is left


@dataclass
class Step:
    """`waiting` tasks after this step; `submitted` a second in it; bytes of the gateway for each that waits, inputs included."""

    waiting: int
    submitted: float
    bytes_each: float


@dataclass
class Drain:
    """`left` tasks wait at the end of this step; `finished` a second in it."""

    left: int
    finished: float


def queue(counts: list[int], scratch: Path) -> tuple[list[Step], list[Drain]]:
    """Submit until each of `counts` (rising) tasks wait; then let the worker have them, for `DRAIN` seconds."""
    environment = {"OPENRUNTIME_QUEUE_BOUND": str(counts[-1] + 10), "OPENRUNTIME_SLOTS": "1", "OPENRUNTIME_THREADS": "1"}
    with running(openruntime(), ready="/health/ready", data_dir=scratch / "queue", environment=environment) as server:
        _warm_up(server)
        busy = ask(server.port, "POST", "/tasks", json.dumps(BUSY).encode(), {"Content-Type": "application/json"}).json()["task_id"]
        while ask(server.port, "GET", f"/tasks/{busy}").json()["status"] != "running":
            time.sleep(0.02)
        done, steps, waiting, empty = completed(server.port), [], 0, private(server.process.pid)
        for count in counts:
            rate = _submit(server, waiting, count)
            waiting = count
            time.sleep(1.0)  # what was just written settles
            steps.append(Step(count, rate, (private(server.process.pid) - empty) / count))
        ask(server.port, "DELETE", f"/tasks/{busy}")
        return steps, _drain(server, done, waiting)


def _warm_up(server: Server) -> None:
    _submit(server, 0, 10_000)
    while completed(server.port) < 10_000:
        time.sleep(0.1)
    time.sleep(1.0)


def _submit(server: Server, first: int, last: int) -> float:
    """Tasks a second, acknowledged, in batches over `CONNECTIONS`."""
    took, count = 0.0, last - first
    while first < last:
        part = min(last, first + 20 * BATCH)
        messages = [_batch(start, min(part, start + BATCH)) for start in range(first, part, BATCH)]
        before = time.perf_counter()
        accepted(drive(server.port, messages, CONNECTIONS))
        took += time.perf_counter() - before
        first = part
    return count / took


def _batch(first: int, last: int) -> bytes:
    tasks = [{"operation": "expression", "parameters": {"formula": FORMULA}}] * (last - first)
    arrays = {f"{number - first}.x": np.full(ELEMENTS, number, np.float32) for number in range(first, last)}
    return request("POST", "/tasks/batch", bytes(safetensors.numpy.save(arrays, metadata={"tasks": json.dumps(tasks)})), SUBMIT)


def _drain(server: Server, done: int, waiting: int) -> list[Drain]:
    total, seen, at = waiting, 0, time.perf_counter()
    step, found, deadline = max(1, waiting // 20), [], time.monotonic() + DRAIN
    while seen < total and time.monotonic() < deadline:
        time.sleep(0.2)
        now, ended = time.perf_counter(), completed(server.port) - done
        if ended - seen >= step or ended >= total:
            found.append(Drain(total - ended, (ended - seen) / (now - at)))
            seen, at = ended, now
    return found
