"""A thousand alike small tasks, run as one where that pays and one by one, on every backend that drives something here; and what a lone task
waits for company.

    python -m benchmarks.batching [--rounds 5] [--seconds 120] [--backend NAME ...] [--tasks 1000]

Twice each: in the worker alone, which is sent up to 64 tasks ahead as the gateway does it, and through a whole runtime (queue, store in
memory, executor, worker) in this process. The first run is not counted: libraries are imported, kernels compiled, and it is found out what
pays. The two ways take turns. Every answer of every run is compared with NumPy's. What has used its part of `--seconds` stops after three rounds.

A lone task is sent twice, each time once the one before was answered: just after a burst of 16, when others might come again, and after another
lone one. What it takes in a worker that joins is compared with the next like it in a worker that does not.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import mean, median, quantiles
from time import perf_counter
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.report import Notebook, machine, number, spread, versions
from openruntime.contracts.models import TaskRequest
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Task
from openruntime.contracts.registry import BACKENDS
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime, running
from openruntime.runtimes.process import Answer
from openruntime.tasks.slots import Slot

ROOT = Path(__file__).parents[1]
AHEAD = 64  # tasks that a worker is sent ahead, as the setting `outstanding` has it
PATIENCE = 120.0  # seconds
LEAST = 3  # rounds
BURST, LONE = 16, 40  # tasks of a burst, lone ones of each kind after it
LONGEST = 1.0  # ms that a lone task may be delayed
LIBRARIES = ("torch", "jax", "mlx", "pyopencl", "wgpu", "cupy-cuda13x", "cupy-cuda12x")
WAYS = ("alone", "together")
CPU = "µs of the worker's processor a task"

_random = np.random.default_rng(4)


@dataclass(frozen=True)
class Kind:
    """Alike calls. `make` draws one's arrays; `expected` is NumPy's answer."""

    name: str
    operation: str
    scalars: dict[str, Any]
    make: Callable[[], dict[str, Any]]
    expected: Callable[..., Any]


def _draw(*shape: int, dtype: str = "float32") -> Any:
    return _random.standard_normal(shape).astype(dtype)


def _regular(n: int) -> Any:
    return _draw(n, n) + n * np.eye(n, dtype="float32")


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


KINDS = (
    Kind("expression, 1,000", "expression", {"formula": "2*x + 1"}, lambda: {"x": _draw(1000)}, lambda x: 2 * x + 1),
    Kind("sum, 1,000", "sum", {}, lambda: {"x": _draw(1000)}, lambda x: x.sum()),
    Kind("softmax, 16 x 64", "softmax", {}, lambda: {"x": _draw(16, 64)}, _softmax),
    Kind("matmul, 32 x 32", "matmul", {}, lambda: {"a": _draw(32, 32), "b": _draw(32, 32)}, lambda a, b: a @ b),
    Kind("matmul, 128 x 128", "matmul", {}, lambda: {"a": _draw(128, 128), "b": _draw(128, 128)}, lambda a, b: a @ b),
    Kind("solve, 16 x 16", "solve", {}, lambda: {"a": _regular(16), "b": _draw(16)}, np.linalg.solve),
    Kind("fft, 1,024", "fft", {}, lambda: {"x": _draw(1024)}, lambda x: np.fft.fft(x).astype("complex64")),
)


@dataclass(frozen=True)
class Work:
    """A kind's calls and what must come of them."""

    kind: Kind
    calls: list[dict[str, Array]]
    wanted: list[Any]


def _work(kind: Kind, tasks: int) -> Work:
    given = [kind.make() for _ in range(tasks)]
    calls = [{name: Array(x.dtype.name, x.shape, x.tobytes()) for name, x in one.items()} for one in given]
    return Work(kind, calls, [kind.expected(**one) for one in given])


def _check(work: Work, outputs: Sequence[dict[str, Array] | None]) -> None:
    for found, wanted in zip(outputs, work.wanted, strict=True):
        assert found is not None
        array = found["output"]
        got = np.frombuffer(array.view, array.dtype).reshape(array.shape)
        np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=2e-4 * max(1.0, float(np.abs(wanted).max())), err_msg=work.kind.name)


