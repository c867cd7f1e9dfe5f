"""`/mcp`: the Model Context Protocol over streamable HTTP. Its library is imported, and its lifespan entered, when somebody first calls."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
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

    def serving(self) -> AbstractAsyncContextManager[Application]: ...


class McpEndpoint:
    """An ASGI application. What clients ask is asked of `front` in their name, so that here they may do what they may anywhere else."""

    def __init__(self, front: Application, limits: Limits, version: str) -> None:
        self.drained = False  # whether `drain` is called before a stop
        self._front = front
        self._limits = limits
        self._version = version
        self._opened: asyncio.Future[Application] | None = None
        self._life: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self._leaving = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = headers(scope)
        origin, host = (found.decode("latin-1") if found is not None else None for found in (given.get(b"origin"), given.get(b"host")))
        if not self._limits.cors and not own_page(origin, host):
            raise Forbidden(f"a page of {(origin or '')[:100]!r} may not use this server; `cors` lets pages of any origin", field="Origin")
        application = await asyncio.shield(self._opening())
        inner = {**scope, "path": PATHS[0], "raw_path": PATHS[0].encode(), "root_path": ""}
        if scope["method"] == "GET":
            await self._listen(application, inner, receive, send)
        else:
            await application(inner, receive, send)

    def drain(self) -> None:
        """The server is about to stop. Streams that clients only listen to end, and calls that wait for tasks answer how those stand."""
        self._leaving.set()

    async def close(self) -> None:
        """Ends all sessions. A task that a call waits for goes on."""
        self.drain()
        self._closed.set()
        if self._life is not None:
            await self._life

    def _opening(self) -> "asyncio.Future[Application]":
        """The application once it is up. One that could not be had is tried anew by the next who asks."""
        if self._opened is None or (self._opened.done() and self._opened.exception() is not None):
            self._opened = asyncio.get_running_loop().create_future()
            self._life = asyncio.create_task(self._live(self._opened), name="mcp")
        return self._opened

    async def _live(self, opened: "asyncio.Future[Application]") -> None:
        """Begins and ends the library's lifespan in one task, as it wants it."""
        try:
            made: Callable[..., _Server] = await asyncio.to_thread(PROTOCOLS.load, "mcp")  # a second of importing, beside the loop
            async with made(self._front, self._version, leaving=self._leaving.is_set, drained=self.drained).serving() as application:
                opened.set_result(application)
                await self._closed.wait()
        except Exception as error:
            if opened.done():
                log.exception("MCP ended badly")
            else:
                opened.set_exception(error)

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
