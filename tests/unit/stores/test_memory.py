"""What only the store in memory has to show."""

import asyncio
import os

from openruntime.contracts.payload import Array
from openruntime.runtimes.shared_memory import SlabPool
from openruntime.stores.memory import MemoryStore
from openruntime.testing.store_tasks import end, new_task, run


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
