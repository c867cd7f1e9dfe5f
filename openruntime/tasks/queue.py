"""The priority queue as the executor sees it: ranks at submission, claims by lanes. Where the tasks wait is the store's."""

import time
from collections.abc import Sequence

from openruntime.contracts.interfaces import Store
from openruntime.contracts.records import Task
from openruntime.tasks.lifecycle import Event, advance


class TaskQueue:
    """Priority 10 first; each step of priority is worth `step` seconds of waiting, so nothing starves."""

    def __init__(self, store: Store, *, step: float = 30.0) -> None:
        self._store = store
        self._step = step
        self._clock = time.time() - time.monotonic()  # a clock set back later must not let newer tasks overtake

    def resume(self, latest: float) -> None:
        """What arrives from now on comes after a task created at `latest`, even where the clock was set back since."""
        self._clock = max(self._clock, latest - time.monotonic())

    def rank(self, priority: int) -> float:
        """The static key tasks are taken by, smallest first: arrival in seconds minus priority times the step."""
        return time.monotonic() + self._clock - priority * self._step

    async def submit(self, tasks: Sequence[Task], *, promised: bool) -> None:
        await self._store.submit(tasks, promised=promised)

    def best(self, lanes: Sequence[str]) -> Task | None:
        return self._store.best(lanes)

    async def claim(self, lanes: Sequence[str], limit: int) -> list[Task]:
        """Up to `limit` tasks, each with a new attempt number that fences whoever held it before."""
        tasks = await self._store.claim(lanes, limit)
        for task in tasks:
            task.life, _ = advance(task.life, Event.CLAIMED)
        return tasks

    async def requeue(self, task: Task) -> None:
        await self._store.requeue(task)

    async def remove(self, task: Task) -> bool:
        return await self._store.remove(task)

    def depths(self) -> dict[str, int]:
        return self._store.depths()
