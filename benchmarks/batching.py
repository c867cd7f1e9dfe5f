"""A thousand alike small tasks, run as one where that pays and one by one, on every backend that drives something here.

    python -m benchmarks.batching [--rounds N] [--backend NAME ...] [--tasks N]

Twice each: in the worker alone, which is sent up to 64 tasks ahead as the gateway does it, and through a whole runtime (queue, store in
memory, executor, worker) in this process. The first run is not counted: libraries are imported, kernels compiled, and it is found out what
pays. The two ways take turns. Every answer of every run is compared with NumPy's.
"""

import argparse
import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.report import Notebook, number
from openruntime.contracts.models import TaskRequest
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Task
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime, running
from openruntime.runtimes.process import Answer
from openruntime.tasks.slots import Slot

ROOT = Path(__file__).parents[1]
AHEAD = 64  # tasks that a worker is sent ahead, as the setting `outstanding` has it
PATIENCE = 120.0  # seconds

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
            self._heard.clear()
            await asyncio.wait_for(self._heard.wait(), PATIENCE)
            if self._reason is not None:
                raise RuntimeError(self._reason)
        took, after = perf_counter() - start, process.cpu_times()
        answers = [self._answers[i] for i in range(len(work.calls))]
        failed = next((answer.failure for answer in answers if answer.failure), None)
        if failed is not None:
            raise RuntimeError(f"{work.kind.name}: {failed[1]}")
        _check(work, [answer.outputs for answer in answers])
        cpu = after.user + after.system - before.user - before.system
        each = 1e6 / len(work.calls)
        size = mean((answer.batch or (1, 1))[0] for answer in answers)
        return {"µs a task": took * each, "µs of the worker's processor a task": cpu * each, "tasks a batch": size}


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


async def measure(notebook: Notebook, backends: Sequence[str], rounds: int, tasks: int) -> None:
    works = [_work(kind, tasks) for kind in KINDS]
    flags = {"store": "memory", "cache": False, "threads": 1, "slots": 1, "log_level": "error"}
    async with running(Settings.load(flags | {"batch": 1})) as alone, running(Settings.load(flags)) as together:
        runtimes = {"alone": alone, "together": together}
        for runtime in runtimes.values():
            await next(task for task in runtime._background if task.get_name() == "backends")
        for slot in together.executor.slots:
            if not backends or slot.backend in backends:
                await _one_place(notebook, f"{slot.device.id}/{slot.backend}", runtimes, works, rounds)


async def _one_place(notebook: Notebook, place: str, runtimes: dict[str, Runtime], works: Sequence[Work], rounds: int) -> None:
    slots = {way: next(s for s in runtime.executor.slots if f"{s.device.id}/{s.backend}" == place) for way, runtime in runtimes.items()}
    channels = {way: Channel(slot) for way, slot in slots.items()}
    try:
        for channel in channels.values():
            able = await channel.start()
        for work in (work for work in works if work.kind.operation in able):
            for turn in range(rounds + 1):
                for way, channel in channels.items():
                    found = await channel.run(work)
                    for name, value in found.items() if turn else ():
                        notebook.add(f"{work.kind.name}, worker", name, f"{place} {way}", value)
    finally:
        for channel in channels.values():
            await channel.stop()
    for work in (work for work in works if work.kind.operation in able):
        for turn in range(rounds + 1):
            for way, runtime in runtimes.items():
                found = await _through(runtime, place, work)
                for name, value in found.items() if turn else ():
                    notebook.add(f"{work.kind.name}, runtime", name, f"{place} {way}", value)


def show(notebook: Notebook) -> None:
    """Both ways beside each other."""
    table = Table("alike tasks", "where", "alone, µs a task", "together, µs a task", "ratio (min to max)", "tasks a batch", "worker's CPU, ratio")
    for work, measure, subject in list(notebook.samples):
        place, _, way = subject.rpartition(" ")
        if measure != "µs a task" or way != "alone":
            continue
        other = f"{place} together"
        ratios = notebook.ratios(work, measure, subject, other)
        size = median(notebook.samples[work, "tasks a batch", other])
        cpu = notebook.ratios(work, "µs of the worker's processor a task", subject, other) if work.endswith("worker") else []
        table.add_row(
            work, place, number(median(notebook.samples[work, measure, subject])), number(median(notebook.samples[work, measure, other])),
            f"{number(median(ratios))} ({number(min(ratios))} to {number(max(ratios))})", number(size),
            number(median(cpu)) if cpu else "",
        )  # fmt: skip
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--backend", action="append", help="only these; by default all that drive something here")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/batching.json")
    options = parser.parse_args()
    notebook = Notebook()
    asyncio.run(measure(notebook, options.backend or [], options.rounds, options.tasks))
    notebook.save(options.out)
    show(notebook)


if __name__ == "__main__":
    main()
