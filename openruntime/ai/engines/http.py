"""Requests to an engine's own HTTP server on a Unix socket: what llama.cpp's server needs, at a few microseconds a token."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from openruntime.contracts.errors import OperationFailed

LONGEST_HEADERS = 64 * 1024  # bytes; also how far it may be ahead of its reader
LONGEST_BODY = 1 << 30  # bytes of an answer that comes whole


class Answer:
    """`pieces` of its body, as they come."""

    def __init__(self, status: int, headers: dict[bytes, bytes], reader: asyncio.StreamReader) -> None:
        self.status = status
        self._headers = headers
        self._reader = reader

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises `EOFError` where it breaks off."""
        if self._headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            while size := int(await self._reader.readline() or b"-1", 16):
                if size < 0:
                    raise EOFError
                yield (await self._reader.readexactly(size + 2))[:-2]
        else:
            yield await self._reader.readexactly(min(int(self._headers[b"content-length"]), LONGEST_BODY))

    async def body(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])


@asynccontextmanager
async def post(socket: Path, target: str, content: Any, silence: float) -> AsyncIterator[Answer]:
    """To leave the context closes the connection, which is how an answer is cancelled. Raises `OSError`, `EOFError`, and `TimeoutError`
    after `silence` seconds without the beginning of an answer."""
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=LONGEST_HEADERS)
    try:
        body = msgspec.json.encode(content)
        head = f"POST {target} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        try:
            async with asyncio.timeout(silence):
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            status = int(first.split()[1])
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines) if name}
        except (asyncio.LimitOverrunError, ValueError, IndexError) as error:
            raise OperationFailed("the engine answered with what is no HTTP") from error
        yield Answer(status, headers, reader)
    finally:
        writer.transport.abort()
