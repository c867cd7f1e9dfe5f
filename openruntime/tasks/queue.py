"""The priority queue as the executor sees it: ranks at submission, claims by lanes. Where the tasks wait is the store's."""

import time
from collections.abc import Callable, Sequence

from openruntime.contracts.events import AnyEvent, TaskFinished, TaskStarted
from openruntime.contracts.interfaces import Store
from openruntime.contracts.records import Task
from openruntime.tasks.fairness import FairShare
from openruntime.tasks.lifecycle import Event, advance


class TaskQueue:
    """Priority 10 first; each step of priority is worth `step` seconds of waiting, so nothing starves. Clients take turns: see `FairShare`."""

    def __init__(self, store: Store, *, step: float = 30.0, now: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._step = step
        self._now = now
        self._clock = time.time() - now()  # a clock set back later must not let newer tasks overtake
        self._fair = FairShare(step)
        self._tagged: dict[str, Task] | None = None if store.peers is None else {}  # tagged here and waiting, as far as is known

    def resume(self, latest: float) -> None:
        """What arrives from now on comes after a task created at `latest`, even where the clock was set back since."""
        self._clock = max(self._clock, latest - self._now())

    def rank(self, task: Task) -> float:
        """The static key tasks are taken by, smallest first: arrival in seconds, as a fair share has it, minus priority times the step."""
        return self._fair.tag(task.client, task.priority, self._now() + self._clock, task.predicted) - task.priority * self._step

    async def submit(self, tasks: Sequence[Task], *, promised: bool) -> None:
        """Rank them and let them wait; those that have ended already (cache hits) are only recorded. Raises as `Store.submit`."""
        waiting = [task for task in tasks if not task.life.status.ended]
        for task in waiting:
            task.rank = self.rank(task)
            if self._tagged is not None:
                self._tagged[task.id] = task
        try:
            await self._store.submit(tasks, promised=promised)
        except BaseException:
            for task in waiting:
                self._left(task)
            raise

    def best(self, lanes: Sequence[str]) -> Task | None:
        return self._store.best(lanes)

    async def claim(self, lanes: Sequence[str], limit: int) -> list[Task]:
        """Up to `limit` tasks, each with a new attempt number that fences whoever held it before."""
        tasks = await self._store.claim(lanes, limit)
        for task in tasks:
            task.life, _ = advance(task.life, Event.CLAIMED)
            self._served(task)
        return tasks

    async def requeue(self, task: Task) -> None:
        self._fair.entered(task)
        if self._tagged is not None:
            self._tagged[task.id] = task
        await self._store.requeue(task)

    async def remove(self, task: Task) -> bool:
        removed = await self._store.remove(task)
        if removed:
            self._left(task)
        return removed

    def happened(self, events: Sequence[AnyEvent]) -> None:
        """What the processes say that share the store: what others claim or end waits here no more."""
        tagged = self._tagged
        for event in events if tagged else ():
            if isinstance(event, (TaskStarted, TaskFinished)) and tagged and (task := tagged.get(event.task_id)) is not None:
                (self._served if isinstance(event, TaskStarted) else self._left)(task)

    def _served(self, task: Task) -> None:
        tag = task.rank + task.priority * self._step
        if self._tagged is None or self._tagged.pop(task.id, None) is not None:
            self._fair.served(task, tag)
        else:
            self._fair.passed(task.priority, tag)

    def _left(self, task: Task) -> None:
        if self._tagged is None or self._tagged.pop(task.id, None) is not None:
            self._fair.left(task)

    def depths(self) -> dict[str, int]:
        return self._store.depths()
