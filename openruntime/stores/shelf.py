"""Cached results and kept tensors in SQLite; large arrays as blobs beside it."""

import json
import sqlite3
from collections.abc import Mapping
from time import time

from openruntime.contracts.errors import Expired
from openruntime.contracts.interfaces import Shelf
from openruntime.contracts.payload import Array
from openruntime.stores.codec import pack, unpack
from openruntime.stores.database import queries
from openruntime.stores.disk import Disk
from openruntime.stores.spill import Spill


class SqliteShelf(Shelf):
    def __init__(self, disk: Disk, spill: Spill) -> None:
        self._disk = disk
        self._spill = spill
        self._used: dict[tuple[str, str], float] = {}  # written by the next `trim`

    async def put(
        self, namespace: str, key: str, meta: bytes, arrays: Mapping[str, Array], *, ttl: float, tenant: str, instead: bytes | None = None
    ) -> bool:
        packed, blobs = pack(await self._spill.write(dict(arrays), durable=True))
        now = time()
        row = {
            "namespace": namespace,
            "key": key,
            "tenant": tenant,
            "expires": now + ttl,
            "used": now,
            "size": len(meta) + sum(array.nbytes for array in arrays.values()),
            "blobs": json.dumps(blobs) if blobs else None,
            "meta": meta,
            "arrays": packed,
        }
        self._used.pop((namespace, key), None)

        def write(connection: sqlite3.Connection) -> bool:
            if instead is not None:
                old = connection.execute(queries()["get_shelf"], {"namespace": namespace, "key": key, "now": now}).fetchone()
                if old is None or old[0] != instead:
                    return False
            connection.execute(queries()["put_shelf"], row)
            return True

        done: bool = await self._disk.writer.job(write)
        return done

    async def get(self, namespace: str, key: str) -> tuple[bytes, dict[str, Array]] | None:
        now = time()

        def find(connection: sqlite3.Connection) -> tuple[bytes, dict[str, Array]] | None:
            found = connection.execute(queries()["get_shelf"], {"namespace": namespace, "key": key, "now": now}).fetchone()
            return None if found is None else (found[0], self._spill.filled(unpack(found[1])))

        try:
            entry = await self._disk.read(find)
        except Expired:
            return None
        if entry is not None:
            self._used[namespace, key] = now
        return entry

    async def delete(self, namespace: str, key: str) -> bool:
        values = {"namespace": namespace, "key": key, "now": time()}
        self._used.pop((namespace, key), None)
        return bool(await self._disk.writer.job(lambda connection: connection.execute(queries()["delete_shelf"], values).rowcount))

    async def items(self, namespace: str, *, tenant: str | None = None, after: str = "", limit: int = 100) -> list[tuple[str, bytes]]:
        values = {"namespace": namespace, "tenant": tenant, "after": after, "limit": limit, "now": time()}
        return await self._disk.read(lambda connection: connection.execute(queries()["shelf_items"], values).fetchall())

    async def trim(self, namespace: str, *, max_bytes: int) -> int:
        touched = [{"namespace": space, "key": key, "used": used} for (space, key), used in self._used.items()]
        self._used.clear()

        def drop(connection: sqlite3.Connection) -> int:
            connection.executemany(queries()["touch_shelf"], touched)
            return connection.execute(queries()["trim_shelf"], {"namespace": namespace, "max_bytes": max_bytes, "now": time()}).rowcount

        dropped: int = await self._disk.writer.job(drop)
        return dropped
