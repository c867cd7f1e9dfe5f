"""A real worker process: jobs, progress, cancels, crashes, lies, and what is left of it."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from openruntime.contracts.errors import Unavailable
from openruntime.contracts.payload import Array
from openruntime.runtimes.channel import INLINE_BYTES
from openruntime.runtimes.process import Answer, WorkerOptions, WorkerProcess
from openruntime.runtimes.shared_memory import SlabPool

PLUGIN = str(Path(__file__).parents[1] / "plugin")


class Bench:
    """A worker and what was heard from it."""

    def __init__(self, backend: str = "numpy") -> None:
        self.pool = SlabPool()
        self.answers: asyncio.Queue[Answer] = asyncio.Queue()
        self.progress: list[tuple[int, float, str | None]] = []
        self.death: asyncio.Queue[str] = asyncio.Queue()
        self.worker = WorkerProcess(
            "cpu:0", backend, WorkerOptions(threads=1), pool=self.pool, on_answer=self.answers.put_nowait,
            on_progress=lambda *p: self.progress.append(p), on_death=self.death.put_nowait,
        )  # fmt: skip

    async def run(self, operation: str, out: memoryview | None = None, **parameters: Any) -> Answer:
        self.worker.run([(1, operation, parameters, out)])
        return await asyncio.wait_for(self.answers.get(), 20)

    async def dies(self, operation: str, **parameters: Any) -> str:
        self.worker.run([(1, operation, parameters, None)])
        return await asyncio.wait_for(self.death.get(), 20)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setenv("PYTHONPATH", PLUGIN, prepend=os.pathsep)
    made = Bench()
    await made.worker.start()
    yield made
    await made.worker.stop()
    assert not psutil.pid_exists(made.worker.pid or 0)


async def test_small_and_large_arrays_come_back_right(bench: Bench) -> None:
    small = Array("uint8", (3,), b"\x01\x02\x03")
    answer = await bench.run("expression", formula="x + x", x=small)
    assert bytes(answer.outputs["output"].view) == b"\x02\x04\x06"  # type: ignore[index]
    memory = bench.pool.allocate(4 * INLINE_BYTES)
    memory[:] = bytes(range(256)) * (memory.nbytes // 256)
    large = Array("uint8", (memory.nbytes,), memory)
    out = bench.pool.allocate(memory.nbytes)
    answer = await bench.run("expression", out, formula="x ^ x", x=large)
    assert answer.failure is not None or not any(answer.outputs["output"].view)  # type: ignore[index]
    answer = await bench.run("expression", out, formula="x + 1", x=large)
    assert answer.failure is None, answer.failure
    assert bytes(answer.outputs["output"].view[:4]) == b"\x01\x02\x03\x04"  # type: ignore[index]
    del memory, large, out, answer
    assert bench.pool.leased_bytes == 0


async def test_steps_report_and_stop(bench: Bench) -> None:
    bench.worker.run([(7, "rogue_steps", {"count": 1000, "pause": 0.02}, None)])
    while not bench.progress:
        await asyncio.sleep(0.01)
    assert bench.progress[0][0] == 7
    assert 0 < bench.progress[0][1] <= 1
    bench.worker.cancel(7)
    answer = await asyncio.wait_for(bench.answers.get(), 1)
    assert answer.failure is not None
    assert answer.failure[0] == "cancelled"


async def test_a_waiting_job_is_skipped_when_cancelled(bench: Bench) -> None:
    bench.worker.run([(1, "rogue_sleep", {"seconds": 0.3}, None), (2, "rogue_sleep", {"seconds": 30.0}, None)])
    bench.worker.cancel(2)
    first, second = [await asyncio.wait_for(bench.answers.get(), 3) for _ in range(2)]
    assert (first.failure, second.failure and second.failure[0]) == (None, "cancelled")


@pytest.mark.parametrize(("how", "sign"), [("segfault", "SIGSEGV"), ("abort", "SIGABRT"), ("kill", "SIGKILL"), ("exit", "status 7")])
async def test_a_crash_is_told_with_its_signal_and_last_words(bench: Bench, how: str, sign: str) -> None:
    reason = await bench.dies("rogue_crash", how=how)
    assert sign in reason
    assert "these are my last words" in reason or how == "segfault", reason


@pytest.mark.parametrize(("how", "sign"), [
    ("close", "ran on"), ("shut", "ran on"), ("rubbish", "rubbish"), ("endless", "a frame of"), ("stranger", "rubbish"), ("short", "4 bytes"),
    ("outside", "outside the memory"), ("negative", "the shape [-1000]"),
    ("none", "number 0 of 0"), ("backwards", "from 2.0 to 1.0"), ("never", "from 1.0 to 2.0"),
])  # fmt: skip
async def test_a_worker_that_breaks_its_channel_is_ended(bench: Bench, how: str, sign: str) -> None:
    assert sign in await bench.dies("rogue_channel", how=how)


@pytest.mark.parametrize(("how", "code", "words"), [
    ("raise", "operation_failed", "this went wrong"), ("system_exit", "operation_failed", "SystemExit: 3"), ("memory", "out_of_memory", "no room"),
])  # fmt: skip
async def test_what_an_operation_raises_fails_its_job_only(bench: Bench, how: str, code: str, words: str) -> None:
    answer = await bench.run("rogue_crash", how=how)
    assert answer.failure is not None
    assert answer.failure[0] == code
    assert words in answer.failure[1]
    assert "Traceback" not in answer.failure[1]
    assert (await bench.run("rogue_sleep", seconds=0.0)).failure is None


async def test_more_output_than_declared_is_refused(bench: Bench) -> None:
    answer = await bench.run("rogue_liar", elements=1_000_000)
    assert answer.failure is not None
    assert "declared" in answer.failure[1]


async def test_printing_harms_nothing(bench: Bench) -> None:
    answer = await bench.run("rogue_noise", megabytes=20)
    assert answer.failure is None
    assert len(bench.worker.last_words()) <= 5000


async def test_kill_ends_native_code_at_once(bench: Bench) -> None:
    bench.worker.run([(1, "rogue_sleep", {"seconds": 60.0}, None)])
    await asyncio.sleep(0.1)
    bench.worker.kill("a test wanted it")
    assert await asyncio.wait_for(bench.death.get(), 2) == "a test wanted it"


async def test_signals_of_a_terminal_do_not_end_it(bench: Bench) -> None:
    import signal

    for sig in (signal.SIGINT, signal.SIGTERM):
        os.kill(bench.worker.pid or 0, sig)
    assert (await bench.run("rogue_sleep", seconds=0.0)).failure is None


async def test_a_backend_that_does_not_start_says_why() -> None:
    with pytest.raises(Unavailable, match="nosuch"):
        await Bench("nosuch").worker.start()
