"""The way of a task inside one process: real store, real workers, no HTTP."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from openruntime.contracts.errors import Conflict, DependencyFailed, InvalidParameter, NotReady, OperationFailed, TaskTimeout, WorkerCrashed
from openruntime.contracts.models import TaskRequest, TaskStatus
from openruntime.contracts.payload import Array, Reference
from openruntime.contracts.records import Task
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime, running
from openruntime.tasks.slots import Slot

PLUGIN = str(Path(__file__).parents[1] / "plugin")


@pytest.fixture(params=["memory", "sqlite"])
async def runtime(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    monkeypatch.setenv("PYTHONPATH", PLUGIN, prepend=os.pathsep)
    monkeypatch.syspath_prepend(PLUGIN)
    async with running(Settings.load({"store": request.param, "data_dir": str(tmp_path), "threads": 1})) as made:
        yield made


def ask(
    operation: str, /, *, priority: int = 5, device: str | None = None, timeout: float | None = None, retries: int = 0, **parameters: object
) -> TaskRequest:
    return TaskRequest(operation=operation, parameters=parameters, priority=priority, device_preference=device, timeout=timeout, max_retries=retries)


async def test_a_task_runs_and_is_answered(runtime: Runtime) -> None:
    task = await runtime.tasks.submit(ask("sum", x=[[1.0, 2.0], [3.0, 4.0]]))
    assert await runtime.tasks.wait(task, 10)
    assert task.status is TaskStatus.COMPLETED
    outputs = (await runtime.tasks.result(task.id)).outputs
    assert outputs is not None
    assert outputs["output"].view.cast("d").tolist() == [10.0]
    assert (task.device, task.backend, task.life.attempt) == ("cpu:0", "numpy", 1)


async def test_priorities_run_first_and_ties_by_arrival(runtime: Runtime) -> None:
    blockers = [await runtime.tasks.submit(ask("rogue_sleep", seconds=0.5)) for _ in runtime.executor.slots]
    await asyncio.sleep(0.05)
    waiting = [await runtime.tasks.submit(ask("rogue_spin", priority=p, seconds=0.02)) for p in (1, 5, 10, 5, 1, 10)]
    for task in (*blockers, *waiting):
        assert await runtime.tasks.wait(task, 20)
    order = sorted(range(6), key=lambda i: waiting[i].timings.claimed)
    assert [waiting[i].priority for i in order][:2] == [10, 10]
    assert order.index(2) < order.index(5)
    assert order.index(1) < order.index(3)


async def test_a_crash_harms_its_own_task_only(runtime: Runtime) -> None:
    crash = await runtime.tasks.submit(ask("rogue_crash", how="segfault"))
    others = [await runtime.tasks.submit(ask("sum", x=[float(i)])) for i in range(20)]
    for task in (crash, *others):
        assert await runtime.tasks.wait(task, 20)
    assert [task.status for task in others] == [TaskStatus.COMPLETED] * 20
    with pytest.raises(WorkerCrashed, match="SIGSEGV"):
        await runtime.tasks.result(crash.id)
    assert crash.life.deaths == 2


async def test_a_worker_that_died_once_is_replaced_and_the_task_done(runtime: Runtime, tmp_path: Path) -> None:
    task = await runtime.tasks.submit(ask("rogue_once", path=str(tmp_path / "mark")))
    assert await runtime.tasks.wait(task, 20)
    assert (task.status, task.life.deaths, task.life.attempt) == (TaskStatus.COMPLETED, 1, 2)


async def test_own_failures_are_retried_as_often_as_asked(runtime: Runtime, tmp_path: Path) -> None:
    enough = await runtime.tasks.submit(ask("rogue_flaky", retries=2, path=str(tmp_path / "a"), failures=2))
    short = await runtime.tasks.submit(ask("rogue_flaky", retries=1, path=str(tmp_path / "b"), failures=2))
    assert await runtime.tasks.wait(enough, 10)
    assert await runtime.tasks.wait(short, 10)
    assert (enough.status, enough.life.failures) == (TaskStatus.COMPLETED, 2)
    with pytest.raises(OperationFailed, match="failure 2"):
        await runtime.tasks.result(short.id)


@pytest.mark.parametrize("operation", [
    ("rogue_sleep", {"seconds": 60.0}), ("rogue_spin", {"seconds": 60.0}), ("rogue_steps", {"count": 10_000, "pause": 0.01}),
])  # fmt: skip
async def test_cancel_frees_the_device_within_two_seconds(runtime: Runtime, operation: tuple[str, dict[str, object]]) -> None:
    tasks = [await runtime.tasks.submit(ask(operation[0], **operation[1])) for _ in runtime.executor.slots]
    while not all(task.status is TaskStatus.RUNNING for task in tasks):
        await asyncio.sleep(0.01)
    for task in tasks:
        await runtime.tasks.cancel(task.id)
    for task in tasks:
        assert await runtime.tasks.wait(task, 2)
        assert task.status is TaskStatus.CANCELLED
    after = await runtime.tasks.submit(ask("sum", x=[1.0]))
    assert await runtime.tasks.wait(after, 10)
    again = await runtime.tasks.cancel(tasks[0].id)
    assert again.status is TaskStatus.CANCELLED


async def test_a_queued_task_is_cancelled_at_once(runtime: Runtime) -> None:
    blockers = [await runtime.tasks.submit(ask("rogue_sleep", seconds=0.4)) for _ in range(len(runtime.executor.slots) + 1)]
    task = await runtime.tasks.submit(ask("rogue_sleep", seconds=60.0))
    await runtime.tasks.cancel(task.id)
    assert task.status is TaskStatus.CANCELLED
    for blocker in blockers:
        assert await runtime.tasks.wait(blocker, 10)
        assert blocker.status is TaskStatus.COMPLETED


async def _two_in_one_worker(runtime: Runtime) -> tuple[Slot, Task, Task]:
    """A short task, and one for ever behind it that its worker has begun, of which the gateway's loop has not heard."""
    first, second = [await runtime.tasks.submit(ask("rogue_sleep", seconds=seconds)) for seconds in (0.2, 600.0)]
    slot = runtime.executor.slots[0]
    while len(slot.outstanding) < 2:
        await asyncio.sleep(0)
    time.sleep(0.5)  # busy with something else
    assert second.status is TaskStatus.QUEUED
    return slot, first, second


