"""What the other processes on a shared store say, told to the parts that it concerns."""

import asyncio
import logging
from collections.abc import Sequence

from openruntime.contracts.errors import OpenRuntimeError
from openruntime.contracts.events import AnyEvent
from openruntime.contracts.records import Task
from openruntime.tasks.executor import TaskExecutor
from openruntime.tasks.lifecycle import Event
from openruntime.tasks.manager import TaskManager
from openruntime.tasks.shared_events import SharedEvents

log = logging.getLogger(__name__)


class Hearing:
    """Implements `Hears`."""

    def __init__(self, executor: TaskExecutor, tasks: TaskManager, events: SharedEvents) -> None:
        self._executor = executor
        self._tasks = tasks
        self._events = events
        self._running: set[asyncio.Task[None]] = set()

    def waiting(self) -> None:
        self._executor.wake()

    def ended(self, task_id: str) -> None:
        self._tasks.ended_elsewhere(task_id)

    def stop(self, task: Task) -> None:
        self._executor.later(task, Event.CANCEL)

    def adopt(self, tasks: Sequence[Task]) -> None:
        recovering = asyncio.get_running_loop().create_task(self._recover(tasks))
        self._running.add(recovering)
        recovering.add_done_callback(self._running.discard)

    def happened(self, events: Sequence[AnyEvent], after: int) -> None:
        self._events.happened(events, after)

    async def _recover(self, tasks: Sequence[Task]) -> None:
        try:
            await self._tasks.recover(tasks)
        except OpenRuntimeError as error:
            log.warning("tasks of a gateway that is gone could not be taken up: %s", error)
