"""The default store: the queue in memory, every promise and all history in one SQLite database, large arrays as files."""

import asyncio
import gc
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import time
from typing import Any, Unpack

import msgspec

from openruntime.contracts.errors import Expired, Internal, OpenRuntimeError, StorageFull
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import ANY, Filter, Task
from openruntime.stores import pending
from openruntime.stores.codec import result_bytes
from openruntime.stores.database import NAME, damaged, queries
from openruntime.stores.disk import Disk
from openruntime.stores.embedded import Bounds, EmbeddedStore, page
from openruntime.stores.gathering import Gathering
from openruntime.stores.history import History
from openruntime.stores.pages import Page
from openruntime.stores.pending import Pending, PendingPage, Promise
from openruntime.stores.shelf import SqliteShelf
from openruntime.stores.spill import Spill, emptied

log = logging.getLogger(__name__)

Records = list[Task]  # inside the class `list` is the method

_RETRY = 1.0  # seconds between tries of a large result that could not be written
_GROWTH, _GROWTH_BYTES = 2000, 16 << 20  # history that may always gather before it is pruned


class SqliteStore(EmbeddedStore):
    """`directory` holds the database, the blobs and the owner's lock. Results that ended last stay in memory: `recent`, `recent_bytes`."""

    def __init__(
        self, directory: Path, *, recent: int = 20_000, recent_bytes: int = 64 << 20, blob_grace: float = 900.0, **bounds: Unpack[Bounds]
    ) -> None:
        super().__init__(**bounds)
        self._recent = recent
        self._recent_bytes = recent_bytes
        self._disk = Disk(Path(directory), grace=blob_grace, inline=self._inline_bytes)
        self._spill = Spill(self._disk.files, self._inline_bytes)
        self._past = History(self._disk, self._spill)
        self.blobs = self._disk.files
        self.shelf = SqliteShelf(self._disk, self._spill)
        self._resting: set[str] = set()  # live tasks whose large inputs are on disk only
        self._saved: OrderedDict[str | int, Task | Page] = OrderedDict()  # ended, on disk, still in memory; by id and number
        self._pending = Pending(lambda number: self._disk.writer.discard(number))
        self._gathering = Gathering(
            self._disk, history=self._history, history_bytes=self._history_bytes, backlog=recent, backlog_bytes=recent_bytes, evict=self._evict
        )
        self._bulky: OrderedDict[str, Task] = OrderedDict()  # ended, with large outputs that are not on disk yet
        self._bulky_added = asyncio.Event()
        self._spooler: asyncio.Task[None] | None = None
        self._grown = self._grown_bytes = 0  # history since the last prune
        self._pruner: asyncio.Task[None] | None = None

    async def open(self) -> list[Task]:
        await self._disk.open(self._on_saved)
        try:
            await self._disk.writer.job(pending.adopt)
            tasks = await self._disk.read(self._recover)
        except BaseException as error:
            await self._disk.close()
            if isinstance(error, msgspec.DecodeError | ValueError | KeyError):
                raise damaged(self._disk.directory / NAME, f"a waiting task cannot be read: {error}") from error
            raise
        self._spooler = asyncio.create_task(self._spool())
        return tasks

    async def close(self) -> None:
        if self._spooler is not None:
            self._spooler.cancel()
            if self._pruner is not None:
                self._pruner.cancel()
            await asyncio.gather(self._spooler, *filter(None, [self._pruner]), return_exceptions=True)
            self._spooler = self._pruner = None
            for task in list(self._bulky.values()):
                await self._write_bulky(task)
            self._gathering.turn()
        await self._disk.close()

    async def submit(self, tasks: Sequence[Task], *, promised: bool) -> None:
        self._admit(tasks)
        if not promised:
            for task in tasks:
                if task.life.status.ended:
                    self._retire(task)
            self._place(tasks)
            return
        large = [task for task in tasks if self._spill.needed((task.call.parameters, task.outputs))]
        try:
            ended: Records = []
            for task in tasks:
                task.kept = True
                if task.life.status.ended:
                    self._shelve(task)
                    ended.append(task)
            for task in large:
                await self._rest(task)
            promises = self._promise([task for task in tasks if task.id in self._live] if ended else tasks, self._refuse)
            written = self._disk.writer.urgently(promises, ended, self._refuse)
        except BaseException as error:
            if isinstance(error, StorageFull):
                self._disk.complain(error)
            for task in tasks:
                self._refuse(task)
            raise
        self._place(tasks)
        await written
        for task in large:
            if task.id in self._heaps:
                self._empty(task)

    async def keep(self, task: Task) -> None:
        kept, writer = task.kept, self._disk.writer
        if task.life.status.ended and self._live.get(task.id, task) is not task:
            await self._seal(task)
            return
        if task.id not in self._live and task.id not in self._ended:
            if task.life.status.ended:
                task.kept = await self.get(task.id) is not None
            return
        task.kept = True
        try:
            if task.id in self._live and task.life.status is TaskStatus.CANCELLING and self._pending.of(task.id) is not None:
                await writer.urgently(self._promise([task], None))  # that it was cancelled is part of what was promised
            while task.id in self._live:
                promise = self._pending.of(task.id)
                if promise is not None and promise.page is not None:
                    return
                if promise is not None:
                    await writer.flush()
                    continue
                await self._rest(task)
                if task.id in self._live and self._pending.of(task.id) is None:  # nothing happened meanwhile
                    await writer.urgently(self._promise([task], self._unpromise))
                    if task.id in self._heaps:
                        self._empty(task)
            if self._spill.needed(task.outputs):
                await self._rest(task)
                self._bulky.pop(task.id, None)
                await writer.urgently((), [task])
            self._gathering.keep(task)
            while task.id not in self._live and writer.unsaved(task.id):
                await writer.flush()
        except OpenRuntimeError:
            task.kept = kept
            raise

    async def requeue(self, task: Task) -> None:
        await super().requeue(task)
        if task.kept and task.id in self._heaps and self._pending.of(task.id) is not None:
            self._disk.writer.move(self._promise([task], None))

    async def load(self, task: Task) -> dict[str, Any]:
        if task.id not in self._resting:
            return task.call.parameters
        return await asyncio.to_thread(self._spill.filled, task.call.parameters)

    async def finish(self, task: Task, attempt: int) -> bool:
        if not self._end(task, attempt):
            return False
        if self._resting:
            self._resting.discard(task.id)
        if self._retire(task):
            return True
        while self._ended_bytes > 4 * self._recent_bytes or len(self._ended) > 4 * self._recent:
            if self._disk.writer.failing:
                self._shed()
                break
            await asyncio.sleep(0.005)  # the disk is slower than the devices: they have to wait for it
        return True

    async def get(self, task_id: str) -> Task | None:
        task = self._live.get(task_id) or self._ended.get(task_id) or await self._past.find(task_id)
        if task is None:
            return None
        outputs = self._fresh(task).outputs
        if outputs is not None and any([array.data is None for array in outputs.values()]):
            try:
                filled = await asyncio.to_thread(self._spill.filled, outputs)
            except Expired:
                filled = None
            if task.outputs is outputs:
                task.outputs = filled
        return task

    async def list(self, filter: Filter = ANY, *, after: str | None = None, limit: int = 50) -> tuple[list[Task], str | None]:
        def newest(connection: sqlite3.Connection) -> Records:
            found = {task.id: task for task in self._in_memory(filter, after, limit + 1)}
            return self._past.newest(connection, found, filter, after, limit + 1)

        return page(await self._disk.read(newest), limit)

    async def prune(self, now: float) -> int:
        dropped = self._grown = self._grown_bytes = 0
        self._gathering.turn()
        try:
            await self._disk.writer.flush()
            if stragglers := self._pending.stragglers(self._live):
                self._disk.writer.move(self._promise(stragglers, None))
            bounds = {"history": self._history, "size": self._history_bytes}
            async for rows, pages in self._past.drop(**bounds, before=now - self._history_age, ahead=self._note):
                dropped += len(rows) + sum(count for _, count in pages)
                for task_id, tenant, key in rows:
                    self._drop(task_id, tenant, key)
                for number, _ in pages:
                    self._evict(self._saved.pop(number, None))
            await self._past.expire(now - self._result_ttl)
        finally:  # frees space even where the database has none left to work with
            for task in list(self._ended.values()):
                if task.outputs is not None and task.finished is not None and task.finished < now - self._result_ttl:
                    self._expire(task)
            await self._past.sweep(self._pending.digests())
        return dropped

    def _recover(self, connection: sqlite3.Connection) -> Records:
        """Everything that has not ended, back in the queue. The collector only gets in the way of so many new objects."""
        collecting = gc.isenabled()
        gc.disable()
        try:
            tasks: Records = []
            for page_of in pending.unfinished(connection):
                self._resting.update(self._pending.recovered(*page_of))
                tasks += page_of[2]
            tasks.sort(key=lambda task: (task.created, task.id))
            for task in tasks:
                self._live[task.id] = task
                self._weigh(task)
                if task.idempotency is not None:
                    self._keys[task.tenant, task.idempotency] = task.id
                if task.needs:
                    self._held.add(task.id)
                else:
                    self._heaps.push(task)
            for tenant, key, task_id in connection.execute(queries()["idempotency_keys"]):
                self._keys[tenant, key] = task_id
            return tasks
        finally:
            if collecting:
                gc.enable()

    def _promise(self, tasks: Sequence[Task], withdraw: Callable[[Task], None] | None) -> Sequence[Promise]:
        try:
            return self._pending.promise(tasks, withdraw)
        except Exception as error:
            raise Internal(f"a task cannot be written: {error}") from error

    async def _note(self) -> None:
        """History is going to be dropped: what it tells of pages of promises is written down."""
        writer = self._disk.writer
        await writer.flush()
        if notes := self._pending.notes():
            await writer.job(partial(pending.note, notes))
            self._pending.noted(notes)

    async def _rest(self, task: Task) -> None:
        """Write a task's large arrays; of its inputs while it is live, of its outputs once it has ended."""
        if task.id in self._live:
            call = task.call
            parameters = await self._spill.write(call.parameters, durable=task.kept)
            if task.id in self._live:
                task.call = msgspec.structs.replace(call, parameters=parameters)
            return
        while (outputs := task.outputs) is not None:
            rested = await self._spill.write(outputs, durable=task.kept, results=True)
            if task.outputs is outputs:  # else it has expired, or somebody else wrote it meanwhile, who may not have had it fsynced
                task.outputs = emptied(rested)  # their memory is wanted again
                return

    def _empty(self, task: Task) -> None:
        """Give back the memory of a waiting task's large inputs; `load` reads them again."""
        if self._spill.needed(task.call.parameters):
            task.call = msgspec.structs.replace(task.call, parameters=emptied(task.call.parameters))
            self._resting.add(task.id)
            self._weigh(task)

    async def _seal(self, ended: Task) -> None:
        """Have on disk how a live task is going to end."""
        while True:
            try:
                if ended.outputs is not None:
                    ended.outputs = await self._spill.write(ended.outputs, durable=True, results=True)
                await self._disk.writer.urgently((), [ended])
                return
            except OpenRuntimeError as error:
                self._disk.complain(error)
                await asyncio.sleep(_RETRY)

    def _retire(self, task: Task) -> bool:
        """Have an ended task written; whether it may be given up, so that nobody has to wait for the disk."""
        size, outputs = self._shelve(task), task.outputs
        if outputs is not None and self._spill.bulky(outputs, size):
            self._bulky[task.id] = task
            self._bulky_added.set()
        elif task.idempotency is not None or task.life.status is not TaskStatus.COMPLETED or (task.kept and not task.call.cacheable):
            self._disk.writer.lazily(task)
        else:
            self._gathering.add(task, size)
            return not task.kept
        return False

    def _on_saved(self, saved: Task | Page | PendingPage) -> None:
        if isinstance(saved, PendingPage):
            self._pending.written(saved)
            return
        self._pending.release(saved.tasks if isinstance(saved, Page) else (saved.id,))
        if isinstance(saved, Page):
            self._saved[saved.number] = saved
            self._gathering.saved(saved)
            self._grown += len(saved.tasks)
            self._grown_bytes += saved.size
        elif self._ended.get(saved.id) is saved:
            if saved.outputs is not None and any(array.blob is not None for array in saved.outputs.values()):
                self._evict(saved)  # its arrays hold shared memory that the next large result wants
            else:
                self._saved[saved.id] = saved
            self._grown += 1
            self._grown_bytes += result_bytes(saved)
        if self._grown > max(_GROWTH, self._history // 4) or self._grown_bytes > max(_GROWTH_BYTES, self._history_bytes // 4):
            self._grown = self._grown_bytes = 0
            if self._spooler is not None and (self._pruner is None or self._pruner.done()):  # not while closing
                self._pruner = asyncio.create_task(self._prune_growth())
        while self._saved and (len(self._ended) > self._recent or self._ended_bytes > self._recent_bytes):
            self._evict(self._saved.popitem(last=False)[1])

    def _evict(self, ended: Task | Page | None) -> None:
        """Out of memory: it is on disk, or given up."""
        for task in ended.tasks.values() if isinstance(ended, Page) else filter(None, [ended]):
            if self._ended.pop(task.id, None) is not None:
                self._ended_bytes -= result_bytes(task)

    async def _prune_growth(self) -> None:
        """Between the rounds of whoever calls `prune`, so that a busy minute does not fill the disk."""
        try:
            await self.prune(time())
        except OpenRuntimeError as error:
            log.warning("history could not be pruned: %s", error)

    async def _spool(self) -> None:
        """Write large results, those promised first: the next ones want their memory."""
        while True:
            if not self._bulky:
                self._bulky_added.clear()
                await self._bulky_added.wait()
            task = next((task for task in self._bulky.values() if task.kept), None) or next(iter(self._bulky.values()))
            if not await self._write_bulky(task):
                await asyncio.sleep(_RETRY)

    async def _write_bulky(self, task: Task) -> bool:
        try:
            await self._rest(task)
        except OpenRuntimeError as error:
            self._disk.complain(error)
            return False
        if self._bulky.pop(task.id, None) is not None:
            self._disk.writer.lazily(task)
        return True

    def _shed(self) -> None:
        """Nothing can be written and memory is short: give up the history that nobody was promised."""
        given_up = [task for task in self._ended.values() if not task.kept and (task.id in self._bulky or self._disk.writer.unsaved_row(task.id))]
        for task in given_up:
            self._refuse(task)
        log.warning("gave up the records of %d ended tasks: the disk takes no more and memory is short", len(given_up))

    def _refuse(self, task: Task) -> None:
        """Undo a submit that could not be written."""
        self._bulky.pop(task.id, None)
        self._forget(task)
        self._resting.discard(task.id)
        self._saved.pop(task.id, None)
        self._disk.writer.abandon(task.id)
        self._gathering.remove(task, result_bytes(task))
        self._unpromise(task)

    def _unpromise(self, task: Task) -> None:
        self._pending.release((task.id,))
        task.kept = False

    def _drop(self, task_id: str, tenant: str, key: str | None) -> None:
        task = self._ended.get(task_id)
        if task is not None:
            self._forget(task)
            self._saved.pop(task_id, None)
        if key is not None and self._keys.get((tenant, key)) == task_id:
            del self._keys[tenant, key]