async def test_a_cancelled_task_that_its_worker_had_begun_unheard_does_not_run_on(runtime: Runtime) -> None:
    slot, first, second = await _two_in_one_worker(runtime)
    assert slot.worker is not None
    pid = slot.worker.pid
    assert (await runtime.tasks.cancel(second.id)).status is TaskStatus.CANCELLED
    await _until(lambda: not psutil.pid_exists(pid), 2)
    assert await runtime.tasks.wait(first, 1)
    assert first.status is TaskStatus.COMPLETED


async def test_a_task_taken_back_that_its_worker_had_begun_unheard_does_not_run_on(runtime: Runtime) -> None:
    slot, first, second = await _two_in_one_worker(runtime)
    assert slot.worker is not None
    pid = slot.worker.pid
    runtime.executor._check_overstay(slot, next(iter(slot.outstanding)))
    assert slot.room(64) == 0, "the worker runs it, whatever the books say"
    await _until(lambda: not psutil.pid_exists(pid), 2)
    assert first.status is TaskStatus.COMPLETED
    await runtime.tasks.cancel(second.id)
    assert await runtime.tasks.wait(second, 2)
    assert second.status is TaskStatus.CANCELLED


async def test_a_cancel_between_a_workers_death_and_the_retry_counts(runtime: Runtime) -> None:
    task = await runtime.tasks.submit(ask("rogue_sleep", seconds=600.0))
    while task.status is not TaskStatus.RUNNING:
        await asyncio.sleep(0.01)
    slot = next(slot for slot in runtime.executor.slots if slot.head() is task)
    runtime.executor._lost(slot, slot.clear(), "a test wanted it")
    await runtime.tasks.cancel(task.id)
    assert await runtime.tasks.wait(task, 5)
    assert task.status is TaskStatus.CANCELLED


