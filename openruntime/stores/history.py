"""What has ended, on disk: pages of small completed tasks and rows of the others, read and dropped as one."""

import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from functools import partial

import msgspec

from openruntime.contracts.errors import Expired
from openruntime.contracts.records import Filter, Task
from openruntime.stores.codec import task_of
from openruntime.stores.database import queries
from openruntime.stores.disk import Disk
from openruntime.stores.spill import Spill

_BATCH = 500  # rows or pages dropped in one group, so that those who wait for theirs are not kept long

Gone = tuple[str, str, str | None]  # id, tenant, idempotency key


class History:
    def __init__(self, disk: Disk, spill: Spill) -> None:
        self._disk = disk
        self._spill = spill
        self._expired = 0.0  # results that ended before are gone

    async def find(self, task_id: str) -> Task | None:
        return await self._disk.read(partial(self._find, task_id))

    def newest(self, connection: sqlite3.Connection, found: dict[str, Task], filter: Filter, after: str | None, limit: int) -> list[Task]:
        """`found` in memory, and what the disk has besides; newest first. For reading threads."""
        status, named = filter.status, {**msgspec.structs.asdict(filter), "after": after}
        if status in (None, "completed", "failed", "cancelled"):
            query = queries()["list_rare_tasks" if status in ("failed", "cancelled") else "list_tasks"]
            for (meta,) in connection.execute(query, {**named, "limit": limit}):
                task = task_of(meta)
                found.setdefault(task.id, task)
        if status in (None, "completed"):
            for last, tasks in self._disk.pages.newest(connection, named):
                if sum(task_id > last for task_id in found) >= limit:
                    break
                for task in tasks:
                    if filter.matches(task):
                        found.setdefault(task.id, task)
        return sorted(found.values(), key=lambda task: task.id, reverse=True)[:limit]

    async def drop(
        self, *, history: int, size: int, before: float, ahead: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[tuple[list[Gone], list[tuple[int, int]]]]:
        """Drop what is more than `history` tasks or `size` bytes or ended `before`; a page only when all of it is. Yields the rows, and
        the pages with the number of their tasks, as they go. Where there is something to drop, `ahead` is awaited before."""
        bounds = {"history": history, "bytes": size, "before": before}
        surplus = await self._disk.read(lambda connection: connection.execute(queries()["surplus_history"], bounds).fetchall())
        if surplus:
            await ahead()
        rows, pages = ([row for row, paged in surplus if paged == kind] for kind in (0, 1))
        for start in range(0, len(rows), _BATCH):
            yield await self._disk.writer.job(partial(_drop, "drop_tasks", rows[start : start + _BATCH])), []
        for start in range(0, len(pages), _BATCH):
            torn = await self._disk.writer.job(partial(_drop, "drop_pages", pages[start : start + _BATCH]))
            await self._disk.pages.drop_files([number for number, _ in torn])
            yield [], torn

    async def expire(self, before: float) -> None:
        """Drop the results of what ended `before`; the records stay."""
        stale = {"since": self._expired, "before": before}
        await self._disk.writer.job(lambda connection: connection.execute(queries()["expire_results"], stale))
        emptied = await self._disk.writer.job(lambda connection: connection.execute(queries()["expire_pages"], stale).fetchall())
        await self._disk.pages.drop_files([number for (number,) in emptied])
        self._expired = before

    async def sweep(self, counted_too: Collection[str]) -> None:
        """Drop the blobs that no row counts, but these."""
        counted = await self._disk.read(lambda connection: connection.execute(queries()["counted_blobs"]).fetchall())
        await self._disk.files.sweep({digest for (digest,) in counted}.union(counted_too))

    def _find(self, task_id: str, connection: sqlite3.Connection) -> Task | None:
        row = connection.execute(queries()["ended_task"], {"id": task_id}).fetchone()
        if row is None:
            return self._disk.pages.find(connection, task_id)
        task = task_of(row[0], outputs=row[1])
        if task.outputs is not None:
            try:
                task.outputs = self._spill.filled(task.outputs)
            except Expired:
                task.outputs = None
        return task


def _drop(query: str, rows: Sequence[int], connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    return connection.execute(queries()[query], {"rows": json.dumps(rows)}).fetchall()
