"""Promised tasks until they have ended, in pages: one row for all that a commit accepts, and nothing in it changes later.

A page is dropped when the ends of all its tasks are on disk. A task that is written again moves to the newer page.
"""

import json
import sqlite3
from asyncio import Future
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from sys import intern
from typing import Any

import msgspec

from openruntime.contracts.models import TaskStatus
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Life, Task
from openruntime.stores.codec import arrays, arrived, task_of, unpack, unwrap, wrap
from openruntime.stores.database import queries

_TASKS = 512  # in one promise
_MOVED = 4096  # stragglers at once, so that encoding them holds nobody up
_BYTES = 16 << 20  # of promises after which another page begins
_PLAIN = frozenset({str, int, float, bool, type(None)})

_encode = msgspec.msgpack.Encoder().encode
_decode_task = msgspec.msgpack.Decoder(Task, ext_hook=unwrap).decode
_decode_page = msgspec.msgpack.Decoder(list[tuple[list[str], list[list[str]], list[msgspec.Raw]]]).decode
_decode_ids = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode

Withdraw = Callable[[Task], None]


class Promise:
    """Tasks that are accepted together, encoded as they are now. With `withdraw`, called for each, it is not tried again."""

    __slots__ = ("data", "ids", "left", "page", "tasks", "waiter", "withdraw")

    def __init__(self, tasks: Sequence[Task], data: bytes, withdraw: Withdraw | None) -> None:
        self.tasks = tasks
        self.ids = [task.id for task in tasks]
        self.data = data
        self.withdraw = withdraw
        self.waiter: Future[None] | None = None
        self.left = len(tasks)  # until it is written: those whose end is not; without any it need not be
        self.page: PendingPage | None = None  # once it is written


class PendingPage:
    """One row. `left`: tasks that count on it; `noted`: how many they were when that was written down."""

    __slots__ = ("left", "moving", "noted", "number", "promises", "size")

    def __init__(self, number: int, promises: Sequence[Promise]) -> None:
        self.number = number
        self.promises = promises
        self.size = self.noted = sum(len(promise.ids) for promise in promises)
        self.left = 0
        self.moving = False


class Pending:
    """Which page keeps which task's promise. On the event loop only; `discard` is told the number of each page that has done its work."""

    def __init__(self, discard: Callable[[int], None]) -> None:
        self._discard = discard
        self._promises: dict[str, Promise] = {}  # by task
        self._digests: dict[str, list[str]] = {}  # of the blobs that the inputs rest in, by task
        self._pages: dict[int, PendingPage] = {}

    def promise(self, tasks: Sequence[Task], withdraw: Withdraw | None) -> list[Promise]:
        """Encode the tasks. Raises what keeps one from being encoded; then nothing has changed."""
        promises, digests = [], {}
        for start in range(0, len(tasks), _TASKS):
            some = tasks[start : start + _TASKS]
            data, found = encoded(some)
            digests.update(found)
            promises.append(Promise(some, data, withdraw))
        for promise in promises:
            for task_id in promise.ids:
                self._promises.setdefault(task_id, promise)
        for task_id, blobs in digests.items():
            self._digests[task_id] = self._digests.get(task_id, []) + blobs
        return promises

    def of(self, task_id: str) -> Promise | None:
        return self._promises.get(task_id)

    def written(self, page: PendingPage) -> None:
        for promise in page.promises:
            for task_id in promise.ids:
                current = self._promises.get(task_id)
                if current is not None:
                    page.left += 1
                    if current is not promise:
                        self._promises[task_id] = promise
                        self._leave(current)
            promise.page, promise.tasks, promise.data = page, (), b""
        if page.left:
            self._pages[page.number] = page
        else:
            self._discard(page.number)

    def release(self, ids: Iterable[str]) -> None:
        """Their ends are on disk, or they are withdrawn."""
        promises = self._promises
        for task_id in ids:
            promise = promises.pop(task_id, None)
            if promise is not None:
                self._leave(promise)
                if self._digests:
                    self._digests.pop(task_id, None)

    def digests(self) -> set[str]:
        return set(chain.from_iterable(self._digests.values()))

    def stragglers(self, live: dict[str, Task]) -> list[Task]:
        """The tasks of pages that are hardly needed any more; to be promised again, on pages of their own."""
        found: list[Task] = []
        for page in self._pages.values():
            if not page.moving and page.left * 4 < page.size:
                ids = self._left(page)
                if all(task_id in live for task_id in ids):
                    page.moving = True
                    found += [live[task_id] for task_id in ids]
                if len(found) >= _MOVED:
                    break
        return found

    def notes(self) -> dict[int, list[str]]:
        """What is left of the pages of which some tasks have ended since that was noted."""
        return {page.number: self._left(page) for page in self._pages.values() if page.left < page.noted}

    def noted(self, notes: dict[int, list[str]]) -> None:
        for number, ids in notes.items():
            if number in self._pages:
                self._pages[number].noted = len(ids)

    def _left(self, page: PendingPage) -> list[str]:
        return [task_id for promise in page.promises for task_id in promise.ids if self._promises.get(task_id) is promise]

    def _leave(self, promise: Promise) -> None:
        page = promise.page
        if page is None:
            promise.left -= 1
            return
        page.left -= 1
        if not page.left and self._pages.pop(page.number, None) is not None:
            self._discard(page.number)

    def recovered(self, number: int, size: int, tasks: Sequence[Task]) -> Iterable[str]:
        """Of the `size` tasks of this page, read at the start, these have not ended. Those whose inputs rest in blobs."""
        promise, digests = Promise(tasks, b"", None), {}
        for task in tasks:
            self._promises[task.id] = promise
            if blobs := [array.blob for array in arrays(task.call.parameters) if array.blob is not None]:
                digests[task.id] = blobs
        self._digests.update(digests)
        page = PendingPage(number, [promise])
        page.size = page.noted = size
        self.written(page)
        return digests


