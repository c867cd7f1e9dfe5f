"""History in pages: many completed tasks in one row, their results in one file beside it. A row a task costs several times the CPU.

The file is fsynced where one of the tasks was promised; of others a checksum shows what a power cut has eaten.
"""

import asyncio
import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from zlib import crc32

import msgspec

from openruntime.contracts.payload import Array
from openruntime.contracts.records import Task
from openruntime.stores.blobs import sync
from openruntime.stores.codec import bare
from openruntime.stores.database import queries

log = logging.getLogger(__name__)

_encode = msgspec.msgpack.Encoder().encode
_decode_task = msgspec.msgpack.Decoder(Task).decode
_decode_tasks = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_decode_results = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_outputs = msgspec.msgpack.Decoder(dict[str, Array] | None).decode


class Page:
    """Completed tasks that are written together; none has an array in a blob. `size`: bytes of their results."""

    __slots__ = ("number", "promised", "size", "tasks")

    def __init__(self, *, promised: bool) -> None:
        self.promised = promised  # to outlive a power cut
        self.number = 0  # from when it is written
        self.size = 0
        self.tasks: dict[str, Task] = {}


class Pages:
    """The pages on disk: rows in the database, results over `inline` bytes in files of `folder`. Not for the event loop's thread."""

    def __init__(self, folder: Path, inline: int) -> None:
        self._folder = folder
        self._inline = inline
        self._next = 1

    def open(self, connection: sqlite3.Connection) -> None:
        """Drop the files whose page was never committed, or is gone."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        numbers = dict(connection.execute(queries()["page_numbers"]).fetchall())
        self._next = max(numbers, default=0) + 1
        for path in self._folder.iterdir():
            if not (path.name.isdecimal() and numbers.get(int(path.name))):
                path.unlink()

    def write(self, connection: sqlite3.Connection, page: Page) -> None:
        """Within the writer's transaction. Raises `OSError`."""
        if not page.number:
            page.number, self._next = self._next, self._next + 1
        tasks = page.tasks
        try:
            records, results = _packed(tasks)
        except Exception:
            tasks = {task_id: task for task_id, task in tasks.items() if _can_be_packed(task)}
            if not tasks:
                return
            records, results = _packed(tasks)
        checksum = None
        if len(results) > self._inline:
            checksum = crc32(results)
            self._path(page.number).write_bytes(results)
            if page.promised:
                sync(self._path(page.number))
                sync(self._folder)
        everything = tasks.values()
        connection.execute(
            queries()["put_page"],
            (
                page.number,
                min(tasks),
                max(tasks),
                len(tasks),
                page.size,
                max(task.finished or 0.0 for task in everything),
                _distinct(task.tenant for task in everything),
                _distinct(task.call.operation for task in everything),
                _distinct(task.device for task in everything if task.device is not None),
                _distinct(tag for task in everything for tag in task.tags),
                checksum,
                records,
                results if checksum is None else None,
            ),
        )

    def find(self, connection: sqlite3.Connection, task_id: str) -> Task | None:
        for number, checksum, records, results in connection.execute(queries()["find_pages"], {"id": task_id}):
            found = _decode_tasks(records)
            if task_id in found:
                task = _decode_task(found[task_id])
                if checksum is not None:
                    results = self._load(number, checksum)
                if results is not None:
                    task.outputs = _decode_outputs(_decode_results(results)[list(found).index(task_id)])
                return task
        return None

    def newest(self, connection: sqlite3.Connection, named: dict[str, str | None]) -> Iterator[tuple[str, list[Task]]]:
        """The tasks of each page that may match a `Filter`'s fields and `after`, and the largest id in it and those that follow."""
        after = named["after"]
        for last, records in connection.execute(queries()["list_pages"], named):
            found = _decode_tasks(records)
            yield last, [_decode_task(record) for task_id, record in found.items() if after is None or task_id < after]

    async def drop_files(self, numbers: Iterable[int]) -> None:
        """Of pages that are gone, or whose results are."""
        await asyncio.to_thread(self.withdraw, numbers)

    def withdraw(self, numbers: Iterable[int]) -> None:
        """As `drop_files`, for callers in a thread of their own."""
        for number in numbers:
            self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / str(number)

    def _load(self, number: int, checksum: int) -> bytes | None:
        try:
            results = self._path(number).read_bytes()
        except FileNotFoundError:
            return None
        return results if crc32(results) == checksum else None


def _packed(tasks: dict[str, Task]) -> tuple[bytes, bytes]:
    """Records by id and results in the same order, each in one call of the encoder."""
    return _encode({task_id: bare(task) for task_id, task in tasks.items()}), _encode([task.outputs for task in tasks.values()])


def _can_be_packed(task: Task) -> bool:
    try:
        _packed({task.id: task})
    except Exception as error:
        log.error("dropped the record of task %s", task.id, exc_info=error)
        return False
    return True


def _distinct(values: Iterable[str]) -> str:
    return json.dumps(sorted(set(values)))