class Channel:
    """A worker of its own for a slot's device and backend."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._answers: dict[int, Answer] = {}
        self._heard = asyncio.Event()
        self._reason: str | None = None

    def _answered(self, answer: Answer) -> None:
        self._answers[answer.job] = answer
        self._heard.set()

    def _died(self, reason: str) -> None:
        self._reason = reason
        self._heard.set()

    async def start(self) -> frozenset[str]:
        """The operations that it runs."""
        self._worker = await self._slot.runtime.start_worker(
            self._slot.device, self._slot.backend, on_answer=self._answered, on_progress=lambda *_: None, on_death=self._died
        )
        assert self._worker.abilities is not None
        return self._worker.abilities.operations

    async def stop(self) -> None:
        await self._worker.stop()

    async def _hear(self) -> None:
        self._heard.clear()
        await asyncio.wait_for(self._heard.wait(), PATIENCE)
        if self._reason is not None:
            raise RuntimeError(self._reason)

    async def ask(self, work: Work, count: int) -> float:
        """Milliseconds until so many calls, sent together, are answered."""
        self._answers.clear()
        start = perf_counter()
        unsent = self._worker.run([(i, work.kind.operation, {**work.calls[i], **work.kind.scalars}, None) for i in range(count)])
        assert not unsent, unsent
        while len(self._answers) < count:
            await self._hear()
        return (perf_counter() - start) * 1e3

    async def run(self, work: Work) -> dict[str, float]:
        """Microseconds a task, of the worker's processor too, and the mean size of the batch that a task was in."""
        self._answers.clear()
        process = psutil.Process(self._worker.pid)
        before, sent, start = process.cpu_times(), 0, perf_counter()
        while len(self._answers) < len(work.calls):
            until = min(len(work.calls), len(self._answers) + AHEAD)
            if until > sent:
                jobs = [(i, work.kind.operation, {**work.calls[i], **work.kind.scalars}, None) for i in range(sent, until)]
                unsent = self._worker.run(jobs)
                assert not unsent, unsent
                sent = until
            await self._hear()
        took, after = perf_counter() - start, process.cpu_times()
        answers = [self._answers[i] for i in range(len(work.calls))]
        failed = next((answer.failure for answer in answers if answer.failure), None)
        if failed is not None:
            raise RuntimeError(f"{work.kind.name}: {failed[1]}")
        _check(work, [answer.outputs for answer in answers])
        cpu = round(after.user + after.system - before.user - before.system, 3)  # the system counts in hundredths
        each = 1e6 / len(work.calls)
        size = mean((answer.batch or (1, 1))[0] for answer in answers)
        return {"µs a task": took * each, CPU: cpu * each, "tasks a batch": size}


async def _through(runtime: Runtime, where: str, work: Work) -> dict[str, float]:
    """Microseconds a task of a whole runtime."""
    requests = [(TaskRequest(operation=work.kind.operation, parameters=work.kind.scalars, device_preference=where), call) for call in work.calls]
    start = perf_counter()
    found = await runtime.tasks.submit_many(requests, promised=False)
    tasks = [task for task in found if isinstance(task, Task)]
    if len(tasks) < len(found):
        raise RuntimeError(f"{work.kind.name}: {next(error for error in found if not isinstance(error, Task))}")
    for task in tasks:
        assert await runtime.tasks.wait(task, PATIENCE), task
    took = perf_counter() - start
    if (failure := next((task.failure for task in tasks if task.failure), None)) is not None:
        raise RuntimeError(f"{work.kind.name}: {failure.message}")
    _check(work, [task.outputs for task in tasks])
    return {"µs a task": took * 1e6 / len(tasks), "tasks a batch": mean((task.timings.batch or (1, 1))[0] if task.timings else 1 for task in tasks)}


async def measure(notebook: Notebook, backends: Sequence[str], rounds: int, seconds: float, tasks: int) -> list[dict[str, Any]]:
    """Fills the notebook; what lone tasks waited, by place and kind."""
    works = [_work(kind, tasks) for kind in KINDS]
    lone: list[dict[str, Any]] = []
    flags = {"store": "memory", "cache": False, "calibrate": False, "threads": 1, "slots": 1, "log_level": "error"}
    async with running(Settings.load(flags | {"batch": 1})) as alone, running(Settings.load(flags)) as together:
        runtimes = {"alone": alone, "together": together}
        for runtime in runtimes.values():
            await next(task for task in runtime._background if task.get_name() == "backends")
        slots = [slot for slot in together.executor.slots if slot.backend in (backends or BACKENDS.names())]
        part = seconds / len(slots) / len(works) / 2
        for slot in slots:
            lone += await _one_place(notebook, f"{slot.device.id}/{slot.backend}", runtimes, works, rounds, part)
    return lone


async def _one_place(
    notebook: Notebook, place: str, runtimes: dict[str, Runtime], works: Sequence[Work], rounds: int, part: float
) -> list[dict[str, Any]]:
    slots = {way: next(s for s in runtime.executor.slots if f"{s.device.id}/{s.backend}" == place) for way, runtime in runtimes.items()}
    channels = {way: Channel(slot) for way, slot in slots.items()}
    lone = []
    try:
        for channel in channels.values():
            able = await channel.start()
        works = [work for work in works if work.kind.operation in able]
        for work in works:
            await _in_turn(
                notebook, f"{work.kind.name}, worker", place, {way: partial(channel.run, work) for way, channel in channels.items()}, rounds, part
            )
            lone.append({"place": place, "alike tasks": work.kind.name, **await _lone(channels, work)})
    finally:
        for channel in channels.values():
            await channel.stop()
    for work in works:
        runs = {way: partial(_through, runtime, place, work) for way, runtime in runtimes.items()}
        await _in_turn(notebook, f"{work.kind.name}, runtime", place, runs, rounds, part)
    return lone


