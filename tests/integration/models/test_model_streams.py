"""What models say while they run, for those who follow."""

import asyncio
import time
from typing import Any

import pytest

from openruntime.contracts.ai import Delta, Generation
from openruntime.contracts.errors import (
    OperationFailed,
    Unavailable,
)
from openruntime.contracts.models import TaskStatus
from openruntime.core.runtime import Runtime
from tests.models.few import answer, ask, pieces


async def test_what_is_said_comes_as_it_is_said_to_all_who_follow(runtime: Runtime) -> None:
    task = await runtime.work.submit("echo", Generation(prompt="say ha 10 0.03"))
    early = asyncio.ensure_future(pieces(runtime, task))
    moments, last = [], Delta()
    async for piece in runtime.streams.follow(task):
        moments.append(time.monotonic())
        last = piece
        if len(moments) == 5:
            assert not task.status.ended
            late = asyncio.ensure_future(pieces(runtime, task))
    assert task.status is TaskStatus.COMPLETED, "it ends when the task has"
    assert moments[-2] - moments[0] > 0.2
    assert (last.finish, last.usage and last.usage.completion) == ("stop", 10)
    for follower in (early, late):
        assert "".join(delta.text for delta in await follower) == "ha " * 10
    [whole] = await pieces(runtime, task)
    assert (whole.text, whole.finish) == ("ha " * 10, "stop")
    assert not runtime.streams._streams


async def test_an_answer_that_comes_at_once_is_one_piece(runtime: Runtime) -> None:
    [whole] = await pieces(runtime, await runtime.work.submit("mute", Generation(prompt="say hm 2 0")))
    assert (whole.text, whole.finish, whole.usage and whole.usage.completion) == ("hm hm ", "stop", 2)


async def test_who_follows_hears_how_it_failed_and_may_go_away(runtime: Runtime, vocal: Any) -> None:
    breaking = runtime.streams.follow(await runtime.work.submit("echo", Generation(prompt="break")))
    assert (await anext(breaking)).text == "half"
    with pytest.raises(OperationFailed, match="broke off"):
        await anext(breaking)
    task = await runtime.work.submit("echo", Generation(prompt="say ha 20 0.02"))
    following = runtime.streams.follow(task)
    await anext(following)
    await following.aclose()  # type: ignore[attr-defined]
    assert (await answer(runtime, task)).text == "ha " * 20, "to go away leaves the task alone"
    assert not runtime.streams._streams


async def test_an_answer_that_begins_anew_is_not_joined_to_the_first(runtime: Runtime) -> None:
    task = await runtime.tasks.submit(ask("echo", "break", retries=1))
    with pytest.raises(Unavailable, match="begun again"):
        await pieces(runtime, task)


async def test_the_event_bus_gets_progress_now_and_then(runtime: Runtime) -> None:
    after = runtime.events.last()
    task = await runtime.tasks.submit(ask("echo", "say ha 40 0.015", max_tokens=80))
    await answer(runtime, task)
    seen: list[Any] = []
    async for batch in runtime.events.read(after=after):
        seen += batch
        if any(event.__class__.__name__ == "TaskFinished" for event in seen):
            break
    kinds = [event.__class__.__name__ for event in seen]
    assert kinds[0:2] == ["TaskQueued", "TaskStarted"]
    assert 1 <= kinds.count("TaskProgressed") <= 5
    assert (seen[1].device, seen[1].backend) == ("cpu:0", "vocal")
