"""What a connection reads into and writes through: large bodies go into shared memory, small answers made together leave together."""

import asyncio

from openruntime.contracts.errors import RequestTimeout

LARGE_BODY = 256 * 1024  # bytes: below, uvicorn's own buffering is as fast


class LargeBody:
    """A body on its way into shared memory. `future` fails with `RequestTimeout` or `ConnectionResetError`."""

    def __init__(self, memory: memoryview, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self.memory = memory
        self.at = 0
        self.future: asyncio.Future[memoryview] = loop.create_future()
        self._loop = loop
        self._timeout = timeout
        self._seen = 0
        self._timer = loop.call_later(timeout, self._check)

    @property
    def missing(self) -> int:
        return self.memory.nbytes - self.at

    def _check(self) -> None:
        if self.at == self._seen:
            self.fail(RequestTimeout(f"the body stopped after {self.at} of {self.memory.nbytes} bytes for {self._timeout:g} s"))
        else:
            self._seen = self.at
            self._timer = self._loop.call_later(self._timeout, self._check)

    def write(self, chunk: bytes) -> None:
        self.memory[self.at : self.at + len(chunk)] = chunk
        self.at += len(chunk)

    def complete(self) -> None:
        self._timer.cancel()
        if not self.future.done():
            self.future.set_result(self.memory)

    def fail(self, error: Exception) -> None:
        self._timer.cancel()
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # whoever asked may be gone


class Outbox:
    """Answers made in one turn of the loop, written one right after the other.

    A write that wakes a sleeping client costs several times one to a client that is awake already; so does a turn of the
    loop between two writes.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []

    def write(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, answer: bytes) -> None:
        if not self._waiting:
            loop.call_soon(self.flush)
        self._waiting.append((transport, answer))

    def flush(self) -> None:
        """Write what waits now: before anything else is written to a connection, and before one is closed."""
        waiting, self._waiting = self._waiting, []
        for transport, answer in waiting:
            if not transport.is_closing():  # else uvloop raises, and the others' answers were lost with this one
                transport.write(answer)


OUTBOX = Outbox()
