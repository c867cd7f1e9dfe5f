"""Requests to the gateway from within it, in the name of one that it is answering: the same checks, without a socket."""

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import unquote

from openruntime.client.transport import Reply, Socket, framed
from openruntime.contracts.payload import Buffer
from openruntime.gateway.dependencies import headers
from openruntime.gateway.wire import Application, Scope

_HIS = (b"authorization", b"x-client", b"traceparent", b"host")  # headers that say who asks, and how he called us


class Inside:
    """A `Transport` to `application` for whoever sent the request of `outer`."""

    address = "http://inside"

    def __init__(self, application: Application, outer: Scope) -> None:
        self._application = application
        given = headers(outer)
        self._headers = [(name, given[name]) for name in _HIS if name in given]
        self._scope = {name: outer[name] for name in ("client", "openruntime.principal") if name in outer}

    async def open(self) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """Nor to close."""

    async def send(self, method: str, path: str, headers: Mapping[str, str], content: Sequence[Buffer], *, wait: float) -> Reply:
        sent, _ = framed(headers, content)
        plain, _, query = path.partition("?")
        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http", "method": method,
            "path": unquote(plain), "raw_path": plain.encode(), "query_string": query.encode(), "root_path": "", "server": ("inside", 80),
            "client": ("127.0.0.1", 0), "headers": [*self._headers, *((name.lower().encode(), value.encode()) for name, value in sent.items())],
        }  # fmt: skip
        answer = _Answer(b"".join(content))
        await self._application(scope | self._scope, answer.receive, answer.send)
        return Reply(answer.status, answer.headers, answer.body)

    def socket(self, path: str) -> AbstractAsyncContextManager[Socket]:
        raise NotImplementedError("nobody listens to events from within")


class _Answer:
    def __init__(self, body: bytes) -> None:
        self._sent: bytes | None = body
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()

    async def receive(self) -> MutableMapping[str, Any]:
        if self._sent is None:
            await asyncio.get_running_loop().create_future()  # whoever gives up cancels, and is never seen to leave
        body, self._sent = self._sent, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
