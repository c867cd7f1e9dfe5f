"""What gateways on one Redis tell each other: leases, what waits, what is to be stopped, and the log of all events."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from time import time
from typing import Any

import msgspec

from openruntime.contracts.errors import OpenRuntimeError
from openruntime.contracts.events import AnyEvent, TaskFinished
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.peers import Hears, Peers
from openruntime.contracts.records import Task
from openruntime.stores.redis import Link, stopped
from openruntime.stores.redis_records import become, standing

log = logging.getLogger(__name__)

_KEPT = 20_000  # entries of the log, each some events
_UNSENT = 20_000  # events that wait for Redis at most
_PAUSE = 0.005  # seconds in which what happens gathers
_LOOK = 0.003  # seconds before looking what others queued: mostly they take it themselves

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[AnyEvent]).decode


class RedisPeers(Peers):
    """`mine` are the tasks leased to this process, `live` those it submitted besides; both are the store's."""

    def __init__(
        self, link: Link, live: dict[str, Task], mine: Mapping[str, Task], noted: Callable[[Sequence[Any]], None],
        adopt: Callable[[Iterable[Any]], list[Task]], read: Callable[[str], Any], lease: float,
    ) -> None:  # fmt: skip
        self._link = link
        self._live = live
        self._mine = mine
        self._noted = noted
        self._adopt = adopt
        self._read = read
        self._lease = lease
        self._hears: Hears | None = None
        self._last = 0
        self._unsent: deque[AnyEvent] = deque(maxlen=_UNSENT)
        self._unsent_added = asyncio.Event()
        self._looking: asyncio.TimerHandle | None = None
        self._background: list[asyncio.Task[None]] = []
        self._looks: set[asyncio.Task[None]] = set()

    @property
    def trouble(self) -> str | None:  # type: ignore[override]
        return self._link.trouble

    def listen(self, hears: Hears) -> None:
        self._hears = hears

    async def open(self) -> None:
        now = int(time() * 1e6)
        for name in ("born", "seq"):
            await self._link.command("SET", self._link.key(name), now, "NX")
        self._last = int(await self._link.command("GET", self._link.key("seq")))
        start = asyncio.get_running_loop().create_task
        self._background = [start(_lasting(work)) for work in (self._renew, self._follow, self._hear, self._tell)]

    async def close(self) -> None:
        """Tell what is still untold."""
        with suppress(OpenRuntimeError):
            await self._publish()
        if self._looking is not None:
            self._looking.cancel()
        await stopped((*self._background, *self._looks))

    def follows(self, task: Task) -> bool:
        return self._live.get(task.id) is task

    async def refresh(self, task: Task) -> None:
        if self._mine.get(task.id) is task:
            return
        found = await self._read(task.id)
        if found is not None and found is not task:
            become(task, found)

    async def stop(self, task: Task) -> bool:
        if not await self._link.script("stop", task.id):
            return False
        if not task.life.status.ended:
            task.life = msgspec.structs.replace(task.life, status=TaskStatus.CANCELLING)
        return True

    def held(self, task: Task) -> Task | None:
        return self._mine.get(task.id)

    def asked_to_stop(self, task: Task) -> None:
        if self._hears is not None:
            self._hears.stop(task)

    def publish(self, events: Sequence[AnyEvent]) -> None:
        self._unsent.extend(events)
        self._unsent_added.set()

    def last(self) -> int:
        return self._last

    async def offer(self, names: Sequence[str], seconds: int) -> frozenset[str]:
        key, now = self._link.key("offered"), int((await self._link.command("TIME"))[0])
        if names:
            await self._link.command("ZADD", key, *(part for name in names for part in (now, name)))
        await self._link.command("ZREMRANGEBYSCORE", key, "-inf", now - seconds - 1)
        return frozenset(name.decode() for name in await self._link.command("ZRANGE", key, 0, -1))

    async def since(self, after: int, limit: int) -> list[AnyEvent] | None:
        stream = self._link.key("events")
        born = int(await self._link.command("GET", self._link.key("born")))
        oldest = await self._link.command("XRANGE", stream, "-", "+", "COUNT", 1)
        first = _number(oldest[0][0]) - int(oldest[0][1][b"n"]) if oldest else self._last
        whole = not oldest or await self._link.script("whole")
        if after < (born if whole else first):
            return None
        rows = await self._link.command("XRANGE", stream, f"({after}-0", f"{self._last}-0", "COUNT", limit)
        events = [event for row in rows for event in _events(*row) if event.seq > after]
        return events if len(events) < limit else None

    async def _tell(self) -> None:
        while True:
            await self._unsent_added.wait()
            await asyncio.sleep(_PAUSE)
            self._unsent_added.clear()
            try:
                await self._publish()
            except OpenRuntimeError as error:
                log.debug("events wait for Redis: %s", error)
                self._unsent_added.set()
                await asyncio.sleep(0.2)

    async def _publish(self) -> None:
        while self._unsent:
            batch = [self._unsent.popleft() for _ in range(min(2000, len(self._unsent)))]
            try:
                await self._link.script("publish", len(batch), _encode(batch), _KEPT, patience=0.0)
            except OpenRuntimeError:
                self._unsent.extendleft(reversed(batch))
                raise

    async def _follow(self) -> None:
        """Hear of every event, in the order that the log has them."""
        async for rows in self._link.stream("events", lambda: f"{self._last}-0"):
            events: list[AnyEvent] = []
            after = self._last
            for name, fields in rows:
                self._last = _number(name)
                happened = _events(name, fields)
                events += happened
                if fields[b"g"] != self._link.me.encode():
                    for event in happened:
                        if isinstance(event, TaskFinished):
                            self._ended(event.task_id)
            if self._hears is not None:
                self._hears.happened(events, after)
            await asyncio.sleep(2 * _PAUSE)

    def _ended(self, task_id: str) -> None:
        if task_id not in self._mine:
            self._live.pop(task_id, None)
            if self._hears is not None:
                self._hears.ended(task_id)

    async def _hear(self) -> None:
        me = self._link.me.encode()
        async for said in self._link.hear("news", self._look_soon):
            if said[:1] == b"w":
                if said[1:] != me:
                    self._look_soon()
            elif (task := self._mine.get(said[1:].decode())) is not None:
                self.asked_to_stop(task)

    def _look_soon(self) -> None:
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_LOOK, self._look)

    def _look(self) -> None:
        self._looking = None
        looking = asyncio.get_running_loop().create_task(self._heads())
        self._looks.add(looking)
        looking.add_done_callback(self._looks.discard)

    async def _heads(self) -> None:
        with suppress(OpenRuntimeError):  # the next renewal looks again
            self._note(await self._link.script("heads"))

    def _note(self, heads: Sequence[Any]) -> None:
        self._noted(heads)
        if len(heads) > 1 and self._hears is not None:
            self._hears.waiting()

    async def _renew(self) -> None:
        """Four times a lease: keep what is held here, take back what nobody keeps, look what waits."""
        while True:
            rows = [part for task in self._mine.values() for part in (task.id, standing(task))]
            try:
                wanted, adopted, heads = await self._link.script("renew", int(self._lease * 1000), int(self._lease * 500), *rows, patience=0.0)
            except OpenRuntimeError as error:
                log.debug("leases could not be renewed: %s", error)
                await asyncio.sleep(0.1)
                continue
            for name in wanted:
                if (task := self._mine.get(name.decode())) is not None and task.life.status is not TaskStatus.CANCELLING:
                    self.asked_to_stop(task)
            if adopted and self._hears is not None:
                self._hears.adopt(self._adopt(adopted))
            self._note(heads)
            await asyncio.sleep(self._lease / 4)


async def _lasting(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Whatever it meets, it goes on: without it this process would lose its leases, or hear of nothing."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("what gateways tell each other met a defect; it goes on")
            await asyncio.sleep(0.1)


def _number(name: bytes) -> int:
    return int(name.partition(b"-")[0])


def _events(name: bytes, fields: Mapping[bytes, bytes]) -> list[AnyEvent]:
    """An entry's events with their numbers: the last has the entry's. None where they cannot be read, so that later ones are."""
    try:
        events = _decode(fields[b"e"])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.error("entry %s of the event log cannot be read: %s", name.decode(), error)
        return []
    for number, event in enumerate(events, _number(name) - len(events) + 1):
        event.seq = number
    return events
