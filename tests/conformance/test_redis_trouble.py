"""Gateways on one Redis that restarts, fills up, loses connections or has its clock moved, or whose log cannot be read."""

import asyncio
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.redis_server import RedisServer
from openruntime.contracts.errors import StorageFull, Unavailable
from openruntime.contracts.events import AnyEvent, Gap, TaskQueued
from openruntime.tasks.shared_events import SharedEvents
from openruntime.testing.store_tasks import end, new_array, new_task, run, same
from tests.conformance.redis_gateways import Opener, dies, until


async def test_a_restart_of_redis_is_survived(another: Opener, redis: RedisServer) -> None:
    a = await another()
    tasks = [new_task() for _ in range(20)]
    await a.submit(tasks[:10], promised=True)
    held = await a.claim(["any"], 5)
    redis.kill()
    starting = asyncio.get_running_loop().call_later(0.3, redis.start)
    await a.submit(tasks[10:], promised=True)
    assert starting.when() < asyncio.get_running_loop().time()
    for task in held:
        attempt = run(task)
        assert await a.finish(end(task), attempt)
    assert len(await a.claim(["any"], 50)) == 15
    assert len((await a.list(limit=50))[0]) == 20


async def test_dropped_connections_cost_nothing(another: Opener, redis: RedisServer) -> None:
    a, b = await another(), await another()
    tasks = [new_task() for _ in range(200)]
    submitting = [asyncio.create_task(a.submit([task], promised=True)) for task in tasks[:100]]
    await asyncio.sleep(0)
    for kind in ("normal", "pubsub"):
        await asyncio.to_thread(redis.ask, "CLIENT", "KILL", "TYPE", kind)
    submitting += [asyncio.create_task(b.submit([task], promised=True)) for task in tasks[100:]]
    await asyncio.gather(*submitting)
    assert len((await a.list(limit=500))[0]) == 200
    await asyncio.sleep(0.3)
    (held,) = await b.claim(["any"], 1)
    assert await a.peers.stop(await a.get(held.id))
    await until(lambda: b.heard.stops)  # news come again
    a.peers.publish([TaskQueued(1.0, 0, "x")])
    await until(lambda: b.heard.events)


async def test_a_large_result_waits_for_the_place_that_it_goes_to(another: Opener, tmp_path: Path) -> None:
    a = await another()
    task = new_task()
    await a.submit([task], promised=True)
    await a.claim(["any"], 1)
    attempt = run(task)
    there = tmp_path / "blobs"
    there.write_text("no folder")  # as a mount that is gone
    outputs = end(task, size=100_000).outputs
    finishing = asyncio.create_task(a.finish(task, attempt))
    await asyncio.wait([finishing], timeout=0.5)
    assert not finishing.done()
    there.unlink()
    assert await finishing
    ended = await a.get(task.id)
    assert ended is not None
    assert same(ended.outputs, outputs)


async def test_a_place_that_cannot_be_read_now_is_no_result_that_is_gone(another: Opener, tmp_path: Path) -> None:
    a = await another()
    task = new_task(parameters={"x": new_array(100_000)})
    await a.submit([task], promised=True)
    (held,) = await a.claim(["any"], 1)
    (tmp_path / "blobs").rename(tmp_path / "away")
    (tmp_path / "blobs").write_text("no folder")
    with pytest.raises(Unavailable):
        await a.load(held)


async def test_a_redis_whose_clock_is_set_back_keeps_nobody_from_work(another: Opener) -> None:
    a, b, c = [await another(lease=0.4) for _ in range(3)]
    left, new = new_task(), new_task()
    await a.submit([left], promised=True)
    await a.claim(["any"], 1)
    await dies(a)
    ahead = int(time.time()) + 3600
    for name in ("renewed", "mercy"):  # what stands there when the clock had been an hour ahead until now
        await b._link.command("SET", b._link.key(name), ahead * 1000)
    await b._link.command("ZADD", b._link.key("leases"), ahead * 1000, left.id)
    b._noted_at = ahead * 1_000_000
    await c.submit([new], promised=True)
    await until(lambda: b._heads.get("any") is not None and b._heads["any"].id == new.id, 2)
    await until(lambda: b.depths() == {"any": 2}, 3)
    assert {task.id for task in await b.claim(["any"], 2)} == {left.id, new.id}


