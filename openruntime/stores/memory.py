"""Everything in memory: fast, and gone with the process. For embedded runtimes, tests, and servers that need no durability."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from time import time
from typing import Any, Unpack

import msgspec

from openruntime.contracts.errors import Expired
from openruntime.contracts.interfaces import BlobStore, Shelf
from openruntime.contracts.payload import Array, Buffer
from openruntime.contracts.records import ANY, Filter, Task
from openruntime.stores.embedded import Bounds, EmbeddedStore, page
from openruntime.stores.spill import own

log = logging.getLogger(__name__)


class MemoryBlobs(BlobStore):
    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    async def write(self, data: Buffer, *, durable: bool) -> str:
        digest = await asyncio.to_thread(lambda: sha256(data).hexdigest())
        if digest not in self._blobs:
            self._blobs[digest] = bytes(data)
        return digest

    async def read(self, digest: str) -> memoryview:
        if digest not in self._blobs:
            raise Expired(f"the bytes of {digest} are gone")
        return memoryview(self._blobs[digest])


class _Entry(msgspec.Struct):
    meta: bytes
    arrays: dict[str, Array]
    tenant: str
    expires: float

    @property
    def size(self) -> int:
        return len(self.meta) + sum(array.nbytes for array in self.arrays.values())


class MemoryShelf(Shelf):
    def __init__(self) -> None:
        self._spaces: dict[str, dict[str, _Entry]] = {}  # entries in the order of their last use

    async def put(
        self, namespace: str, key: str, meta: bytes, arrays: Mapping[str, Array], *, ttl: float, tenant: str, instead: bytes | None = None
    ) -> bool:
        space = self._spaces.setdefault(namespace, {})
        old = space.get(key)
        if instead is not None and (old is None or old.expires <= time() or old.meta != instead):
            return False
        space.pop(key, None)
        space[key] = _Entry(meta, dict(arrays), tenant, time() + ttl)
        return True

    async def get(self, namespace: str, key: str) -> tuple[bytes, dict[str, Array]] | None:
        space = self._spaces.get(namespace, {})
        entry = space.pop(key, None)
        if entry is None or entry.expires <= time():
            return None
        space[key] = entry
        return entry.meta, dict(entry.arrays)

    async def delete(self, namespace: str, key: str) -> bool:
        entry = self._spaces.get(namespace, {}).pop(key, None)
        return entry is not None and entry.expires > time()

    async def items(self, namespace: str, *, tenant: str | None = None, after: str = "", limit: int = 100) -> list[tuple[str, bytes]]:
        now = time()
        chosen = [
            (key, entry.meta)
            for key, entry in self._spaces.get(namespace, {}).items()
            if key > after and entry.expires > now and tenant in (None, entry.tenant)
        ]
        return sorted(chosen)[:limit]

    async def trim(self, namespace: str, *, max_bytes: int) -> int:
        space, now, total = self._spaces.get(namespace, {}), time(), 0
        doomed = []
        for key, entry in reversed(space.items()):
            total += entry.size if entry.expires > now else 0
            if entry.expires <= now or total > max_bytes:
                doomed.append(key)
        for key in doomed:
            del space[key]
        return len(doomed)


class MemoryStore(EmbeddedStore):
    """A store without a disk: a promise holds as long as the process lives."""

    def __init__(self, **bounds: Unpack[Bounds]) -> None:
        super().__init__(**bounds)
        self.blobs = MemoryBlobs()
        self.shelf = MemoryShelf()

    async def open(self) -> list[Task]:
        return []

    async def close(self) -> None:
        return None

    async def submit(self, tasks: Sequence[Task], *, promised: bool) -> None:
        self._admit(tasks)
        for task in tasks:
            task.kept = task.kept or promised
            if task.life.status.ended:
                self._retire(task)
        self._place(tasks)

    async def keep(self, task: Task) -> None:
        task.kept = True

    async def load(self, task: Task) -> dict[str, Any]:
        return task.call.parameters

    async def finish(self, task: Task, attempt: int) -> bool:
        if not self._end(task, attempt):
            return False
        self._retire(task)
        return True

    async def get(self, task_id: str) -> Task | None:
        task = self._live.get(task_id) or self._ended.get(task_id)
        return None if task is None else self._fresh(task)

    async def list(self, filter: Filter = ANY, *, after: str | None = None, limit: int = 50) -> tuple[list[Task], str | None]:
        return page(await asyncio.to_thread(self._in_memory, filter, after, limit + 1), limit)

    async def prune(self, now: float) -> int:
        ended = list(self._ended.values())
        for task in ended:
            if task.finished is not None and task.finished < now - self._history_age:
                self._forget(task)
            elif task.outputs is not None and task.finished is not None and task.finished < now - self._result_ttl:
                self._expire(task)
        return len(ended) - len(self._ended)

    def _retire(self, task: Task) -> None:
        size, outputs = self._shelve(task), task.outputs
        if outputs is not None and size > self._inline_bytes:
            copying = asyncio.get_running_loop().run_in_executor(None, own, outputs)
            copying.add_done_callback(partial(_moved, task, outputs))
        while len(self._ended) > self._history or self._ended_bytes > self._history_bytes:
            self._forget(next(iter(self._ended.values())))


def _moved(task: Task, outputs: dict[str, Array], copying: asyncio.Future[dict[str, Array]]) -> None:
    if copying.cancelled():
        return
    if error := copying.exception():
        log.warning("the result of task %s stays in shared memory: %s", task.id, error)
    elif task.outputs is outputs:
        task.outputs = copying.result()
