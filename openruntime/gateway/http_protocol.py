"""uvicorn's HTTP protocol, with three differences: hot paths are answered without ASGI (see `direct.py`), a large body is read from the
kernel straight into shared memory, and small answers made at the same time leave together.

The scope carries the body as `openruntime.body`: bytes where it came with its head, else, when it is large, a future of a
`memoryview` (`receive()` then has nothing more to give but `http.disconnect`). All else (pipelining, keep-alive, upgrades) is uvicorn's.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from openruntime.contracts.errors import InvalidRequest, OpenRuntimeError, RequestTimeout
from openruntime.contracts.payload import Buffer
from openruntime.gateway.admission import request_id
from openruntime.gateway.connection import LARGE_BODY, OUTBOX, LargeBody
from openruntime.gateway.dependencies import host_of, local
from openruntime.gateway.direct import Block, Blocks, Direct, Gateway
from openruntime.gateway.errors import PROBLEM, problem_json
from openruntime.gateway.exchange import Response
from openruntime.gateway.wire import JOINED


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
    """One request and its answer; `whole` is the short way for a small answer whose length is known."""

    async def send(self, message: Any) -> None:
        OUTBOX.flush()
        if self.flow.write_paused:
            await self.flow.drain()
            self.disconnected = self.disconnected or self.transport.is_closing()  # uvicorn tells only the last of those pipelined
        await super().send(message)

    def whole(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: Sequence[Buffer], total: int) -> bool:
        """Answer in one piece; false, and nothing done, where that cannot be. Headers are the server's own: lower case, one line each.

        `total`: bytes of the body, which stands in the headers as its content-length.
        """
        if not self.keep_alive or self.response_started or self.disconnected or self.flow.write_paused or self.scope["method"] == "HEAD":
            return False
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        head = [b"%b: %b\r\n" % header for header in headers]
        OUTBOX.write(asyncio.get_running_loop(), self.transport, b"".join((STATUS_LINE[status], *head, b"\r\n", *body)))
        self.message_event.set()
        self.on_response()
        return True


class OpenRuntimeProtocol(HttpToolsProtocol):
    """Set `allocate`, `limit` (bytes) and `body_timeout` (seconds without progress) on a subclass: see `protocol_class`."""

    allocate: Callable[[int], memoryview]
    limit: int
    body_timeout: float
    gateway: Gateway | None
    blocks: Blocks
    _direct: Direct | None = None  # the request that is being answered on the short way
    _partial = b""  # of a request that will go the short way when its body is whole
    _early = b""  # what came behind it
    _closing = False  # once it is answered
    _large: LargeBody | None = None
    _within = False  # a message has begun and is not complete
    _in_head = False  # it has begun and its head is not complete
    _idle_since = 0.0
    _progress_at = 0.0  # when bytes came last that were not a whole request
    _sweeping: bool  # of the class `protocol_class` makes: one sweep for all its connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._idle_since = self.loop.time()
        if not type(self)._sweeping:
            type(self)._sweeping = True
            self.loop.call_later(self._sweep_every(), self._sweep, self.loop, self.connections)

    def _sweep_every(self) -> float:
        return max(0.05, min(self.timeout_keep_alive, self.body_timeout) / 2)

    @classmethod
    def _sweep(cls, loop: asyncio.AbstractEventLoop, connections: Any) -> None:
        """Close connections nobody has used for a while; uvicorn sets a timer after each answer for that, which costs 2 µs."""
        now = loop.time()
        ours = [connection for connection in connections if type(connection) is cls]
        for connection in ours:
            cycle = connection.cycle
            if connection._direct is None and (cycle is None or cycle.response_complete) and not connection.transport.is_closing():
                connection._check_idle(now)
        cls._sweeping = bool(ours)
        if ours:
            loop.call_later(connection._sweep_every(), cls._sweep, loop, connections)

    def _check_idle(self, now: float) -> None:
        """Of a connection that owes no answer: close it when it is unused, or when what it began to send stops."""
        if self._partial:
            if now - self._progress_at > self.body_timeout:
                self._refuse(RequestTimeout(f"no byte of the body came for {self.body_timeout:g} seconds"))
        elif not self._within:
            if self.transport.get_write_buffer_size():
                self._idle_since = now  # an answer is still on its way
            elif now - self._idle_since > self.timeout_keep_alive:
                self.transport.close()
        elif now - max(self._progress_at, self._idle_since) > self.body_timeout and (self._large is None or self._large.future.done()):
            if self._in_head:
                self._refuse(RequestTimeout(f"no byte of the request's head came for {self.body_timeout:g} seconds"))
            else:
                self.transport.close()  # it was answered before its body was whole

    def _refuse(self, error: OpenRuntimeError) -> None:
        """Answer what never became a request, and close."""
        OUTBOX.flush()
        if self.cycle is None or self.cycle.response_complete:  # else the answer would stand inside another
            name = request_id(None)
            body = problem_json(error, name)
            head = (b"content-type: %b\r\ncontent-length: %d\r\n" % (PROBLEM, len(body))) + (
                b"x-request-id: %b\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n" % name.encode()
            )
            self.transport.write(STATUS_LINE[error.status] + head + body)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest("this is no HTTP request that can be read: a line, a length or the version in its head is wrong"))

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._idle_since = self.loop.time()
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        self._within = self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        parser = self.parser
        if parser.should_upgrade() and self._should_upgrade():
            super().on_headers_complete()
            return
        scope, url = self.scope, httptools.parse_url(self.url)
        version = parser.get_http_version()
        if version != "1.1":
            scope["http_version"] = version
        path = url.path.decode("ascii")
        scope["method"] = parser.get_method().decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        previous = self.cycle
        free = previous is None or previous.response_complete
        self._large = self._large_body() if free else None
        self.cycle = self._new_cycle(version != "1.0" and parser.should_keep_alive(), expect=self.expect_100_continue)
        if not free:  # pipelined behind another request
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
            return
        self._start_asgi_task(self.cycle, self.app)
        if self._large is not None and self.expect_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.cycle.waiting_for_100_continue = False

    def _large_body(self) -> LargeBody | None:
        """Shared memory for the body that is about to come, told to the application; None for a small one."""
        length = self._length()
        if length is not None and not self.expect_100_continue:
            self.scope["openruntime.length"] = length  # type: ignore[typeddict-unknown-key]
        if length is None or not LARGE_BODY <= length <= self.limit:
            return None
        try:
            large = LargeBody(type(self).allocate(length), self.loop, self.body_timeout)
        except OpenRuntimeError:
            return None  # the application asks again, and answers with the reason
        self.scope["openruntime.body"] = large.future  # type: ignore[typeddict-unknown-key]
        return large

    def _length(self) -> int | None:
        """Bytes of the body as its head tells; None where only its end will tell."""
        length: int | None = 0
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value) if value.isdigit() else None
            elif name in (b"transfer-encoding", b"upgrade"):
                return None
        return length

    def on_body(self, body: bytes) -> None:
        if self._large is not None:
            self._large.write(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._within = False
        large, self._large = self._large, None
        if large is not None:
            large.complete()
        elif self.cycle is not None and self.cycle.body and "openruntime.body" not in self.scope:
            self.scope["openruntime.body"] = bytes(self.cycle.body)  # type: ignore[typeddict-unknown-key]
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if self._partial:
            data, self._partial = self._partial + data, b""
        elif self._direct is not None:
            self._early += data  # pipelined behind a request on the short way
            self.flow.pause_reading()
            return
        end = -1
        if not self._within and (self.cycle is None or self.cycle.response_complete):
            start = data.find(b"\r\n")
            end = data.find(b"\r\n\r\n", start)
            if not 0 < start <= end:  # the head is not whole, or an empty line comes before its own
                end = -1
            elif (known := self.blocks.get(data[start:end])) is not None and self._go_direct(data, start, end + 4, known):
                return
        self._progress_at = self.loop.time()
        super().data_received(data)
        if self._large is not None and self._large.missing and not self.transport.is_closing():
            self._switch(BodyReader(self, self._large))
        elif end > 0 and not self._within and self.gateway is not None and self.cycle is not None and self.cycle.keep_alive:
            length = self.scope.pop("openruntime.length", None)  # type: ignore[typeddict-item]
            if length is not None and length <= self.limit and len(data) == end + 4 + length and self.gateway.plain(given := dict(self.headers)):
                self.blocks.learn(data[start:end], given, length)

    # -- the short way --------------------------------------------------------------------------------------------------------

    def _go_direct(self, data: bytes, start: int, end: int, known: Block) -> bool:
        """Answer a request without ASGI; false, and nothing done, where that cannot be."""
        gateway = self.gateway
        if gateway is None or self.flow.write_paused or self._closing:
            return False
        line = gateway.line(data[:start])
        if line is None:
            return False
        whole = end + known.length
        if len(data) < whole:
            if known.length >= LARGE_BODY:
                return False
            self._partial, self._progress_at = data, self.loop.time()
            return True
        if len(data) > whole:
            self._early = data[whole:]
        who = local(host_of(self.client), known.headers.get(b"x-client"))
        request = self._direct = Direct(request_id(None), known.headers, line, data[end:whole], self._answered, who)
        request.start(self.loop, gateway.respond(line, request), self.tasks)
        return True

    def _answered(self, response: Response | None) -> None:
        request, self._direct = self._direct, None
        if request is None:
            return  # the client is gone
        self.server_state.total_requests += 1
        self._idle_since = self.loop.time()
        if response is not None and not self.transport.is_closing():
            status, content_type, body, headers = response
            total = sum([len(part) for part in body])
            head = [b"%b: %b\r\n" % header for header in headers]
            if self._closing:
                head.append(b"connection: close\r\n")
            start = b"%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\nx-content-type-options: nosniff\r\n%b\r\n" % (
                STATUS_LINE[status], content_type, total, request.id.encode(), b"".join(head),
            )  # fmt: skip
            if total <= JOINED:
                OUTBOX.write(self.loop, self.transport, b"".join((start, *body)))
            else:
                OUTBOX.flush()
                self.transport.write(start)
                for part in body:
                    self.transport.write(part)
        if self._closing:
            OUTBOX.flush()
            self.transport.close()
        elif self._early:
            data, self._early = self._early, b""
            self.flow.resume_reading()
            self.data_received(data)

    def _new_cycle(self, keep_alive: bool, *, expect: bool) -> Cycle:
        event, done = asyncio.Event(), self.on_response_complete
        return Cycle(self.scope, self.transport, self.flow, self.logger, self.access_logger, False, [], event, expect, keep_alive, done)

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

    def shutdown(self) -> None:
        OUTBOX.flush()
        if self._direct is not None:
            self._closing = True  # when it is answered
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._large is not None:
            self._large.fail(ConnectionResetError("the client went away before its body was whole"))
            self._large = None
        request, self._direct = self._direct, None
        if request is not None:
            request.lost()
        super().connection_lost(exc)


def protocol_class(
    allocate: Callable[[int], memoryview], *, limit: int, body_timeout: float, gateway: Gateway | None = None
) -> type[OpenRuntimeProtocol]:
    """The protocol class for `uvicorn.Config(http=...)`. With a `gateway`, its hot paths are answered without ASGI."""
    members: dict[str, Any] = {
        "allocate": staticmethod(allocate), "limit": limit, "body_timeout": body_timeout, "gateway": gateway, "blocks": Blocks(), "_sweeping": False
    }  # fmt: skip
    return type("ServedProtocol", (OpenRuntimeProtocol,), members)
