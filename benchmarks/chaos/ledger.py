"""What the clients were told, and what became of it. Kept outside the servers, so that nothing they lose is forgotten here."""

import threading
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.chaos.work import KINDS, expected

ENDED = ("completed", "failed", "cancelled")
KEPT = 20  # examples of what went wrong


@dataclass(slots=True)
class Promise:
    """An acknowledged task. `end` is what it was first seen to end as: status, attempt, finished_at and a checksum of its output; at `seen`."""

    kind: str
    number: int
    sent: float = 0.0
    end: tuple[str, int, str, int] | None = None
    seen: float = 0.0


@dataclass
class Ledger:
    """Called by all clients at once. Times are monotonic seconds.

    `lingers`: the store writes an end soon after it tells it (docs/decisions/commits-in-groups.md), so that a gateway killed in between
    runs the task again. That is counted as `ran_again` where the result is the same, and as committed twice where it is not.
    """

    lingers: bool = True
    killed: float = 0.0  # when a gateway was last killed
    promises: dict[str, Promise] = field(default_factory=dict)
    open: dict[str, None] = field(default_factory=dict)  # acknowledged, and not yet seen to end; oldest first
    keys: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, int] = field(default_factory=dict)  # id -> number of the array
    accepted: list[tuple[float, float]] = field(default_factory=list)  # sent, acknowledged
    computed: list[tuple[float, float]] = field(default_factory=list)  # sent, answered with the right result
    counts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    wrongs: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def acknowledge(self, task: str, kind: str, number: int, key: str | None = None, sent: float = 0.0) -> None:
        """The server said 202: from now on the task is its business."""
        with self.lock:
            if key is not None and self.keys.setdefault(key, task) != task:
                self._wrong("committed_twice", f"{key} is both {self.keys[key]} and {task}")
            if task not in self.promises:
                self.promises[task] = Promise(kind, number, sent)
                self.open[task] = None
                self.kinds[kind] += 1

    def answer(self, kind: str, number: int, output: np.ndarray | None) -> None:
        """The server said 200 with this output to one who waited, and so promised nothing further."""
        with self.lock:
            self.counts["answered"] += 1
            self.kinds[kind] += 1
            if output is None or not _right(kind, number, output):
                self._wrong("wrong", f"{kind} {number}: a wrong answer")

    def pending(self) -> list[str]:
        with self.lock:
            return list(self.open)

    def see(self, task: str, entry: Mapping[str, Any], output: np.ndarray | None) -> bool:
        """What the server says of an acknowledged task now; whether it has ended. The first end counts, and every later look must agree."""
        status = entry.get("status")
        with self.lock:
            promise = self.promises[task]
            if entry.get("code") == "unavailable":
                return False  # the store cannot be asked just now
            if "task_id" not in entry:
                self._wrong("lost", f"{promise.kind} task {task}: {entry.get('code')}")
                promise.end = promise.end or ("lost", 0, "", 0)
                self.open.pop(task, None)
                return True
            again = promise.end is not None and self.lingers and self.killed > promise.seen
            if status not in ENDED:
                if promise.end is not None and not again:
                    self._wrong("committed_twice", f"{promise.kind} task {task} ended as {promise.end}, and is {status} now")
                return False
            end = (status, int(entry["attempt"]), str(entry["finished_at"]), zlib.crc32(output.tobytes()) if output is not None else 0)
            if promise.end is None:
                promise.end, promise.seen = end, time.monotonic()
                del self.open[task]
                self._judge(task, promise, entry, output)
            elif again and promise.end != end and (promise.end[0], promise.end[3]) == (end[0], end[3]):
                self.counts["ran_again"] += 1
            elif promise.end != end:
                self._wrong("committed_twice", f"{promise.kind} task {task} ended as {promise.end}, and as {end}")
            return True

    def give_up(self, task: str, why: str) -> None:
        with self.lock:
            promise = self.promises[task]
            self._wrong("lost", f"{promise.kind} task {task}: {why}")

    def add(self, name: str, amount: int = 1) -> None:
        with self.lock:
            self.counts[name] += amount

    def refuse(self, status: int) -> None:
        with self.lock:
            self.refused[status] += 1

    def wrong(self, name: str, why: str) -> None:
        with self.lock:
            self._wrong(name, why)

    def _wrong(self, name: str, why: str) -> None:
        self.counts[name] += 1
        if len(self.wrongs) < KEPT:
            self.wrongs.append(f"{name}: {why}")

    def _judge(self, task: str, promise: Promise, entry: Mapping[str, Any], output: np.ndarray | None) -> None:
        attempt, code = int(entry["attempt"]), entry.get("code")
        if attempt > 1:
            self.counts["more_than_once"] += 1
        ends = KINDS[promise.kind].ends
        if entry["status"] == "completed" and ends == "array":
            if output is None or not _right(promise.kind, promise.number, output):
                self._wrong("wrong", f"{promise.kind} task {task}: a wrong result")
        elif code == "timeout" and promise.kind == "deadline" and (self.killed > promise.sent or not self.lingers):
            self.counts["judged_by_the_time_of_day"] += 1  # by a gateway that did not see it arrive: it has no other clock
        elif code == "worker_crashed" and attempt >= 2:
            self.counts["poisoned"] += 1  # two workers were killed under it: it fails and says so
        elif code != ends and not (code == "dependency_failed" and promise.kind == "dependent" and self.counts["poisoned"]):
            self._wrong("wrong", f"{promise.kind} task {task}: {entry['status']}, {code}: {entry.get('error')}")


def _right(kind: str, number: int, output: np.ndarray) -> bool:
    want = expected(kind, number)
    return output.shape == want.shape and bool(np.allclose(output, want, rtol=1e-6))
