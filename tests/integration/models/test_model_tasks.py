"""Model calls as tasks, inside one process: real stores."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from openruntime.contracts.ai import Generation, answer_of
from openruntime.contracts.errors import (
    ContextTooLong,
    Internal,
    InvalidParameter,
    ModelNotFound,
    OperationFailed,
    TaskCancelled,
    TaskTimeout,
    Unavailable,
    UnknownOperation,
    UnsupportedOnDevice,
    WorkerCrashed,
)
from openruntime.contracts.models import TaskRequest, TaskStatus
from openruntime.core.runtime import Runtime
from tests.models.few import answer, ask, pieces, until


async def test_a_model_is_called_by_its_name(runtime: Runtime) -> None:
    task = await runtime.tasks.submit(ask("echo", messages=[{"role": "user", "content": "say ha 3 0"}]))
    found = await answer(runtime, task)
    assert (found.text, found.finish, found.model) == ("ha ha ha ", "stop", "echo:1")
    assert (found.usage.prompt, found.usage.completion) == (4, 3)
    assert (task.device, task.backend, task.lane, task.life.attempt) == ("cpu:0", "vocal", "io/echo:1", 1)
    other = await runtime.tasks.submit(ask("mute", "say hm 2 0"))
    assert (await answer(runtime, other)).text == "hm hm "
    assert (other.device, other.backend) == ("io", "quiet")


@pytest.mark.parametrize("name", ["echo:1", "production"])
async def test_a_version_and_an_alias_mean_the_model(runtime: Runtime, name: str) -> None:
    task = await runtime.tasks.submit(ask(name, "say ha 1 0"))
    assert (await answer(runtime, task)).model == "echo:1"
    assert task.call.operation == "echo"


async def test_an_operation_keeps_its_name(runtime: Runtime) -> None:
    task = await runtime.tasks.submit(ask("sum", x=[1.0, 2.0]))
    assert await runtime.tasks.wait(task, 10)
    assert task.backend == "numpy"
    assert (await answer(runtime, await runtime.tasks.submit(ask("sum:1", "say ha 1 0")))).text == "ha "


async def test_what_is_wrong_is_refused_before_it_is_queued(runtime: Runtime) -> None:
    for model, parameters, field in (("echo", {"prompt": "a", "temprature": 1}, "temprature"), ("numbers", {"input": []}, "input")):
        with pytest.raises(InvalidParameter) as caught:
            await runtime.tasks.submit(TaskRequest(operation=model, parameters=parameters))
        assert caught.value.field == field
    assert not runtime.queue.depths()


async def test_where_a_model_runs_is_its_adapters_choice(runtime: Runtime) -> None:
    assert (await answer(runtime, await runtime.tasks.submit(ask("echo", "say ha 1 0", device="auto")))).text == "ha "
    with pytest.raises(UnsupportedOnDevice, match="auto") as caught:
        await runtime.tasks.submit(ask("echo", "say ha 1 0", device="cpu:0"))
    assert caught.value.field == "device_preference"


async def test_an_unknown_name_is_answered_with_those_like_it(runtime: Runtime) -> None:
    with pytest.raises(UnknownOperation, match="production"):
        await runtime.tasks.submit(ask("producton", "say ha 1 0"))
    with pytest.raises(ModelNotFound):
        await runtime.work.submit("producton", Generation(prompt="say ha 1 0"))


async def test_no_more_at_a_time_than_the_model_takes(runtime: Runtime, vocal: Any) -> None:
    tasks = [await runtime.tasks.submit(ask("echo", "say ha 5 0.02")) for _ in range(8)]
    other = await runtime.tasks.submit(ask("mute", "say hm 1 0"))
    await answer(runtime, other)
    assert not tasks[-1].status.ended, "one model's full house does not hold up another's"
    for task in tasks:
        await answer(runtime, task)
    assert vocal.busiest <= 3 + 1
    assert runtime.io.running == 0


async def test_priorities_go_first(runtime: Runtime) -> None:
    blockers = [await runtime.tasks.submit(ask("echo", "say ha 10 0.02")) for _ in range(3)]
    await until(lambda: all(task.status is TaskStatus.RUNNING for task in blockers))
    waiting = [await runtime.tasks.submit(ask("echo", "say ha 1 0.01", priority=priority)) for priority in (1, 5, 10)]
    assert (await runtime.tasks.explain(waiting[0].id))["waiting_in_lane"] == 3
    assert "echo:1" in (await runtime.tasks.explain(waiting[0].id))["reason"]
    for task in (*blockers, *waiting):
        await answer(runtime, task)
    claimed = [task.timings.claimed for task in waiting if task.timings]
    assert claimed == sorted(claimed, reverse=True)


@pytest.mark.parametrize(("model", "prompt"), [("echo", "say ha 1000 0.02"), ("echo", "stubborn 2"), ("mute", "say ha 1000 0.02")])
async def test_a_cancel_frees_the_seat_within_a_quarter_of_a_second(runtime: Runtime, vocal: Any, model: str, prompt: str) -> None:
    task = await runtime.tasks.submit(ask(model, prompt))
    await until(lambda: vocal.running == 1)
    began = time.monotonic()
    await runtime.tasks.cancel(task.id)
    assert await runtime.tasks.wait(task, 2)
    assert time.monotonic() - began < 0.35
    assert (task.status, runtime.io.running) == (TaskStatus.CANCELLED, 0)
    said = len(vocal.spoken)
    if not prompt.startswith("stubborn"):
        await asyncio.sleep(0.1)
        assert len(vocal.spoken) == said
    with pytest.raises(TaskCancelled):
        await runtime.tasks.result(task.id)
    with pytest.raises(TaskCancelled):
        await pieces(runtime, task)


async def test_a_task_that_waits_is_cancelled_at_once(runtime: Runtime) -> None:
    blockers = [await runtime.tasks.submit(ask("echo", "say ha 10 0.02")) for _ in range(3)]
    task = await runtime.tasks.submit(ask("echo", "say ha 1 0"))
    await runtime.tasks.cancel(task.id)
    assert (task.status, task.life.attempt) == (TaskStatus.CANCELLED, 0)
    for blocker in blockers:
        await answer(runtime, blocker)


async def test_a_deadline_ends_it_where_it_waits_and_where_it_runs(runtime: Runtime, vocal: Any) -> None:
    runs = [await runtime.tasks.submit(ask("echo", "say ha 1000 0.02", timeout=0.3)) for _ in range(3)]
    waits = await runtime.tasks.submit(ask("echo", "say ha 1 0", timeout=0.1))
    for task in (*runs, waits):
        assert await runtime.tasks.wait(task, 2)
        with pytest.raises(TaskTimeout, match="while it ran" if task in runs else "before it started"):
            await runtime.tasks.result(task.id)
    await until(lambda: vocal.running == 0 and runtime.io.running == 0)


async def test_failures_are_told_and_not_tried_again_unasked(runtime: Runtime) -> None:
    for prompt, error, said in (
        ("break", OperationFailed, "broke off"), ("unfinished", OperationFailed, "broke off before its end"), ("busy 1 a", Unavailable, "too many"),
        ("long", ContextTooLong, "9000"), ("defect", Internal, "log"),
    ):  # fmt: skip
        task = await runtime.tasks.submit(ask("echo", prompt))
        assert await runtime.tasks.wait(task, 5)
        with pytest.raises(error, match=said) as caught:
            await runtime.tasks.result(task.id)
        assert "secret" not in caught.value.message
        assert task.life.attempt == 1


async def test_what_may_pass_is_tried_again_as_often_as_asked(runtime: Runtime) -> None:
    enough = await runtime.tasks.submit(ask("echo", "busy 2 b", retries=2))
    short = await runtime.tasks.submit(ask("mute", "busy 2 c", retries=1))
    never = await runtime.tasks.submit(ask("echo", "long", retries=5))
    assert (await answer(runtime, enough)).text == "free "
    assert (enough.life.attempt, enough.life.failures) == (3, 2)
    for task, error in ((short, Unavailable), (never, ContextTooLong)):
        assert await runtime.tasks.wait(task, 5)
        with pytest.raises(error):
            await runtime.tasks.result(task.id)
    assert (short.life.attempt, never.life.attempt) == (2, 1)


async def test_a_task_that_waits_to_be_tried_again_holds_no_seat_and_can_be_cancelled(runtime: Runtime) -> None:
    tasks = [await runtime.tasks.submit(ask("echo", f"break {index}", retries=1)) for index in range(3)]  # half a second's pause
    await until(lambda: all("tried again" in (task.message or "") for task in tasks))
    assert runtime.io.running == 0
    await answer(runtime, await runtime.tasks.submit(ask("echo", "say ha 1 0")), 0.3)
    await runtime.tasks.cancel(tasks[0].id)
    assert await runtime.tasks.wait(tasks[0], 0.2)
    assert tasks[0].status is TaskStatus.CANCELLED


async def test_an_engine_that_dies_is_tried_again_once(runtime: Runtime) -> None:
    once, always = [await runtime.tasks.submit(ask("echo", f"die {times}")) for times in (1, 9)]
    assert (await answer(runtime, once)).text == "alive "
    assert once.life.deaths == 1
    assert await runtime.tasks.wait(always, 5)
    with pytest.raises(WorkerCrashed, match=r"2 times.*SIGSEGV"):
        await runtime.tasks.result(always.id)


async def test_a_model_that_cannot_be_opened_says_what_to_do(runtime: Runtime) -> None:
    task = await runtime.tasks.submit(ask("gone", "say ha 1 0"))
    assert await runtime.tasks.wait(task, 5)
    with pytest.raises(Unavailable, match="OPENAI_API_KEY"):
        await runtime.tasks.result(task.id)
    task = await runtime.tasks.submit(ask("unmade", "say ha 1 0"))
    assert await runtime.tasks.wait(task, 5)
    assert task.failure is not None
    assert "openai-of-tomorrow" in task.failure.message
    shown = runtime.devices.get("cpu:0")["models"]
    assert [(row["model"], row["state"], row["reason"]) for row in shown] == [("gone:1", "failed", "no key; set OPENAI_API_KEY")]


async def test_embeddings(runtime: Runtime) -> None:
    task = await runtime.work.submit("numbers", ["a tree", "sky"])
    assert await runtime.tasks.wait(task, 5)
    found = msgspec.json.decode(answer_of(task.outputs or {}))
    assert found == {"vectors": [[6.0, 3.0], [3.0, 0.0]], "usage": {"prompt": 3}, "model": "numbers:1"}
