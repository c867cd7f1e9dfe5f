"""The part of a store that lives in the memory of its one owner: the queue, the live tasks, the ones that ended last."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice
from time import time
from typing import TypedDict

from openruntime.contracts.errors import QueueFull
from openruntime.contracts.interfaces import Store
from openruntime.contracts.records import Filter, Task
from openruntime.stores.codec import bare, memory, result_bytes
from openruntime.stores.queue import LaneHeaps


class Bounds(TypedDict, total=False):
    """Waiting tasks, and bytes of their inputs in memory; ended ones by number, age in seconds and bytes of results; results by age in
    seconds; arrays in a row by bytes."""

    queue_bound: int
    queue_bytes: int
    history: int
    history_age: float
    history_bytes: int
    result_ttl: float
    inline_bytes: int


class EmbeddedStore(Store):
    """What memory and SQLite stores share; nothing here waits. `retire` hooks in what happens to an ended task's record."""

    def __init__(
        self,
        *,
        queue_bound: int = 200_000,
        queue_bytes: int = 1 << 30,
        history: int = 100_000,
        history_age: float = 86_400,
        history_bytes: int = 1 << 30,
        result_ttl: float = 86_400,
        inline_bytes: int = 65_536,
    ) -> None:
        """As `Bounds` says."""
        self._queue_bound = queue_bound
        self._queue_bytes = queue_bytes
        self._history = history
        self._history_age = history_age
        self._history_bytes = history_bytes
        self._result_ttl = result_ttl
        self._inline_bytes = inline_bytes
        self._heaps = LaneHeaps()
        self._live: dict[str, Task] = {}  # not ended
        self._weights: dict[str, int] = {}  # of these, bytes of their inputs in memory
        self._weight = 0  # of all
        self._held: set[str] = set()  # live, but not claimable yet: their `needs` are not met, or their inputs are being written
        self._ended: OrderedDict[str, Task] = OrderedDict()  # in the order of their end
        self._ended_bytes = 0
        self._keys: dict[tuple[str, str], str] = {}

    async def requeue(self, task: Task) -> None:
        if self._live.get(task.id) is task:
            if task.id in self._held:
                self._held.discard(task.id)
                self._weigh(task)  # what it needed stands in its inputs now
            self._heaps.push(task)

    async def claim(self, lanes: Sequence[str], limit: int) -> list[Task]:
        return self._heaps.pop(lanes, limit)

    async def remove(self, task: Task) -> bool:
        if task.id in self._held:
            self._held.discard(task.id)
            return True
        return self._heaps.discard(task.id)

    def depths(self) -> dict[str, int]:
        return self._heaps.depths()

    def best(self, lanes: Sequence[str]) -> Task | None:
        return self._heaps.best(lanes)

    async def find(self, tenant: str, idempotency: str) -> Task | None:
        task_id = self._keys.get((tenant, idempotency))
        return None if task_id is None else await self.get(task_id)

    def _admit(self, tasks: Sequence[Task]) -> None:
        """Make the tasks known, not yet claimable. Raises `QueueFull` and admits none where the bound would be passed."""
        waiting = len(self._heaps) + len(self._held)
        new = [task for task in tasks if not task.life.status.ended]
        if waiting + len(new) > self._queue_bound:
            raise QueueFull(f"{waiting} tasks are waiting and the queue holds {self._queue_bound}; try again later", retry_after=1.0)
        weights = [memory(task.call.parameters.values(), self._inline_bytes) for task in new]
        more = sum(weights)
        if self._weight and self._weight + more > self._queue_bytes:
            raise QueueFull(
                f"the inputs of tasks that wait or run take {self._weight} bytes, these {more} more, and they may take {self._queue_bytes} together;"
                " try again later",
                retry_after=1.0,
            )
        for task, weight in zip(new, weights, strict=True):
            self._live[task.id] = task
            self._weights[task.id] = weight
            self._held.add(task.id)
        self._weight += more
        for task in tasks:
            if task.idempotency is not None:
                self._keys[task.tenant, task.idempotency] = task.id

    def _place(self, tasks: Iterable[Task]) -> None:
        """Let admitted tasks be claimed, but those that were removed meanwhile or have `needs`."""
        for task in tasks:
            if task.id in self._held and not task.needs:
                self._held.discard(task.id)
                self._heaps.push(task)

    def _weigh(self, task: Task) -> None:
        """Count the inputs of a live task as they are now."""
        weight = memory(task.call.parameters.values(), self._inline_bytes)
        self._weight += weight - self._weights.get(task.id, 0)
        self._weights[task.id] = weight

    def _forget(self, task: Task) -> None:
        """Undo everything that is known of a task."""
        if self._live.pop(task.id, None) is not None:
            self._weight -= self._weights.pop(task.id)
            self._held.discard(task.id)
            self._heaps.discard(task.id)
        if self._ended.pop(task.id, None) is not None:
            self._ended_bytes -= result_bytes(task)
        if task.idempotency is not None and self._keys.get((task.tenant, task.idempotency)) == task.id:
            del self._keys[task.tenant, task.idempotency]

    def _end(self, task: Task, attempt: int) -> bool:
        """Take an ended task out of the live ones; False when `attempt` is stale."""
        if not task.life.status.ended:
            raise ValueError(f"task {task.id} is {task.life.status}; only an ended task can be finished")
        live = self._live.get(task.id)
        if live is None or live.life.attempt != attempt:
            return False
        del self._live[task.id]
        self._weight -= self._weights.pop(task.id)
        self._held.discard(task.id)
        self._heaps.discard(task.id)
        return True

    def _shelve(self, task: Task) -> int:
        """Put an ended task with the others; its inputs and program are not needed any more. The bytes of its result."""
        if task.finished is None:
            task.finished = time()
        if task.call.parameters or task.call.program:
            task.call = task.call.forgotten()
        size = result_bytes(task)
        self._ended[task.id] = task
        self._ended_bytes += size
        return size

    def _fresh(self, task: Task) -> Task:
        """The task; its result is gone when its time to live is over."""
        if task.outputs is not None and task.finished is not None and task.finished + self._result_ttl < time():
            self._expire(task)
        return task

    def _expire(self, task: Task) -> None:
        if task.id in self._ended:
            self._ended_bytes -= result_bytes(task)
        task.outputs = None

    def _in_memory(self, filter: Filter, after: str | None, limit: int) -> list[Task]:
        chosen = [task for task in (*self._live.values(), *self._ended.values()) if (after is None or task.id < after) and filter.matches(task)]
        chosen.sort(key=lambda task: task.id, reverse=True)
        return [bare(task) for task in islice(chosen, limit)]


def page(tasks: list[Task], limit: int) -> tuple[list[Task], str | None]:
    """The first `limit` of tasks read with a limit one higher, and the cursor where there are more."""
    return tasks[:limit], tasks[limit - 1].id if len(tasks) > limit else None
