"""Random sequences of calls: both stores agree with a model that is a plain dictionary, across restarts too."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule, run_state_machine_as_test

from openruntime.contracts.errors import QueueFull
from openruntime.contracts.interfaces import Store
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Filter, Task
from openruntime.stores.memory import MemoryStore
from openruntime.stores.sqlite import SqliteStore
from openruntime.testing.store_tasks import end, new_array, new_task, run, same

BOUND = 12
LANES = ("a", "b", "c")
RANKS = st.sampled_from([0.0, 1.0, 2.0])


class Stores(RuleBasedStateMachine):
    """`waiting`, `claimed` and `ended` are the model. Each task has a twin for the second store, since a store changes its own."""

    tasks: Bundle[str] = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.sqlite = self.open_sqlite()
        self.memory = MemoryStore(queue_bound=BOUND)
        self.twins: dict[str, tuple[Task, Task]] = {}
        self.waiting: set[str] = set()
        self.claimed: set[str] = set()
        self.ended: dict[str, Any] = {}

    def open_sqlite(self) -> SqliteStore:
        store = SqliteStore(self.directory, queue_bound=BOUND, inline_bytes=40, recent=2)
        self.loop.run_until_complete(store.open())
        return store

    def teardown(self) -> None:
        self.loop.run_until_complete(self.sqlite.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.directory)

    def both(self, call: Any) -> Any:
        """What `call(store, twin number)` returns, which must be the same for both."""
        answers = []
        for number, store in enumerate((self.sqlite, self.memory)):
            try:
                answers.append(self.loop.run_until_complete(call(store, number)))
            except QueueFull as error:
                answers.append(error.code)
        assert answers[0] == answers[1]
        return answers[0]

    @rule(target=tasks, sizes=st.lists(st.sampled_from([10, 100]), min_size=1, max_size=3), promised=st.booleans(), data=st.data())
    def submit(self, sizes: list[int], promised: bool, data: st.DataObject) -> Any:
        new = [new_task(parameters={"x": new_array(size)}, lane=data.draw(st.sampled_from(LANES)), rank=data.draw(RANKS)) for size in sizes]
        twins = [(task, msgspec.structs.replace(task)) for task in new]
        refused = self.both(lambda store, number: store.submit([pair[number] for pair in twins], promised=promised))
        assert (refused == "queue_full") == (len(self.waiting) + len(new) > BOUND)
        if refused:
            return multiple()
        for pair in twins:
            self.twins[pair[0].id] = pair
            self.waiting.add(pair[0].id)
        return multiple(*(task.id for task in new))

    @rule(lanes=st.lists(st.sampled_from(LANES), unique=True), limit=st.integers(1, 4))
    def claim(self, lanes: list[str], limit: int) -> None:
        async def claim(store: Store, number: int) -> list[str]:
            tasks = await store.claim(lanes, limit)
            for task in tasks:
                assert same((await store.load(task))["x"], (await store.load(self.twins[task.id][number]))["x"])
                run(task)
            return [task.id for task in tasks]

        ready = [self.twins[task_id][0] for task_id in self.waiting if self.twins[task_id][0].lane in lanes]
        expected = [task.id for task in sorted(ready, key=lambda task: (task.rank, task.id))[:limit]]
        assert self.both(claim) == expected
        self.waiting -= set(expected)
        self.claimed |= set(expected)

    @rule(task_id=tasks)
    def keep(self, task_id: str) -> None:
        if task_id not in self.twins:
            return
        self.both(lambda store, number: store.keep(self.twins[task_id][number]))
        assert self.twins[task_id][0].kept

    @rule(task_id=tasks)
    def requeue(self, task_id: str) -> None:
        if task_id in self.claimed:
            self.both(lambda store, number: store.requeue(self.twins[task_id][number]))
            self.claimed.discard(task_id)
            self.waiting.add(task_id)

    @rule(task_id=tasks)
    def remove(self, task_id: str) -> None:
        if task_id not in self.twins:
            return
        assert self.both(lambda store, number: store.remove(self.twins[task_id][number])) == (task_id in self.waiting)
        if task_id in self.waiting:
            self.waiting.discard(task_id)
            self.claimed.add(task_id)

    @rule(task_id=tasks, size=st.sampled_from([10, 100]), stale=st.booleans())
    def finish(self, task_id: str, size: int, stale: bool) -> None:
        if task_id not in self.twins:
            return
        live = task_id in self.waiting | self.claimed
        twins = self.twins[task_id]
        attempt = twins[0].life.attempt
        if live and not stale:
            end(twins[0], size=size)
            twins[1].life, twins[1].outputs, twins[1].finished = twins[0].life, twins[0].outputs, twins[0].finished
            twins[1].device = twins[0].device
        elif not twins[0].status.ended:
            return
        accepted = self.both(lambda store, number: store.finish(self.twins[task_id][number], attempt + stale))
        assert accepted is (live and not stale)
        if accepted:
            self.waiting.discard(task_id)
            self.claimed.discard(task_id)
            self.ended[task_id] = twins[0].outputs

    @rule(task_id=consumes(tasks))
    def get(self, task_id: str) -> None:
        if task_id not in self.twins:  # it was not promised, and the store was opened again since
            assert self.loop.run_until_complete(self.sqlite.get(task_id)) is None
            return

        async def get(store: Store, number: int) -> tuple[str, bool]:
            task = await store.get(task_id)
            assert task is not None
            return task.status, task.outputs is None or same(task.outputs, self.ended[task_id])

        status, right = self.both(get)
        assert right
        assert (status == TaskStatus.COMPLETED) is (task_id in self.ended)

    @rule(after=st.booleans(), limit=st.integers(1, 20), status=st.sampled_from([None, "queued", "completed"]))
    def list_(self, after: bool, limit: int, status: str | None) -> None:
        cursor = sorted(self.twins)[len(self.twins) // 2] if after and self.twins else None

        async def page(store: Store, number: int) -> tuple[list[str], str | None]:
            tasks, following = await store.list(Filter(status=status), after=cursor, limit=limit)
            return [task.id for task in tasks], following

        found = self.both(page)[0]
        wanted = [
            task_id for task_id in sorted(self.twins, reverse=True)
            if (cursor is None or task_id < cursor) and status in (None, self.twins[task_id][0].status)
        ]  # fmt: skip
        assert found == wanted[:limit]

    @rule()
    def restart(self) -> None:
        """SQLite's store is closed and opened: what was kept is back in the queue, the rest of what had not ended is gone."""
        live = self.waiting | self.claimed
        kept = {task_id for task_id in live if self.twins[task_id][0].kept}
        self.loop.run_until_complete(self.sqlite.close())
        self.sqlite = self.open_sqlite()
        recovered = {task.id: task for task in self.loop.run_until_complete(self.sqlite.claim(LANES, 1000))}
        assert recovered.keys() == kept
        self.memory = MemoryStore(queue_bound=1000)
        ended = [self.twins[task_id][1] for task_id in self.ended]
        for task_id in live - kept:
            del self.twins[task_id]
        for task_id, task in recovered.items():
            self.loop.run_until_complete(self.sqlite.requeue(task))
            self.twins[task_id] = (task, msgspec.structs.replace(task, call=msgspec.structs.replace(task.call)))
            loaded = self.loop.run_until_complete(self.sqlite.load(task))
            self.twins[task_id][1].call = msgspec.structs.replace(task.call, parameters=loaded)
        self.loop.run_until_complete(self.memory.submit([*(self.twins[task_id][1] for task_id in recovered), *ended], promised=True))
        self.memory._queue_bound = BOUND
        self.waiting, self.claimed = set(recovered), set()

    @invariant()
    def depths_are_right(self) -> None:
        depths = {lane: sum(self.twins[task_id][0].lane == lane for task_id in self.waiting) for lane in LANES}
        expected = {lane: depth for lane, depth in depths.items() if depth}
        assert self.sqlite.depths() == self.memory.depths() == expected


def test_both_stores_agree_with_the_model() -> None:
    run_state_machine_as_test(Stores, settings=settings(max_examples=25, stateful_step_count=30, deadline=None))
