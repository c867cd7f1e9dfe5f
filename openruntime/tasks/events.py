"""The event log: what happened, in order, for readers at their own pace. Publishing costs an append.

Readers are woken in batches off the hot path; the log is a ring, and a reader that falls behind is told how much it missed.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import islice

from openruntime.contracts.events import AnyEvent, Gap, TaskFinished, TaskQueued
from openruntime.contracts.interfaces import EventSink
from openruntime.contracts.records import Task

Observer = Callable[[Sequence[AnyEvent]], None]
Replay = Callable[[float, int], Awaitable[list[AnyEvent] | None]]

KEPT = 20_000  # events
MICROSECOND = 1e-6
# seconds from an event to those who read: without any, at once for a few, and what each of many more costs
SLOW, PROMPT, A_READER = 0.1, 0.005, 0.0002


class EventBus:
    """`replay(since, limit)` gives the events since a time, made from the records, or None where there are too many."""

    def __init__(self, replay: Replay | None = None, *, kept: int = KEPT) -> None:
        self._events: deque[AnyEvent] = deque(maxlen=kept)
        # numbers begin at the time of the start, in microseconds, so that they go on rising across restarts
        self._first = self._last = time.time_ns() // 1000
        self._replay = replay
        self._observers: list[Observer] = []
        self._observed = self._last
        self._scheduled: asyncio.TimerHandle | None = None
        self._soon = False  # whether that was set with readers in mind
        self._waiting: list[asyncio.Future[None]] = []
        self.dropped = 0

    def last(self) -> int:
        return self._last

    def observe(self, observer: Observer) -> None:
        """Call `observer` with every batch of events, each once."""
        self._observers.append(observer)

    def publish(self, event: AnyEvent) -> None:
        self._last += 1
        event.seq = self._last
        self._events.append(event)
        if self._scheduled is None:
            delay = self._pace()
            self._soon = delay < SLOW
            self._scheduled = asyncio.get_running_loop().call_later(delay, self._deliver)
        elif self._last - self._observed >= 5_000:
            self.flush()

    def _pace(self) -> float:
        """Seconds that events may gather: waking a reader costs far more than one more event for it."""
        readers = len(self._waiting)
        return min(SLOW, max(PROMPT, readers * A_READER)) if readers else SLOW

    def _deliver(self) -> None:
        self._scheduled = None
        self.flush()
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def flush(self) -> None:
        """Hand what is new to the observers now."""
        if self._observed == self._last:
            return
        batch, _missed = self._since(self._observed)
        self._observed = self._last
        for observer in self._observers:
            observer(batch)

    def _since(self, after: int) -> tuple[list[AnyEvent], int]:
        """Events after a number, and how many of them are no longer in the ring."""
        wanted = self._last - after
        kept = min(wanted, len(self._events))
        newest = list(islice(reversed(self._events), kept))  # from the end: the ring is long, and what is new is little
        newest.reverse()
        return newest, wanted - kept

    async def read(self, *, after: int | None, limit: int = 10_000) -> AsyncIterator[Sequence[AnyEvent]]:
        at = self._last if after is None else min(after, self._last)
        if at < self._first:
            yield await self._before_start(at, limit)
            at = self._first
        while True:
            if at < self._last:
                batch, missed = self._since(at)
                if missed or len(batch) > limit:
                    missed += max(0, len(batch) - limit)
                    batch = batch[-limit:]
                    self.dropped += missed
                    batch.insert(0, Gap(time=time.time(), seq=batch[0].seq - 1, missed=missed))
                at = self._last
                yield batch
            else:
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(future)
                if self._scheduled is not None and not self._soon:  # set while nobody was reading
                    self._scheduled.cancel()
                    self._scheduled, self._soon = asyncio.get_running_loop().call_later(self._pace(), self._deliver), True
                await future

    async def _before_start(self, at: int, limit: int) -> list[AnyEvent]:
        """What happened before this process started, from the records, after a `Gap`: they tell of beginnings and ends only."""
        events = await self._replay(at * MICROSECOND, limit) if self._replay is not None else None
        if events is None:
            return [Gap(time=time.time(), seq=self._first)]
        for event in events:
            event.seq = int(event.time * 1e6)
        told = [event for event in events if at < event.seq <= self._first]  # what came after the start is in the ring
        return [Gap(time=time.time(), seq=at), *told]


def announce(events: EventSink, task: Task) -> None:
    """Tell once that a task is queued; whoever has news of it next does so first, because it may start before its commit."""
    if not task.announced:
        task.announced = True
        events.publish(TaskQueued(task.created, 0, task.id, task.call.operation, task.tenant, task.priority))


def finished(task: Task) -> TaskFinished:
    """The event of a task's end, from its record."""
    failure, ended = task.failure, task.finished or 0.0
    return TaskFinished(
        ended, 0, task.id, task.call.operation, task.tenant, task.life.status.value, task.device, task.backend, task.seconds,
        failure.code if failure else None, failure.message if failure else None, task.cached, (task.started or ended) - task.created,
    )  # fmt: skip
