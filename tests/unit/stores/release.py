"""Writes the database of the newest schema that `test_database.py` migrates: run once when a migration is added, then never change the file."""

import asyncio
import tempfile
from pathlib import Path

from openruntime.contracts.models import TaskStatus
from openruntime.contracts.payload import Array
from openruntime.stores.database import NAME, migrations
from openruntime.stores.sqlite import SqliteStore
from openruntime.testing.store_tasks import end, new_task, run


async def write(target: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = SqliteStore(Path(directory))
        await store.open()
        await store.shelf.put("tensor", "key", b"meta", {"x": Array("uint8", (3,), b"abc")}, ttl=1e12, tenant="local")
        waiting = new_task(parameters={"x": Array("uint8", (3,), b"abc")}, tags=("waiting",), rank=9.0)
        ended = [new_task(idempotency="key", rank=1.0), new_task(rank=2.0)]
        await store.submit([waiting, *ended], promised=True)
        for task, status in zip(await store.claim(["any"], 2), (TaskStatus.COMPLETED, TaskStatus.FAILED), strict=True):
            attempt = run(task)
            end(task, status)
            if task.outputs:
                task.outputs = {"output": Array("uint8", (3,), b"def")}
            await store.finish(task, attempt)
        await store.close()
        target.write_bytes((Path(directory) / NAME).read_bytes())


if __name__ == "__main__":
    folder = Path(__file__).parent / "released"
    folder.mkdir(exist_ok=True)
    asyncio.run(write(folder / f"{len(migrations()):04}.db"))
