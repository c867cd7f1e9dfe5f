"""How soon readers are told: at once where they are few, in larger handfuls where they are many."""

import asyncio
import time

import pytest

from openruntime.contracts.events import TaskQueued
from openruntime.tasks.events import PROMPT, SLOW, EventBus


@pytest.mark.parametrize(("readers", "least", "most"), [(1, PROMPT, 0.08), (200, 0.035, 0.3), (2_000, SLOW, 0.6)])
async def test_events_gather_the_longer_the_more_read_them(readers: int, least: float, most: float) -> None:
    bus = EventBus()
    heard: list[float] = []

    async def read() -> None:
        async for batch in bus.read(after=bus.last()):
            assert len(batch) == 2
            heard.append(time.monotonic())
            return

    tasks = [asyncio.create_task(read()) for _ in range(readers)]
    await asyncio.sleep(0.05)
    start = time.monotonic()
    bus.publish(TaskQueued(time=1.0, task_id="a"))
    bus.publish(TaskQueued(time=1.0, task_id="b"))
    await asyncio.gather(*tasks)
    assert least * 0.9 <= min(heard) - start
    assert max(heard) - start < most


async def test_a_reader_that_comes_while_nobody_read_is_not_kept_waiting() -> None:
    bus = EventBus()
    after = bus.last()
    reading = bus.read(after=after)
    bus.publish(TaskQueued(time=1.0, task_id="a"))  # delivery is set for nobody: a tenth of a second
    assert len(await anext(reading)) == 1
    start = time.monotonic()
    following = asyncio.ensure_future(anext(reading))
    await asyncio.sleep(0)
    bus.publish(TaskQueued(time=1.0, task_id="b"))
    assert len(await following) == 1
    assert time.monotonic() - start < 0.08
    await reading.aclose()
