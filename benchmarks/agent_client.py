"""The client that an agent has, over the SDK's connection: for benchmarks and tests of what a role computes."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from openruntime.client.connection import Connection, decode
from openruntime.contracts.payload import Buffer


class SdkClient:
    """Implements `Client` of contracts/agents.py without bounds. `tasks` counts those that were submitted."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.tasks = 0
        self.began = time.monotonic()

    async def get(self, path: str, **query: Any) -> Any:
        return await self._connection.json("GET", path, query=query)

    async def post(self, path: str, body: Any = None, *, wait: float | None = None, headers: Mapping[str, str] | None = None) -> Any:
        given = {"Accept": "application/json", "Content-Type": "application/json", **(headers or {})}
        if wait is not None:
            given["Prefer"] = f"wait={wait:g}"
        self.tasks += 1
        content = [msgspec.json.encode(body)] if body is not None else []
        return decode(await self._connection.call("POST", path, headers=given, content=content, wait=max(wait or 0.0, 110.0)))

    async def put(self, path: str, body: Any) -> Any:
        return await self._connection.json("PUT", path, body)

    async def delete(self, path: str) -> Any:
        return await self._connection.json("DELETE", path)

    async def run(self, operation: str, parameters: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        found: dict[str, Any] = await self.post("/tasks", {"operation": operation, "parameters": dict(parameters or {}), **fields}, wait=10.0)
        while found["status"] not in ("completed", "failed", "cancelled"):
            found = await self.get(f"/tasks/{found['task_id']}", wait=10)
        return found

    async def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, content: Sequence[Buffer] = ()
    ) -> tuple[int, Mapping[str, str], Buffer]:
        reply = await self._connection.call(method, path, headers=headers, content=content)
        return reply.status, reply.headers, reply.body
