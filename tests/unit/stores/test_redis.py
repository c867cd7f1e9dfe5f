"""What needs no Redis of the way to it."""

import asyncio

import pytest

redis = pytest.importorskip("openruntime.stores.redis", reason="redis-py is not installed")


async def test_what_swallows_a_cancellation_is_cancelled_again() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 2:
                    raise

    async def broken() -> None:
        raise OSError("gone")

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(broken())]
    await asyncio.sleep(0)
    await asyncio.wait_for(redis.stopped(tasks), 10)
    assert swallowed == 2
    assert all(task.done() for task in tasks)
