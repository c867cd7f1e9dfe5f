"""What must not lose a task: a disk that fails for a moment, a worker that is ended, a clock that is set, defects of our own."""

import asyncio
import contextlib
import mmap
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from errno import EIO, EMFILE, ENOMEM
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from openruntime.contracts.errors import TaskTimeout, WorkerCrashed
from openruntime.contracts.models import TaskRequest, TaskStatus
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Task
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime, running
from openruntime.stores import blobs
from openruntime.stores.database import NAME
from openruntime.tasks.slots import SlotState

PLUGIN = str(Path(__file__).parents[1] / "plugin")


@pytest.fixture
async def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    monkeypatch.setenv("PYTHONPATH", PLUGIN, prepend=os.pathsep)
    monkeypatch.syspath_prepend(PLUGIN)
    async with running(Settings.load({"store": "sqlite", "data_dir": str(tmp_path), "threads": 1, "slots": 1})) as made:
        yield made


async def several(runtime: Runtime) -> list[Task]:
    """Tiny tasks that are claimed together once the device is resumed; the inputs of the second rest on disk."""
    runtime.devices.set_state("cpu:0", "draining")
    sizes = 10, 200_000, 10
    return [
        await runtime.tasks.submit(TaskRequest(operation="sum", parameters={}), {"x": Array("float64", (size,), bytes(8 * size))}) for size in sizes
    ]


async def all_completed(runtime: Runtime, tasks: list[Task]) -> None:
    runtime.devices.set_state("cpu:0", "ready")
    for task in tasks:
        assert await runtime.tasks.wait(task, 10), task.status
        assert task.status is TaskStatus.COMPLETED, task.failure
    after = await runtime.tasks.submit(TaskRequest(operation="sum", parameters={"x": [2.0]}))
    assert await runtime.tasks.wait(after, 10), "the slot has room"


