"""`/ws`: events as they happen. A reader says which topics it wants; one that is slow is told what it missed, and slows nobody."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from openruntime.contracts.errors import InvalidRequest, OpenRuntimeError
from openruntime.contracts.events import AnyEvent, DeviceChanged, Gap, MetricsSampled, TaskEvent, TaskFinished, TaskSaid, WorkerDied
from openruntime.contracts.interfaces import EventLog
from openruntime.contracts.records import Principal
from openruntime.gateway.admission import own_page
from openruntime.gateway.dependencies import Limits, principal
from openruntime.gateway.errors import escaped
from openruntime.gateway.requests import parse_json
from openruntime.gateway.results import to_json
from openruntime.gateway.ws_protocol import text_frame

log = logging.getLogger(__name__)
SEND_TIMEOUT = 10.0  # seconds after which a socket that reads nothing is closed
TOPICS = 1000
CHUNK = 100  # events
SHARED = 2000  # events whose text is kept for the other readers
MESSAGE = 65_536  # characters


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    subscribe: list[str] = []
    unsubscribe: list[str] = []
    after: int | str | None = None


def wire(event: AnyEvent) -> dict[str, Any]:
    """`{"seq", "type", "time", "data"}`."""
    data = msgspec.to_builtins(event)
    kind, time, seq = data.pop("type"), data.pop("time"), data.pop("seq")
    if isinstance(event, TaskFinished):
        kind = f"task.{event.status}"
    elif isinstance(event, WorkerDied):
        kind, data["status"] = "device.changed", "worker_died"
    data.pop("tenant", None)
    return {"seq": seq, "type": kind, "time": datetime.fromtimestamp(time, UTC), "data": data}


def concerns(event: AnyEvent, topics: set[str], tenant: str) -> bool:
    """Whether a reader of these topics may and wants to see the event."""
    if isinstance(event, TaskEvent):
        return event.tenant == tenant and type(event) is not TaskSaid and ("tasks" in topics or f"tasks.{event.task_id}" in topics)
    if isinstance(event, (DeviceChanged, WorkerDied)):
        return "devices" in topics
    if isinstance(event, MetricsSampled):
        return "metrics" in topics and bool(event.values)
    return isinstance(event, Gap)


class WebSocketManager:
    """The open sockets; `count` is how many there are."""

    def __init__(self, events: EventLog, limits: Limits, *, send_timeout: float = SEND_TIMEOUT) -> None:
        self._events = events
        self._limits = limits
        self._send_timeout = send_timeout
        self._open: set[WebSocket] = set()
        self._texts: dict[int, tuple[AnyEvent, bytes]] = {}  # of what is being told, by `seq`; a gap's is its reader's own

    @property
    def count(self) -> int:
        return len(self._open)

    async def serve(self, socket: WebSocket) -> None:
        """One client, until it goes away."""
        if not self._may_connect(socket):
            await socket.close(1008)  # before it is accepted: HTTP 403
            return
        await socket.accept()
        self._open.add(socket)
        try:
            await _Reader(self, socket, principal(socket.scope)).run()
        except (WebSocketDisconnect, TimeoutError, OSError):
            pass  # gone, or reads nothing
        finally:
            self._open.discard(socket)
            await self._close(socket)

    async def send(self, socket: WebSocket, messages: Sequence[bytes]) -> None:
        """Raises `TimeoutError` when the client takes nothing in."""
        write = socket.scope.get("openruntime.frames")
        async with asyncio.timeout(self._send_timeout):
            if write is not None:
                await write([text_frame(message) for message in messages])
                return
            for message in messages:
                await socket.send_text(message.decode())

    def text(self, event: AnyEvent) -> bytes:
        """The event on the wire; made once for all its readers."""
        known = self._texts.get(event.seq)
        if known is not None and known[0] is event:
            return known[1]
        if len(self._texts) >= SHARED:
            self._texts.clear()
        text = to_json(wire(event))
        self._texts[event.seq] = event, text
        return text

    def events(self, after: int | None) -> Any:
        return aclosing(self._events.read(after=after, limit=self._limits.websocket_queue))

    def last(self) -> int:
        return self._events.last()

    def _may_connect(self, socket: WebSocket) -> bool:
        return self._limits.cors or own_page(socket.headers.get("origin"), socket.headers.get("host"))

    async def _close(self, socket: WebSocket) -> None:
        if WebSocketState.DISCONNECTED in (socket.client_state, socket.application_state):
            return
        try:
            async with asyncio.timeout(1.0):
                await socket.close(1008, "too slow")
        except (TimeoutError, RuntimeError, OSError):
            log.debug("a socket was already gone when it was closed")


class _Reader:
    """One socket's topics and its place in the event log."""

    def __init__(self, manager: WebSocketManager, socket: WebSocket, who: Principal) -> None:
        self._manager = manager
        self._socket = socket
        self._tenant = who.tenant
        self._topics: set[str] = set()
        self._pump: asyncio.Task[None] | None = None
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        listening = asyncio.ensure_future(self._listen())
        try:
            await asyncio.wait((listening, self._broken), return_when=asyncio.FIRST_COMPLETED)
            if listening.done():
                listening.result()
        finally:
            tasks = [listening] + ([self._pump] if self._pump else [])
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            text = await self._text()
            try:
                if text is None or len(text) > MESSAGE:
                    raise InvalidRequest(f"messages are JSON as text, at most {MESSAGE} characters")
                await self._obey(text)
            except OpenRuntimeError as error:
                refusal = {"type": "error", "code": error.code, "detail": error.message, "field": error.field}
                await self._manager.send(self._socket, [escaped(refusal)])

    async def _text(self) -> str | None:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        text: str | None = message.get("text")
        return text

    async def _obey(self, text: str) -> None:
        try:
            message = msgspec.convert(parse_json(text, "the message"), _Message)
        except msgspec.ValidationError:
            shapes = '{"subscribe": [topic, ...], "after": seq} or {"unsubscribe": [topic, ...]}, topics being strings'
            raise InvalidRequest(f"the message must be {shapes}") from None
        for topic in [*message.subscribe, *message.unsubscribe]:
            if topic not in ("tasks", "devices", "metrics") and not (topic.startswith("tasks.") and 6 < len(topic) <= 200):
                raise InvalidRequest(f"there is no topic {topic[:60]!r}; topics are tasks, tasks.{{id}}, devices and metrics", field="subscribe")
        topics = (self._topics | set(message.subscribe)) - set(message.unsubscribe)
        if len(topics) > TOPICS:
            raise InvalidRequest(f"at most {TOPICS} topics can be subscribed at a time; `tasks` is all of them", field="subscribe")
        after = _cursor(message.after)
        start = self._manager.last() if after is None else after
        self._topics = topics
        if after is not None or self._pump is None:
            if self._pump is not None:
                self._pump.cancel()
            self._pump = asyncio.ensure_future(self._forward(start, {"type": "subscribed", "topics": sorted(topics), "seq": start}))
            self._pump.add_done_callback(self._stopped)
        else:
            await self._manager.send(self._socket, [to_json({"type": "subscribed", "topics": sorted(topics), "seq": None})])

    async def _forward(self, after: int, greeting: dict[str, Any]) -> None:
        await self._manager.send(self._socket, [to_json(greeting)])
        batch: Sequence[AnyEvent]
        async with self._manager.events(after) as batches:
            async for batch in batches:
                wanted = [event for event in batch if concerns(event, self._topics, self._tenant)]
                for first in range(0, len(wanted), CHUNK):
                    chunk = [self._manager.text(event) for event in wanted[first : first + CHUNK]]  # few at a time: a backlog is megabytes as text
                    began = monotonic()
                    await self._manager.send(self._socket, chunk)
                    if len(chunk) == CHUNK:  # a busy reader gets a fifth of the loop; what it misses then is told as a gap
                        await asyncio.sleep(4 * (monotonic() - began))

    def _stopped(self, pump: asyncio.Task[None]) -> None:
        if pump.cancelled():
            return
        error = pump.exception()
        if error is not None and not isinstance(error, (WebSocketDisconnect, OSError)):
            log.error("a socket's events stopped", exc_info=error)
        if not self._broken.done():
            self._broken.set_result(None)


def _cursor(after: int | str | None) -> int | None:
    if after is None or (isinstance(after, int) and 0 <= after < 2**63):
        return after
    if isinstance(after, str) and after.isdecimal() and len(after) < 19:
        return int(after)
    raise InvalidRequest(f"`after` must be the `seq` of an event, not {str(after)[:60]!r}", field="after")
