"""How OpenRuntime grows: connections, array sizes, queued tasks, WebSocket subscribers. Curves, and figures as JSON.

    python -m benchmarks.growth [--only connections|arrays|queue|subscribers]

All of it takes about eight minutes and needs `wrk`. The pictures go to docs/explanation/growth/, where `growth.md` explains their knees.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import safetensors.numpy
from rich.console import Console
from rich.table import Table

from benchmarks import queueing, subscribers
from benchmarks.load import Connection, request, wrk
from benchmarks.report import machine, versions
from benchmarks.servers import openruntime, running
from benchmarks.works import ELEMENTS, FORMULA, HEADERS, body_a, check_a, output
from openruntime.cli.curves import Axis, Curve, draw

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs/explanation/growth"
CONNECTIONS = [2**power for power in range(10)]  # 1 to 512
SIZES = [2**power for power in range(10, 29, 2)]  # bytes: 1 KiB to 256 MiB
QUEUED = [1, 10, 100, 1_000, 10_000, 100_000, 250_000, 500_000, 1_000_000]
SUBSCRIBERS = [1, 10, 50, 100, 200, 350, 500]
Row = dict[str, Any]


def connections(scratch: Path) -> list[Row]:
    body = scratch / "body"
    body.write_bytes(body_a(np.linspace(0, 1, ELEMENTS, dtype=np.float32)))
    rows = []
    with running(openruntime(), ready="/health/ready", data_dir=scratch / "connections") as server:
        check_a(server.port)
        wrk(server.port, body, 64, 2)
        for count in CONNECTIONS:
            seen = wrk(server.port, body, count, 3)
            rows.append({"connections": count, "rate": seen.rate, "p50": seen.p50, "p99": seen.p99})
        check_a(server.port)
    draw(
        PICTURES / "connections-rate.svg", "Requests a second (work A) by connections", Axis("connections", log=True), Axis("requests/s"),
        [Curve("requests/s", [(row["connections"], row["rate"]) for row in rows])],
    )  # fmt: skip
    draw(
        PICTURES / "connections-latency.svg", "Latency (work A) by connections", Axis("connections", log=True), Axis("seconds", log=True),
        [Curve(name, [(row["connections"], row[name]) for row in rows]) for name in ("p50", "p99")],
    )  # fmt: skip
    return rows


BARE = """
import sys, time, numpy as np
x = np.random.default_rng(0).random(int(sys.argv[1]) // 4, dtype=np.float32)
took, end = [], time.perf_counter() + 1
while len(took) < 5 or (time.perf_counter() < end and len(took) < 2000):
    t = time.perf_counter(); 2 * x + 1; took.append(time.perf_counter() - t)
print(sorted(took)[len(took) // 2])
"""


def arrays(scratch: Path) -> list[Row]:
    rows = []
    with running(openruntime(), ready="/health/ready", data_dir=scratch / "arrays") as server:
        check_a(server.port)
        for size in SIZES:
            bare = float(subprocess.run([sys.executable, "-c", BARE, str(size)], capture_output=True, text=True, check=True, timeout=60).stdout)
            x = np.random.default_rng(0).random(size // 4, dtype=np.float32)
            body = bytes(safetensors.numpy.save({"x": x}, {"task": json.dumps({"operation": "expression", "parameters": {"formula": FORMULA}})}))
            message = request("POST", "/tasks", body, HEADERS)
            took: list[float] = []
            np.testing.assert_allclose(_asked(server.port, message, took), 2 * x + 1, rtol=1e-6)
            end = time.monotonic() + 3
            while len(took) < 5 or (time.monotonic() < end and len(took) < 1000):
                _asked(server.port, message, took)
            whole = median(took)
            rows.append({"bytes": size, "numpy": bare, "seconds": whole, "over_numpy": whole / bare, "gb_per_s": 2 * size / whole / 1e9})
    size = Axis("bytes of the array, and of the result", log=True)
    draw(
        PICTURES / "arrays-time.svg", "One 2x+1, asked and answered over HTTP", size, Axis("seconds", log=True),
        [Curve("OpenRuntime", [(row["bytes"], row["seconds"]) for row in rows]), Curve("bare NumPy", [(row["bytes"], row["numpy"]) for row in rows])],
    )  # fmt: skip
    draw(
        PICTURES / "arrays-throughput.svg", "Bytes in and out a second, one client", size, Axis("GB/s"),
        [Curve("OpenRuntime", [(row["bytes"], row["gb_per_s"]) for row in rows])],
    )  # fmt: skip
    return rows


def _asked(port: int, message: bytes, took: list[float]) -> np.ndarray:
    """Over a connection of its own: one on which a large answer is read for longer than the keep-alive is closed after it."""
    with Connection(port) as connection:
        start = time.perf_counter()
        answer = connection.ask(message)
        took.append(time.perf_counter() - start)
        return output(answer)


def queue(scratch: Path) -> list[Row]:
    steps, drains = queueing.queue(QUEUED, scratch)
    memory = [(step.waiting, step.bytes_each) for step in steps if step.waiting >= 1_000]  # below, it is pages that are there anyway
    draw(
        PICTURES / "queue-memory.svg", "Memory of the gateway for each waiting task", Axis("waiting tasks", log=True), Axis("bytes"),
        [Curve("with 64 bytes of input", memory)], goal=1024 + 4 * queueing.ELEMENTS,
    )  # fmt: skip
    draw(
        PICTURES / "queue-rate.svg", "Rates while the queue fills and empties", Axis("waiting tasks", log=True), Axis("tasks/s"),
        [
            Curve("accepted, on disk", [(step.waiting, step.submitted) for step in steps if step.waiting >= 10_000]),
            Curve("finished", [(max(drain.left, 10_000), drain.finished) for drain in drains if drain.left >= 10_000]),
        ],
    )  # fmt: skip
    return [asdict(step) for step in steps] + [asdict(drain) for drain in drains]


def audiences(scratch: Path) -> list[Row]:
    rows = []
    with running(openruntime(), ready="/health/ready", data_dir=scratch / "subscribers") as server:
        check_a(server.port)
        for count in SUBSCRIBERS:
            rows.append(asdict(subscribers.listen(server, count, 6.0)))
            time.sleep(0.5)
    draw(
        PICTURES / "subscribers.svg", "From an event to its subscribers, 100 events a second", Axis("WebSocket subscribers", log=True),
        Axis("seconds"), [Curve(name, [(row["subscribers"], row[name]) for row in rows]) for name in ("p50", "p99")], goal=0.25,
    )  # fmt: skip
    return rows


CURVES: dict[str, Callable[[Path], list[Row]]] = {"connections": connections, "arrays": arrays, "queue": queue, "subscribers": audiences}


def show(name: str, rows: list[Row]) -> None:
    console = Console(width=120)
    for columns in dict.fromkeys(tuple(row) for row in rows):
        table = Table(*columns, title=name)
        for row in rows:
            if tuple(row) == columns:
                table.add_row(*(f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" for value in row.values()))
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how OpenRuntime grows, draw the curves, write JSON.")
    parser.add_argument("--only", choices=CURVES, help="one curve; the others keep their place in the JSON")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/growth.json")
    arguments = parser.parse_args()
    report = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    report |= {"machine": machine(), "versions": versions()}
    for name in [arguments.only] if arguments.only else CURVES:
        with tempfile.TemporaryDirectory(prefix="openruntime-growth-") as scratch:
            load = os.getloadavg()
            report[name] = CURVES[name](Path(scratch))
            report.setdefault("load", {})[name] = [round(load[0], 1), round(os.getloadavg()[0], 1)]  # before and after
        show(name, report[name])
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
