"""What only the store in memory has to show."""

import asyncio
import os
from typing import Any

import pytest

from openruntime.contracts.errors import QueueFull
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Life, Task
from openruntime.runtimes.shared_memory import SlabPool
from openruntime.stores.memory import MemoryStore
from openruntime.testing.store_tasks import end, new_array, new_task, run


async def test_inputs_that_wait_are_bounded_by_their_bytes() -> None:
    store = MemoryStore(queue_bytes=10_000)

    def asked(size: int, **fields: Any) -> Task:
        return new_task(parameters={"x": [new_array(size // 2), new_array(size // 2)], "text": "t" * 100}, **fields)

    first, second = asked(6000), asked(3000)
    await store.submit([first], promised=True)
    await store.submit([second], promised=False)
    with pytest.raises(QueueFull, match="take 9200 bytes, these 3116 more, and they may take 10000") as refused:
        await store.submit([asked(3000, idempotency="key"), new_task()], promised=True)
    assert refused.value.retry_after
    assert await store.find("local", "key") is None
    await store.submit([asked(600)], promised=True)
    assert first in await store.claim(["any"], 3)
    attempt = run(first)
    with pytest.raises(QueueFull):
        await store.submit([asked(3000)], promised=True)
    assert await store.finish(end(first), attempt)
    await store.submit([asked(3000)], promised=True)


async def test_a_submission_over_the_bound_is_taken_where_nothing_waits() -> None:
    """Else it would be told for ever to come later."""
    store = MemoryStore(queue_bytes=10)
    large = new_task(parameters={"x": new_array(1000)})
    await store.submit([large], promised=True)
    with pytest.raises(QueueFull):
        await store.submit([new_task()], promised=True)
    assert await store.remove(large)
    large.life = Life(TaskStatus.CANCELLED)
    assert await store.finish(large, 0)
    await store.submit([new_task()], promised=True)


async def test_large_inputs_in_shared_memory_have_a_bound_of_their_own() -> None:
    store, pool = MemoryStore(queue_bytes=10_000, inline_bytes=1000), SlabPool()
    for size in (100_000, 900):
        await store.submit([new_task(parameters={"x": Array("uint8", (size,), pool.allocate(size))})], promised=True)
    assert store._weight == 900


async def test_a_kept_result_holds_no_shared_memory() -> None:
    store, pool, data = MemoryStore(), SlabPool(), os.urandom(3_000_001)
    task = new_task()
    await store.submit([task], promised=False)
    await store.claim(["any"], 1)
    attempt = run(task)
    memory = pool.allocate(len(data))
    memory[:] = data
    end(task).outputs = {"output": Array("uint8", (len(data),), memory)}
    del memory
    await store.finish(task, attempt)
    async with asyncio.timeout(5):
        while pool.leased_bytes:
            await asyncio.sleep(0.001)
    found = await store.get(task.id)
    assert found is not None
    assert found.outputs is not None
    assert bytes(found.outputs["output"].view) == data
