"""Calls that outlive a lost connection or a full queue, and whose refusals are the errors of `contracts/errors.py`."""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import urlencode

import msgspec

from openruntime.client.transport import Reply, Streaming, Transport, Unreachable
from openruntime.contracts.errors import CompileError, OpenRuntimeError, TaskFailed, error_class, task_failure
from openruntime.contracts.payload import Buffer

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds
PATIENCE, FIRST_CONTACT = 10.0, 1.0  # seconds
_AGAIN = frozenset({429, 503, 502, 504})  # nothing was accepted, or a proxy lost the server that had the request


class Connection:
    """`patience`: seconds for which a call is tried again while the server is away, full (429) or not ready (503).

    None is ten, and one where nothing has ever answered at the address: that is a wrong address rather than a restart.
    """

    def __init__(self, transport: Transport, *, patience: float | None = None) -> None:
        self.transport = transport
        self._patience = patience
        self._met = False

    def retry(self) -> "Retry":
        return Retry(self._patience if self._patience is not None else PATIENCE if self._met else FIRST_CONTACT)

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: Sequence[Buffer] = (),
        wait: float = 0.0,
    ) -> Reply:
        """One answered request. Raises the error that a problem document names.

        It is sent again when the connection breaks before the answer, or a proxy says that its own did: by its method or its
        Idempotency-Key that is safe.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given, doseq=True)}" if given else path
        retry = self.retry()
        while True:
            try:
                reply = await self.transport.send(method, target, headers or {}, content, wait=wait)
                if not self._met:
                    self._met = True
                    retry = self.retry()
                if reply.status < 400:
                    return reply
                error = problem(reply)
                if reply.status not in _AGAIN:
                    raise error
            except Unreachable as lost:
                error = lost
            await retry.pause(error)

    async def json(self, method: str, path: str, body: Any = None, *, query: Mapping[str, Any] | None = None, wait: float = 0.0) -> Any:
        headers = {"Accept": "application/json"}
        content: Sequence[Buffer] = ()
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = [msgspec.json.encode(body)]
        return decode(await self.call(method, path, query=query, headers=headers, content=content, wait=wait))

    async def told(self, method: str, path: str, body: Any = None, *, after: int = 0) -> AsyncGenerator[tuple[int, str, Any]]:
        """Server-sent events of one request (WHATWG HTML, section 9.2): number, kind, data. Raises as `call` does, but tries once."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(after)} if after else {})
        content: Sequence[Buffer] = ()
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = [msgspec.json.encode(body)]
        assert isinstance(self.transport, Streaming), "those that users connect with are"
        async with self.transport.stream(method, path, headers, content) as reply:
            self._met = True
            if reply.status >= 400:
                raise problem(await reply.whole())
            rest = b""
            async for chunk in reply.chunks:
                *blocks, rest = (rest + chunk).split(b"\n\n")
                for block in blocks:
                    fields = dict(line.partition(b": ")[::2] for line in block.split(b"\n"))
                    if b"data" in fields:
                        yield int(fields.get(b"id", b"0")), fields.get(b"event", b"message").decode(), msgspec.json.decode(fields[b"data"])

    async def events(self, topics: Sequence[str], after: int | str | None = None) -> AsyncGenerator[dict[str, Any]]:
        """Events of the topics, for ever; after a lost connection it goes on where it stopped. Raises `Unreachable` out of patience.

        The first item is `{"type": "subscribed"}`, and again after each reconnection."""
        retry = self.retry()
        while True:
            try:
                async with self.transport.socket("/ws") as socket:
                    request: dict[str, Any] = {"subscribe": list(topics)}
                    if after is not None:
                        request["after"] = after
                    await socket.send(msgspec.json.encode(request).decode())
                    async with aclosing(socket.messages()) as messages:
                        async for text in messages:
                            event = msgspec.json.decode(text)
                            self._met = True
                            if event["type"] == "error":
                                raise error_class(event["code"])(event.get("detail") or text, field=event.get("field"))
                            if event.get("seq") is not None:
                                after = event["seq"]
                            retry = self.retry()
                            yield event
            except Unreachable as lost:
                await retry.pause(lost)


class Retry:
    """Pauses that grow, with jitter, until `patience` seconds have passed; then the error itself."""

    def __init__(self, patience: float) -> None:
        self._until = asyncio.get_running_loop().time() + patience
        self._delay = _FIRST_PAUSE

    async def pause(self, error: OpenRuntimeError) -> None:
        seconds = error.retry_after if error.retry_after is not None else self._delay * random.uniform(0.5, 1.0)
        if asyncio.get_running_loop().time() + seconds > self._until:
            raise error
        self._delay = min(self._delay * 2, _LONGEST_PAUSE)
        await asyncio.sleep(seconds)


def decode(reply: Reply) -> Any:
    return msgspec.json.decode(bytes(reply.body)) if reply.body else None


def problem(reply: Reply) -> OpenRuntimeError:
    """The error that a refusal names; one made from the status where an intermediary answered."""
    after = reply.headers.get("retry-after", "")
    retry_after = float(after) if after.replace(".", "", 1).isdigit() else None
    try:
        document = decode(reply)
        code, detail = document["code"], document["detail"]
    except (msgspec.DecodeError, KeyError, TypeError):
        code = {429: "rate_limited", 502: "unavailable", 503: "unavailable", 504: "unavailable"}.get(reply.status, "internal")
        text = bytes(reply.body[:200]).decode(errors="replace")
        return error_class(code)(f"something that is not OpenRuntime answered with status {reply.status}: {text}", retry_after=retry_after)
    if reply.status >= 500:
        return failure(code, detail, document.get("field"), retry_after)
    if code == CompileError.code:
        return CompileError(detail, field=document.get("field"), log=document.get("log", ""), lines=document.get("lines", ()))
    cls = error_class(code, task=reply.status == TaskFailed.status)
    if reply.status == TaskFailed.status != cls.status:
        return task_failure(code, detail)
    return cls(detail, field=document.get("field"), retry_after=retry_after)


def failure(code: str, message: str, field: str | None = None, retry_after: float | None = None) -> OpenRuntimeError:
    """The error of a task that ended without a result, or of a server that could not answer."""
    cls = error_class(code, task=code not in ("internal", "unavailable", "storage_full"))
    return cls(message, field=field, retry_after=retry_after)


def ended(response: Mapping[str, Any]) -> OpenRuntimeError | None:
    """Why a `TaskResponse` has no result; None where it completed or has not ended."""
    if response["status"] not in ("failed", "cancelled"):
        return None
    error = failure(response.get("code") or response["status"], response.get("error") or f"the task was {response['status']}")
    return error if isinstance(error, TaskFailed) else task_failure(error.code, error.message)
