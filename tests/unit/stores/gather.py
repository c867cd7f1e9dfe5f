"""Ends tasks that nobody was promised and prints each id with the time, until it is killed."""

import asyncio
import sys
from pathlib import Path
from time import time

from openruntime.stores.sqlite import SqliteStore
from openruntime.testing.store_tasks import end, new_task, run


async def main(directory: Path) -> None:
    store = SqliteStore(directory, inline_bytes=1000)
    await store.open()
    while True:
        for _ in range(20):
            task = new_task()
            await store.submit([task], promised=False)
            await store.claim(["any"], 1)
            attempt = run(task)
            await store.finish(end(task, size=300), attempt)
            print(task.id, time(), flush=True)
        await asyncio.sleep(0.05)


asyncio.run(main(Path(sys.argv[1])))
