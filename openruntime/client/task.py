"""A submitted task, as an awaitable."""

import asyncio
from collections.abc import Callable, Generator
from typing import Any

from openruntime.client.arrays import outputs
from openruntime.client.connection import Connection, ended
from openruntime.contracts.errors import NotReady, OpenRuntimeError, TaskFailed
from openruntime.contracts.models import TaskResponse

SAFETENSORS = "application/x-safetensors"
LONG_POLL = 30  # seconds a request for a result is held by the server
_BETWEEN = 0.02  # seconds from one such request to the next, whatever the server's own longest wait
_NOTHING = object()


class AsyncTask:
    """A task on the server. Awaiting it gives its result; as a parameter of another operation it stands for its output."""

    def __init__(self, connection: Connection, task_id: str, operation: str) -> None:
        self.task_id = task_id
        self.operation = operation
        self.progress: float | None = None
        self.message: str | None = None
        self._connection = connection
        self._value: Any = _NOTHING
        self.error: OpenRuntimeError | None = None
        self._done = asyncio.Event()
        self._callbacks: list[Callable[[AsyncTask], None]] = []

    def __await__(self) -> Generator[Any, None, Any]:
        return self.result().__await__()

    def __repr__(self) -> str:
        return f"<task {self.task_id} {self.operation}{' done' if self.done() else ''}>"

    @property
    def reference(self) -> dict[str, str]:
        return {"task": self.task_id}

    async def result(self, timeout: float | None = None) -> Any:
        """The output as a NumPy array, several as a mapping. Raises why the task failed, or `TimeoutError` after `timeout` seconds."""
        if self.error is not None:
            raise self.error
        if self._value is _NOTHING:
            if timeout is not None and timeout <= 0:
                await self._fetch(0)
            async with asyncio.timeout(timeout):
                while self._value is _NOTHING:
                    await self._fetch(LONG_POLL)
        return self._value

    async def exception(self, timeout: float | None = None) -> OpenRuntimeError | None:
        """Why the task failed, None when it completed. Waits for its end."""
        async with asyncio.timeout(timeout):
            while not self.done():
                await self.status(wait=LONG_POLL)
        return self.error

    def done(self) -> bool:
        """Whether the task is known to have ended; `status` asks the server."""
        return self._done.is_set()

    async def status(self, *, wait: int = 0) -> TaskResponse:
        """What the server knows; asked to answer at the task's end or after `wait` seconds, whichever is first."""
        document = await self._connection.json("GET", f"/tasks/{self.task_id}", query={"wait": wait or None}, wait=wait)
        self.learn(document)
        return TaskResponse.model_validate(document)

    async def cancel(self) -> bool:
        """Ask the server to stop it. False when it had ended otherwise before."""
        if not self.task_id:
            return False
        document = await self._connection.json("DELETE", f"/tasks/{self.task_id}")
        self.learn(document)
        return document["status"] in ("cancelled", "cancelling")

    async def explain(self) -> dict[str, Any]:
        """Why this device and backend, predicted seconds against actual, its place in the queue, its attempts."""
        document: dict[str, Any] = await self._connection.json("GET", f"/tasks/{self.task_id}/explain")
        return document

    def on_end(self, callback: Callable[["AsyncTask"], None]) -> None:
        """Call it once the task ended; at once when it has."""
        if self.done():
            callback(self)
        else:
            self._callbacks.append(callback)

    def learn(self, response: dict[str, Any]) -> None:
        """Take in a `TaskResponse`."""
        if response.get("progress") is not None:
            self.progress, self.message = response["progress"], response.get("message")
        error = ended(response)
        if error is not None or response["status"] == "completed":
            self.end(error)

    def end(self, error: OpenRuntimeError | None) -> None:
        if self.done():
            return
        self.error = error
        self.progress = self.progress if error else 1.0
        self._done.set()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def keep(self, value: Any) -> None:
        self._value = value
        self.end(None)

    async def _fetch(self, wait: int) -> None:
        path, query = f"/tasks/{self.task_id}/result", {"wait": wait or None}
        try:
            reply = await self._connection.call("GET", path, query=query, headers={"Accept": SAFETENSORS}, wait=wait)
        except NotReady:
            if not wait:
                raise TimeoutError(f"task {self.task_id} has not ended yet") from None
            await asyncio.sleep(_BETWEEN)
            return
        except OpenRuntimeError as error:
            if error.status == TaskFailed.status or isinstance(error, TaskFailed):
                self.end(error)
            raise
        self.keep(outputs(reply.body))
