"""One Redis for several gateways: queue, results, cache and events. What decides is decided in Redis, by one script each.

Here stand only the tasks this process submitted or holds, and what it was last told of the others: which task is first in each lane.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from itertools import count
from time import time
from typing import Any, Unpack
from uuid import uuid4

import msgspec

from openruntime.contracts.errors import Expired, KeyTaken, OpenRuntimeError, QueueFull, StorageFull, Unavailable
from openruntime.contracts.interfaces import Store
from openruntime.contracts.records import ANY, Filter, Task
from openruntime.stores.blobs import CountedBlobs
from openruntime.stores.codec import pack, result_bytes, task_of, unpack
from openruntime.stores.embedded import Bounds, page
from openruntime.stores.redis import FOREVER, Link
from openruntime.stores.redis_peers import RedisPeers
from openruntime.stores.redis_records import FIELDS, become, claimed, idempotency, listed, read, record, submission
from openruntime.stores.redis_shelf import RedisShelf
from openruntime.stores.spill import Spill, emptied

log = logging.getLogger(__name__)

Records = list[Task]  # inside the class `list` is the method
Names = list[str]

_AHEAD = 0.02  # seconds of predicted work that are claimed at once: as long as a slow fsync, and the others still find some
_LATE = 1_000_000  # microseconds that an answer may come out of turn; what is older says that Redis's clock was set back
_PAGE = 200  # records read at a time for a list
_DROPPED = 500  # records dropped by one script, so that others are not kept waiting


class RedisStore(Store):
    """`url` as redis-py has it (`redis://`, `rediss://`, `unix://`); `blobs` is a place that all gateways share. `lease` in seconds."""

    def __init__(self, url: str, blobs: CountedBlobs, *, prefix: str = "openruntime", lease: float = 2.0, **bounds: Unpack[Bounds]) -> None:
        self._bound = bounds.get("queue_bound", 200_000)
        self._history = bounds.get("history", 100_000)
        self._history_age = bounds.get("history_age", 86_400.0)
        self._history_bytes = bounds.get("history_bytes", 1 << 30)
        self._result_ttl = bounds.get("result_ttl", 86_400.0)
        self._lease = int(lease * 1000)
        self._link = Link(url, prefix, uuid4().hex)
        self._files = blobs
        self._spill = Spill(blobs, bounds.get("inline_bytes", 65_536))
        self.blobs = blobs
        self.shelf = RedisShelf(self._link, self._spill)
        self._live: dict[str, Task] = {}  # submitted or held by this process, and not ended as far as it knows
        self._mine: dict[str, Task] = {}  # of these, leased to it: claimed, taken out to be ended, or held for their needs
        self._serial = count()
        self._depths: dict[str, int] = {}
        self._heads: dict[str, Task] = {}  # by lane
        self._noted_at = 0  # Redis's time
        self._others = RedisPeers(self._link, self._live, self._mine, self._noted, self._adopt, self._read, lease)
        self.peers = self._others

    async def open(self) -> list[Task]:
        await self._link.open()
        await self._others.open()
        return []  # what waits is claimed; what a dead process held comes back when its leases are over

    async def close(self) -> None:
        await self._others.close()
        try:
            if self._mine:
                await self._link.script("release", *self._mine)
        except OpenRuntimeError as error:
            log.warning("what was held here is taken up by others when its lease is over: %s", error)
        await self._link.close()

    async def submit(self, tasks: Sequence[Task], *, promised: bool) -> None:
        rows: list[Any] = []
        for task in tasks:
            task.kept = task.kept or promised
            if self._spill.needed(task.call.parameters):
                task.call = msgspec.structs.replace(task.call, parameters=await self._spill.write(task.call.parameters, durable=promised))
            if self._spill.needed(task.outputs):
                task.outputs = await self._spill.write(task.outputs or {}, durable=True, results=True)
            rows += submission(task)
        waiting = [task for task in tasks if not task.life.status.ended]
        for task in waiting:
            self._live[task.id] = task
            if task.needs:
                self._mine[task.id] = task
        try:
            outcome, told = await self._link.script("submit", self._lease, self._bound, len(tasks), *rows)
            if outcome == b"full":
                raise QueueFull(f"{told} tasks are waiting and the queue holds {self._bound}; try again later", retry_after=1.0)
            if outcome == b"taken":
                raise KeyTaken(told.decode())
        except BaseException:
            for task in waiting:
                self._forget(task)
            raise
        for task in waiting:
            if self._spill.needed(task.call.parameters):
                task.call = msgspec.structs.replace(task.call, parameters=emptied(task.call.parameters))
        self._noted(told)

    async def keep(self, task: Task) -> None:
        if not task.kept and self._spill.needed(task.call.parameters):
            await self._spill.write(task.call.parameters, durable=True)
        task.kept = True  # everything is on disk once it is in Redis

    async def requeue(self, task: Task) -> None:
        if task.id not in self._live:
            return
        inputs, blobs = b"", Names()  # as they were, unless it was held for them
        if task.id in self._mine and not task.life.attempt:
            task.call = msgspec.structs.replace(task.call, parameters=await self._spill.write(task.call.parameters, durable=task.kept))
            inputs, blobs = pack(task.call.parameters)
        self._mine.pop(task.id, None)
        row = (task.id, task.lane, repr(task.rank), repr(task.predicted), record(task), inputs, listed(blobs))
        self._noted(await self._link.script("requeue", *row, patience=self._lease / 100))  # after that, its lease ends by itself

    async def claim(self, lanes: Sequence[str], limit: int) -> list[Task]:
        rows, heads = await self._link.script("claim", self._lease, limit, repr(_AHEAD), *lanes, patience=0.0)
        tasks = []
        for task_id, attempt, wanted, meta, inputs in rows:
            task = self._live.get(task_id.decode())
            if task is None and not meta:  # sent before, and its answer got lost
                meta, inputs = await self._link.command("HMGET", self._link.key("task:" + task_id.decode()), "m", "i")
            if meta:
                fresh = task_of(meta)
                fresh.call = msgspec.structs.replace(fresh.call, parameters=unpack(inputs))
                if task is None:
                    task = fresh
                else:
                    become(task, fresh)
            assert task is not None
            self._live[task.id] = self._mine[task.id] = claimed(task, attempt)
            tasks.append(task)
            if wanted:
                self._others.asked_to_stop(task)
        self._noted(heads)
        return tasks

    async def load(self, task: Task) -> dict[str, Any]:
        if not self._spill.needed(task.call.parameters):
            return task.call.parameters
        return await asyncio.to_thread(self._spill.filled, task.call.parameters)

    async def finish(self, task: Task, attempt: int) -> bool:
        if not task.life.status.ended:
            raise ValueError(f"task {task.id} is {task.life.status}; only an ended task can be finished")
        if task.finished is None:
            task.finished = time()
        outputs, blobs = b"", Names()
        if task.outputs is not None:
            outputs, blobs = pack(await self._rested(task.outputs) if self._spill.needed(task.outputs) else task.outputs)
        if task.call.parameters or task.call.program:
            task.call = task.call.forgotten()
        row = (
            task.id,
            attempt,
            record(task),
            outputs,
            listed(blobs),
            repr(task.finished),
            result_bytes(task),
            f"{self._link.me}-{next(self._serial)}",
        )
        done = bool(await self._link.script("finish", *row, patience=FOREVER))
        if done or task.life.attempt == attempt:  # its lease went to another process
            self._forget(task)
        return done

    async def remove(self, task: Task) -> bool:
        removed, heads = await self._link.script("remove", self._lease, task.id)
        if removed:
            self._live[task.id] = self._mine[task.id] = task
        self._noted(heads)
        return bool(removed)

    async def get(self, task_id: str) -> Task | None:
        return self._mine.get(task_id) or await self._read(task_id)

    async def find(self, tenant: str, idempotency_key: str) -> Task | None:
        task_id = await self._link.command("GET", self._link.key(f"key:{idempotency(tenant, idempotency_key)}"))
        return None if task_id is None else await self.get(task_id.decode())

    async def list(self, filter: Filter = ANY, *, after: str | None = None, limit: int = 50) -> tuple[list[Task], str | None]:
        chosen: list[Task] = []
        cursor = after
        while len(chosen) <= limit:
            top = "+" if cursor is None else f"({cursor}"
            ids = await self._link.command("ZRANGE", self._link.key("ids"), top, "-", "BYLEX", "REV", "LIMIT", 0, _PAGE)
            if not ids:
                break
            rows = await asyncio.gather(*(self._link.command("HMGET", self._link.key(f"task:{name.decode()}"), *FIELDS) for name in ids))
            for row in rows:
                task = read((*row[:4], None, row[5]), self._result_ttl)
                if task is not None and filter.matches(task):
                    chosen.append(task)
            cursor = ids[-1].decode()
        return page(chosen, limit)

    def depths(self) -> dict[str, int]:
        return dict(self._depths)

    def best(self, lanes: Sequence[str]) -> Task | None:
        """As far as is known here; `claim` says what is so."""
        heads = [self._heads[lane] for lane in lanes if lane in self._heads]
        return min(heads, key=lambda task: (task.rank, task.id)) if heads else None

    async def prune(self, now: float) -> int:
        dropped: int = 0
        bounds = (self._history, self._history_bytes, repr(now - self._history_age), repr(now - self._result_ttl), _DROPPED)
        while True:
            records, results = await self._link.script("prune", *bounds)
            dropped += records
            if not records and not results:
                break
        if await self._link.command("SET", self._link.key("sweeping"), self._link.me, "NX", "PX", 30_000):
            counted = await self._link.command("HKEYS", self._link.key("blobs"))
            await self._files.sweep({digest.decode() for digest in counted})
        return dropped

    async def _read(self, task_id: str) -> Task | None:
        fields = await self._link.command("HMGET", self._link.key(f"task:{task_id}"), *FIELDS)
        task = read(fields, self._result_ttl)
        if task is None:
            return None
        if task.outputs is not None and self._spill.needed(task.outputs):
            try:
                task.outputs = await asyncio.to_thread(self._spill.filled, task.outputs)
            except Expired:
                task.outputs = None
        known = self._live.get(task_id)
        if known is None:
            return task
        if task_id not in self._mine:  # what is held here is known best here
            become(known, task)
            if task.life.status.ended:
                self._forget(known)
        return known

    async def _rested(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Large outputs as blobs, however long their place has no space or is away: the task has ended, and that must not be lost."""
        while True:
            try:
                return await self._spill.write(outputs, durable=True, results=True)
            except (StorageFull, Unavailable) as error:
                log.error("a result waits to be written: %s", error)
                await asyncio.sleep(1.0)

    def _forget(self, task: Task) -> None:
        self._live.pop(task.id, None)
        self._mine.pop(task.id, None)

    def _adopt(self, rows: Iterable[Sequence[bytes]]) -> Records:
        """Tasks held for their needs by a process that is gone, held by this one from now on."""
        adopted = []
        for name, meta, inputs in rows:
            try:
                task = task_of(meta)
                task.call = msgspec.structs.replace(task.call, parameters=unpack(inputs))
            except Exception:
                log.exception("task %s, held by a process that is gone, cannot be read; its lease ends again", name.decode())
                continue
            self._live[task.id] = self._mine[task.id] = task
            adopted.append(task)
        return adopted

    def _noted(self, told: Sequence[Any]) -> None:
        """What Redis says of the lanes; answers may come out of turn."""
        at, *heads = told
        if self._noted_at - _LATE < int(at) < self._noted_at:
            return
        self._noted_at = int(at)
        depths: dict[str, int] = {}
        firsts: dict[str, Task] = {}
        for lane, depth, first, meta in heads:
            name, task_id = lane.decode(), first.decode()
            depths[name] = depth
            known = self._heads.get(name)
            firsts[name] = self._live.get(task_id) or (known if known is not None and known.id == task_id else task_of(meta))
        self._depths, self._heads = depths, firsts
