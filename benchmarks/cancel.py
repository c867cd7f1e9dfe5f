"""Cancel tasks at random moments: how soon the device is free, and that nothing runs on.

    python -m benchmarks.cancel [--tasks 10000] [--seed 0]

Clients submit tasks of all kinds and cancel each after a random while: before it starts, on its way to a worker, in NumPy, between the
steps of an operation that cooperates, in a Python loop, in native code that never returns (with and without the interpreter's lock;
these come from the tests' plugin). Neighbours that nobody cancels run beside them. Seconds are from the request to cancel until the
device's page shows the task no more; for workers that had to be killed, until the process, and its memory with it, is gone.
"""

import argparse
import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.load import Connection, request
from benchmarks.report import machine, number, versions
from benchmarks.servers import Server, openruntime, running

ROOT = Path(__file__).parents[1]
JSON = {"Content-Type": "application/json"}
CLIENTS = 6
POLL = 0.004  # seconds between looks at the device
PATIENCE = 60.0  # seconds after which a task counts as left running

# kind -> share of all tasks, operation, parameters, and the longest while before its cancel in seconds
KINDS: dict[str, tuple[float, str, dict[str, Any], float]] = {
    "tiny": (0.3, "sum", {"x": [1.0, 2.0]}, 0.002),
    "queued": (0.5, "rogue_sleep", {"seconds": 0.02}, 0.02),
    "NumPy": (0.12, "monte_carlo_pi", {"samples": 20_000_000, "seed": 1}, 0.4),
    "steps": (0.056, "rogue_steps", {"count": 10_000, "pause": 0.01}, 0.5),
    "Python loop": (0.008, "rogue_spin", {"seconds": 600.0}, 0.5),
    "native": (0.008, "rogue_sleep", {"seconds": 600.0}, 0.5),
    "native, lock held": (0.008, "rogue_hold", {"seconds": 600.0}, 0.5),
}
COOPERATIVE = ("steps",)


@dataclass
class Outcome:
    """`free` and `gone`: seconds from cancel to device free, and to process gone, by kind."""

    tasks: int = 0
    ended: dict[str, Counter[str]] = field(default_factory=dict)
    moments: dict[str, Counter[str]] = field(default_factory=dict)
    free: dict[str, list[float]] = field(default_factory=dict)
    gone: dict[str, list[float]] = field(default_factory=dict)
    left_running: int = 0
    neighbours: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def summary(self) -> dict[str, Any]:
        return {
            "tasks": self.tasks, "left_running": self.left_running, "neighbours": dict(self.neighbours),
            "kinds": {
                kind: {
                    "ended": dict(self.ended[kind]), "status_at_cancel": dict(self.moments[kind]),
                    "device_free_s": cuts(self.free.get(kind, [])), "process_gone_s": cuts(self.gone.get(kind, [])),
                }
                for kind in KINDS if kind in self.ended
            },
            "cooperative_device_free_s": cuts([seconds for kind in COOPERATIVE for seconds in self.free.get(kind, [])]),
            "killed_process_gone_s": cuts([seconds for found in self.gone.values() for seconds in found]),
        }  # fmt: skip


