"""A task's end: written into its record, recorded in the store, then told."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from openruntime.contracts import trace
from openruntime.contracts.errors import OpenRuntimeError, TaskCancelled
from openruntime.contracts.interfaces import EventSink, Store
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Failure, Life, Task
from openruntime.tasks.events import announce, finished

log = logging.getLogger(__name__)


class Ends:
    """`on_end(task)` is called once for every task whose end is recorded here."""

    def __init__(self, store: Store, events: EventSink, on_end: Callable[[Task], None]) -> None:
        self._store = store
        self._events = events
        self._on_end = on_end
        self.pending: set[asyncio.Task[None]] = set()

    async def record(self, task: Task, attempt: int, failure: Failure | None, *, aside: bool) -> None:
        """`failure`: where it failed; `aside` as in `tell`."""
        _close(task, failure)
        if task.life.status is not TaskStatus.COMPLETED:
            log.info("task %s: %s", task.life.status.value, task.failure.message if task.failure else "", extra=about(task))
        if aside:
            await self.tell(self._record(task, attempt), aside=True)
        else:
            await self._record(task, attempt)

    async def seal(self, task: Task, life: Life, failure: Failure | None) -> None:
        """Have on disk that the task ends with this `life`, before anybody can see it."""
        ended = msgspec.structs.replace(task, life=life, call=task.call.forgotten())
        _close(ended, failure)
        await self._store.keep(ended)
        if not task.life.status.ended:  # else it was cancelled meanwhile
            task.finished, task.outputs = ended.finished, ended.outputs

    async def tell(self, telling: Coroutine[Any, Any, None], *, aside: bool) -> None:
        """Await what tells the store something; `aside`: the caller has others to serve, and does not wait for it."""
        if not aside:
            await telling
        else:
            task = asyncio.get_running_loop().create_task(telling)
            self.pending.add(task)
            task.add_done_callback(self._told)

    def stop(self) -> None:
        """Give up what is not recorded yet: those tasks run again."""
        for telling in self.pending:
            telling.cancel()

    async def _record(self, task: Task, attempt: int) -> None:
        if not await self._store.finish(task, attempt):
            if self._store.peers is not None:
                await self._store.peers.refresh(task)
            return
        self._on_end(task)
        announce(self._events, task)
        self._events.publish(finished(task))

    def _told(self, telling: asyncio.Task[None]) -> None:
        self.pending.discard(telling)
        if not telling.cancelled() and (error := telling.exception()) is not None:
            log.error("the store was not told, so a task runs again: %s", error, exc_info=None if isinstance(error, OpenRuntimeError) else error)


def _close(task: Task, failure: Failure | None) -> None:
    """Write into the record what its end says besides."""
    status = task.life.status
    if status is TaskStatus.FAILED:
        task.failure = failure
    elif status is TaskStatus.CANCELLED:
        task.failure, task.outputs = Failure(TaskCancelled.code, "the task was cancelled"), None
    task.finished = task.finished or time.time()
    if status is not TaskStatus.COMPLETED and task.started is not None:
        task.seconds = task.finished - task.started


def about(task: Task) -> dict[str, Any]:
    """What belongs to a line of the log about a task."""
    return {"task_id": task.id, "operation": task.call.operation, **trace.ids(task.traceparent)}