async def test_inputs_without_shared_memory_wait(runtime: Runtime) -> None:
    """They came as bytes of a body that was no slab, so that they are copied when they are sent."""
    task = runtime.tasks.submit(ask("sum"), {"x": Array("float64", (100_000,), bytes(800_000))})
    limit, runtime.pool.limit = runtime.pool.limit, 0
    waiting = await task
    assert not await runtime.tasks.wait(waiting, 0.3)
    after = await runtime.tasks.submit(ask("sum", x=[1.0]))
    assert await runtime.tasks.wait(after, 5)
    runtime.pool.limit = limit
    assert await runtime.tasks.wait(waiting, 5)
    assert waiting.status is TaskStatus.COMPLETED, waiting.failure


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_task_that_cannot_make_its_deadline_is_not_started(runtime: Runtime) -> None:
    blockers = [await runtime.tasks.submit(ask("rogue_sleep", seconds=0.5)) for _ in runtime.executor.slots]
    hopeless = await runtime.tasks.submit(ask("rogue_spin", timeout=20.0, seconds=0.0))
    for _ in range(3):
        runtime.cost.record(hopeless.call, "cpu:0", "numpy", 30.0)
    other = await runtime.tasks.submit(ask("sum", priority=1, x=[1.0]))
    for task in (*blockers, hopeless, other):
        assert await runtime.tasks.wait(task, 10)
    with pytest.raises(TaskTimeout, match="the fastest of its kind took"):
        await runtime.tasks.result(hopeless.id)
    assert hopeless.started is None
    assert other.status is TaskStatus.COMPLETED
    alone = await runtime.tasks.submit(ask("rogue_spin", timeout=20.0, seconds=0.0))
    assert await runtime.tasks.wait(alone, 10)
    assert alone.status is TaskStatus.COMPLETED, "nobody waited for the device: it was worth a try"


async def test_deadlines_cover_running_and_queueing(runtime: Runtime) -> None:
    running_late = [await runtime.tasks.submit(ask("rogue_sleep", timeout=0.3, seconds=60.0)) for _ in runtime.executor.slots]
    queued_late = await runtime.tasks.submit(ask("rogue_sleep", priority=1, timeout=0.2, seconds=0.0))
    for task in (*running_late, queued_late):
        await runtime.tasks.wait(task, 3)
        with pytest.raises(TaskTimeout):
            await runtime.tasks.result(task.id)
    after = await runtime.tasks.submit(ask("sum", x=[1.0]))
    assert await runtime.tasks.wait(after, 5)


async def test_a_task_uses_anothers_result_before_it_exists(runtime: Runtime) -> None:
    first = await runtime.tasks.submit(ask("rogue_sleep", seconds=0.3))
    second = await runtime.tasks.submit(ask("expression", formula="x + 41", x=Reference(task=first.id)))
    third = await runtime.tasks.submit(ask("expression", formula="x * 2", x=Reference(task=second.id, output="output")))
    assert third.status is TaskStatus.QUEUED
    assert await runtime.tasks.wait(third, 10)
    outputs = (await runtime.tasks.result(third.id)).outputs
    assert outputs is not None
    assert outputs["output"].view.cast("d").tolist() == [84.0]


async def test_a_failed_dependency_fails_its_dependents(runtime: Runtime) -> None:
    first = await runtime.tasks.submit(ask("rogue_crash", how="raise"))
    second = await runtime.tasks.submit(ask("expression", formula="x + 1", x=Reference(task=first.id)))
    assert await runtime.tasks.wait(second, 10)
    with pytest.raises(DependencyFailed, match=first.id):
        await runtime.tasks.result(second.id)
    with pytest.raises(InvalidParameter, match="no task"):
        await runtime.tasks.submit(ask("sum", x=Reference(task="nosuch")))


async def test_tensors_travel_once(runtime: Runtime) -> None:
    record = await runtime.tensors.put(Array("float64", (3,), bytes(24)))
    task = await runtime.tasks.submit(ask("expression", formula="x + 1", x=Reference(tensor=record["id"])))
    assert await runtime.tasks.wait(task, 10)
    assert task.status is TaskStatus.COMPLETED, task.failure
    await runtime.tensors.delete(record["id"])
    with pytest.raises(InvalidParameter, match="no tensor"):
        await runtime.tasks.submit(ask("sum", x=Reference(tensor=record["id"])))


