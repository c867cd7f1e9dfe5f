"""Cached results and kept tensors in Redis, shared by all gateways; large arrays as blobs in the shared folder."""

import asyncio
from collections.abc import Mapping
from time import time

from openruntime.contracts.errors import Expired
from openruntime.contracts.interfaces import Shelf
from openruntime.contracts.payload import Array
from openruntime.stores.codec import pack, unpack
from openruntime.stores.redis import Link
from openruntime.stores.redis_records import listed
from openruntime.stores.spill import Spill


class RedisShelf(Shelf):
    def __init__(self, link: Link, spill: Spill) -> None:
        self._link = link
        self._spill = spill
        self._used: dict[tuple[str, str], float] = {}  # told by the next `trim`, so that a lookup is no write

    async def put(
        self, namespace: str, key: str, meta: bytes, arrays: Mapping[str, Array], *, ttl: float, tenant: str, instead: bytes | None = None
    ) -> bool:
        packed, blobs = pack(await self._spill.write(dict(arrays), durable=True))
        size = len(meta) + sum(array.nbytes for array in arrays.values())
        self._used.pop((namespace, key), None)
        over = b"" if instead is None else b"=" + instead
        return bool(await self._link.script("shelf_put", namespace, key, ttl, tenant, meta, packed, listed(blobs), size, over))

    async def get(self, namespace: str, key: str) -> tuple[bytes, dict[str, Array]] | None:
        found = await self._link.script("shelf_get", namespace, key)
        if found is None:
            return None
        arrays: dict[str, Array] = unpack(found[1])
        try:
            if self._spill.needed(arrays):
                arrays = await asyncio.to_thread(self._spill.filled, arrays)
        except Expired:
            return None
        self._used[namespace, key] = time()
        return found[0], arrays

    async def delete(self, namespace: str, key: str) -> bool:
        self._used.pop((namespace, key), None)
        return bool(await self._link.script("shelf_drop", namespace, "", key))

    async def items(self, namespace: str, *, tenant: str | None = None, after: str = "", limit: int = 100) -> list[tuple[str, bytes]]:
        rows = await self._link.script("shelf_items", namespace, "" if tenant is None else f"={tenant}", after, limit)
        return [(name.decode(), meta) for name, meta in rows]

    async def trim(self, namespace: str, *, max_bytes: int) -> int:
        touched = sorted((used, key) for (space, key), used in self._used.items() if space == namespace)
        self._used = {place: used for place, used in self._used.items() if place[0] != namespace}
        dropped: int = await self._link.script("shelf_drop", namespace, max_bytes, *(key for _, key in touched[-5000:]))
        return dropped
