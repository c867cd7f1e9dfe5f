"""An upstream that does what a test tells it: a real HTTP server on a port of its own, of which nothing may be believed."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any


class Exchange:
    """One request, and the means to answer it, or not to."""

    def __init__(self, path: str, headers: dict[str, str], body: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.path = path
        self.headers = headers
        self.body = body
        self._reader = reader
        self._writer = writer

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, status: int, content: Any, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "text/html" if isinstance(content, bytes) else "application/json"
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        await self.raw(f"HTTP/1.1 {status} Told\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def begin(self) -> None:
        await self.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def piece(self, data: bytes) -> None:
        await self.raw(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def event(self, content: Any) -> None:
        await self.piece(b"data: " + (content if isinstance(content, bytes) else json.dumps(content).encode()) + b"\n\n")

    async def say(self, *texts: str) -> None:
        for text in texts:
            await self.event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})

    async def finish(self, why: str = "stop", usage: Any = None) -> None:
        await self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": why}]})
        if usage is not None:
            await self.event({"choices": [], "usage": usage})
        await self.event(b"[DONE]")
        await self.end()

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def gone(self) -> None:
        """Until the other side has closed the connection."""
        while await self._reader.read(65536):
            pass

    def drop(self) -> None:
        self._writer.transport.abort()


class Upstream:
    """`behave` is what it does with each request that is no question for its models."""

    def __init__(self, url: str, models: list[str]) -> None:
        self.url = url
        self.models = models
        self.asked: list[Exchange] = []
        self.connections = 0
        self.behave: Callable[[Exchange], Awaitable[None]] = _fair


async def _fair(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.say("Fine", ".")
    await exchange.finish(usage={"prompt_tokens": 3, "completion_tokens": 2})


@contextlib.asynccontextmanager
async def upstream(*models: str) -> AsyncIterator[Upstream]:
    at_work: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at_work.add(asyncio.current_task())
        here.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                exchange = Exchange(first.split()[1], headers, json.loads(body) if body else None, reader, writer)
                if exchange.path.endswith("/models"):
                    await exchange.answer(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in here.models]})
                    continue
                here.asked.append(exchange)
                await here.behave(exchange)
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 24)
    here = Upstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", list(models))
    try:
        yield here
    finally:
        server.close()
        for task in at_work:
            task.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)