async def test_the_cache_answers_without_a_device(runtime: Runtime) -> None:
    x = Array("float64", (400, 400), bytes(8 * 160_000))
    runtime.cost.record  # noqa: B018 - predictions come from it
    first = await runtime.tasks.submit(ask("svd"), {"x": x})
    assert await runtime.tasks.wait(first, 30)
    assert first.status is TaskStatus.COMPLETED, first.failure
    await runtime.tasks.close()
    second = await runtime.tasks.submit(ask("svd"), {"x": x})
    assert (second.cached, second.status) == (True, TaskStatus.COMPLETED)
    assert (await runtime.tasks.result(second.id)).outputs is not None
    for control in ("no-store", "no-cache"):
        other = await runtime.tasks.submit(ask("svd"), {"x": x}, cache=control)
        assert not other.cached
        assert await runtime.tasks.wait(other, 30)
    assert runtime.cache.hits == 1


async def test_idempotency_keys(runtime: Runtime) -> None:
    request = ask("sum", x=[1.0, 2.0])
    same = await asyncio.gather(*(runtime.tasks.submit(request, idempotency="k") for _ in range(5)))
    assert len({task.id for task in same}) == 1
    with pytest.raises(Conflict, match="another request"):
        await runtime.tasks.submit(ask("sum", x=[9.0]), idempotency="k")


async def test_a_batch_sent_again_under_its_key_is_the_same_tasks(runtime: Runtime) -> None:
    requests: list[tuple[TaskRequest, dict[str, Array]]] = [
        (request, {}) for request in (ask("sum", y=[1.0]), ask("sum", x=[1.0]), ask("matmull"), ask("sum", x=[2.0]))
    ]
    first, again = await asyncio.gather(*(runtime.tasks.submit_many(requests, idempotency="k") for _ in range(2)))
    for before, after in zip(first, again, strict=True):
        assert getattr(before, "id", type(before)) == getattr(after, "id", type(after))
    assert [isinstance(outcome, Task) for outcome in first] == [False, True, False, True]
    assert len({outcome.id for outcome in first if isinstance(outcome, Task)}) == 2
    assert len((await runtime.tasks.list())[0]) == 2
    with pytest.raises(Conflict, match="another request"):
        await runtime.tasks.submit_many(requests[1:], idempotency="k")


