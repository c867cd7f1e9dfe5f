"""A TCP proxy that drops connections, or lets nothing through, when told: the network between a client and its servers."""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Sequence

BLOCK = 1 << 18


class Proxy:
    """Listens at `port` of the loopback address in a thread of its own; `targets()` are the ports it may go to, tried in turn."""

    def __init__(self, targets: Callable[[], Sequence[int]]) -> None:
        self._targets = targets
        self._turn = itertools.count()
        self._pairs: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512))
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    def drop(self) -> None:
        """Reset every connection that is open now."""
        self._call(self._drop)

    def cut(self) -> None:
        """Let no byte through, in either direction, until `mend`; connections stay open, as with a pulled cable."""
        self._call(self._open.clear)

    def mend(self) -> None:
        self._call(self._open.set)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, action: Callable[[], None]) -> None:
        """On the loop's thread; done when this returns."""

        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(10)

    def _drop(self) -> None:
        for writer in list(self._pairs):
            writer.transport.abort()

    async def _close(self) -> None:
        self._open.set()
        self._server.close()
        self._drop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._pairs.add(writer)
        with contextlib.suppress(OSError):
            await self._open.wait()
            there = await self._connect()
            if there is not None:
                self._pairs.add(there[1])
                await asyncio.gather(self._pump(reader, there[1]), self._pump(there[0], writer))
                self._pairs.discard(there[1])
        self._pairs.discard(writer)
        writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        ports = self._targets()
        first = next(self._turn)
        for number in range(len(ports)):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", ports[(first + number) % len(ports)])
        return None

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until one side is gone; then the other goes as well."""
        with contextlib.suppress(OSError):
            while data := await reader.read(BLOCK):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort() if writer.transport.is_closing() else writer.close()
