"""One request and its answer as the hot paths see them, whether they came through ASGI or straight from our HTTP protocol."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from openruntime.contracts.payload import Buffer
from openruntime.contracts.records import LOCAL, Principal
from openruntime.gateway.body import BodyReader
from openruntime.gateway.dependencies import headers, principal
from openruntime.gateway.wire import Application, Headers, Receive, Scope, Send, respond


class Request:
    """A request whose body is at hand. `id` is the request's, `task_id` that of the path, or of the task it made."""

    __slots__ = ("body", "headers", "id", "principal", "query", "task_id", "trace")

    def __init__(
        self, request_id: str, given: Mapping[bytes, bytes], query: bytes, body: Buffer = b"", *, task_id: str = "", who: Principal = LOCAL
    ) -> None:
        self.id = request_id
        self.headers = given  # by lower-case name
        self.query = query
        self.body = body
        self.task_id = task_id
        self.principal = who
        self.trace: str | None = None  # the traceparent header, checked

    async def read(self) -> Buffer:
        """The whole body."""
        return self.body

    async def gone(self) -> None:
        """Until the client goes away."""
        raise NotImplementedError


class Response(NamedTuple):
    """`body`: parts that are sent as they are. The headers every answer has are added on the way out."""

    status: int
    content_type: bytes
    body: Sequence[Buffer]
    headers: Headers = ()


Handler = Callable[[Request], Awaitable[Response]]


class _FromASGI(Request):
    __slots__ = ("_bodies", "_receive", "_scope")

    def __init__(self, scope: Scope, receive: Receive, bodies: BodyReader) -> None:
        task_id = scope.get("path_params", {}).get("task_id", "")
        request_id = scope.get("openruntime.request_id", "")
        super().__init__(request_id, headers(scope), scope["query_string"], task_id=task_id, who=principal(scope))
        self.trace = scope.get("openruntime.trace")
        self._scope, self._receive, self._bodies = scope, receive, bodies

    async def read(self) -> Buffer:
        return await self._bodies.read(self._scope, self._receive)

    async def gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def application(handler: Handler, bodies: BodyReader) -> Application:
    """`handler` as an ASGI application."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = _FromASGI(scope, receive, bodies)
        try:
            response = await handler(request)
        finally:
            scope["openruntime.task_id"] = request.task_id or None
        await respond(send, *response)

    return answer
