"""Kill -9 the server again and again under load: what it acknowledged must be there, once, and right.

`python -m benchmarks.kill9 [--kills 20]`. Clients submit distinct tasks (each with an Idempotency-Key, sent again after a crash
when no answer came, as a careful client does) and look at some that completed. In the end every acknowledged task's
result is fetched and compared. Lost: acknowledged, and without its right result. Committed twice: seen completed, and
later with another end time or attempt, or one key with two tasks.
"""

import argparse
import itertools
import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import quantiles

import numpy as np
import psutil

from benchmarks.durable import SUBMIT, fetch
from benchmarks.load import Connection, request
from benchmarks.report import machine, versions
from benchmarks.servers import Server, openruntime, spawn
from benchmarks.works import ELEMENTS, body_a, output

ROOT = Path(__file__).parents[1]
BASE = np.arange(ELEMENTS, dtype=np.float32)
CLIENTS = 8


@dataclass
class Outcome:
    """Counts over all lives of the server; seconds from the spawn to GET /health/ready = 200."""

    kills: int = 0
    acknowledged: int = 0
    refused: dict[int, int] = field(default_factory=dict)
    sent_again: int = 0
    lost: int = 0
    wrong: int = 0
    completions_seen: int = 0
    committed_twice: int = 0
    orphans: int = 0
    recovery: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, object]:
        cuts = quantiles(self.recovery, n=20, method="inclusive") if len(self.recovery) > 1 else self.recovery * 19
        seconds = {"p50": round(cuts[9], 3), "p95": round(cuts[18], 3), "max": round(max(self.recovery), 3)}
        return {**asdict(self), "recovery": seconds}


@dataclass
class Load:
    """What the clients have sent and know, over all lives. Numbers name tasks: task `n` computes 2 (n + i) + 1."""

    outcome: Outcome
    numbers: Iterator[int] = field(default_factory=itertools.count)
    ids: dict[int, str] = field(default_factory=dict)
    unanswered: set[int] = field(default_factory=set)
    seen: dict[str, tuple[str, int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def life(self, server: Server, limit: int) -> list[threading.Thread]:
        """Clients that send until the server dies, or `limit` tasks are acknowledged in this life."""
        budget = itertools.count()
        threads = [threading.Thread(target=self._send, args=(server.port, budget, limit)) for _ in range(CLIENTS)]
        threads.append(threading.Thread(target=self._look, args=(server.port,)))
        for thread in threads:
            thread.start()
        return threads

    def submit(self, connection: Connection, number: int) -> None:
        with self.lock:
            self.unanswered.add(number)
        answer = connection.ask(request("POST", "/tasks", body_a(BASE + number), {**SUBMIT, "Idempotency-Key": f"kill9-{number}"}))
        with self.lock:
            self.unanswered.discard(number)
            if answer.status != 202:
                self.outcome.refused[answer.status] = self.outcome.refused.get(answer.status, 0) + 1
                return
            task = answer.json()["task_id"]
            if self.ids.setdefault(number, task) != task:
                self.outcome.committed_twice += 1

    def _send(self, port: int, budget: Iterator[int], limit: int) -> None:
        try:
            with Connection(port) as connection:
                while next(budget) < limit:
                    self.submit(connection, next(self.numbers))
        except OSError:
            return  # the server was killed

    def _look(self, port: int) -> None:
        """Asks for the status of tasks at random, and remembers how those that completed did."""
        try:
            with Connection(port) as connection:
                while True:
                    with self.lock:
                        known = list(self.ids.values())
                    if known:
                        self.look(connection, random.choice(known[-2000:]))
                    time.sleep(0.002)
        except OSError:
            return

    def look(self, connection: Connection, task: str) -> None:
        answer = connection.ask(request("GET", f"/tasks/{task}"))
        if answer.status != 200:
            raise AssertionError(f"status {answer.status} for task {task}: {bytes(answer.body)!r}")
        record = answer.json()
        if record["status"] == "completed":
            end = (record["finished_at"], record["attempt"])
            if self.seen.setdefault(task, end) != end:
                self.outcome.committed_twice += 1
                self.seen[task] = end


def start(data: Path, log: Path, outcome: Outcome) -> Server:
    server = spawn(openruntime(), data, log)
    server.wait_ready("/health/ready")
    outcome.recovery.append(time.perf_counter() - server.spawned)
    return server


def kill9(kills: int, *, data: Path, limit: int = 20_000, seed: int = 0) -> Outcome:
    """Run it. `limit` bounds the tasks sent in each life; `data` must be an empty directory on a real disk."""
    outcome, dice = Outcome(), random.Random(seed)
    load = Load(outcome)
    log = data.parent / "kill9.log"
    server = spawn(openruntime(), data, log)
    try:
        server.wait_ready("/health/ready")
        for _ in range(kills):
            threads = load.life(server, limit)
            time.sleep(dice.uniform(0.2, 1.2))
            workers = server.tree()[1:]
            server.kill()
            outcome.kills += 1
            for thread in threads:
                thread.join(30)
            _, left = psutil.wait_procs(workers, timeout=5)
            outcome.orphans += len(left)
            server = start(data, log, outcome)
            _send_again(load, server)
        _check_all(load, server)
    finally:
        server.stop()
    return outcome


def _send_again(load: Load, server: Server) -> None:
    with Connection(server.port) as connection:
        for number in sorted(load.unanswered):
            load.outcome.sent_again += 1
            load.submit(connection, number)


def _check_all(load: Load, server: Server) -> None:
    """Every acknowledged task has its right result; those seen completed ended when they were seen to."""
    outcome = load.outcome
    numbers = sorted(load.ids)
    outcome.acknowledged = len(numbers)
    outcome.committed_twice += sum(count - 1 for count in Counter(load.ids.values()).values())
    for first in range(0, len(numbers), 2000):
        part = numbers[first : first + 2000]
        for number, answer in zip(part, fetch(server.port, [load.ids[number] for number in part], CLIENTS), strict=True):
            if answer.status != 200:
                outcome.lost += 1
            elif not np.array_equal(output(answer), 2 * (BASE + number) + 1):
                outcome.wrong += 1
    outcome.completions_seen = len(load.seen)
    with Connection(server.port) as connection:
        for task in list(load.seen):
            load.look(connection, task)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill -9 the server under load; count what is lost.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--limit", type=int, default=20_000, help="tasks sent in each life, at most")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/kill9.json")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build", help="where the server keeps its data: a real disk")
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        outcome = kill9(arguments.kills, data=Path(folder) / "data", limit=arguments.limit)
    report = {"machine": machine(), "versions": versions(), **outcome.summary()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(outcome.summary(), indent=1))
    if outcome.lost or outcome.wrong or outcome.committed_twice or outcome.orphans:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
