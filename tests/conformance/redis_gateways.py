"""What a gateway hears of others, for tests of stores that share one Redis."""

import asyncio
from collections.abc import Callable
from typing import Any

from openruntime.contracts.events import AnyEvent
from openruntime.contracts.records import Task
from openruntime.stores.redis_store import RedisStore

Opener = Callable[..., Any]


class Heard:
    """Implements `Hears`, and remembers."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.stops: list[Task] = []
        self.adopted: list[Task] = []
        self.events: list[AnyEvent] = []

    def waiting(self) -> None:
        return None

    def ended(self, task_id: str) -> None:
        self.ends.append(task_id)

    def stop(self, task: Task) -> None:
        self.stops.append(task)

    def adopt(self, tasks: list[Task]) -> None:
        self.adopted += tasks

    def happened(self, events: list[AnyEvent], after: int) -> None:
        self.events += events


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def dies(store: RedisStore) -> None:
    """What kill -9 does: nothing is given back."""
    for task in store._others._background:
        task.cancel()
    await store._link.close()
