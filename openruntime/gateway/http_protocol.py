"""uvicorn's HTTP protocol, with two differences: a large body is read from the kernel straight into shared memory, and an
answer of known length leaves in one write.

The request's scope then carries `extensions["openruntime.body"]`, a future of the whole body as a `memoryview`; `receive()`
has nothing more to give but `http.disconnect`. Everything else (pipelining, keep-alive, upgrades) is uvicorn's.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from openruntime.contracts.errors import OpenRuntimeError, RequestTimeout

JOINED = 1 << 16  # bytes: below, copying costs less than another system call
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


class BodyReader(asyncio.BufferedProtocol):
    """Stands in for the HTTP protocol while the rest of a large body arrives."""

    def __init__(self, http: "OpenRuntimeProtocol", body: LargeBody) -> None:
        self._http = http
        self._body = body

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._body.memory[self._body.at :]

    def buffer_updated(self, nbytes: int) -> None:
        self._body.at += nbytes
        if not self._body.missing:
            self._http.large_body_read()

    def eof_received(self) -> bool | None:
        self._http.eof_received()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()


class Cycle(RequestResponseCycle):
    """One request and its answer. An answer of known length leaves in one write, its head checked as a whole."""

    _start: dict[str, Any] | None = None

    async def send(self, message: Any) -> None:
        start = self._start
        if start is None:
            if message["type"] == "http.response.start" and not self.response_started:
                self._start = message
            else:
                await super().send(message)
            return
        self._start = None
        if message.get("more_body") or self.flow.write_paused or self.disconnected or not self._plain(start, message.get("body", b"")):
            await super().send(start)  # type: ignore[arg-type]
            await super().send(message)

    def _plain(self, start: dict[str, Any], body: Any) -> bool:
        """Write the whole answer; false, and nothing written, where it is not of the plain kind."""
        headers, status = start["headers"], start["status"]
        if not self.keep_alive or self.scope["method"] == "HEAD" or (b"content-length", b"%d" % len(body)) not in headers:
            return False
        head = b"".join([STATUS_LINE[status], *[part for name, value in headers for part in (name, b": ", value, b"\r\n")], b"\r\n"])
        if head.count(b"\n") != len(headers) + 2 or head.count(b"\r") != len(headers) + 2 or b"\nconnection:" in head:
            return False  # uvicorn says what is wrong, or ends the connection
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.write(head + body if len(body) <= JOINED else head)
        if len(body) > JOINED:
            self.transport.write(body)
        self.message_event.set()
        self.on_response()
        return True


class OpenRuntimeProtocol(HttpToolsProtocol):
    """Set `allocate`, `limit` (bytes) and `body_timeout` (seconds without progress) on a subclass: see `protocol_class`."""

    allocate: Callable[[int], memoryview]
    limit: int
    body_timeout: float
    _large: LargeBody | None = None

    def on_headers_complete(self) -> None:
        length = self._large_length()
        if length:
            try:
                self._large = LargeBody(type(self).allocate(length), self.loop, self.body_timeout)
            except OpenRuntimeError:
                self._large = None  # the application asks again, and answers with the reason
            else:
                self.scope["extensions"] = {"openruntime.body": self._large.future}  # type: ignore[dict-item]
        super().on_headers_complete()
        if self.cycle is not None:  # an upgrade has none
            self.cycle.__class__ = Cycle  # uvicorn has no hook for it; its task has not begun to run
        if self._large is not None and self.cycle.waiting_for_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.cycle.waiting_for_100_continue = False

    def _large_length(self) -> int:
        if self.cycle is not None and not self.cycle.response_complete:
            return 0  # pipelined behind another request
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value) if value.isdigit() else 0
                return length if LARGE_BODY <= length <= self.limit else 0
        return 0

    def on_body(self, body: bytes) -> None:
        if self._large is not None:
            self._large.write(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        large, self._large = self._large, None
        if large is not None:
            large.complete()
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._large is not None and self._large.missing and not self.transport.is_closing():
            self._switch(BodyReader(self, self._large))

    def large_body_read(self) -> None:
        """The rest of the body is there: back to HTTP, with a parser that expects the next request."""
        self._switch(self)
        self.parser = httptools.HttpRequestParser(self)
        self.on_message_complete()

    def _switch(self, protocol: asyncio.BaseProtocol) -> None:
        # pausing makes the loop choose anew between its two ways of reading
        self.transport.pause_reading()
        self.transport.set_protocol(protocol)
        self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._large is not None:
            self._large.fail(ConnectionResetError("the client went away before its body was whole"))
            self._large = None
        super().connection_lost(exc)


def protocol_class(allocate: Callable[[int], memoryview], *, limit: int, body_timeout: float) -> type[OpenRuntimeProtocol]:
    """The protocol class for `uvicorn.Config(http=...)`."""
    members: dict[str, Any] = {"allocate": staticmethod(allocate), "limit": limit, "body_timeout": body_timeout}
    return type("ServedProtocol", (OpenRuntimeProtocol,), members)
