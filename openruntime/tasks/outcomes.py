"""What becomes of a task, whoever runs it: its end recorded, tried again, out of time, cancelled."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from openruntime.contracts.errors import TaskTimeout
from openruntime.contracts.events import TaskStarted
from openruntime.contracts.interfaces import EventSink, Store
from openruntime.contracts.records import Failure, Task
from openruntime.tasks.ends import Ends, about
from openruntime.tasks.events import announce
from openruntime.tasks.lifecycle import Event, Instruction, advance
from openruntime.tasks.queue import TaskQueue

log = logging.getLogger(__name__)


class Holder(Protocol):
    """Where a claimed task is."""

    def stop(self, task: Task, *, runs: bool) -> None:
        """Let it go; `runs`: it has begun, and what it holds is to be free soon."""


class Outcomes:
    """`on_end(task)` is called once for every task that ends here; `wake` where there may be work, or something `todo`."""

    def __init__(self, queue: TaskQueue, store: Store, events: EventSink, *, on_end: Callable[[Task], None], wake: Callable[[], None]) -> None:
        self.where: dict[str, Holder] = {}  # task id -> who holds it
        self.todo: deque[Callable[[], Any]] = deque()  # coroutine functions for the executor's pump, in order
        self.serving: asyncio.Task[None] | None = None  # who has others to serve, and so does not wait for a store that others share
        self._shared = store.peers is not None
        self._queue = queue
        self._peers = store.peers
        self._events = events
        self._ends = Ends(store, events, on_end)
        self._wake = wake
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def pending(self) -> bool:
        """Whether the store is still being told something."""
        return bool(self._ends.pending)

    def forget_deadlines(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def stop(self) -> None:
        """Give up what the store was not told yet: those tasks run again."""
        self._ends.stop()

    def begun(self, task: Task, now: float) -> None:
        """It runs, at `task.device` and `task.backend`, since the monotonic moment `now`."""
        task.life, _ = advance(task.life, Event.STARTED)
        task.started = started = clock(now)
        announce(self._events, task)
        waited = started - task.created
        self._events.publish(
            TaskStarted(started, 0, task.id, task.call.operation, task.tenant, task.device or "", task.backend or "", task.life.attempt, waited)
        )

    async def refuse(self, task: Task, failure: Failure) -> None:
        """Fail a task for a cause that trying again does not change."""
        await self._queue.remove(task)
        await self.settle(task, Event.REFUSED, failure)

    async def settle(self, task: Task, event: Event, failure: Failure | None = None) -> None:
        """Do what follows from what happened to a task that nobody holds any more."""
        attempt = task.life.attempt
        life, instruction = advance(task.life, event, task.max_retries)
        if not task.call.cacheable and instruction is Instruction.FINISH and task.kept and task.finished is None:
            self._unwatch(task)
            await self._ends.tell(self._settle_sealed(task, event, failure), aside=asyncio.current_task() is self.serving)
            return
        task.life = life
        if instruction is Instruction.REQUEUE:
            task.started = task.device = task.backend = None
            if failure is not None and event is not Event.RELEASED:
                log.info("task is tried again: %s", failure.message, extra=about(task))
            # what was released waits for something else to happen; waking now would spin
            await self._ends.tell(self._requeue(task, wake=event is not Event.RELEASED), aside=self._aside())
        elif instruction is Instruction.FINISH or instruction is Instruction.FINISH_AND_STOP:
            await self._finish(task, attempt, failure)

    async def _settle_sealed(self, task: Task, event: Event, failure: Failure | None) -> None:
        """As `settle`. Run again it might end otherwise, so its end is on disk before it is shown: see `docs/decisions/commits-in-groups.md`."""
        await self._ends.seal(task, advance(task.life, event, task.max_retries)[0], failure)
        await self.settle(task, event, failure)

    async def _finish(self, task: Task, attempt: int, failure: Failure | None) -> None:
        self._unwatch(task)
        await self._ends.record(task, attempt, failure, aside=self._aside())

    def _unwatch(self, task: Task) -> None:
        timer = self._timers.pop(task.id, None)
        if timer is not None:
            timer.cancel()

    def _aside(self) -> bool:
        """Whether the caller has others to serve, and the store is one that others share."""
        return self._shared and asyncio.current_task() is self.serving

    async def _requeue(self, task: Task, *, wake: bool) -> None:
        await self._queue.requeue(task)
        if wake:
            self._wake()

    def watch_deadline(self, task: Task) -> None:
        """End the task when its time is over."""
        if task.deadline is not None and task.id not in self._timers:
            delay = max(0.0, task.left(time.monotonic()))
            self._timers[task.id] = asyncio.get_running_loop().call_later(delay, lambda: self.later(task, Event.EXPIRED))

    def later(self, task: Task, event: Event) -> None:
        """Interrupt a task when the pump comes to it."""
        self.todo.append(partial(self.interrupt, task, event))
        self._wake()

    async def interrupt(self, task: Task, event: Event, reason: str = "") -> None:
        """Cancel a task (`Event.CANCEL`) or let it run out of time (`Event.EXPIRED`), wherever it is; `reason`, if it is not simply over."""
        if task.id not in self.where:
            await self._queue.remove(task)
        if self._peers is not None:
            held = self._peers.held(task)
            if held is None:  # another process has it, or this one's claim is under way
                self._timers.pop(task.id, None)
                return
            task = held
        holder = self.where.get(task.id)  # it may have been claimed meanwhile
        attempt = task.life.attempt
        task.life, instruction = advance(task.life, event)
        if instruction is Instruction.IGNORE:
            return
        if holder is not None:
            holder.stop(task, runs=instruction is not Instruction.FINISH)
        if instruction is not Instruction.STOP:
            given = (task.deadline or 0.0) - task.created
            reason = reason or ("was over while it ran" if holder is not None and task.started else "was over before it started")
            await self._finish(task, attempt, Failure(TaskTimeout.code, f"its `timeout` of {given:g} s {reason}"))


def clock(moment: float) -> float:
    """The time of day of a monotonic moment, as workers report them; by the clock as it is now, because it may have been set."""
    return time.time() - time.monotonic() + moment
