"""The Redis store under the published suite, against a real Redis."""

import asyncio
import time
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest

from benchmarks.redis_server import RedisServer
from openruntime.contracts.errors import KeyTaken, QueueFull
from openruntime.contracts.events import TaskQueued, TaskStarted
from openruntime.contracts.interfaces import Store
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Task
from openruntime.stores.blobs import FileBlobs
from openruntime.stores.redis_store import RedisStore
from openruntime.stores.shared_blobs import SharedBlobs
from openruntime.tasks.events import EventBus
from openruntime.tasks.lifecycle import Event
from openruntime.tasks.outcomes import Outcomes
from openruntime.tasks.queue import TaskQueue
from openruntime.testing.store_suite import StoreSuite
from openruntime.testing.store_tasks import end, new_array, new_task, run, same
from tests.conformance.redis_gateways import Opener, dies, until


class TestRedisStore(StoreSuite):
    durable = True
    promises_all = True

    @pytest.fixture(autouse=True)
    def _server(self, redis: RedisServer) -> None:
        self.url = redis.url

    def make(self, directory: Path, **bounds: Any) -> Store:
        return RedisStore(self.url, FileBlobs(directory / "blobs"), prefix=sha1(str(directory).encode()).hexdigest(), **bounds)


async def test_one_order_of_priority_whoever_submits_and_claims(another: Opener) -> None:
    a, b = await another(), await another()
    tasks = [new_task(created=1000.0 + n, rank=1000.0 + n - 30.0 * priority) for n, priority in enumerate((5, 10, 1, 5, 9, 10))]
    for n, task in enumerate(tasks):
        await (a, b)[n % 2].submit([task], promised=True)
    claimed = [(await (b, a)[n % 2].claim(["any"], 1))[0].id for n in range(6)]
    assert claimed == [tasks[n].id for n in (1, 5, 4, 0, 3, 2)]


async def test_inputs_travel_to_whoever_claims(another: Opener) -> None:
    a, b = await another(), await another()
    values = {"x": new_array(100_000), "y": new_array(10), "axis": (1, 2)}
    task = new_task(parameters=dict(values), tags=("t",), max_retries=2)
    await a.submit([task], promised=True)
    (there,) = await b.claim(["any"], 5)
    assert there is not task
    assert (there.id, there.tags, there.max_retries, there.rank) == (task.id, task.tags, task.max_retries, task.rank)
    assert same(await b.load(there), values)


async def test_the_lease_of_a_dead_process_ends_and_its_late_result_is_refused(another: Opener) -> None:
    a, b = await another(lease=0.4), await another(lease=0.4)
    task = new_task()
    await a.submit([task], promised=True)
    (held,) = await a.claim(["any"], 1)
    late = run(held)
    await asyncio.sleep(1.0)
    assert await b.claim(["any"], 1) == []  # it lives, so its lease is renewed
    for background in a._others._background:
        background.cancel()  # as under SIGSTOP
    found: list[Task] = []
    async with asyncio.timeout(3):
        while not found:
            found = await b.claim(["any"], 1)
            await asyncio.sleep(0.02)
    assert (found[0].life.failures, found[0].life.deaths) == (0, 0)
    attempt = run(found[0])
    assert attempt == late + 1
    assert not await a.finish(end(held), late)
    assert await b.finish(end(found[0]), attempt)
    ended = await a.get(task.id)
    assert ended is not None
    assert same(ended.outputs, found[0].outputs)


async def test_a_task_held_for_its_needs_is_adopted(another: Opener) -> None:
    a, b = await another(lease=0.4), await another(lease=0.4)
    task = new_task(needs=("other",))
    await a.submit([task], promised=True)
    await dies(a)
    await until(lambda: b.heard.adopted)
    assert [held.id for held in b.heard.adopted] == [task.id]
    held = b.heard.adopted[0]
    await b.requeue(held)
    assert await b.claim(["any"], 1) == [held]


async def test_a_key_is_taken_once_among_all(another: Opener) -> None:
    a, b = await another(), await another()
    outcomes = await asyncio.gather(
        *((a, b)[n % 2].submit([new_task(idempotency="key", fingerprint="f")], promised=True) for n in range(10)), return_exceptions=True
    )
    assert sum(outcome is None for outcome in outcomes) == 1
    assert all(isinstance(outcome, KeyTaken) for outcome in outcomes if outcome is not None)
    assert len((await a.list())[0]) == 1


async def test_the_bound_counts_everybodys_tasks(another: Opener) -> None:
    a, b = await another(queue_bound=3), await another(queue_bound=3)
    await a.submit([new_task(), new_task()], promised=True)
    with pytest.raises(QueueFull):
        await b.submit([new_task(), new_task()], promised=True)
    await b.submit([new_task()], promised=True)


async def test_a_cancel_reaches_whoever_holds_the_task(another: Opener) -> None:
    a, b = await another(), await another()
    task = new_task()
    await a.submit([task], promised=True)
    assert not await a.peers.stop(task)  # nobody holds it
    (held,) = await b.claim(["any"], 1)
    assert not await a.remove(task)
    assert await a.peers.stop(task)
    assert task.status is TaskStatus.CANCELLING
    await until(lambda: b.heard.stops)
    assert b.heard.stops[0] is held


