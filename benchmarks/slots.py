"""How many slots, with how many threads each, the CPU should have: what stands behind the defaults.

    python -m benchmarks.slots [--rounds N]

For one slot and two, with one thread and with all cores, a server each, in turn: a 1024² float32 `matmul` alone, on the one worker
that a server starts with; one tiny task after another for as long as a long one (an SVD, which wants every core) takes, which starts
the second; then the `matmul` alone again, and from two clients at once.
"""

import argparse
import json
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import safetensors.numpy

from benchmarks.load import Answer, Connection, request
from benchmarks.report import Notebook
from benchmarks.servers import openruntime, running
from benchmarks.works import ELEMENTS, HEADERS, SIDE, body_a, body_b, output
from openruntime.contracts.safetensors import decode
from openruntime.runtimes.manager import usable_cores

ROOT = Path(__file__).parents[1]
LONG = 1_536  # rows and columns of the long task: about two seconds on one core
PAUSE = 0.005  # seconds between two tiny tasks
CALM = 10  # per cent of all cores that others may use
WORK = "slots"


def choices() -> list[tuple[int, int]]:
    """Slots and threads to compare: one and two slots, one thread and every core."""
    return [(slots, threads) for slots in (1, 2) for threads in sorted({1, usable_cores()})]


def one_server(notebook: Notebook, scratch: Path, slots: int, threads: int, requests: int, long: int = LONG) -> None:
    """One round of one choice. `requests` of each client; answers are compared with NumPy's."""
    generator = np.random.default_rng(slots * 100 + threads)
    a, b = (generator.random((SIDE, SIDE), dtype=np.float32) for _ in "ab")
    wide = generator.random((long, long), dtype=np.float32)
    product, tiny = request("POST", "/tasks", body_b(a, b), HEADERS), request("POST", "/tasks", body_a(a[0, :ELEMENTS]), HEADERS)
    body = safetensors.numpy.save({"x": wide}, metadata={"task": '{"operation": "svd"}'})
    svd = request("POST", "/tasks", body, HEADERS | {"Prefer": "wait=60"})
    environment = {"OPENRUNTIME_SLOTS": str(slots), "OPENRUNTIME_THREADS": str(threads)}
    with running(openruntime(), ready="/health/ready", data_dir=scratch / f"slots-{time.time_ns()}", environment=environment) as server:
        name = f"{slots} × {threads}"
        with Connection(server.port) as connection:
            for _ in range(5):
                np.testing.assert_allclose(output(connection.ask(tiny)), 2 * a[0, :ELEMENTS] + 1, rtol=1e-6)
                np.testing.assert_allclose(output(connection.ask(product)), a @ b, rtol=1e-4)
        notebook.add(WORK, f"{SIDE}² matmul alone, p50 ms", name, median(_asked(server.port, product, requests)) * 1e3)
        beside = _beside(server.port, svd, tiny)
        notebook.add(WORK, "tiny beside a long one, p50 ms", name, median(beside) * 1e3)
        notebook.add(WORK, "tiny beside a long one, longest ms", name, max(beside) * 1e3)
        notebook.add(WORK, f"{SIDE}² matmul alone, every worker up, p50 ms", name, median(_asked(server.port, product, requests)) * 1e3)
        both: list[float] = []
        _at_once(*[lambda: both.extend(_asked(server.port, product, requests))] * 2)
        notebook.add(WORK, f"{SIDE}² matmul, two clients at once, p50 ms", name, median(both) * 1e3)


def _asked(port: int, message: bytes, requests: int) -> list[float]:
    """Seconds of each of `requests`, one after the other."""
    with Connection(port) as connection:
        return [_timed(connection, message) for _ in range(requests)]


def _beside(port: int, long: bytes, tiny: bytes) -> list[float]:
    """Seconds of every tiny task that began while the long one was under way."""
    began: list[tuple[float, float]] = []  # when, and the seconds it took
    ended = threading.Event()
    finished: list[float] = []

    def first() -> None:
        try:
            with Connection(port) as connection:
                told = decode(bytes(_good(connection.ask(long)).body))[1]["task"]
            finished.append(datetime.fromisoformat(json.loads(told)["finished_at"]).timestamp())  # the answer comes later
        finally:
            ended.set()

    def second() -> None:
        with Connection(port) as connection:
            time.sleep(0.05)  # until the long one runs
            while not ended.is_set():
                began.append((time.time(), _timed(connection, tiny)))
                time.sleep(PAUSE)

    _at_once(first, second)
    took = [seconds for start, seconds in began if start < finished[0]]
    if not took:
        raise RuntimeError("the long task ended before a tiny one began; make it longer")
    return took


def _timed(connection: Connection, message: bytes) -> float:
    start = time.perf_counter()
    answer = connection.ask(message)
    took = time.perf_counter() - start
    _good(answer)
    return took


def _good(answer: Answer) -> Answer:
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}: {bytes(answer.body[:500])!r}")
    return answer


def _at_once(*calls: Callable[[], None]) -> None:
    """Each call in a thread of its own. Raises what the first of them raised."""
    with ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(call) for call in calls]:
            future.result()


def _until_calm(patience: float) -> None:
    """Until nobody else uses the cores, or `patience` seconds are over."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and psutil.cpu_percent(1.0) > CALM:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=30, help="of each client, each round")
    parser.add_argument("--patience", type=float, default=0, help="seconds to wait, before each server, for others to leave the cores alone")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/slots.json")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build/bench", help="where the servers keep their data: a real disk")
    arguments = parser.parse_args()
    notebook = Notebook()
    for number in range(1, arguments.rounds + 1):
        print(f"round {number} of {arguments.rounds}", flush=True)
        for slots, threads in choices():
            _until_calm(arguments.patience)
            arguments.scratch.mkdir(parents=True, exist_ok=True)
            one_server(notebook, arguments.scratch, slots, threads, arguments.requests)
            shutil.rmtree(arguments.scratch)
        notebook.save(arguments.out)
    notebook.show()


if __name__ == "__main__":
    main()
