"""Alike tasks run as one in real workers, and each is answered for itself."""

import asyncio
import os
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

import pytest

from openruntime.contracts.models import TaskRequest, TaskStatus
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Task
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime, running
from openruntime.runtimes.process import Answer, WorkerOptions, WorkerProcess
from openruntime.runtimes.shared_memory import SlabPool

PLUGIN = str(Path(__file__).parents[1] / "plugin")


def floats(*values: float) -> Array:
    return Array("float64", (len(values),), array("d", values).tobytes())


def values(outputs: dict[str, Array] | None) -> list[float]:
    assert outputs is not None
    found: list[float] = outputs["output"].view.cast("d").tolist()
    return found


class Bench:
    """One worker; `run` sends jobs that are alike but for `x` in one message, as one does for whom they wait."""

    def __init__(self, **options: int) -> None:
        self.pool = SlabPool()
        self.answers: asyncio.Queue[Answer] = asyncio.Queue()
        self.begun: list[int] = []
        self.death: asyncio.Queue[str] = asyncio.Queue()
        self.worker = WorkerProcess(
            "cpu:0", "numpy", WorkerOptions(threads=1, **options), pool=self.pool, on_answer=self.answers.put_nowait,
            on_progress=lambda job, *_: self.begun.append(job), on_death=self.death.put_nowait,
        )  # fmt: skip
        self._jobs = 0

    async def run(self, operation: str, given: list[Array], *, out: int = 0, alone: bool = False, **scalars: object) -> list[Answer]:
        """The answers in the order of `given`; `out`: bytes of shared memory that each gets for its outputs."""
        first, self._jobs = self._jobs + 1, self._jobs + len(given)
        jobs = [(first + i, operation, {"x": x, **scalars}, self.pool.allocate(out) if out else None) for i, x in enumerate(given)]
        assert not self.worker.run(jobs, alone=[job[0] for job in jobs] if alone else [])
        answers = [await asyncio.wait_for(self.answers.get(), 20) for _ in given]
        assert [answer.job for answer in answers] == [job[0] for job in jobs]
        return answers

    async def settled(self, operation: str, given: list[Array], *, out: int = 0) -> list[Answer]:
        """As `run`, when it is known what pays."""
        for _ in range(50):
            answers = await self.run(operation, given, out=out)
            if max((answer.batch or (1, 1))[0] for answer in answers) == len(given):
                return answers
        raise AssertionError(f"{operation} was never joined: {[answer.batch for answer in answers]}")


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setenv("PYTHONPATH", PLUGIN, prepend=os.pathsep)
    made = Bench()
    await made.worker.start()
    yield made
    await made.worker.stop()


async def test_alike_jobs_run_as_one_and_each_has_its_own_answer(bench: Bench) -> None:
    answers = await bench.settled("rogue_mine", [floats(i, i + 0.5) for i in range(8)])
    assert [values(answer.outputs) for answer in answers] == [[i, i + 0.5] for i in range(8)]
    assert [answer.batch for answer in answers] == [(8, i) for i in range(1, 9)]
    assert len({(answer.started, answer.finished, answer.seconds) for answer in answers}) == 1
    assert answers[0].seconds < (answers[0].finished - answers[0].started) / 4, "its share"
    assert bench.begun[-7:] == [answer.job for answer in answers[1:]], "the gateway has heard which run"


async def test_large_outputs_go_where_they_are_wanted(bench: Bench) -> None:
    x = floats(*map(float, range(100, 10_100)))
    answers = await bench.settled("rogue_mine", [x, x], out=80_000)
    assert all(values(answer.outputs) == list(range(100, 10_100)) for answer in answers)


async def test_a_bad_member_fails_alone(bench: Bench) -> None:
    await bench.settled("rogue_mine", [floats(1)] * 8)
    answers = await bench.run("rogue_mine", [floats(14 if i == 3 else i) for i in range(8)])
    assert [values(answer.outputs) for i, answer in enumerate(answers) if i != 3] == [[i] for i in range(8) if i != 3]
    assert answers[3].failure == ("operation_failed", "RuntimeError: there is a 14")
    assert {answer.batch for answer in answers} == {None}


async def test_a_singular_matrix_among_good_ones_says_what_it_says_alone(bench: Bench) -> None:
    good, bad = (Array("float64", (2, 2), array("d", numbers).tobytes()) for numbers in ([2, 0, 0, 4], [1, 2, 2, 4]))
    for _ in range(5):
        answers = await bench.run("inv", [good, bad, good, good])
        assert [values(answers[i].outputs) for i in (0, 2, 3)] == [[0.5, 0, 0, 0.25]] * 3
        assert answers[1].failure is not None
        assert "singular" in answers[1].failure[1]


