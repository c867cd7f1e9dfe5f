"""The same server without a socket: requests go straight to an ASGI application in this process."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import unquote

import httpx

from openruntime.client.transport import Reply, Socket, Streamed, Unreachable, framed
from openruntime.contracts.payload import Buffer

Message = MutableMapping[str, Any]
Application = Callable[[Any, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
OpenApplication = Callable[[], AbstractAsyncContextManager[Application]]


class EmbeddedTransport:
    """`application` opens the runtime and yields its ASGI application; it runs on the loop that this transport is opened on."""

    address = "http://embedded"

    def __init__(self, application: OpenApplication) -> None:
        self._open = application
        self._stack = AsyncExitStack()
        self._application: Application | None = None
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        self._application = await self._stack.enter_async_context(self._open())
        transport = httpx.ASGITransport(self._application)
        self._client = await self._stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url=self.address))

    async def close(self) -> None:
        await self._stack.aclose()

    async def send(self, method: str, path: str, headers: Mapping[str, str], content: Sequence[Buffer], *, wait: float) -> Reply:
        assert self._client is not None, "opened before use"
        sent, body = framed(headers, content)
        response = await self._client.request(method, path, headers=sent, content=body)
        return Reply(response.status_code, response.headers, bytearray(response.content))

    @asynccontextmanager
    async def stream(self, method: str, path: str, headers: Mapping[str, str], content: Sequence[Buffer]) -> AsyncIterator[Streamed]:
        assert self._application is not None, "opened before use"
        exchange = _Exchange(method, path, headers, b"".join(content))
        running = asyncio.create_task(exchange.run(self._application))
        try:
            yield await exchange.started()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    @asynccontextmanager
    async def socket(self, path: str) -> AsyncIterator[Socket]:
        assert self._application is not None, "opened before use"
        socket = _Socket(path)
        running = asyncio.create_task(socket.run(self._application))
        try:
            await socket.accepted()
            yield socket
        finally:
            await socket.leave()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


class _Exchange:
    """A request and its answer, piece by piece, played to an ASGI application.

    Source: https://asgi.readthedocs.io/en/latest/specs/www.html#http
    """

    def __init__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        plain, _, query = path.partition("?")
        given = {"host": "embedded", "content-length": str(len(body)), **{name.lower(): value for name, value in headers.items()}}
        self._scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http", "method": method,
            "path": unquote(plain), "raw_path": plain.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 0), "server": ("embedded", 80), "state": {}, "extensions": {},
        }  # fmt: skip
        self._body: bytes | None = body
        self._outward: asyncio.Queue[Message | None] = asyncio.Queue()

    async def run(self, application: Application) -> None:
        try:
            await application(self._scope, self._receive, self._outward.put)
        finally:
            self._outward.put_nowait(None)

    async def _receive(self) -> Message:
        if self._body is None:
            await asyncio.get_running_loop().create_future()  # it goes away only by being cancelled
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def started(self) -> Streamed:
        message = await self._outward.get()
        if message is None:
            raise Unreachable("the embedded runtime gave no answer")
        return Streamed(message["status"], {name.decode().lower(): value.decode() for name, value in message["headers"]}, self._chunks())

    async def _chunks(self) -> AsyncIterator[bytes]:
        while (message := await self._outward.get()) is not None:
            if message.get("body"):
                yield bytes(message["body"])
            if not message.get("more_body"):
                return


class _Socket:
    """The server's side of a WebSocket, played to an ASGI application.

    Source: https://asgi.readthedocs.io/en/latest/specs/www.html#websocket
    """

    def __init__(self, path: str) -> None:
        plain, _, query = path.partition("?")
        self._scope = {
            "type": "websocket", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "ws",
            "path": plain, "raw_path": plain.encode(), "query_string": query.encode(), "root_path": "", "headers": [(b"host", b"embedded")],
            "client": ("127.0.0.1", 0), "server": ("embedded", 80), "subprotocols": [], "state": {}, "extensions": {},
        }  # fmt: skip
        self._inward: asyncio.Queue[Message] = asyncio.Queue()
        self._outward: asyncio.Queue[Message] = asyncio.Queue(maxsize=1000)  # bounded: a slow reader must be seen as slow
        self._inward.put_nowait({"type": "websocket.connect"})

    async def run(self, application: Application) -> None:
        try:
            await application(self._scope, self._inward.get, self._outward.put)
        finally:
            if self._outward.full():
                self._outward.get_nowait()
            self._outward.put_nowait({"type": "websocket.close", "code": 1006})

    async def accepted(self) -> None:
        message = await self._outward.get()
        if message["type"] != "websocket.accept":
            raise Unreachable(f"the embedded runtime refused the event stream: {message}")

    async def send(self, text: str) -> None:
        await self._inward.put({"type": "websocket.receive", "text": text})

    async def messages(self) -> AsyncGenerator[str]:
        while True:
            message = await self._outward.get()
            if message["type"] == "websocket.close":
                raise Unreachable(f"the embedded runtime closed the event stream (code {message.get('code', 1000)})")
            text = message.get("text")
            yield text if text is not None else bytes(message["bytes"]).decode()

    async def leave(self) -> None:
        await self._inward.put({"type": "websocket.disconnect", "code": 1000})