class Work:
    """What a gateway does with tasks; implements `Holder`, of tasks that run here."""

    def __init__(self, store: RedisStore) -> None:
        self.queue = TaskQueue(store)
        self.stopped: list[Task] = []
        self.outcomes = Outcomes(self.queue, store, EventBus(), on_end=lambda task: None, wake=lambda: None)

    def stop(self, task: Task, *, runs: bool) -> None:
        self.stopped.append(task)

    async def take(self) -> None:
        for task in await self.queue.claim(["any"], 1):
            self.outcomes.where[task.id] = self
            self.outcomes.begun(task, time.monotonic())


async def test_a_cancel_that_comes_while_the_task_is_claimed_stops_it(another: Opener) -> None:
    a = await another()
    work, task = Work(a), new_task()
    await a.submit([task], promised=True)
    await asyncio.gather(work.take(), work.outcomes.interrupt(task, Event.CANCEL))
    assert work.stopped == [task]
    assert task.status is TaskStatus.CANCELLING


@pytest.mark.parametrize("event", [Event.CANCEL, Event.EXPIRED])
async def test_what_another_claimed_first_never_seems_to_have_ended(another: Opener, event: Event) -> None:
    a, b = await another(), await another()
    task = new_task()
    await a.submit([task], promised=True)
    (held,) = await b.claim(["any"], 1)
    run(held)
    interrupting = asyncio.create_task(Work(a).outcomes.interrupt(task, event))
    seen = {task.status}
    while not interrupting.done():
        await asyncio.sleep(0)
        seen.add(task.status)
    assert seen <= {TaskStatus.QUEUED, TaskStatus.RUNNING}


async def test_what_others_take_counts_in_no_share_here(another: Opener) -> None:
    a, b = await another(), await another()
    here, there = TaskQueue(a), TaskQueue(b)
    many = [new_task(priority=10) for _ in range(40)]
    for task in many:
        task.client, task.predicted = "many", 10.0
        await here.submit([task], promised=True)
        assert [claimed.id for claimed in await there.claim(["any"], 1)] == [task.id]
        b.peers.publish([TaskStarted(time.time(), 0, task.id, "f")])
    await until(lambda: len(a.heard.events) == 40)
    here.happened(a.heard.events)
    urgent, other = new_task(priority=10), new_task(priority=1)
    urgent.client, other.client = "many", "other"
    await there.submit([other], promised=False)
    await here.submit([urgent], promised=False)
    assert urgent.rank + 10 * 30.0 < time.time() + 30.0
    assert [task.id for task in await there.claim(["any"], 1)] == [urgent.id]


async def test_events_have_one_order_and_numbers_that_rise(another: Opener) -> None:
    a, b = await another(), await another()
    start = a.peers.last()
    for n in range(200):
        (a, b)[n % 2].peers.publish([TaskQueued(float(n), 0, str(n))])
        if n % 50 == 0:
            await asyncio.sleep(0.01)
    await until(lambda: len(a.heard.events) == len(b.heard.events) == 200)
    assert [(event.seq, event.task_id) for event in a.heard.events] == [(event.seq, event.task_id) for event in b.heard.events]
    numbers = [event.seq for event in a.heard.events]
    assert numbers == sorted(set(numbers))
    again = await b.peers.since(numbers[99], 1000)
    assert again is not None
    assert [event.seq for event in again] == numbers[100:]
    assert await b.peers.since(start - 10**12, 1000) is None


async def test_what_is_known_of_a_running_task_is_known_everywhere(another: Opener) -> None:
    a, b = await another(lease=0.4), await another(lease=0.4)
    task = new_task()
    await a.submit([task], promised=True)
    (held,) = await b.claim(["any"], 1)
    attempt = run(held)
    held.device, held.progress = "cpu:0", 0.5
    await asyncio.sleep(0.5)
    seen = await a.get(task.id)
    assert seen is task
    assert (seen.status, seen.device, seen.progress, seen.life.attempt) == (TaskStatus.RUNNING, "cpu:0", 0.5, 1)
    end(held)
    await asyncio.sleep(0.3)
    seen = await a.get(task.id)
    assert seen is not None
    assert seen.status is TaskStatus.RUNNING  # until the end is recorded
    await b.finish(held, attempt)
    await a.peers.refresh(task)
    assert task.status is TaskStatus.COMPLETED
    assert same(task.outputs, held.outputs)


class TestRedisStoreWithSharedBlobs(TestRedisStore):
    """Large arrays where gateways share no folder."""

    def make(self, directory: Path, **bounds: Any) -> Store:
        (directory / "blobs").mkdir(exist_ok=True)
        return RedisStore(self.url, SharedBlobs((directory / "blobs").as_uri()), prefix=sha1(str(directory).encode()).hexdigest(), **bounds)
