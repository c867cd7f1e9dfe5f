"""Group commit: one thread owns the connection that writes, takes whatever waits, and commits it as one group."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path
from threading import Condition, Event, Thread
from time import monotonic
from typing import Any

from openruntime.contracts.errors import Internal, OpenRuntimeError
from openruntime.contracts.records import Task
from openruntime.stores import pending
from openruntime.stores.codec import Row, row
from openruntime.stores.database import queries, translate
from openruntime.stores.pages import Page, Pages
from openruntime.stores.pending import PendingPage, Promise, Withdraw

log = logging.getLogger(__name__)

_LINGER = 0.05  # seconds that rows nobody waits for may gather
_LAZY = 256  # of them in one group, so that those who wait are not kept long
_RETRY = 1.0  # seconds between tries of rows that could not be written
_CHUNK = 64  # rows in one statement: the interpreter's lock is handed over once a statement

Job = Callable[[sqlite3.Connection], Any]


Saved = Callable[[Task | Page | PendingPage], None]
Complain = Callable[[OpenRuntimeError], None]


class Write:
    """An ended task on its way to a row."""

    __slots__ = ("row", "task", "waiter", "withdraw")

    def __init__(self, task: Task, row: Row | None = None, waiter: asyncio.Future[None] | None = None, withdraw: Withdraw | None = None) -> None:
        self.task = task
        self.row = row
        self.waiter = waiter  # one for all tasks of a submit, which are written together or not at all
        self.withdraw = withdraw  # called when it cannot be written; without it the write is tried again


class _Group:
    def __init__(self) -> None:
        self.promises: list[Promise] = []
        self.writes: list[Write] = []
        self.jobs: list[tuple[Job, asyncio.Future[Any]]] = []
        self.pages: list[Page] = []
        self.discarded: list[int] = []
        self.written: list[PendingPage] = []
        self.answers: list[Any] = []
        self.error: OpenRuntimeError | None = None


class Writer:
    """Called on the event loop only; every method but `job`, `flush` and `stop` returns at once."""

    def __init__(self, connection: sqlite3.Connection, directory: Path, pages: Pages, saved: Saved, complain: Complain) -> None:
        """`saved` is told of each ended task, and of each page, that is on disk now; `complain` of each group that could not be written."""
        self._connection = connection
        self._directory = directory
        self._pages = pages
        self._saved = saved
        self._complain = complain
        self._loop = asyncio.get_running_loop()
        self._turn = Condition()
        self._promises: list[Promise] = []
        self._moves: list[Promise] = []  # written again when there is time
        self._urgent: list[Write] = []
        self._lazy: dict[str, Write] = {}
        self._jobs: list[tuple[Job, asyncio.Future[Any]]] = []
        self._turned: list[Page] = []
        self._discarded: list[int] = []  # pages of promises that go with the next group
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
        """Forget the oldest page that is still to be written and nobody was promised."""
        with self._turn:
            page = next((page for page in self._turned if not page.promised), None)
            if page is not None:
                self._turned.remove(page)
        if page is not None:
            self._unsaved_pages.remove(page)
        return page

    def lazily(self, task: Task) -> None:
        """Write the ended task soon; tried again until it succeeds."""
        with self._turn:
            self._unsaved[task.id] = self._lazy[task.id] = Write(task)
            self._soon()

    def move(self, promises: Sequence[Promise]) -> None:
        """Write soon what has been promised before; tried again until it succeeds."""
        with self._turn:
            self._moves += promises
            self._soon()

    def discard(self, number: int) -> None:
        """Drop a page of promises when something else is written, too."""
        with self._turn:
            self._discarded.append(number)

    def urgently(self, promises: Sequence[Promise], ended: Sequence[Task] = (), withdraw: Withdraw | None = None) -> asyncio.Future[None]:
        """Write these now, in one group; resolved once on disk. Fails with `StorageFull` or `Unavailable`; raises what keeps a task from
        being encoded."""
        rows = _rows(ended)
        waiter: asyncio.Future[None] = self._loop.create_future()
        with self._turn:
            for promise in promises:
                promise.waiter = waiter
                self._promises.append(promise)
            for task, values in zip(ended, rows, strict=True):
                write = self._unsaved[task.id] = Write(task, values, waiter, withdraw)
                self._lazy.pop(task.id, None)
                self._urgent.append(write)
            self._turn.notify()
        return waiter

    def abandon(self, task_id: str) -> None:
        """Forget what is still to be written of an ended task."""
        with self._turn:
            self._unsaved.pop(task_id, None)
            self._lazy.pop(task_id, None)

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
            self._urgent += self._lazy.values()
            self._promises += self._moves
            self._lazy, self._moves = {}, []
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
            if group.error is not None:  # withdrawn before more of the same task is written
                self._settled.wait()

    def _take(self) -> _Group | None:
        group = _Group()
        with self._turn:
            while True:
                wait = 0.0 if self._stopping else self._due - monotonic()
                lazy = bool(self._lazy or self._moves)
                if self._promises or self._urgent or self._jobs:
                    group.promises, self._promises = self._promises, []
                    group.writes, self._urgent = self._urgent, []
                    group.jobs, self._jobs = self._jobs, []
                    if not self.failing:  # else they wait, so that those who need little space have a chance
                        self._add_lazy(group)
                    if self._flushing:
                        group.pages, self._turned, self._flushing = self._turned, [], False
                    elif self._turned and not self.failing:
                        group.pages = [self._turned.pop(0)]
                    break
                if self._stopping and (self.failing or not (lazy or self._turned or self._discarded)):
                    return None
                if self._turned and (wait <= 0 or not self.failing):
                    group.pages = [self._turned.pop(0)]
                    break
                if (lazy or self._stopping) and wait <= 0:
                    self._add_lazy(group)
                    break
                self._turn.wait(wait if lazy or self._turned else None)
            group.discarded, self._discarded = self._discarded, []
        return group

    def _soon(self) -> None:
        if len(self._lazy) + len(self._moves) == 1:
            self._due = max(self._due, monotonic() + _LINGER)
            self._turn.notify()

    def _add_lazy(self, group: _Group) -> None:
        group.writes += [self._lazy.pop(task_id) for task_id in list(islice(self._lazy, _LAZY))]
        group.promises += self._moves[:_LAZY]
        del self._moves[:_LAZY]

    def _commit(self, group: _Group) -> None:
        promises = [promise for promise in group.promises if promise.left]
        rows = [row for write in group.writes if (row := write.row or _row(write.task)) is not None]
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            if promises:
                group.written = pending.write(self._connection, promises)
            for start in range(0, len(rows), _CHUNK):
                chunk = rows[start : start + _CHUNK]
                execute(_put_tasks(len(chunk)), list(chain.from_iterable(chunk)))
            for job, _ in group.jobs:
                group.answers.append(job(self._connection))
            for page in group.pages:
                self._pages.write(self._connection, page)
            if group.discarded:
                pending.drop(self._connection, group.discarded)
            execute("COMMIT")
        except Exception as error:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            self._pages.withdraw(page.number for page in group.pages)
            group.error = translate(error, self._directory)
            group.error.__cause__ = error

    def _settle(self, group: _Group) -> None:
        """On the loop: tell those who wait; withdraw or queue again what could not be written."""
        error = group.error
        self.failing = error is not None
        again: list[Write] = []
        for write in group.writes:
            task = write.task
            current = self._unsaved.get(task.id) is write
            if current and (error is None or write.withdraw is not None):
                del self._unsaved[task.id]
            if error is None:
                if current:
                    self._saved(task)
            elif write.withdraw is not None:
                write.withdraw(task)
            elif current:
                again.append(write)
            _answer(write.waiter, error)
        if error is None:
            for pending_page in group.written:
                self._saved(pending_page)
            for page in group.pages:
                self._unsaved_pages.remove(page)
                self._saved(page)
        for promise in group.promises:
            if error is not None and promise.withdraw is not None:
                for task in promise.tasks:
                    promise.withdraw(task)
            _answer(promise.waiter, error)
        for number, (_, waiter) in enumerate(group.jobs):
            _answer(waiter, error, None if error else group.answers[number])
        if error is not None:
            self._complain(error)
            self._retry(group, again)
        self._settled.set()

    def _retry(self, group: _Group, writes: list[Write]) -> None:
        moves = [promise for promise in group.promises if promise.withdraw is None]
        with self._turn:
            self._turned[:0] = group.pages
            self._moves[:0] = moves
            self._discarded += group.discarded
            for write in writes:
                write.waiter = None
            self._lazy = {write.task.id: write for write in writes} | self._lazy
            self._due = monotonic() + _RETRY
            self._turn.notify()


def _answer(waiter: asyncio.Future[Any] | None, error: Exception | None, answer: Any = None) -> None:
    if waiter is None or waiter.done():
        return
    if error is None:
        waiter.set_result(answer)
    else:
        waiter.set_exception(error)


def _rows(tasks: Sequence[Task]) -> list[Row]:
    try:
        return [row(task) for task in tasks]
    except Exception as error:
        raise Internal(f"a task's record cannot be written: {error}") from error


def _row(task: Task) -> Row | None:
    try:
        return row(task)
    except Exception as error:
        log.error("dropped the record of task %s", task.id, exc_info=error)
        return None


def _put_tasks(rows: int) -> str:
    """`put_task` for several rows at once; every value stays a bound parameter."""
    head, values, tail = queries()["put_task"].partition("(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
    return head + ", ".join([values] * rows) + tail