async def test_what_cannot_be_read_stops_no_gateway(another: Opener, caplog: pytest.LogCaptureFixture) -> None:
    a, b, c = [await another(lease=0.4) for _ in range(3)]
    damaged, held, mine = new_task(needs=("other",)), new_task(needs=("other",)), new_task()
    await a.submit([damaged, held], promised=True)
    await a._link.command("HSET", a._link.key(f"task:{damaged.id}"), "m", b"\xc1")
    await b.submit([mine], promised=True)
    await b.claim(["any"], 1)
    await a._link.script("publish", 1, b"\xc1", 100)
    await dies(a)
    b.peers.publish([TaskQueued(1.0, 0, "x")])
    await until(lambda: b.heard.events and c.heard.events)
    await until(lambda: b.heard.adopted + c.heard.adopted)
    assert [task.id for task in b.heard.adopted + c.heard.adopted] == [held.id]
    await asyncio.sleep(1.0)
    assert await c.claim(["any"], 1) == []  # its lease is renewed
    assert "cannot be read" in caplog.text


async def test_a_defect_in_what_is_told_ends_no_lease(another: Opener, caplog: pytest.LogCaptureFixture) -> None:
    a, b = await another(lease=0.4), await another(lease=0.4)
    mine, more = new_task(), new_task()
    await b.submit([mine], promised=True)
    await b.claim(["any"], 1)

    def fails(*_: Any) -> None:
        raise ValueError("a defect")

    b.heard.waiting = b.heard.stop = b.heard.happened = fails
    b.peers.publish([TaskQueued(1.0, 0, "x")])
    await a.submit([more], promised=True)
    assert await a.peers.stop(await a.get(mine.id))
    await asyncio.sleep(1.0)
    assert [task.id for task in await a.claim(["any"], 2)] == [more.id]
    del b.heard.waiting, b.heard.stop, b.heard.happened
    b.peers.publish([TaskQueued(2.0, 0, "y")])
    await until(lambda: [event.task_id for event in b.heard.events] == ["y"])
    await until(lambda: b.heard.stops)
    assert "a defect" in caplog.text


async def test_a_full_redis_takes_no_tasks_and_gives_out_those_it_has(another: Opener, redis: RedisServer) -> None:
    a = await another()
    task = new_task()
    await a.submit([task], promised=True)
    redis.ask("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(StorageFull) as refused:
            await a.submit([new_task()], promised=True)
        assert refused.value.retry_after
        assert await a.claim(["any"], 5) == [task]
        attempt = run(task)
        assert await a.finish(end(task), attempt)
    finally:
        redis.ask("CONFIG", "SET", "maxmemory", "0")
    assert len((await a.list())[0]) == 1


async def test_readers_of_the_shared_log_miss_nothing_or_are_told(another: Opener) -> None:
    a, b = await another(), await another()
    logs = []
    for store, kept in ((a, 100), (b, 5)):
        log = SharedEvents(store.peers, kept=kept)
        store.heard.happened = log.happened
        logs.append(log)
    start = logs[0].last()
    own: list[AnyEvent] = []
    logs[0].observe(own.extend)
    for n in range(20):
        logs[n % 2].publish(TaskQueued(float(n), 0, str(n)))
    await until(lambda: logs[0].last() == logs[1].last() and len(logs[0]._ring) == 20)
    logs[0].flush()
    assert [event.time for event in own] == [float(n) for n in range(0, 20, 2)]

    async def read(log: SharedEvents, after: int, limit: int = 1000) -> list[AnyEvent]:
        found: list[AnyEvent] = []
        async with asyncio.timeout(5), aclosing(log.read(after=after, limit=limit)) as batches:
            async for batch in batches:
                found += batch
                if found[-1].seq == log.last():
                    break
        return found

    everything = await read(logs[0], start)
    assert len(everything) == 20
    assert [event.seq for event in await read(logs[1], start)] == [event.seq for event in everything]  # beyond its ring: from Redis
    assert [event.seq for event in await read(logs[1], everything[14].seq)] == [event.seq for event in everything[15:]]
    slow = await read(logs[0], start, limit=4)
    assert isinstance(slow[0], Gap)
    assert slow[0].missed == 16
    assert [event.seq for event in slow[1:]] == [event.seq for event in everything[16:]]
    assert isinstance((await read(logs[1], start - 10**12))[0], Gap)
