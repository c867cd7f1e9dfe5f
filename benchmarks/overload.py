"""Three times as many tasks as the server can do: what it refuses, what happens to those it took, and to its memory.

    python -m benchmarks.overload [--seconds 10] [--bound 200]

First the rate that the server reaches, measured with two clients that send batches; then submits at three times that rate, open
loop, each from a connection that gives up on 429. An accepted task's time is from its submission to its end, by the server's clock; with
a bound of `bound` waiting tasks it can be no more than what that many take. Memory stays flat, but for the records of what was done.
"""

import argparse
import itertools
import json
import threading
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from statistics import quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.load import Connection, request
from benchmarks.report import machine, number, versions
from benchmarks.servers import Server, openruntime, running

ROOT = Path(__file__).parents[1]
JSON = {"Content-Type": "application/json"}
SLACK, RECORD = 16 << 20, 2 << 10  # bytes that memory may grow by under overload: in all, and for each finished task, whose record is kept
SENDERS = 12
FACTOR = 3


def body(seed: int) -> bytes:
    return json.dumps({"operation": "monte_carlo_pi", "parameters": {"samples": 20_000, "seed": seed}}).encode()


def capacity(server: Server, seconds: float, bound: int, seeds: "itertools.count[int]") -> float:
    """Tasks a second while there are always some that wait: two clients send batch after batch."""
    size = max(1, min(50, bound // 2))
    done = Counter[int]()

    def client(index: int) -> None:
        end = time.monotonic() + seconds
        with Connection(server.port) as connection:
            while time.monotonic() < end:
                tasks = b",".join(body(next(seeds)) for _ in range(size))
                sent = request("POST", "/tasks/batch", b'{"tasks":[' + tasks + b"]}", JSON | {"Prefer": "wait=30"})
                assert connection.ask(sent).status == 200
                done[index] += size

    start = time.monotonic()
    threads = [threading.Thread(target=client, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done.total() / (time.monotonic() - start)


def flood(server: Server, rate: float, seconds: float, seeds: "itertools.count[int]") -> dict[str, Any]:
    """Submits at `rate` a second; the ids of those taken, the answers by status, and those without Retry-After."""
    statuses, taken, unsaid = Counter[int](), list[str](), Counter[str]()
    pause = SENDERS / rate
    begun = time.monotonic()

    def sender(index: int) -> None:
        with Connection(server.port) as connection:
            for turn in itertools.count():
                due = begun + turn * pause + index / rate
                if due - begun > seconds:
                    return
                if (left := due - time.monotonic()) > 0:
                    time.sleep(left)
                answer = connection.ask(request("POST", "/tasks", body(next(seeds)), JSON))
                statuses[answer.status] += 1
                if answer.status == 202:
                    taken.append(answer.json()["task_id"])
                elif answer.header("retry-after") is None or answer.json()["code"] != "queue_full":
                    unsaid[str(answer.status)] += 1

    threads = [threading.Thread(target=sender, args=(index,)) for index in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"statuses": dict(statuses), "taken": taken, "without_retry_after": unsaid.total(), "seconds": time.monotonic() - begun}


def overload(seconds: float, bound: int) -> dict[str, Any]:
    environment = {"OPENRUNTIME_QUEUE_BOUND": str(bound), "OPENRUNTIME_CACHE": "false"}
    seeds = itertools.count()
    with running(openruntime(store="memory"), ready="/health/ready", environment=environment) as server:
        rate = capacity(server, 4.0, bound, seeds)
        flood(server, FACTOR * rate, 2.0, seeds)  # caches, slabs and history have their size after this
        before = server.memory()[0]
        found = flood(server, FACTOR * rate, seconds, seeds)
        after = server.memory()[0]
        waits, ends = [], Counter[str]()
        with Connection(server.port) as connection:
            for task in found["taken"]:
                record = connection.ask(request("GET", f"/tasks/{task}?wait=60")).json()
                ends[record["status"]] += 1
                created, finished = (datetime.fromisoformat(record[name]) for name in ("created_at", "finished_at"))
                waits.append((finished - created).total_seconds())
    of = quantiles(waits, n=100, method="inclusive")
    return {
        "capacity_per_second": round(rate, 1), "offered_per_second": round(sum(found["statuses"].values()) / found["seconds"], 1),
        "accepted": len(found["taken"]), "accepted_per_second": round(len(found["taken"]) / found["seconds"], 1),
        "statuses": found["statuses"], "without_retry_after": found["without_retry_after"], "ended": dict(ends),
        "accepted_s": {"p50": round(of[49], 3), "p99": round(of[98], 3), "max": round(max(waits), 3)},
        "bound": bound, "bound_s": round(bound / rate, 3), "memory_mib": [round(before / 2**20, 1), round(after / 2**20, 1)],
        "memory_allowed_mib": round((before + SLACK + RECORD * len(found["taken"])) / 2**20, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Three times as many tasks as the server can do.")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--bound", type=int, default=200, help="tasks that may wait")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/overload.json")
    arguments = parser.parse_args()
    found = overload(arguments.seconds, arguments.bound)
    table = Table("can do", "offered", "accepted", "of these done", "submit to end p50, p99 s", "what the bound takes s", "memory MiB")
    seconds, memory = found["accepted_s"], found["memory_mib"]
    table.add_row(
        f"{number(found['capacity_per_second'])}/s", f"{number(found['offered_per_second'])}/s", f"{number(found['accepted_per_second'])}/s",
        f"{found['ended'].get('completed', 0)} of {found['accepted']}", f"{seconds['p50']}, {seconds['p99']}", str(found["bound_s"]),
        f"{memory[0]} to {memory[1]}",
    )  # fmt: skip
    Console(width=120).print(table)
    report = {"machine": machine(), "versions": versions(), **found}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    lost = found["ended"] != {"completed": found["accepted"]} or memory[1] > found["memory_allowed_mib"]
    if lost or found["without_retry_after"] or set(found["statuses"]) - {202, 429}:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
