"""Tasks that wait for others: queued as soon as those have ended, with their outputs as inputs, or failed with them."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

from openruntime.contracts.errors import Internal, OpenRuntimeError
from openruntime.contracts.interfaces import Store
from openruntime.contracts.records import Call, Failure, Task
from openruntime.tasks.dependencies import Dependencies

log = logging.getLogger(__name__)

AGAIN, MOST = 2.0, 500  # seconds between looks at those that wait, and how many are looked at each time


class Dependents:
    """Remembers who waits for whom. `predict`, `refuse` and `wake` as `TaskManager` has them."""

    def __init__(
        self, dependencies: Dependencies, store: Store, *, predict: Callable[[Call], float],
        refuse: Callable[[Task, Failure], Awaitable[None]], wake: Callable[[], None],
    ) -> None:  # fmt: skip
        self._dependencies = dependencies
        self._store = store
        self._predict = predict
        self._refuse = refuse
        self._wake = wake
        self._held: dict[str, Task] = {}  # last those that were looked at last
        self._of: defaultdict[str, list[Task]] = defaultdict(list)  # task id -> who needs it
        self._looking: asyncio.Task[None] | None = None

    async def hold(self, tasks: Sequence[Task]) -> None:
        """Let tasks wait for what they need, which may have ended meanwhile."""
        for task in tasks:
            self._held[task.id] = task
            for needed in task.needs:
                self._of[needed].append(task)
        if tasks and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().create_task(self._look_again())
        for task in tasks:
            await self.met(task)

    def released_by(self, task_id: str) -> list[Task]:
        """Who needed a task that has ended; it waits for nobody itself."""
        self._held.pop(task_id, None)
        return self._of.pop(task_id, []) if self._of else []

    async def met(self, task: Task) -> None:
        """Queue a task whose last dependency has ended, or fail it with that dependency. What cannot be done now is tried again."""
        try:
            await self._release(task)
        except Exception as error:
            known = isinstance(error, OpenRuntimeError)
            log.warning("task %s is not queued yet: %s", task.id, error, exc_info=None if known else error)

    def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()

    async def _look_again(self) -> None:
        """As long as some wait: that a task has ended may not have been heard of here, or a store was away at that moment."""
        while self._held:
            await asyncio.sleep(AGAIN)
            for name in list(islice(self._held, MOST)):
                task = self._held.pop(name, None)
                if task is not None and task.needs and not task.life.status.ended:
                    self._held[name] = task
                    await self.met(task)

    async def _release(self, task: Task) -> None:
        try:
            outcome = await self._dependencies.resolve(task)
        except Exception as error:
            log.error("the inputs of task %s could not be put in place", task.id, exc_info=error)
            outcome = Internal("its inputs could not be put in place; the server's log has the cause under this task's id")
        if outcome is None or not task.needs or task.life.status.ended:
            return
        if isinstance(outcome, OpenRuntimeError):
            await self._refuse(task, Failure(outcome.code, outcome.message))
            return
        before = task.call, task.needs
        task.call, task.needs = outcome, ()
        task.predicted = self._predict(outcome)
        try:
            await self._store.requeue(task)
        except OpenRuntimeError:
            if (peers := self._store.peers) is None or peers.held(task) is task:
                task.call, task.needs = before
                self._held[task.id] = task  # else it is queued, or its lease ends by itself
            raise
        self._wake()
