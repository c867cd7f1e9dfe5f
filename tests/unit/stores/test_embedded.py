"""How many bytes of inputs wait in memory."""

from pathlib import Path
from typing import Any

import pytest

from openruntime.contracts.errors import QueueFull
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Life, Task
from openruntime.runtimes.shared_memory import SlabPool
from openruntime.stores.memory import MemoryStore
from openruntime.stores.sqlite import SqliteStore
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


async def test_inputs_are_counted_while_they_are_in_memory(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, queue_bytes=10_000, inline_bytes=1000)
    await store.open()
    await store.submit([new_task(parameters={"x": new_array(50_000)})], promised=True)
    assert store._weight == 0, "they rest on disk"
    kept = [new_task(parameters={"x": new_array(900)}) for _ in range(9)]
    await store.submit(kept, promised=True)
    await store.close()
    store = SqliteStore(tmp_path, queue_bytes=10_000, inline_bytes=1000)
    assert len(await store.open()) == 10
    with pytest.raises(QueueFull):
        await store.submit([new_task(parameters={"x": new_array(3000)})], promised=True)
    for _ in range(10):
        [task] = await store.claim(["any"], 1)
        attempt = run(task)
        assert await store.finish(end(task), attempt)
    assert (store._weight, store._weights) == (0, {})
    await store.close()