async def test_a_cancelled_member_is_left_out_and_the_others_run(bench: Bench) -> None:
    await bench.settled("rogue_mine", [floats(1)] * 4)
    first = bench._jobs + 1
    bench.worker.run([(first, "rogue_sleep", {"seconds": 0.2}, None), *((first + i, "rogue_mine", {"x": floats(i)}, None) for i in (1, 2, 3, 4))])
    bench.worker.cancel(first + 2)
    answers = [await asyncio.wait_for(bench.answers.get(), 5) for _ in range(5)]
    assert [answer.failure and answer.failure[0] for answer in answers] == [None, None, "cancelled", None, None]


async def test_those_that_must_run_by_themselves_do(bench: Bench) -> None:
    await bench.settled("rogue_mine", [floats(1)] * 4)
    assert {answer.batch for answer in await bench.run("rogue_mine", [floats(1)] * 4, alone=True)} == {None}


async def test_a_setting_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PLUGIN, prepend=os.pathsep)
    single = Bench(batch=1)
    await single.worker.start()
    for _ in range(5):
        assert {answer.batch for answer in await single.run("rogue_mine", [floats(1)] * 8)} == {None}
    await single.worker.stop()


# -- through the executor -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def runtime(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    monkeypatch.setenv("PYTHONPATH", PLUGIN, prepend=os.pathsep)
    monkeypatch.syspath_prepend(PLUGIN)
    async with running(Settings.load({"store": "memory", "threads": 1, "slots": 1})) as made:
        yield made


async def submitted(runtime: Runtime, numbers: list[float]) -> list[Task]:
    """Alike tasks that wait together, ended."""
    found = await runtime.tasks.submit_many([(TaskRequest(operation="rogue_mine"), {"x": floats(number)}) for number in numbers])
    tasks = [task for task in found if isinstance(task, Task)]
    assert len(tasks) == len(numbers)
    for task in tasks:
        assert await runtime.tasks.wait(task, 30)
    return tasks


async def test_explain_and_metrics_tell_of_the_batch(runtime: Runtime) -> None:
    tasks = [task for _ in range(10) for task in await submitted(runtime, [float(i) for i in range(64) if i not in (13, 14)])]
    assert {task.status for task in tasks} == {TaskStatus.COMPLETED}
    batched = [(task, task.timings.batch) for task in tasks if task.timings and task.timings.batch]
    assert batched
    for task, batch in batched[-40:]:
        told = await runtime.tasks.explain(task.id)
        assert told["batch"] == {"size": batch[0], "position": batch[1]}
        assert 0 < told["compute"] <= told["actual"]
        assert task.timings is not None
        assert told["actual"] == pytest.approx((task.timings.finished - task.timings.started) / batch[0])
        stages = told["stages"]
        assert sum(stages.values()) == pytest.approx(task.timings.received - task.timings.submitted, abs=1e-6)
        assert stages["batch"] > stages["compute"]
    alone = next(task for task in tasks if task.timings and not task.timings.batch)
    assert (await runtime.tasks.explain(alone.id))["batch"] is None
    assert f"openruntime_tasks_batched_total {len(batched)}" in runtime.metrics.text()
    whole = median(task.timings.finished - task.timings.started for task, _ in batched[-15:] if task.timings)
    assert runtime.cost.predict(batched[0][0].call, "cpu:0", "numpy") < whole / 2, "what one costs is its share"


async def test_a_member_that_kills_the_worker_is_found_and_the_others_are_done(runtime: Runtime) -> None:
    for _ in range(5):
        await submitted(runtime, [1.0] * 32)
    tasks = await submitted(runtime, [13.0 if i == 20 else float(i % 10) for i in range(32)])
    assert [i for i, task in enumerate(tasks) if task.status is not TaskStatus.COMPLETED] == [20]
    assert tasks[20].failure is not None
    assert (tasks[20].failure.code, tasks[20].life.deaths) == ("worker_crashed", 2)
    assert max(task.life.deaths for i, task in enumerate(tasks) if i != 20) <= 1


async def test_a_member_can_be_cancelled(runtime: Runtime) -> None:
    for _ in range(5):
        await submitted(runtime, [1.0] * 32)
    found = await runtime.tasks.submit_many([(TaskRequest(operation="rogue_mine"), {"x": floats(i % 10)}) for i in range(64)])
    tasks = [task for task in found if isinstance(task, Task)]
    await asyncio.sleep(0)
    cancelled = [await runtime.tasks.cancel(task.id) for task in tasks[::7]]
    for task in tasks:
        assert await runtime.tasks.wait(task, 10)
        assert task.status in (TaskStatus.COMPLETED, TaskStatus.CANCELLED)
    assert all(task.status is TaskStatus.COMPLETED for i, task in enumerate(tasks) if i % 7), [task.failure for task in tasks]
    assert all(not task.outputs for task in cancelled if task.status is TaskStatus.CANCELLED)