def cuts(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    of = quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else seconds * 99
    return {"count": len(seconds), "p50": round(of[49], 4), "p99": round(of[98], 4), "max": round(max(seconds), 4)}


class Client:
    """Submits and cancels, one task after another."""

    def __init__(self, server: Server, outcome: Outcome, seed: int) -> None:
        self._connection = Connection(server.port)
        self._outcome = outcome
        self._dice = random.Random(seed)

    def run(self, tasks: int) -> None:
        with self._connection:
            for _ in range(tasks):
                kind = self._dice.choices(list(KINDS), [share for share, *_ in KINDS.values()])[0]
                self._one(kind, *KINDS[kind][1:])

    def _one(self, kind: str, operation: str, parameters: dict[str, Any], longest: float) -> None:
        body = json.dumps({"operation": operation, "parameters": parameters, "priority": self._dice.randint(4, 7)}).encode()
        task = self._ask("POST", "/tasks", body)["task_id"]
        while_ = self._dice.uniform(0, longest)
        if while_ > 0.0005:
            time.sleep(while_)
        pid = self._worker_of(task)  # None unless it runs
        begun = time.monotonic()
        said = self._ask("DELETE", f"/tasks/{task}")["status"]
        free = gone = None
        if said == "cancelling":
            while self._worker_of(task) is not None and time.monotonic() - begun < PATIENCE:
                time.sleep(POLL)
            free = time.monotonic() - begun
            if pid is not None and kind not in ("tiny", "queued", "NumPy", *COOPERATIVE):
                while not ended(pid) and time.monotonic() - begun < PATIENCE:
                    time.sleep(POLL)
                gone = time.monotonic() - begun
        record = self._ask("GET", f"/tasks/{task}?wait={PATIENCE:.0f}")
        outcome = self._outcome
        with outcome.lock:
            outcome.tasks += 1
            outcome.ended.setdefault(kind, Counter())[record["status"]] += 1
            outcome.moments.setdefault(kind, Counter())[said] += 1
            outcome.left_running += record["status"] not in ("cancelled", "completed")
            if free is not None:
                outcome.free.setdefault(kind, []).append(free)
            if gone is not None:
                outcome.gone.setdefault(kind, []).append(gone)

    def _worker_of(self, task: str) -> int | None:
        slots = self._ask("GET", "/devices/cpu:0")["workers"]
        return next((slot["pid"] for slot in slots if slot["task"] == task), None)

    def _ask(self, method: str, path: str, body: bytes = b"") -> Any:
        answer = self._connection.ask(request(method, path, body, JSON))
        if answer.status >= 400:
            raise AssertionError(f"{method} {path}: {answer.status} {bytes(answer.body)!r}")
        return answer.json()


def ended(pid: int) -> bool:
    """Whether a process and its memory are gone; its number may be left for its parent to read."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def neighbours(server: Server, outcome: Outcome, stop: threading.Event) -> None:
    """Tasks that nobody cancels: all must complete."""
    body = json.dumps({"operation": "rogue_steps", "parameters": {"count": 10, "pause": 0.01}, "priority": 6}).encode()
    with Connection(server.port, timeout=300) as connection:
        while not stop.is_set():
            record = connection.ask(request("POST", "/tasks", body, JSON | {"Prefer": "wait=60"})).json()
            with outcome.lock:
                outcome.neighbours[record.get("status", "refused")] += 1
                outcome.neighbours["tried again"] += record.get("attempt", 1) > 1


def cancel(tasks: int, seed: int, data: Path) -> Outcome:
    """Run it against a server of its own."""
    outcome, stop = Outcome(), threading.Event()
    path = os.pathsep.join(filter(None, [str(ROOT / "tests/plugin"), os.environ.get("PYTHONPATH", "")]))
    environment = {"PYTHONPATH": path, "OPENRUNTIME_SLOTS": "2", "OPENRUNTIME_THREADS": "1", "OPENRUNTIME_SHUTDOWN_GRACE": "2"}
    with running(openruntime(), ready="/health/ready", data_dir=data, environment=environment) as server:
        clients = [Client(server, outcome, seed * 1000 + number) for number in range(CLIENTS)]
        share = [tasks // CLIENTS + (number < tasks % CLIENTS) for number in range(CLIENTS)]
        threads = [threading.Thread(target=client.run, args=(count,)) for client, count in zip(clients, share, strict=True)]
        beside = threading.Thread(target=neighbours, args=(server, outcome, stop))
        for thread in (*threads, beside):
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        beside.join()
        outcome.left_running += still_busy(server)
        outcome.left_running += tasks - outcome.tasks  # a client that met an error
    return outcome


def still_busy(server: Server) -> int:
    """Slots that hold anything, and workers that compute, five seconds after the last task has ended."""
    end = time.monotonic() + 5
    with Connection(server.port) as connection:
        while True:
            slots = connection.ask(request("GET", "/devices/cpu:0")).json()["workers"]
            busy = sum(slot["outstanding"] > 0 for slot in slots)
            if not busy or time.monotonic() > end:
                break
            time.sleep(0.05)
    processes = [process for process in server.tree() if process.pid != server.process.pid]
    for process in processes:
        process.cpu_percent(None)
    time.sleep(1.0)
    return int(busy) + sum(process.cpu_percent(None) > 50 for process in processes if process.is_running())


def show(outcome: Outcome) -> None:
    table = Table("kind", "tasks", "running when cancelled", "cancelled / completed", "device free p50, p99 (ms)", "process gone p99 (ms)")
    for kind, found in outcome.summary()["kinds"].items():
        free, gone, ended = found["device_free_s"], found["process_gone_s"], found["ended"]
        table.add_row(
            kind, str(sum(ended.values())), str(found["status_at_cancel"].get("cancelling", 0)),
            f"{ended.get('cancelled', 0)} / {ended.get('completed', 0)}",
            f"{number(free['p50'] * 1e3)}, {number(free['p99'] * 1e3)}" if free else "", number(gone["p99"] * 1e3) if gone else "",
        )  # fmt: skip
    Console(width=130).print(table)
    print(f"{outcome.tasks} tasks, {outcome.left_running} left running; neighbours: {dict(outcome.neighbours)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Cancel tasks at random moments; count what runs on.")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/cancel.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = cancel(arguments.tasks, arguments.seed, Path(folder))
    show(outcome)
    report = {"machine": machine(), "versions": versions(), "seed": arguments.seed, **outcome.summary()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    if outcome.left_running or outcome.neighbours["completed"] != outcome.neighbours.total() - outcome.neighbours["tried again"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
