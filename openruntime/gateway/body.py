"""Reading a request's body within its bounds: size before memory, progress before time."""

import asyncio
from collections.abc import Callable

from openruntime.contracts.errors import InvalidRequest, PayloadTooLarge, RequestTimeout
from openruntime.contracts.payload import Buffer
from openruntime.gateway.dependencies import headers
from openruntime.gateway.errors import Disconnected
from openruntime.gateway.wire import Receive, Scope

SHARED = 1 << 20  # bytes from which a body of known length goes straight into shared memory


class BodyReader:
    """Reads bodies of at most `limit` bytes, in which something comes at least every `timeout` seconds."""

    def __init__(self, limit: int, timeout: float, allocate: Callable[[int], memoryview]) -> None:
        self._limit = limit
        self._allocate = allocate
        self._patience = _Patience(timeout)

    async def read(self, scope: Scope, receive: Receive, limit: int | None = None) -> Buffer:
        """The whole body. Raises `PayloadTooLarge`, `RequestTimeout`, `InvalidRequest`, or `Disconnected`.

        Our own HTTP protocol has a small body at hand already, or a future of a large one, as the scope's `openruntime.body`.
        """
        hint = ": nothing that large is meant here" if limit is not None else "; send large arrays one by one to /tensors"
        limit = self._limit if limit is None else limit
        length = _length(headers(scope).get(b"content-length"), limit, hint)
        direct = scope.get("openruntime.body")
        if direct is not None:
            if type(direct) is bytes:
                return direct
            try:
                view: memoryview = await direct
            except ConnectionResetError:
                raise Disconnected from None
            return view
        first, more = await self._patience.next(receive)
        if not more:
            return first
        if length is not None and length >= SHARED:
            return await self._into(self._allocate(length)[:length], first, receive)
        gathered = bytearray(first)
        while more:
            chunk, more = await self._patience.next(receive)
            gathered += chunk
            if len(gathered) > limit:
                raise _too_large(limit, hint)
        return gathered

    async def _into(self, target: memoryview, chunk: bytes, receive: Receive) -> memoryview:
        end, more = 0, True
        while True:
            if end + len(chunk) > len(target):
                raise InvalidRequest("the body is longer than its Content-Length says", field="Content-Length")
            target[end : end + len(chunk)] = chunk
            end += len(chunk)
            if not more:
                break
            chunk, more = await self._patience.next(receive)
        if end != len(target):
            raise InvalidRequest(f"the body ended after {end} bytes; its Content-Length says {len(target)}", field="Content-Length")
        return target


class _Patience:
    """One timer for all bodies being read: `asyncio.timeout` would cost each 4 µs."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._armed = False

    async def next(self, receive: Receive) -> tuple[bytes, bool]:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None, "applications run in tasks"
        self._waiting[task] = loop.time() + self._seconds
        if not self._armed:
            self._arm(loop)
        try:
            message = await receive()
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            raise RequestTimeout(f"no byte of the body came for {self._seconds:g} seconds") from None
        finally:
            del self._waiting[task]
            self._late.discard(task)
        if message["type"] == "http.disconnect":
            raise Disconnected
        return message.get("body", b""), message.get("more_body", False)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._armed = True
        loop.call_later(min(1.0, self._seconds / 4), self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._armed = False
        now = loop.time()
        for task, until in self._waiting.items():
            if until <= now and task not in self._late:
                self._late.add(task)
                task.cancel()
        if self._waiting:
            self._arm(loop)


def _length(header: bytes | None, limit: int, hint: str) -> int | None:
    if header is None:
        return None
    if not header.isdigit():
        raise InvalidRequest("the Content-Length header is not a number", field="Content-Length")
    length = int(header) if len(header) < 20 else limit + 1
    if length > limit:
        raise _too_large(limit, hint)
    return length


def _too_large(limit: int, hint: str) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than the limit of {limit} bytes{hint}")


async def drain(receive: Receive, limit: int = 64 << 20, seconds: float = 2.0) -> None:
    """Takes in what a refused client is still sending: closing at once would make it lose the answer to a reset."""
    try:
        async with asyncio.timeout(seconds):
            while limit > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
                limit -= len(message.get("body", b""))
    except TimeoutError:
        return
