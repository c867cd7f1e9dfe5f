"""Takes up what it finds, submits and ends promised tasks, and prints what was promised and what was recorded as ended, until it is killed."""

import asyncio
import random
import sys
from pathlib import Path

from openruntime.contracts.models import TaskStatus
from openruntime.stores.sqlite import SqliteStore
from openruntime.testing.store_tasks import end, new_array, new_task, run


async def main(directory: Path, history: int) -> None:
    store = SqliteStore(directory, history=history)
    back = await store.open()
    print("\n".join(["open 0", *(f"back {task.id}" for task in back)]), flush=True)

    async def client(number: int) -> None:
        while True:
            tasks = [new_task(parameters={"x": new_array(100)}) for _ in range(1 + 30 * (number % 2))]
            await store.submit(tasks, promised=True)
            print("\n".join(f"promised {task.id}" for task in tasks), flush=True)

    async def executor() -> None:
        while True:
            claimed = await store.claim(["any"], 64)
            for task in claimed:
                if random.random() < 0.1:
                    continue  # a straggler
                if random.random() < 0.1:
                    await store.requeue(task)
                    continue
                attempt = run(task)
                status = TaskStatus.FAILED if random.random() < 0.1 else TaskStatus.COMPLETED
                await store.finish(end(task, status), attempt)
                if random.random() < 0.02:
                    await store.keep(task)
                    print(f"settled {task.id}", flush=True)
            await asyncio.sleep(0 if claimed else 0.001)

    async def pruner() -> None:
        while True:
            await asyncio.sleep(0.1)
            await store.prune(0.0)

    await asyncio.gather(*(client(number) for number in range(4)), executor(), pruner())


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
