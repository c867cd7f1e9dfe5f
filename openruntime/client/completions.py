"""Learns from the event stream how submitted tasks go on, so that nobody has to ask for each."""

import asyncio
from contextlib import aclosing
from typing import Any

from openruntime.client.connection import Connection, failure
from openruntime.client.task import AsyncTask
from openruntime.contracts.errors import OpenRuntimeError, Unavailable

_ASKED_AT_ONCE = 16
_ENDS = ("task.completed", "task.failed", "task.cancelled")


class Completions:
    """Follows the topic `tasks` from the first submission on. While the stream is away, the server is asked task by task."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._open: dict[str, AsyncTask] = {}
        self._early: dict[str, dict[str, Any]] = {}  # ends that came before the answer that names the task
        self._submitting = 0
        self._following: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def begin(self) -> None:
        """Before a submission: from here on no end is missed."""
        self._submitting += 1
        if self._following is None:
            self._following = asyncio.create_task(self._follow())
        await self._ready.wait()

    def watch(self, task: AsyncTask) -> None:
        if task.done():
            return
        self._open[task.task_id] = task
        task.on_end(self._forget)
        if task.task_id in self._early:
            self._apply(task, self._early.pop(task.task_id))

    def _forget(self, task: AsyncTask) -> None:
        self._open.pop(task.task_id, None)

    def finish(self) -> None:
        """After a submission, its tasks watched."""
        self._submitting -= 1
        if not self._submitting:
            self._early.clear()

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def _follow(self) -> None:
        after: int | str | None = None
        pause = 0.1
        while True:
            try:
                async with aclosing(self._connection.events(["tasks"], after)) as events:
                    async for event in events:
                        pause = 0.1
                        after = event.get("seq", after)
                        await self._take(event)
            except Unavailable:
                self._ready.set()  # submissions go on without the stream; `_sweep` stands in for it
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
                await self._sweep()

    async def _take(self, event: dict[str, Any]) -> None:
        kind = event.get("type", "")
        if kind == "subscribed":
            self._ready.set()
        elif kind == "gap":
            await self._sweep()
        elif kind.startswith("task."):
            data = event.get("data") or {}
            task = self._open.get(data.get("task_id", ""))
            if task is not None:
                self._apply(task, event)
            elif kind in _ENDS and self._submitting:
                self._early[data["task_id"]] = event

    def _apply(self, task: AsyncTask, event: dict[str, Any]) -> None:
        kind, data = event["type"], event["data"]
        if kind == "task.progress":
            task.progress, task.message = data.get("progress"), data.get("message")
        elif kind == "task.completed":
            task.end(None)
        elif kind in _ENDS:
            status = kind.removeprefix("task.")
            task.end(failure(data.get("code") or status, data.get("error") or f"the task was {status}"))

    async def _sweep(self) -> None:
        limit = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def ask(task: AsyncTask) -> None:
            async with limit:
                try:
                    await task.status()
                except Unavailable:
                    return  # still away: the next sweep asks again
                except OpenRuntimeError as error:
                    task.end(error)

        await asyncio.gather(*map(ask, list(self._open.values())))
