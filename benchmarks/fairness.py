"""One client with ten thousand tasks waiting, and others that send one at a time: how long those wait.

    python -m benchmarks.fairness [--tasks 10000] [--seconds 10]

Every client calls from this machine; the header X-Client tells them apart. The same again without it is what they had if nobody were.
"""

import argparse
import json
import threading
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.load import Connection, request
from benchmarks.report import machine, number, versions
from benchmarks.servers import Server, openruntime, running

ROOT = Path(__file__).parents[1]
JSON = {"Content-Type": "application/json"}
OPERATION, PARAMETERS = "monte_carlo_pi", {"samples": 50_000}  # a millisecond or some
BATCH = 500
OTHERS = 3


def call(seed: int) -> dict[str, Any]:
    return {"operation": OPERATION, "parameters": {**PARAMETERS, "seed": seed}}


def measure(tasks: int, seconds: float, *, named: bool) -> dict[str, Any]:
    """Round trips of the others while the first client's tasks wait, and how far that one came meanwhile."""
    with running(openruntime(store="memory"), ready="/health/ready", environment={"OPENRUNTIME_CACHE": "false"}) as server:
        alone = one_by_one(server, 2.0, "warm" if named else None)
        with Connection(server.port) as connection:
            for first in range(0, tasks, BATCH):
                body = json.dumps({"tasks": [call(seed) for seed in range(first, first + BATCH)]}).encode()
                assert connection.ask(request("POST", "/tasks/batch", body, headers("crowd" if named else None))).status == 202
        beside: list[list[float]] = [[] for _ in range(OTHERS)]

        def other(index: int) -> None:
            beside[index] = one_by_one(server, seconds, f"other-{index}" if named else None)

        before, begun = waiting(server), time.monotonic()
        threads = [threading.Thread(target=other, args=(index,)) for index in range(OTHERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed, after = time.monotonic() - begun, waiting(server)
    trips = [trip for found in beside for trip in found]
    return {
        "alone_p50_ms": round(median(alone) * 1e3, 2),
        "others_p50_ms": round(median(trips) * 1e3, 2),
        "others_p99_ms": round(quantiles(trips, n=100, method="inclusive")[98] * 1e3, 2),
        "others_tasks": [len(found) for found in beside],
        "crowd_waiting": [before, after],
        "crowd_tasks_per_second": round((before - after) / elapsed, 1),
    }


def one_by_one(server: Server, seconds: float, name: str | None) -> list[float]:
    """Round trips of one task after another; one that waits longer than the rest of the time counts with that."""
    trips: list[float] = []
    end = time.monotonic() + seconds
    with Connection(server.port, timeout=seconds + 60) as connection:
        while (begun := time.monotonic()) < end:
            body = json.dumps(call(1_000_000 + len(trips))).encode()
            message = request("POST", "/tasks", body, headers(name) | {"Prefer": f"wait={max(0.1, end - begun):.1f}"})
            assert connection.ask(message).status in (200, 202)
            trips.append(time.monotonic() - begun)
    return trips if len(trips) > 1 else trips * 2


def headers(name: str | None) -> dict[str, str]:
    return JSON | ({"X-Client": name} if name else {})


def waiting(server: Server) -> int:
    with Connection(server.port) as connection:
        return int(connection.ask(request("GET", "/devices/cpu:0")).json()["queued"])


def main() -> None:
    parser = argparse.ArgumentParser(description="What a crowd of one client's tasks costs the others.")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/fairness.json")
    arguments = parser.parse_args()
    found = {how: measure(arguments.tasks, arguments.seconds, named=how == "told apart") for how in ("told apart", "as one client")}
    table = Table("clients", "alone p50 ms", "others p50, p99 ms", "others' tasks", "crowd tasks/s", title=f"{arguments.tasks} tasks of one wait")
    for how, row in found.items():
        trips = f"{number(row['others_p50_ms'])}, {number(row['others_p99_ms'])}"
        table.add_row(how, number(row["alone_p50_ms"]), trips, str(sum(row["others_tasks"])), number(row["crowd_tasks_per_second"]))
    Console(width=120).print(table)
    report = {"machine": machine(), "versions": versions(), "tasks": arguments.tasks, "seconds": arguments.seconds, **found}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