def write(connection: sqlite3.Connection, promises: Sequence[Promise]) -> list[PendingPage]:
    """Within the writer's transaction."""
    pages = []
    rest = iter(promises)
    while some := _fill(rest):
        data = b"".join((b"\xdd", len(some).to_bytes(4, "big"), *(promise.data for promise in some)))  # a list in msgpack
        first = min(chain.from_iterable(promise.ids for promise in some))
        number = connection.execute(queries()["put_pending"], (first, data)).lastrowid
        pages.append(PendingPage(number or 0, some))
    return pages


def drop(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    rows = {"rows": json.dumps(numbers)}
    connection.execute(queries()["drop_pending"], rows)
    connection.execute(queries()["drop_pending_left"], rows)


def note(notes: dict[int, list[str]], connection: sqlite3.Connection) -> None:
    connection.executemany(queries()["put_pending_left"], [(number, json.dumps(ids)) for number, ids in notes.items()])


def adopt(connection: sqlite3.Connection) -> None:
    """Bring the rows onto pages in which schemas 1 and 2 kept waiting tasks."""
    waiting = connection.execute(queries()["unfinished_tasks"])
    while rows := waiting.fetchmany(_TASKS):
        tasks = [task_of(meta) for meta, _ in rows]
        for task, (_, inputs) in zip(tasks, rows, strict=True):
            task.call = msgspec.structs.replace(task.call, parameters=unpack(inputs))
        write(connection, [Promise(tasks, encoded(tasks)[0], None)])
    connection.execute(queries()["drop_unfinished_tasks"])


def unfinished(connection: sqlite3.Connection) -> Iterator[tuple[int, int, list[Task]]]:
    """Of each page its number, the number of its tasks, and those without a recorded end: queued again, or still to be cancelled."""
    shared: dict[Any, Any] = {}  # alike calls share what they declare, as those do that the catalogue binds
    first = connection.execute(queries()["first_pending"]).fetchone()[0]
    if first is None:
        return
    gone = {task_id for (task_id,) in connection.execute(queries()["ended_ids"], {"first": first})}
    for (records,) in connection.execute(queries()["ended_pages"], {"first": first}):
        gone.update(_decode_ids(records))
    for number, data, ids in connection.execute(queries()["pending_pages"]):
        left = None if ids is None else set(json.loads(ids))
        tasks, size = [], 0
        for of_promise, named, records in reversed(_decode_page(data)):
            for task_id, names, record in zip(of_promise, named, records, strict=True):
                if task_id not in gone and (left is None or task_id in left):
                    tasks.append(_queued(record, names, shared))
            gone.update(of_promise)  # an older page does not count
            size += len(of_promise)
        yield number, size, tasks


def encoded(tasks: Sequence[Task]) -> tuple[bytes, dict[str, list[str]]]:
    """The tasks with their inputs, in one call of the encoder; and the digests of the blobs that inputs rest in, by task."""
    digests: dict[str, list[str]] = {}
    records, named = [], []
    for task in tasks:
        names = _top_arrays(task.call.parameters)
        named.append(names or [])
        records.append(_wrapped(task, digests) if names is None else task)
    ids = [task.id for task in tasks]
    try:
        return _encode((ids, named, records)), digests
    except OverflowError:  # an integer beyond 64 bits
        return _encode((ids, [[]] * len(ids), [_wrapped(task, digests) for task in tasks])), digests


def _top_arrays(parameters: dict[str, Any]) -> list[str] | None:
    """The names of the arrays; None where the encoder alone would not do."""
    names = []
    for name, value in parameters.items():
        kind = type(value)
        if kind is Array:
            if value.blob is not None or value.data is None:
                return None
            names.append(name)
        elif kind not in _PLAIN:
            return None
    return names


def _wrapped(task: Task, digests: dict[str, list[str]]) -> Task:
    blobs: list[str] = []
    parameters = {name: wrap(value, blobs) for name, value in task.call.parameters.items()}
    if blobs:
        digests[task.id] = blobs
    return msgspec.structs.replace(task, call=msgspec.structs.replace(task.call, parameters=parameters))


def _queued(record: msgspec.Raw, names: Iterable[str], shared: dict[Any, Any]) -> Task:
    task = arrived(_decode_task(record))
    call, life = task.call, task.life
    for name in names:
        found = call.parameters[name]
        call.parameters[name] = Array(found["dtype"], tuple(found["shape"]), found["data"])
    outputs = shared.setdefault((call.operation, *call.outputs.items()), call.outputs)
    estimate = shared.setdefault(call.estimate, call.estimate)
    task.call = msgspec.structs.replace(call, operation=intern(call.operation), outputs=outputs, estimate=estimate)
    status = TaskStatus.CANCELLING if life.status is TaskStatus.CANCELLING else TaskStatus.QUEUED
    life = Life(status, life.attempt, life.failures, life.deaths)
    task.life = shared.setdefault(life, life)
    task.started = task.device = task.backend = task.progress = task.message = None
    task.lane, task.tenant = intern(task.lane), intern(task.tenant)
    task.kept = True
    return task


def _fill(promises: Iterator[Promise]) -> list[Promise]:
    """The next of them, for one page."""
    some, size = [], 0
    for promise in promises:
        some.append(promise)
        size += len(promise.data)
        if size >= _BYTES:
            break
    return some
