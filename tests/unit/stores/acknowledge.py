"""Submits tasks and prints each id once it was promised, until it is killed; every third is taken and ended meanwhile."""

import asyncio
import sys
from pathlib import Path

from openruntime.stores.sqlite import SqliteStore
from openruntime.testing.store_tasks import end, new_array, new_task, run


async def main(directory: Path) -> None:
    store = SqliteStore(directory, inline_bytes=1000)
    await store.open()

    async def client(number: int) -> None:
        while True:
            tasks = [new_task(parameters={"x": new_array(5000 if number == 0 else 50)}) for _ in range(1 + number % 3)]
            await store.submit(tasks, promised=True)
            print("\n".join(f"promised {task.id}" for task in tasks), flush=True)
            if number % 3 == 0 and (claimed := await store.claim(["any"], 1)):
                attempt = run(claimed[0])
                await store.finish(end(claimed[0], size=2000 if number == 3 else 20), attempt)
                await store.keep(claimed[0])
                print(f"ended {claimed[0].id}", flush=True)

    await asyncio.gather(*(client(number) for number in range(12)))


asyncio.run(main(Path(sys.argv[1])))
