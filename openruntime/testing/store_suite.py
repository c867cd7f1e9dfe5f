"""What every task store must do. Subclass `StoreSuite`, give it `make`, and run it with pytest and pytest-asyncio.

class TestMine(StoreSuite):
    def make(self, directory, **bounds): return MyStore(directory, **bounds)
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import time
from typing import Any

import pytest

from openruntime.contracts.errors import Expired, QueueFull
from openruntime.contracts.interfaces import Store
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.payload import Array, Reference
from openruntime.contracts.records import Filter, Life, Program, Task
from openruntime.testing.store_tasks import end, new_array, new_task, run, same

Opener = Callable[..., contextlib.AbstractAsyncContextManager[Store]]


class _Suite:
    """`durable`: the store outlives its process, and a second `make` finds all; `promises_all`: even what was submitted without promise."""

    durable = False
    promises_all = False

    def make(self, directory: Path, **bounds: Any) -> Store:
        raise NotImplementedError("a subclass says which store is tested")

    @pytest.fixture
    def opened(self, tmp_path: Path) -> Opener:
        @contextlib.asynccontextmanager
        async def opened(**bounds: Any) -> AsyncIterator[Store]:
            store = self.make(tmp_path, **bounds)
            await store.open()
            try:
                yield store
            finally:
                await store.close()

        return opened

    @pytest.fixture
    async def store(self, opened: Opener) -> AsyncIterator[Store]:
        async with opened() as store:
            yield store

    async def end_one(self, store: Store, task: Task, **how: Any) -> Task:
        await store.submit([task], promised=True)
        assert await store.claim([task.lane], 1) == [task]
        attempt = run(task)
        assert await store.finish(end(task, **how), attempt)
        return task


class QueueSuite(_Suite):
    """Waiting tasks: lanes, ranks, the bound."""

    async def test_claims_in_the_order_of_rank_then_arrival(self, store: Store) -> None:
        tasks = [new_task(priority=priority, created=1000.0, rank=1000.0 - 30.0 * priority) for priority in (5, 10, 5, 1)]
        await store.submit(tasks, promised=True)
        assert await store.claim(["any"], 3) == [tasks[1], tasks[0], tasks[2]]
        assert await store.claim(["any"], 3) == [tasks[3]]
        assert await store.claim(["any"], 3) == []

    async def test_claims_the_best_of_several_lanes_and_of_no_other(self, store: Store) -> None:
        a, b, c, d = (new_task(lane=lane, rank=float(rank)) for rank, lane in enumerate(["gpu", "any", "cuda:0", "gpu"]))
        await store.submit([d, c, b, a], promised=False)
        assert store.depths() == {"gpu": 2, "any": 1, "cuda:0": 1}
        assert store.best(["any", "gpu"]) is a
        assert await store.claim(["any", "gpu"], 10) == [a, b, d]
        assert store.depths() == {"cuda:0": 1}
        assert store.best(["any", "gpu"]) is None

    async def test_remove_takes_a_waiting_task_out_once(self, store: Store) -> None:
        a, b = new_task(), new_task()
        await store.submit([a, b], promised=True)
        assert await store.remove(a)
        assert not await store.remove(a)
        assert await store.claim(["any"], 5) == [b]
        assert not await store.remove(b)

    async def test_requeue_keeps_the_rank_and_asks_for_the_lane_anew(self, store: Store) -> None:
        a, b = new_task(rank=1.0), new_task(rank=2.0)
        await store.submit([a, b], promised=True)
        await store.claim(["any"], 1)
        a.lane = "cpu:0"
        await store.requeue(a)
        assert await store.claim(["any", "cpu:0"], 1) == [a]
        await store.requeue(a)
        await store.requeue(a)
        assert store.depths() == {"cpu:0": 1, "any": 1}

    async def test_a_removed_task_can_be_queued_again(self, store: Store) -> None:
        task = new_task()
        await store.submit([task], promised=True)
        for _ in range(3):
            assert await store.remove(task)
            await store.requeue(task)
        assert await store.claim(["any"], 5) == [task]

    async def test_a_task_with_needs_waits_until_it_is_queued(self, store: Store) -> None:
        task = new_task(needs=("other",), parameters={"x": Reference(task="other")})
        await store.submit([task], promised=True)
        assert await store.claim(["any"], 1) == []
        assert await store.get(task.id) is task
        await store.requeue(task)
        assert await store.claim(["any"], 1) == [task]

    async def test_the_bound_refuses_all_or_none(self, opened: Opener) -> None:
        async with opened(queue_bound=3) as store:
            await store.submit([new_task(), new_task(needs=("other",))], promised=False)
            extra = [new_task(idempotency="key"), new_task()]
            with pytest.raises(QueueFull) as refused:
                await store.submit(extra, promised=True)
            assert refused.value.retry_after
            assert await store.get(extra[0].id) is None
            assert await store.find("local", "key") is None
            assert len(await store.claim(["any"], 9)) == 1
            await store.submit(extra, promised=True)

    async def test_many_waiting_tasks_come_out_in_order(self, store: Store) -> None:
        tasks = [new_task(rank=float((n * 7919) % 1000), lane=("any", "gpu")[n % 2]) for n in range(1000)]
        await store.submit(tasks, promised=False)
        for task in tasks[::3]:
            assert await store.remove(task)
        kept = [task for n, task in enumerate(tasks) if n % 3]
        assert await store.claim(["any", "gpu"], 1000) == sorted(kept, key=lambda task: (task.rank, task.id))


class EndSuite(_Suite):
    """Inputs, results, promises, and attempts that come too late."""

    async def test_a_finished_task_is_found_with_its_result(self, store: Store) -> None:
        task = await self.end_one(store, new_task())
        found = await store.get(task.id)
        assert found is not None
        assert found.status is TaskStatus.COMPLETED
        assert same(found.outputs, task.outputs)

    async def test_a_stale_attempt_is_refused(self, store: Store) -> None:
        task = new_task()
        await store.submit([task], promised=True)
        await store.claim(["any"], 1)
        run(task)
        await store.requeue(task)
        await store.claim(["any"], 1)
        attempt = run(task)
        assert not await store.finish(end(task), attempt - 1)
        assert await store.finish(task, attempt)
        assert not await store.finish(task, attempt)

    async def test_a_task_that_never_ran_can_end(self, store: Store) -> None:
        task = new_task()
        await store.submit([task], promised=True)
        assert await store.finish(end(task, TaskStatus.CANCELLED), 0)
        assert await store.claim(["any"], 1) == []

    async def test_only_an_ended_task_can_be_finished(self, store: Store) -> None:
        task = new_task()
        await store.submit([task], promised=True)
        with pytest.raises(ValueError, match="queued"):
            await store.finish(task, 0)

    async def test_an_ended_task_is_only_recorded(self, store: Store) -> None:
        task = end(new_task(cached=True))
        await store.submit([task], promised=True)
        assert await store.claim(["any"], 1) == []
        found = await store.get(task.id)
        assert found is not None
        assert same(found.outputs, task.outputs)

    async def test_inputs_come_back_whatever_their_size(self, opened: Opener) -> None:
        async with opened(inline_bytes=1000) as store:
            arrays = {"x": new_array(100_000), "list": [new_array(10), new_array(5000)], "empty": Array("float32", (0, 3), b"")}
            values = {**arrays, "axis": -1, "shape": (2, 3)}
            task = new_task(parameters=dict(values))
            await store.submit([task], promised=True)
            await store.claim(["any"], 1)
            assert same(await store.load(task), values)

    async def test_large_results_come_back(self, opened: Opener) -> None:
        async with opened(inline_bytes=1000) as store:
            for promised in (True, False):
                task = new_task()
                await store.submit([task], promised=promised)
                await store.claim(["any"], 1)
                attempt = run(task)
                outputs = end(task, size=200_000).outputs
                await store.finish(task, attempt)
                await store.keep(task)
                found = await store.get(task.id)
                assert found is not None
                assert same(found.outputs, outputs)

    async def test_keep_is_harmless_at_any_time(self, store: Store) -> None:
        task = new_task(parameters={"x": new_array(100_000)})
        await store.keep(task)
        await store.submit([task], promised=False)
        await asyncio.gather(store.keep(task), store.keep(task))
        assert task.kept
        await store.claim(["any"], 1)
        attempt = run(task)
        keeping = asyncio.create_task(store.keep(task))
        assert await store.finish(end(task), attempt)
        await keeping
        await store.keep(task)
        assert (await store.get(task.id)) is not None

    async def test_a_program_goes_to_the_worker_and_not_into_history(self, store: Store) -> None:
        await store.submit([new_task(program=b"source")], promised=True)
        [task] = await store.claim(["any"], 1)
        assert task.call.program == Program("opencl", b"source")
        attempt = run(task)
        await store.finish(end(task), attempt)
        found = await store.get(task.id)
        assert found is not None
        assert found.call.program == Program("opencl")

    async def test_unknown_ids_are_none(self, store: Store) -> None:
        assert await store.get("'; DROP TABLE tasks; --") is None
        assert await store.find("local", "nothing") is None


class HistorySuite(_Suite):
    """Ended tasks: found, listed, pruned; and what is left of the others after a restart."""

    async def test_a_key_finds_its_task_and_no_other_tenant(self, store: Store) -> None:
        task = await self.end_one(store, new_task(idempotency="key", fingerprint="abc"))
        found = await store.find("local", "key")
        assert found is not None
        assert (found.id, found.fingerprint) == (task.id, "abc")
        assert await store.find("other", "key") is None

    async def test_lists_newest_first_in_pages_with_live_and_ended(self, store: Store) -> None:
        ended = [await self.end_one(store, new_task()) for _ in range(4)]
        waiting = [new_task() for _ in range(3)]
        await store.submit(waiting, promised=True)
        expected = [task.id for task in reversed(ended + waiting)]
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page, cursor = await store.list(after=cursor, limit=2)
            seen += [task.id for task in page]
            assert all(task.outputs is None and not task.call.parameters for task in page)
            if cursor is None:
                break
        assert seen == expected
        assert waiting[0].call.parameters
        assert (await store.list(limit=7))[1] is None

    async def test_list_filters(self, store: Store) -> None:
        fft = await self.end_one(store, new_task(operation="fft", tags=("a", "b")))
        failed = await self.end_one(store, new_task(tenant="other"), status=TaskStatus.FAILED)
        queued = new_task(tags=("b",))
        await store.submit([queued], promised=True)

        async def ids(**filters: Any) -> list[str]:
            return [task.id for task in (await store.list(Filter(**filters)))[0]]

        assert await ids(operation="fft") == [fft.id]
        assert await ids(tenant="other") == [failed.id]
        assert await ids(status="failed") == [failed.id]
        assert await ids(status="completed") == [fft.id]
        assert await ids(status="queued") == [queued.id]
        assert await ids(status="running") == []
        assert await ids(device="cpu:0") == [failed.id, fft.id]
        assert await ids(tag="b") == [queued.id, fft.id]
        assert await ids(tag="b", operation="fft", status="completed", device="cpu:0", tenant="local") == [fft.id]
        assert await ids(tag="' OR 1=1 --") == []

    async def test_prune_by_age(self, opened: Opener) -> None:
        async with opened(history_age=100.0, result_ttl=100.0) as store:
            old = await self.end_one(store, new_task(idempotency="key"), at=time() - 200.0)
            new, waiting = await self.end_one(store, new_task()), new_task(created=time() - 1000.0)
            await store.submit([waiting], promised=True)
            assert await store.prune(time()) == 1
            assert await store.get(old.id) is None
            assert await store.find("local", "key") is None
            assert await store.get(new.id) is not None
            assert await store.get(waiting.id) is waiting

    async def test_prune_by_number_and_by_bytes(self, opened: Opener) -> None:
        for bounds in ({"history": 2}, {"history_bytes": 250}):
            async with opened(**bounds) as store:
                tasks = [await self.end_one(store, new_task(), size=100, at=time() - 10 + n) for n in range(5)]
                await store.prune(time())
                assert [await store.get(task.id) is not None for task in tasks] == [False, False, False, True, True]
                assert [task.id for task in (await store.list())[0]] == [tasks[4].id, tasks[3].id]
                await store.prune(time() + 1e9)
                assert (await store.list())[0] == []

    async def test_a_result_expires_before_its_record(self, opened: Opener) -> None:
        async with opened(result_ttl=50.0, history_age=1000.0) as store:
            task = await self.end_one(store, new_task(), at=time() - 40.0)
            late = await self.end_one(store, new_task(), at=time() - 60.0)
            assert await store.prune(time()) == 0
            for ended, there in ((task, True), (late, False)):
                found = await store.get(ended.id)
                assert found is not None
                assert (found.outputs is not None) is there
            assert await store.prune(time() + 20.0) == 0
            found = await store.get(task.id)
            assert found is not None
            assert found.outputs is None

    async def test_reopening_finds_what_was_promised(self, opened: Opener) -> None:
        if not self.durable:
            pytest.skip("this store ends with its process")
        big = {"x": new_array(100_000), "n": 2**70, "nested": {"ref": Reference(task="t", output="o"), "pair": (1, [None, 2.5])}}
        first = new_task(parameters=dict(big), tags=("a",), deadline=time() + 100.0, max_retries=3, idempotency="key")
        tasks = [first, new_task(), new_task(), new_task()]
        held, forgotten = new_task(needs=("gone",)), new_task()
        async with opened() as store:
            await store.submit([*tasks, held], promised=True)
            await store.submit([forgotten], promised=False)
            assert await store.claim(["any"], 2) == tasks[:2]
            run(tasks[0])
            attempt = run(tasks[1])
            await store.finish(end(tasks[1]), attempt)
            tasks[0].life = Life(TaskStatus.QUEUED, 1, 1)
            await store.requeue(tasks[0])
            assert await store.claim(["any"], 1) == [tasks[0]]
            run(tasks[0])
        async with opened() as store:
            recovered = await store.list(Filter(status="queued"))
            unpromised = [forgotten] if self.promises_all else []
            assert [task.id for task in recovered[0]] == [task.id for task in reversed([tasks[0], tasks[2], tasks[3], held, *unpromised])]
            again = await store.claim(["any"], 10)
            assert [task.id for task in again] == [task.id for task in [tasks[0], tasks[2], tasks[3], *unpromised]]
            first = again[0]
            assert (first.life.status, first.life.failures) == (TaskStatus.QUEUED, 1)
            assert first.life.attempt >= 1
            assert (first.tags, first.deadline, first.max_retries, first.kept) == (("a",), tasks[0].deadline, 3, True)
            assert same(await store.load(first), big)
            found = await store.get(tasks[1].id)
            assert found is not None
            assert same(found.outputs, tasks[1].outputs)
            keyed = await store.find("local", "key")
            assert keyed is first
            assert (await store.get(forgotten.id) is not None) is self.promises_all
            assert await store.get(held.id) is not None


class ShelfSuite(_Suite):
    """`BlobStore` and `Shelf`."""

    async def test_blobs_are_named_by_their_content(self, store: Store) -> None:
        for size in (0, 1, 3_000_000):
            data = os.urandom(size)
            digest = await store.blobs.write(memoryview(data), durable=True)
            assert await store.blobs.write(data, durable=False) == digest
            assert bytes(await store.blobs.read(digest)) == data
        with pytest.raises(Expired):
            await store.blobs.read("0" * 64)

    async def test_the_shelf_keeps_values_until_they_expire(self, store: Store) -> None:
        arrays = {"small": new_array(10), "large": new_array(100_000)}
        await store.shelf.put("tensor", "a", b"meta", arrays, ttl=100.0, tenant="local")
        found = await store.shelf.get("tensor", "a")
        assert found is not None
        assert found[0] == b"meta"
        assert same(found[1], arrays)
        assert await store.shelf.get("result", "a") is None
        assert not await store.shelf.put("tensor", "a", b"new", {}, ttl=100.0, tenant="local", instead=b"another")
        assert await store.shelf.put("tensor", "a", b"new", {}, ttl=100.0, tenant="local", instead=b"meta")
        assert await store.shelf.get("tensor", "a") == (b"new", {})
        await store.shelf.put("tensor", "b", b"", {}, ttl=-1.0, tenant="local")
        assert not await store.shelf.put("tensor", "b", b"", {}, ttl=100.0, tenant="local", instead=b""), "it has expired"
        assert not await store.shelf.delete("tensor", "b")
        assert await store.shelf.delete("tensor", "a")
        assert not await store.shelf.delete("tensor", "a")

    async def test_the_shelf_lists_by_key(self, store: Store) -> None:
        for key, tenant in (("c", "one"), ("a", "one"), ("b", "two")):
            await store.shelf.put("tensor", key, key.encode(), {}, ttl=100.0, tenant=tenant)
        await store.shelf.put("tensor", "d", b"", {}, ttl=-1.0, tenant="one")
        assert await store.shelf.items("tensor") == [("a", b"a"), ("b", b"b"), ("c", b"c")]
        assert await store.shelf.items("tensor", tenant="one") == [("a", b"a"), ("c", b"c")]
        assert await store.shelf.items("tensor", after="a", limit=1) == [("b", b"b")]

    async def test_the_shelf_drops_what_was_used_least_recently(self, store: Store) -> None:
        for key in "abcd":
            await store.shelf.put("result", key, b"", {"x": new_array(100)}, ttl=100.0, tenant="local")
        await store.shelf.put("result", "expired", b"", {}, ttl=-1.0, tenant="local")
        await store.shelf.put("other", "z", b"", {"x": new_array(1000)}, ttl=100.0, tenant="local")
        await store.shelf.get("result", "a")
        assert await store.shelf.trim("result", max_bytes=250) == 3
        assert [key for key, _ in await store.shelf.items("result")] == ["a", "d"]
        assert len(await store.shelf.items("other")) == 1


class StoreSuite(QueueSuite, EndSuite, HistorySuite, ShelfSuite):
    """The whole contract of a `Store` with its `BlobStore` and `Shelf`."""
