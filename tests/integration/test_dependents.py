"""Tasks that wait for others on a Redis that several share, when news or a store fails them at the wrong moment."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.redis_server import redis_server
from openruntime.contracts.errors import Unavailable
from openruntime.contracts.models import TaskRequest, TaskStatus
from openruntime.contracts.payload import Reference
from openruntime.contracts.records import Task
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime, running
from openruntime.stores.blobs import FileBlobs
from openruntime.stores.redis_store import RedisStore
from openruntime.testing.store_tasks import end, new_task


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[Runtime, RedisStore]]:
    """A gateway, and the store of another."""
    with redis_server(tmp_path / "redis") as redis:
        settings = Settings.load({"store": redis.url, "data_dir": tmp_path / "data", "slots": 1, "calibrate": False})
        async with running(settings) as runtime:
            other = RedisStore(redis.url, FileBlobs(tmp_path / "data" / "blobs"))
            await other.open()
            yield runtime, other
            await other.close()


async def _begun(store: RedisStore) -> Task:
    """A task that this store has taken, and nobody else will."""
    task = new_task(needs=("nobody",))
    await store.submit([task], promised=True)
    assert await store.remove(task)
    return task


async def _ends(store: RedisStore, task: Task) -> None:
    """Its end is recorded, and its gateway killed before anybody hears of that."""
    assert await store.finish(end(task, size=100_000), 0)


def _failing(times: int, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The same call, which cannot be made at first."""
    left = iter(range(times))

    async def once(*arguments: Any, **named: Any) -> Any:
        if next(left, None) is not None:
            raise Unavailable("the store is away")
        return await call(*arguments, **named)

    return once


async def test_an_end_that_nobody_heard_of_is_found(both: tuple[Runtime, RedisStore]) -> None:
    runtime, other = both
    needed = await _begun(other)
    task = await runtime.tasks.submit(TaskRequest(operation="sum", parameters={"x": Reference(task=needed.id)}))
    await _ends(other, needed)
    assert await runtime.tasks.wait(task, 10)
    assert task.status is TaskStatus.COMPLETED


@pytest.mark.parametrize("what", ["read", "write", "remove"])
async def test_a_store_that_is_away_for_a_moment_fails_no_dependent(
    both: tuple[Runtime, RedisStore], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    runtime, other = both
    needed = await _begun(other)
    task = await runtime.tasks.submit(TaskRequest(operation="sum", parameters={"x": Reference(task=needed.id)}))
    store: Any = runtime.store
    if what == "read":
        monkeypatch.setattr(store, "get", _failing(2, store.get))
    elif what == "write":
        monkeypatch.setattr(store._spill, "write", _failing(2, store._spill.write))
    else:
        monkeypatch.setattr(store, "remove", _failing(2, store.remove))
        end(needed, TaskStatus.FAILED)
        needed.outputs = None
    assert await other.finish(needed if what == "remove" else end(needed, size=100_000), 0)
    assert await runtime.tasks.wait(task, 15)
    assert task.status is (TaskStatus.FAILED if what == "remove" else TaskStatus.COMPLETED)


async def test_one_that_cannot_be_queued_now_holds_up_no_other(both: tuple[Runtime, RedisStore], monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, other = both
    needed = await _begun(other)
    tasks = [new_task(operation="sum", parameters={"x": Reference(task=needed.id)}, needs=(needed.id,)) for _ in range(3)]
    await other.submit(tasks, promised=True)
    await _ends(other, needed)
    store: Any = runtime.store
    monkeypatch.setattr(store._spill, "write", _failing(1, store._spill.write))
    await other.close()  # the gateway adopts them
    async with asyncio.timeout(15):
        while {(await runtime.tasks.status(task.id)).status for task in tasks} != {TaskStatus.COMPLETED}:
            await asyncio.sleep(0.05)
