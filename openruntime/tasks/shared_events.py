"""The event log of a server whose store others share: every process reads the same events, in one order, under the same numbers."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from itertools import takewhile

from openruntime.contracts.events import AnyEvent, Gap
from openruntime.contracts.peers import Peers
from openruntime.tasks.events import KEPT, MICROSECOND, Observer, Replay


class SharedEvents:
    """As `EventBus`, but an event is read after the store has given it its number. Observers get this process's own events only."""

    def __init__(self, peers: Peers, replay: Replay | None = None, *, kept: int = KEPT) -> None:
        self._peers = peers
        self._replay = replay
        self._ring: deque[AnyEvent] = deque(maxlen=kept)
        self._whole_after = 0  # the ring has everything after this number
        self._observers: list[Observer] = []
        self._new: list[AnyEvent] = []  # not handed to the observers yet
        self._scheduled: asyncio.TimerHandle | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self.dropped = 0

    def last(self) -> int:
        return self._peers.last()

    def observe(self, observer: Observer) -> None:
        """Call `observer` with every batch of this process's events, each once."""
        self._observers.append(observer)

    def publish(self, event: AnyEvent) -> None:
        self._new.append(event)
        self._peers.publish((event,))
        if self._scheduled is None:
            self._scheduled = asyncio.get_running_loop().call_later(0.1, self._deliver)

    def _deliver(self) -> None:
        self._scheduled = None
        self.flush()

    def flush(self) -> None:
        """Hand what is new to the observers now."""
        batch, self._new = self._new, []
        if batch:
            for observer in self._observers:
                observer(batch)

    def happened(self, events: Sequence[AnyEvent], after: int) -> None:
        """What the log says happened next, here and elsewhere."""
        if not self._ring:
            self._whole_after = after
        for event in events:
            if len(self._ring) == self._ring.maxlen:
                self._whole_after = self._ring[0].seq
            self._ring.append(event)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def read(self, *, after: int | None, limit: int = 10_000) -> AsyncIterator[Sequence[AnyEvent]]:
        at = self.last() if after is None else min(after, self.last())
        while True:
            if at >= self.last():
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(future)
                await future
            elif not self._ring or at < self._whole_after:
                end = self._whole_after if self._ring else self.last()
                yield await self._before(at, end, limit)
                at = end
            else:
                batch = self._newer(at)
                missed = max(0, len(batch) - limit)
                if missed:
                    self.dropped += missed
                    batch = batch[-limit:]
                    batch.insert(0, Gap(time=time.time(), seq=batch[0].seq - 1, missed=missed))
                at = self._ring[-1].seq
                yield batch

    def _newer(self, than: int) -> list[AnyEvent]:
        newest = list(takewhile(lambda event: event.seq > than, reversed(self._ring)))  # from the end: the ring is long, and what is new is little
        newest.reverse()
        return newest

    async def _before(self, at: int, end: int, limit: int) -> list[AnyEvent]:
        """What is no longer in the ring: from the shared log, or from the records after a `Gap`, which tell of beginnings and ends only."""
        known = await self._peers.since(at, limit)
        if known is not None:
            return [event for event in known if event.seq <= end]
        events = await self._replay(at * MICROSECOND, limit) if self._replay is not None else None
        if events is None:
            return [Gap(time=time.time(), seq=end)]
        for event in events:
            event.seq = int(event.time * 1e6)
        return [Gap(time=time.time(), seq=at), *(event for event in events if at < event.seq <= end)]