async def _in_turn(
    notebook: Notebook, work: str, place: str, runs: Mapping[str, Callable[[], Awaitable[dict[str, float]]]], rounds: int, part: float
) -> None:
    began = perf_counter()
    for turn in range(rounds + 1):
        for way, run in runs.items():
            for name, value in (await run()).items():
                if turn:
                    notebook.add(work, name, f"{place} {way}", value)
        if turn >= LEAST and perf_counter() - began > part:
            break


async def _lone(channels: dict[str, Channel], work: Work) -> dict[str, Any]:
    """Milliseconds of a lone task after a burst, and after another lone one: in the worker that joins, the other, and the difference pair by pair."""
    took: dict[str, dict[str, list[float]]] = {when: {way: [] for way in channels} for when in ("after a burst", "after a lone one")}
    for _ in range(LONE):
        for way, channel in channels.items():
            await channel.ask(work, BURST)
            for times in took.values():
                times[way].append(await channel.ask(work, 1))
    found: dict[str, Any] = {}
    for when, times in took.items():
        delays = [a - b for a, b in zip(times["together"], times["alone"], strict=True)]
        cuts = quantiles(delays, n=20)
        found[when] = {
            **{f"{way}, ms": round(median(each), 3) for way, each in times.items()},
            "delay, ms": {"median": round(median(delays), 3), "p5": round(cuts[0], 3), "p95": round(cuts[-1], 3)},
            "within": median(delays) <= LONGEST,
        }  # fmt: skip
    return found


def rows(notebook: Notebook) -> list[dict[str, Any]]:
    """Both ways beside each other."""
    found = []
    for work, measure, subject in list(notebook.samples):
        place, _, way = subject.rpartition(" ")
        if measure != "µs a task" or way != "alone":
            continue
        other = f"{place} together"
        row: dict[str, Any] = {"alike tasks": work, "place": place}
        row |= {f"{name}, µs a task": spread(notebook.samples[work, measure, f"{place} {name}"]) for name in WAYS}
        row["ratio"] = spread(notebook.ratios(work, measure, subject, other))
        row["rounds"] = len(notebook.samples[work, measure, subject])
        row["tasks a batch"] = median(notebook.samples[work, "tasks a batch", other])
        mine, theirs = (sum(notebook.samples.get((work, CPU, name), ())) for name in (subject, other))
        row["worker's CPU, ratio"] = mine / theirs if theirs else None
        found.append(row)
    return found


def show(found: dict[str, Any]) -> None:
    table = Table("alike tasks", "where", "alone, µs a task", "together, µs a task", "ratio (min to max)", "tasks a batch", "worker's CPU, ratio")
    for row in found["table"]:
        ratio, cpu = row["ratio"], row["worker's CPU, ratio"]
        table.add_row(
            row["alike tasks"], row["place"], *(number(row[f"{way}, µs a task"]["median"]) for way in WAYS),
            f"{number(ratio['median'])} ({number(ratio['min'])} to {number(ratio['max'])})", number(row["tasks a batch"]), number(cpu) if cpu else "",
        )  # fmt: skip
    Console(width=150).print(table)
    table = Table(
        "a lone task", "where", "when", "alone, ms", "together, ms", "delay, ms (p5 to p95)", title=f"delay of a lone task: goal ≤ {LONGEST:g} ms"
    )
    for row in found["lone tasks"]:
        for when in ("after a burst", "after a lone one"):
            one, delay = row[when], row[when]["delay, ms"]
            table.add_row(
                row["alike tasks"], row["place"], when, *(f"{one[f'{way}, ms']:.3f}" for way in WAYS),
                f"{delay['median']:.3f} ({delay['p5']:.3f} to {delay['p95']:.3f})",
            )  # fmt: skip
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=120.0, help="in all; three rounds are run all the same")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--backend", action="append", help="only these; by default all that drive something here")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/batching.json")
    options = parser.parse_args()
    notebook, began = Notebook(), perf_counter()
    about = machine()
    lone = asyncio.run(measure(notebook, options.backend or [], options.rounds, options.seconds, options.tasks))
    about["load_after"] = [round(value, 2) for value in os.getloadavg()]
    found = {
        "date": datetime.now(UTC).date().isoformat(), "machine": about, "versions": versions(LIBRARIES), "tasks": options.tasks,
        "seconds": round(perf_counter() - began), "table": rows(notebook), "lone tasks": lone,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    show(found)


if __name__ == "__main__":
    main()
