"""`/mcp`: the Model Context Protocol over streamable HTTP. Its library is imported, and its lifespan entered, when somebody first calls."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from typing import Any, Protocol

from openruntime.contracts.errors import Forbidden
from openruntime.contracts.registry import PROTOCOLS
from openruntime.gateway.admission import own_page
from openruntime.gateway.dependencies import Limits, headers
from openruntime.gateway.wire import Application, Receive, Scope, Send

log = logging.getLogger(__name__)
PATHS = ("/mcp", "/mcp/")
METHODS = ("GET", "POST", "DELETE")


class _Server(Protocol):
    """What the registry's `mcp` builds; see `mcp_server.py`."""

    async def open(self, stack: AsyncExitStack) -> Application: ...


class McpEndpoint:
    """An ASGI application. What clients ask is asked of `front` in their name, so that here they may do what they may anywhere else."""

    def __init__(self, front: Application, limits: Limits, version: str) -> None:
        self._front = front
        self._limits = limits
        self._version = version
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._application: Application | None = None
        self._leaving = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = headers(scope)
        origin, host = (found.decode("latin-1") if found is not None else None for found in (given.get(b"origin"), given.get(b"host")))
        if not self._limits.cors and not own_page(origin, host):
            raise Forbidden(f"a page of {(origin or '')[:100]!r} may not use this server; `cors` lets pages of any origin", field="Origin")
        application = self._application or await self._open()
        inner = {**scope, "path": PATHS[0], "raw_path": PATHS[0].encode(), "root_path": ""}
        if scope["method"] == "GET":
            await self._listen(application, inner, receive, send)
        else:
            await application(inner, receive, send)

    def drain(self) -> None:
        """Streams that clients only listen to end, so that a stop need not wait for them; calls go on."""
        self._leaving.set()

    async def close(self) -> None:
        """Ends all sessions. A task that a call waits for goes on."""
        self.drain()
        await self._stack.aclose()

    async def _open(self) -> Application:
        async with self._opening:
            if self._application is None:
                made: Callable[..., _Server] = await asyncio.to_thread(PROTOCOLS.load, "mcp")  # a second of importing, beside the loop
                self._application = await made(self._front, self._version, leaving=self._leaving.is_set).open(self._stack)
            return self._application

    async def _listen(self, application: Application, scope: Scope, receive: Receive, send: Send) -> None:
        begun = ended = False

        async def until_leaving() -> MutableMapping[str, Any]:
            found = await _first(receive, self._leaving.wait)
            return found if isinstance(found, MutableMapping) else {"type": "http.disconnect"}

        async def noting(message: MutableMapping[str, Any]) -> None:
            nonlocal begun, ended
            begun = True
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        await application(scope, until_leaving, noting)
        if begun and not ended:
            await send({"type": "http.response.body", "body": b""})


async def _first(*waits: Callable[[], Awaitable[Any]]) -> Any:
    """What the first of them returns; the others are given up."""
    running = [asyncio.ensure_future(wait()) for wait in waits]
    try:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        return next(one for one in running if one in done).result()
    finally:
        for one in running:
            one.cancel()