def once(function: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """The function, but the first call raises."""
    errors = [error]

    def called(*arguments: Any, **named: Any) -> Any:
        if errors:
            raise errors.pop()
        return function(*arguments, **named)

    return called


@pytest.mark.parametrize("number", [EMFILE, EIO, ENOMEM])
async def test_a_disk_that_fails_for_a_moment_loses_nothing(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    tasks = await several(runtime)
    broken = SimpleNamespace(mmap=once(mmap.mmap, OSError(number, os.strerror(number))), ACCESS_READ=mmap.ACCESS_READ)
    monkeypatch.setattr(blobs, "mmap", broken)
    await all_completed(runtime, tasks)


async def test_a_defect_while_tasks_are_handed_out_loses_none(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = await several(runtime)
    placement = runtime.executor._placement
    monkeypatch.setattr(placement, "claimed", once(placement.claimed, TypeError("a defect")))
    await all_completed(runtime, tasks)


async def test_a_defect_while_inputs_are_read_fails_that_task_alone(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = await several(runtime)
    monkeypatch.setattr(runtime.store._spill, "filled", once(runtime.store._spill.filled, TypeError("a defect")))  # type: ignore[attr-defined]
    broken = tasks.pop(1)
    await all_completed(runtime, tasks)
    assert await runtime.tasks.wait(broken, 10)
    assert broken.failure is not None
    assert broken.failure.code == "operation_failed"


async def test_a_worker_that_is_replaced_while_inputs_are_read_gets_no_task(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = await several(runtime)
    workers, load = runtime.executor.workers, runtime.store.load
    slot = runtime.executor.slots[0]
    first = slot.worker

    async def meanwhile(task: Task) -> dict[str, Any]:
        if slot.worker is first and slot.state is SlotState.READY:
            with monkeypatch.context() as patched:
                patched.setattr(workers, "_growth", -(1 << 60))  # it has kept more than that
                workers._judge(slot)
        return await load(task)

    monkeypatch.setattr(runtime.store, "load", meanwhile)
    await all_completed(runtime, tasks)
    assert slot.worker is not first


async def test_what_a_retired_worker_holds_goes_to_another(runtime: Runtime) -> None:
    slot = runtime.executor.slots[0]
    task = await runtime.tasks.submit(TaskRequest(operation="rogue_sleep", parameters={"seconds": 0.3}))
    while task.status is not TaskStatus.RUNNING:
        assert not await runtime.tasks.wait(task, 0.01)
    slot.state = SlotState.STARTING  # as those do who retire one
    await runtime.executor.workers._retire(slot)
    assert await runtime.tasks.wait(task, 10)
    assert (task.status, task.life.deaths) == (TaskStatus.COMPLETED, 1)


async def test_a_defect_while_learning_loses_no_task(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.cost, "record", once(runtime.cost.record, ZeroDivisionError("a defect")))
    await all_completed(runtime, await several(runtime))


async def test_a_worker_that_says_it_shared_with_nobody_is_ended(runtime: Runtime) -> None:
    task = await runtime.tasks.submit(TaskRequest(operation="rogue_channel", parameters={"how": "none"}))
    assert await runtime.tasks.wait(task, 20)
    with pytest.raises(WorkerCrashed, match="number 0 of 0"):
        await runtime.tasks.result(task.id)


@pytest.mark.parametrize("step", [7200.0, -7200.0])
async def test_a_deadline_does_not_follow_a_clock_that_is_set(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    runtime.devices.set_state("cpu:0", "draining")
    patient = await runtime.tasks.submit(TaskRequest(operation="sum", parameters={"x": [1.0]}, timeout=60))
    hasty = await runtime.tasks.submit(TaskRequest(operation="sum", parameters={"x": [3.0]}, timeout=0.3))
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + step)
    assert patient.left(time.monotonic()) == pytest.approx(60, abs=5)
    assert await runtime.tasks.wait(hasty, 5)
    with pytest.raises(TaskTimeout):
        await runtime.tasks.result(hasty.id)
    await all_completed(runtime, [patient])


async def test_after_a_restart_a_deadline_is_judged_by_the_time_of_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load({"store": "sqlite", "data_dir": str(tmp_path), "threads": 1, "slots": 1})
    async with running(settings) as runtime:
        runtime.devices.set_state("cpu:0", "draining")
        ids = [(await runtime.tasks.submit(TaskRequest(operation="sum", parameters={"x": [1.0]}, timeout=t))).id for t in (60.0, 7200.0)]
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 3600)
    monkeypatch.setattr("openruntime.stores.codec.time", time.time)
    async with running(settings) as runtime:
        late, early = [await runtime.tasks.status(name) for name in ids]
        await all_completed(runtime, [early])
        assert late.failure is not None
        assert late.failure.code == "timeout"


async def test_an_end_that_might_be_another_is_on_disk_before_it_is_shown(runtime: Runtime, tmp_path: Path) -> None:
    """Each is looked for on disk at the moment at which it is told; what is a function of its parameters does not wait for the disk."""
    found: dict[str, str | None] = {}
    ended = runtime.outcomes._ends._on_end

    def told(task: Task) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as connection:
            row = connection.execute("SELECT status FROM tasks WHERE id = ?", (task.id,)).fetchone()
        found[task.id] = row and row[0]
        ended(task)

    runtime.outcomes._ends._on_end = told
    asked = [("sum", {"x": [1.0]}), ("rogue_spin", {"seconds": 0.0}), ("rogue_crash", {"how": "raise"}), ("rogue_dice", {"elements": 100_000})]
    tasks = [await runtime.tasks.submit(TaskRequest(operation=name, parameters=parameters)) for name, parameters in asked]
    waited = await runtime.tasks.submit(TaskRequest(operation="rogue_spin", parameters={"seconds": 0.0}), promised=False)
    for task in (*tasks, waited):
        assert await runtime.tasks.wait(task, 10)
    assert [found[task.id] for task in tasks] == [None, "completed", "failed", "completed"]
    assert found[waited.id] is None, "nobody was promised it"
    outputs = (await runtime.tasks.result(tasks[3].id)).outputs
    assert outputs is not None
    assert outputs["output"].nbytes == 800_000
    assert len((await runtime.tasks.list())[0]) == 5, "each once"


async def test_until_its_end_is_on_disk_a_task_runs_and_can_be_cancelled(runtime: Runtime) -> None:
    let, disk = threading.Event(), runtime.store._disk  # type: ignore[attr-defined]
    shown, cancelled = [await runtime.tasks.submit(TaskRequest(operation="rogue_spin", parameters={"seconds": 0.2})) for _ in range(2)]
    busy = asyncio.create_task(disk.writer.job(lambda connection: let.wait(10)))
    assert not await runtime.tasks.wait(cancelled, 0.8)
    assert [(await runtime.tasks.status(task.id)).status for task in (shown, cancelled)] == [TaskStatus.RUNNING] * 2
    after = await runtime.tasks.submit(TaskRequest(operation="sum", parameters={"x": [1.0]}), promised=False)
    assert await runtime.tasks.wait(after, 5), "the pump goes on"
    cancelling = asyncio.create_task(runtime.tasks.cancel(cancelled.id))
    await asyncio.sleep(0)
    let.set()
    await asyncio.gather(busy, cancelling)
    for task in (shown, cancelled):
        assert await runtime.tasks.wait(task, 5)
    assert (shown.status, cancelled.status, cancelled.outputs) == (TaskStatus.COMPLETED, TaskStatus.CANCELLED, None)
