"""Works A and B: one small and one large request at a time, answered while the client waits."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM
from statistics import median

import numpy as np
import safetensors.numpy

from benchmarks.load import SAFETENSORS, Answer, Connection, ask, request, wrk
from benchmarks.report import Notebook
from benchmarks.servers import Server, openruntime, running, yardstick

ELEMENTS = 1_000  # of work A and C
SIDE = 1_024  # of work B
HEADERS = {"Content-Type": SAFETENSORS, "Accept": SAFETENSORS, "Prefer": "wait=10", "Cache-Control": "no-store"}
FORMULA = "2*x+1"


def body_a(x: np.ndarray) -> bytes:
    """The body of work A: y = 2x + 1 over the float32 vector `x`."""
    task = {"operation": "expression", "parameters": {"formula": FORMULA}}
    return bytes(safetensors.numpy.save({"x": x}, metadata={"task": json.dumps(task)}))


def body_b(a: np.ndarray, b: np.ndarray) -> bytes:
    return bytes(safetensors.numpy.save({"a": a, "b": b}, metadata={"task": json.dumps({"operation": "matmul"})}))


def output(answer: Answer) -> np.ndarray:
    """The array of a safetensors answer. Raises `RuntimeError` on any other answer."""
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}: {bytes(answer.body[:500])!r}")
    return safetensors.numpy.load(bytes(answer.body))["output"]


def check_a(port: int, times: int = 10) -> None:
    """`times` distinct vectors, each answer compared with NumPy's."""
    generator = np.random.default_rng(times)
    with Connection(port) as connection:
        for _ in range(times):
            x = generator.random(ELEMENTS, dtype=np.float32)
            np.testing.assert_allclose(output(connection.ask(request("POST", "/tasks", body_a(x), HEADERS))), 2 * x + 1, rtol=1e-6)


def echo_check(port: int) -> None:
    body = body_a(np.ones(ELEMENTS, np.float32))
    if ask(port, "POST", "/tasks", body, HEADERS).body != body:
        raise RuntimeError("the echo changed its bytes")


def completed(port: int) -> int:
    """Tasks that /metrics counts as completed."""
    total = 0.0
    text = bytes(ask(port, "GET", "/metrics", headers={"Accept": "text/plain"}).body).decode()
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("openruntime_tasks_finished_total{") and 'status="completed"' in name:
            total += float(value)
    return int(total)


@contextmanager
def subject(name: str, scratch: Path) -> Iterator[Server]:
    """`openruntime` on its defaults, or a yardstick; with a fresh data directory."""
    command = openruntime() if name == "openruntime" else yardstick(name)
    ready = "/" if name == "echo" else "/health/ready"
    data = scratch / f"{name}-{time.time_ns()}"
    with running(command, ready=ready, data_dir=data, ends=(0,) if name == "openruntime" else (0, -SIGTERM)) as server:
        yield server


def work_a(notebook: Notebook, scratch: Path, seconds: int) -> None:
    """One round: p50 at 1 connection, rates and processor time a request at 16 and 64, of echo, inline and OpenRuntime in turn."""
    body = scratch / "body-a"
    body.write_bytes(body_a(np.linspace(0, 1, ELEMENTS, dtype=np.float32)))
    for name in ("echo", "inline", "openruntime"):
        with subject(name, scratch) as server:
            check = echo_check if name == "echo" else check_a
            check(server.port)
            wrk(server.port, body, 16, 1)  # warm
            counted, sent = (completed(server.port) if name == "openruntime" else 0), 0
            for connections in (1, 16, 64):
                before, own = server.cpu_seconds(), server.own_cpu_seconds()
                seen = wrk(server.port, body, connections, seconds)
                spent, own = server.cpu_seconds() - before, server.own_cpu_seconds() - own
                sent += seen.requests
                plural = "s" if connections > 1 else ""
                if connections == 1:
                    notebook.add("A", "p50 ms, 1 connection", name, seen.p50 * 1e3)
                else:
                    notebook.add("A", f"requests/s, {connections} connections", name, seen.rate)
                    notebook.add("A", f"p99 ms, {connections} connections", name, seen.p99 * 1e3)
                notebook.add("A", f"CPU µs a request, {connections} connection{plural}", name, spent / seen.requests * 1e6)
                if name == "openruntime":
                    notebook.add("A", f"of it in the gateway, {connections} connection{plural}", name, own / seen.requests * 1e6)
            check(server.port)
            if name == "openruntime":
                _all_counted(completed(server.port) - counted, sent)


def _all_counted(counted: int, sent: int) -> None:
    """wrk hangs up on the last request of each connection (81 in all), which the server may still have run; `check_a` sent 10."""
    if not sent + 10 <= counted <= sent + 10 + 81:
        raise RuntimeError(f"/metrics counted {counted} completed tasks; {sent + 10} were answered")


MATMUL = f"""
import sys, time, numpy as np
g = np.random.default_rng(0)
a, b = (g.random(({SIDE}, {SIDE}), dtype=np.float32) for _ in "ab")
took = []
for _ in range(int(sys.argv[1])):
    t = time.perf_counter(); a @ b; took.append(time.perf_counter() - t)
print(sorted(took[5:])[len(took[5:]) // 2])
"""


def work_b(notebook: Notebook, scratch: Path, requests: int) -> None:
    """One round: bare NumPy in a process of its own, then FastAPI inline and OpenRuntime: 8 MB in, 4 MB out, one at a time."""
    bare = subprocess.run([sys.executable, "-c", MATMUL, str(requests + 5)], capture_output=True, text=True, check=True, timeout=120)
    notebook.add("B", "p50 ms", "numpy", float(bare.stdout) * 1e3)
    generator = np.random.default_rng(1)
    a, b = (generator.random((SIDE, SIDE), dtype=np.float32) for _ in "ab")
    message = request("POST", "/tasks", body_b(a, b), HEADERS)
    expected = a @ b
    for name in ("inline", "openruntime"):
        with subject(name, scratch) as server, Connection(server.port) as connection:
            for _ in range(5):
                np.testing.assert_allclose(output(connection.ask(message)), expected, rtol=1e-4)
            took, before = [], server.cpu_seconds()
            for _ in range(requests):
                start = time.perf_counter()
                answer = connection.ask(message)
                took.append(time.perf_counter() - start)
                if answer.status != 200:
                    raise RuntimeError(f"status {answer.status}: {bytes(answer.body[:500])!r}")
            notebook.add("B", "p50 ms", name, median(took) * 1e3)
            notebook.add("B", "CPU ms a request", name, (server.cpu_seconds() - before) / requests * 1e3)
            np.testing.assert_allclose(output(answer), expected, rtol=1e-4)
