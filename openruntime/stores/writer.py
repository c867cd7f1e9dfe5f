"""Group commit: one thread owns the connection that writes, takes whatever waits, and commits it as one group."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from threading import Condition, Event, Thread
from time import monotonic
from typing import Any

from openruntime.contracts.errors import Internal, OpenRuntimeError
from openruntime.contracts.records import Task
from openruntime.stores.codec import Row, row
from openruntime.stores.database import queries, translate
from openruntime.stores.pages import Page, Pages

log = logging.getLogger(__name__)

_LINGER = 0.05  # seconds that rows nobody waits for may gather
_LAZY = 256  # of them in one group, so that those who wait are not kept long
_RETRY = 1.0  # seconds between tries of rows that could not be written
_CHUNK = 64  # rows in one statement: the interpreter's lock is handed over once a statement

Job = Callable[[sqlite3.Connection], Any]


class Write:
    """The newest state of one task on its way to the disk."""

    __slots__ = ("ended", "taken", "task", "waiters", "withdraw")

    def __init__(self, task: Task, ended: bool, waiters: list[asyncio.Future[None]], withdraw: Callable[[Task], None] | None) -> None:
        self.task = task
        self.ended = ended
        self.waiters = waiters  # one list for all tasks of a submit, which are written together or not at all
        self.withdraw = withdraw  # called when it cannot be written; without it the write is tried again
        self.taken = False


class _Group:
    def __init__(self, writes: Sequence[Write], jobs: Sequence[tuple[Job, asyncio.Future[Any]]], pages: Sequence[Page]) -> None:
        self.writes = writes
        self.jobs = jobs
        self.pages = pages
        self.answers: list[Any] = []
        self.refused: dict[int, Exception] = {}  # by the identity of their waiters: could not be encoded
        self.error: OpenRuntimeError | None = None


class Writer:
    """Called on the event loop only; every method but `job`, `flush` and `stop` returns at once."""

    def __init__(self, connection: sqlite3.Connection, directory: Path, pages: Pages, saved: Callable[[Task | Page], None]) -> None:
        """`saved` is told of each ended task, and of each page, that is on disk now."""
        self._connection = connection
        self._directory = directory
        self._pages = pages
        self._saved = saved
        self._loop = asyncio.get_running_loop()
        self._turn = Condition()
        self._urgent: dict[str, Write] = {}
        self._lazy: dict[str, Write] = {}
        self._jobs: list[tuple[Job, asyncio.Future[Any]]] = []
        self._turned: list[Page] = []
        self._turned_last = False  # the last group was a page: now it is the turn of those who wait
        self._flushing = False
        self._due = 0.0
        self._stopping = False
        self._settled = Event()
        self._unsaved: dict[str, Write] = {}
        self._unsaved_pages: list[Page] = []
        self.failing = False  # the disk refused the last group
        self._thread = Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def unsaved(self, task_id: str) -> bool:
        return self.unsaved_row(task_id) or any(task_id in page.tasks for page in self._unsaved_pages)

    def unsaved_row(self, task_id: str) -> bool:
        return task_id in self._unsaved

    def page(self, page: Page) -> None:
        """Write the page when nobody waits for the disk, or in turn with them; tried again until it succeeds."""
        self._unsaved_pages.append(page)
        with self._turn:
            self._turned.append(page)
            self._turn.notify()

    def abandon_page(self) -> Page | None:
        """Forget the oldest page that is still to be written."""
        with self._turn:
            page = self._turned.pop(0) if self._turned else None
        if page is not None:
            self._unsaved_pages.remove(page)
        return page

    def lazily(self, task: Task, *, ended: bool) -> None:
        """Write the task's state soon; tried again until it succeeds."""
        with self._turn:
            write = self._unsaved.get(task.id)
            if write is not None and not write.taken:
                write.ended = ended
                return
            self._unsaved[task.id] = self._lazy[task.id] = Write(task, ended, [], None)
            if len(self._lazy) == 1:
                self._due = max(self._due, monotonic() + _LINGER)
                self._turn.notify()

    def urgently(self, states: Sequence[tuple[Task, bool]], withdraw: Callable[[Task], None] | None = None) -> asyncio.Future[None]:
        """Write these (task, whether it has ended) now, in one group; resolved once on disk. Fails with `StorageFull` or `Unavailable`."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        waiters = [waiter]
        with self._turn:
            for task, ended in states:
                write = self._unsaved.get(task.id)
                if write is None or write.taken:
                    write = self._unsaved[task.id] = Write(task, ended, waiters, withdraw)
                else:
                    self._lazy.pop(task.id, None)
                    write.ended = ended
                    if write.waiters:
                        write.waiters.append(waiter)
                    else:
                        write.waiters = waiters
                self._urgent[task.id] = write
            self._turn.notify()
        return waiter

    def abandon(self, task_id: str) -> None:
        """Forget what is still to be written of a task."""
        with self._turn:
            self._unsaved.pop(task_id, None)
            self._lazy.pop(task_id, None)
            self._urgent.pop(task_id, None)

    async def job(self, job: Job) -> Any:
        """What `job` returns, run in the writer's next group; its changes are on disk then."""
        waiter: asyncio.Future[Any] = self._loop.create_future()
        with self._turn:
            self._jobs.append((job, waiter))
            self._turn.notify()
        return await waiter

    async def flush(self) -> None:
        """Until everything handed over so far is on disk. Raises what kept it from that."""
        with self._turn:
            self._urgent |= self._lazy
            self._lazy = {}
            self._flushing = True
        await self.job(lambda _: None)

    async def stop(self) -> None:
        """Write what waits, once more where it failed, and end the thread."""
        with self._turn:
            self._stopping = True
            self.failing = False
            self._turn.notify()
        await asyncio.to_thread(self._thread.join)
        if lost := len(self._unsaved) + sum(len(page.tasks) for page in self._unsaved_pages):
            log.error("%d task records could not be written before the end", lost)

    def _run(self) -> None:
        while (group := self._take()) is not None:
            self._commit(group)
            self._settled.clear()
            try:
                self._loop.call_soon_threadsafe(self._settle, group)
            except RuntimeError:  # the loop was closed under us: nobody is left to tell
                return
            if group.error is not None or group.refused:  # withdrawn before more of the same task is written
                self._settled.wait()

    def _take(self) -> _Group | None:
        with self._turn:
            writes: list[Write] = []
            jobs: list[tuple[Job, asyncio.Future[Any]]] = []
            pages: list[Page] = []
            while True:
                wait = 0.0 if self._stopping else self._due - monotonic()
                if (self._urgent or self._jobs) and (self._flushing or self._turned_last or self.failing or not self._turned):
                    writes, self._urgent = list(self._urgent.values()), {}
                    jobs, self._jobs = self._jobs, []
                    if self._flushing:
                        pages, self._turned, self._flushing = self._turned, [], False
                    if not self.failing:  # else they wait, so that those who need little space have a chance
                        writes += self._some_lazy()
                    break
                if self._stopping and (self.failing or not (self._lazy or self._turned)):
                    return None
                if self._lazy and wait <= 0:
                    writes = self._some_lazy()
                    break
                if self._turned and (wait <= 0 or not self.failing):
                    pages = [self._turned.pop(0)]
                    break
                self._turn.wait(wait if self._lazy or self._turned else None)
            for write in writes:
                write.taken = True
            self._turned_last = bool(pages)
            return _Group(writes, jobs, pages)

    def _some_lazy(self) -> list[Write]:
        return [self._lazy.pop(task_id) for task_id in list(islice(self._lazy, _LAZY))]

    def _commit(self, group: _Group) -> None:
        rows = _encode(group)
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            for start in range(0, len(rows), _CHUNK):
                chunk = rows[start : start + _CHUNK]
                execute(_put_tasks(len(chunk)), [value for row in chunk for value in row])
            for job, _ in group.jobs:
                group.answers.append(job(self._connection))
            for page in group.pages:
                self._pages.write(self._connection, page)
            execute("COMMIT")
        except Exception as error:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            self._pages.withdraw(page.number for page in group.pages)
            group.error = translate(error, self._directory)
            group.error.__cause__ = error

    def _settle(self, group: _Group) -> None:
        """On the loop: tell those who wait; withdraw or queue again what could not be written."""
        self.failing = group.error is not None
        again: list[Write] = []
        for write in group.writes:
            task = write.task
            error = group.refused.get(id(write.waiters), group.error)
            current = self._unsaved.get(task.id) is write
            if current and (error is None or write.withdraw is not None or id(write.waiters) in group.refused):
                del self._unsaved[task.id]
            if error is None:
                if current and write.ended:
                    self._saved(task)
            elif write.withdraw is not None:
                write.withdraw(task)
            elif id(write.waiters) in group.refused:
                log.error("dropped the record of task %s", task.id, exc_info=error)
            elif current:
                again.append(write)
            for waiter in write.waiters:
                _answer(waiter, error)
            write.waiters = []
        for number, (_, waiter) in enumerate(group.jobs):
            _answer(waiter, group.error, None if group.error else group.answers[number])
        if group.error is None:
            for page in group.pages:
                self._unsaved_pages.remove(page)
                self._saved(page)
        if again or (group.error is not None and group.pages):
            self._retry(again, [] if group.error is None else group.pages)
        self._settled.set()

    def _retry(self, writes: list[Write], pages: Sequence[Page]) -> None:
        log.warning("%d task records could not be written; trying again", len(writes) + sum(len(page.tasks) for page in pages))
        with self._turn:
            self._turned[:0] = pages
            for write in writes:
                write.taken = False
            self._lazy = {write.task.id: write for write in writes} | self._lazy
            self._due = monotonic() + _RETRY
            self._turn.notify()


def _answer(waiter: asyncio.Future[Any], error: Exception | None, answer: Any = None) -> None:
    if waiter.done():
        return
    if error is None:
        waiter.set_result(answer)
    else:
        waiter.set_exception(error)


def _encode(group: _Group) -> list[Row]:
    rows: list[Row] = []
    for write in group.writes:
        try:
            rows.append(row(write.task, ended=write.ended))
        except Exception as error:
            refusal = Internal(f"the record of task {write.task.id} cannot be written: {error}")
            refusal.__cause__ = error
            group.refused[id(write.waiters)] = refusal
    if group.refused:  # all or none of a submit
        refused = {write.task.id for write in group.writes if id(write.waiters) in group.refused}
        rows = [kept for kept in rows if kept[0] not in refused]
    return rows


def _put_tasks(rows: int) -> str:
    """`put_task` for several rows at once; every value stays a bound parameter."""
    head, values, tail = queries()["put_task"].partition("(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
    return head + ", ".join([values] * rows) + tail