async def test_a_defect_while_inputs_are_put_in_place_fails_the_task(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await runtime.tasks.submit(ask("rogue_sleep", seconds=0.3))

    async def broken(task: Task) -> None:
        raise TypeError("secret")

    monkeypatch.setattr(runtime.tasks._dependencies, "resolve", broken)
    second = await runtime.tasks.submit(ask("sum"), {"x": Reference(task=first.id)})
    assert await runtime.tasks.wait(second, 10)
    assert second.failure is not None
    assert (second.failure.code, "secret" in second.failure.message) == ("internal", False)


async def test_too_early_for_a_result(runtime: Runtime) -> None:
    task = await runtime.tasks.submit(ask("rogue_sleep", seconds=0.3))
    with pytest.raises(NotReady, match="wait"):
        await runtime.tasks.result(task.id)
    assert await runtime.tasks.wait(task, 5)


async def test_progress_is_told(runtime: Runtime) -> None:
    seen = []

    async def listen() -> None:
        async for batch in runtime.events.read(after=None):
            seen.extend(batch)

    listener = asyncio.create_task(listen())
    await asyncio.sleep(0)
    task = await runtime.tasks.submit(ask("rogue_steps", count=10, pause=0.06))
    assert await runtime.tasks.wait(task, 10)
    await asyncio.sleep(0.2)
    listener.cancel()
    kinds = [type(event).__name__ for event in seen if getattr(event, "task_id", "") == task.id]
    assert kinds[:2] == ["TaskQueued", "TaskStarted"]
    assert kinds[-1] == "TaskFinished"
    assert kinds.count("TaskProgressed") >= 5
    assert [event.seq for event in seen] == sorted(event.seq for event in seen)


async def test_a_drained_device_takes_what_waited_as_soon_as_it_is_resumed(runtime: Runtime) -> None:
    runtime.devices.set_state("cpu:0", "draining")
    assert runtime.not_ready() == "every device is draining"
    task = await runtime.tasks.submit(ask("sum", x=[1.0]))
    assert not await runtime.tasks.wait(task, 0.2)
    runtime.devices.set_state("cpu:0", "ready")
    assert await runtime.tasks.wait(task, 3)
    assert runtime.not_ready() is None


async def test_the_first_output_is_not_taken_silently(runtime: Runtime) -> None:
    first = await runtime.tasks.submit(ask("qr", x=[[1.0, 2.0], [3.0, 4.0]]))
    assert await runtime.tasks.wait(first, 10)
    with pytest.raises(InvalidParameter, match="several outputs"):
        await runtime.tasks.submit(ask("sum", x=Reference(task=first.id)))
    second = await runtime.tasks.submit(ask("sum", x=Reference(task=first.id, output="r")))
    assert await runtime.tasks.wait(second, 10)
    assert second.status is TaskStatus.COMPLETED


async def test_using_a_failed_task_is_refused_naming_the_parameter(runtime: Runtime) -> None:
    first = await runtime.tasks.submit(ask("rogue_crash", how="raise"))
    assert await runtime.tasks.wait(first, 10)
    assert first.seconds is not None, "it ran for a while"
    with pytest.raises(InvalidParameter, match="went wrong") as caught:
        await runtime.tasks.submit(ask("sum", x=Reference(task=first.id)))
    assert caught.value.field == "x"


async def test_the_same_call_right_after_is_a_hit(runtime: Runtime) -> None:
    request = ask("monte_carlo_pi", samples=5_000_000, seed=3)
    first = await runtime.tasks.submit(request)
    assert await runtime.tasks.wait(first, 30)
    assert (await runtime.tasks.submit(request)).cached


async def test_ceilings_are_what_tasks_have_reached(runtime: Runtime) -> None:
    assert runtime.devices.get("cpu:0")["ceilings"]["flops"] is None
    task = await runtime.tasks.submit(ask("matmul"), {name: Array("float32", (512, 512), bytes(1 << 20)) for name in "ab"})
    assert await runtime.tasks.wait(task, 30)
    assert runtime.devices.get("cpu:0")["ceilings"]["flops"] > 1e8


async def _warm_every_slot(runtime: Runtime) -> None:
    tasks = [await runtime.tasks.submit(ask("rogue_sleep", seconds=0.6)) for _ in runtime.executor.slots]
    for task in tasks:
        assert await runtime.tasks.wait(task, 10)


async def test_a_task_that_does_not_fit_now_waits_and_holds_up_nobody(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    await _warm_every_slot(runtime)
    monkeypatch.setattr(runtime.devices, "memory_available", lambda device: 0)
    running = await runtime.tasks.submit(ask("rogue_sleep", seconds=0.4))
    large = await runtime.tasks.submit(ask("monte_carlo_pi", samples=20_000_000, seed=1))
    begun = time.monotonic()
    await asyncio.sleep(0.05)
    assert time.monotonic() - begun < 0.3, "the loop was kept from everybody else"
    assert await runtime.tasks.wait(large, 20)
    assert (running.status, large.status) == (TaskStatus.COMPLETED, TaskStatus.COMPLETED)


async def test_no_shared_memory_now_is_no_reason_to_fail(runtime: Runtime) -> None:
    limit, runtime.pool.limit = runtime.pool.limit, 0
    task = await runtime.tasks.submit(ask("uniform", shape=[100_000], seed=1))
    assert not await runtime.tasks.wait(task, 0.3)
    assert task.status is TaskStatus.QUEUED
    runtime.pool.limit = limit
    assert await runtime.tasks.wait(task, 5)
    assert task.status is TaskStatus.COMPLETED, task.failure
