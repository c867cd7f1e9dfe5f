"""What the other processes on a shared store say, told to the parts that it concerns."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from openruntime.contracts.errors import OpenRuntimeError
from openruntime.contracts.events import AnyEvent
from openruntime.contracts.records import Task
from openruntime.tasks.lifecycle import Event
from openruntime.tasks.manager import TaskManager
from openruntime.tasks.outcomes import Outcomes
from openruntime.tasks.queue import TaskQueue
from openruntime.tasks.shared_events import SharedEvents
from openruntime.tasks.streams import TaskStreams

log = logging.getLogger(__name__)


class Hearing:
    """Implements `Hears`. `waiting()` tells those who claim."""

    def __init__(
        self, waiting: Callable[[], None], queue: TaskQueue, outcomes: Outcomes, tasks: TaskManager, events: SharedEvents, streams: TaskStreams
    ) -> None:
        self._waiting = waiting
        self._queue = queue
        self._outcomes = outcomes
        self._streams = streams
        self._tasks = tasks
        self._events = events
        self._running: set[asyncio.Task[None]] = set()

    def waiting(self) -> None:
        self._waiting()

    def ended(self, task_id: str) -> None:
        self._tasks.ended_elsewhere(task_id)

    def stop(self, task: Task) -> None:
        self._outcomes.later(task, Event.CANCEL)

    def adopt(self, tasks: Sequence[Task]) -> None:
        recovering = asyncio.get_running_loop().create_task(self._recover(tasks))
        self._running.add(recovering)
        recovering.add_done_callback(self._running.discard)

    def happened(self, events: Sequence[AnyEvent], after: int) -> None:
        self._queue.happened(events)
        self._streams.heard(events)
        self._events.happened(events, after)

    async def _recover(self, tasks: Sequence[Task]) -> None:
        try:
            await self._tasks.recover(tasks)
        except OpenRuntimeError as error:
            log.warning("tasks of a gateway that is gone could not be taken up: %s", error)
