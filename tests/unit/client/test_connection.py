"""Retries, errors and the event stream, against a small ASGI application."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from openruntime.client.connection import Connection, ended, failure
from openruntime.client.embedded import EmbeddedTransport
from openruntime.client.transport import HTTPTransport, Unreachable
from openruntime.contracts import errors

Answer = tuple[int, dict[str, str], Any]


class Server:
    """Answers each request with the next of `answers`; remembers what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.streams: list[list[dict[str, Any]]] = []
        self.heard: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] == "websocket":
            await self._stream(receive, send)
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += bytes(message.get("body", b""))
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.asked.append((scope["method"], scope["path"] + "?" + scope["query_string"].decode(), headers, body))
        status, answered, document = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        sent = [(name.encode(), value.encode()) for name, value in answered.items()]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": document if isinstance(document, bytes) else json.dumps(document).encode()})

    async def _stream(self, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        self.heard.append(json.loads((await receive())["text"]))
        for event in self.streams.pop(0):
            await send({"type": "websocket.send", "text": json.dumps(event)})
        await send({"type": "websocket.close", "code": 1001})


@asynccontextmanager
async def connected(server: Server, patience: float | None = 5.0) -> AsyncIterator[Connection]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        yield server

    transport = EmbeddedTransport(opened)
    await transport.open()
    try:
        yield Connection(transport, patience=patience)
    finally:
        await transport.close()


def refusal(code: str, status: int, **more: Any) -> Answer:
    return status, {"content-type": "application/problem+json", **more.pop("headers", {})}, {"code": code, "detail": "why", "status": status, **more}


async def test_a_full_queue_is_tried_again_after_the_time_it_says() -> None:
    server = Server(refusal("queue_full", 429, headers={"retry-after": "0.2"}), (200, {}, {"ok": True}))
    async with connected(server) as connection:
        started = time.monotonic()
        assert await connection.json("POST", "/tasks", {"a": 1}) == {"ok": True}
        assert time.monotonic() - started >= 0.2
    assert [body for *_, body in server.asked] == [b'{"a":1}'] * 2


async def test_patience_ends_with_the_error_itself() -> None:
    async with connected(Server(refusal("unavailable", 503)), patience=0.1) as connection:
        with pytest.raises(errors.Unavailable, match="why"):
            await connection.json("GET", "/tasks")


@pytest.mark.parametrize("status", [502, 504])
async def test_what_a_proxy_lost_is_sent_again(status: int) -> None:
    server = Server((status, {}, b"<html>Bad Gateway</html>"), (200, {}, b"{}"))
    async with connected(server) as connection:
        assert (await connection.call("POST", "/tasks/batch")).status == 200
    assert [path for _, path, *_ in server.asked] == ["/tasks/batch?"] * 2


async def test_a_refusal_is_not_repeated() -> None:
    server = Server(refusal("invalid_parameter", 422, field="axis"))
    async with connected(server) as connection:
        with pytest.raises(errors.InvalidParameter) as caught:
            await connection.json("GET", "/tasks", query={"status": None, "limit": 3})
    assert caught.value.field == "axis"
    assert [path for _, path, *_ in server.asked] == ["/tasks?limit=3"]


async def test_an_answer_from_something_else_says_so() -> None:
    async with connected(Server((418, {}, b"<html>teapot</html>"))) as connection:
        with pytest.raises(errors.Internal, match="not OpenRuntime answered with status 418"):
            await connection.json("GET", "/")


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("out_of_memory", 413, errors.TooLarge), ("out_of_memory", 500, errors.OutOfMemory), ("operation_failed", 500, errors.OperationFailed),
        ("timeout", 500, errors.TaskTimeout), ("cancelled", 500, errors.TaskCancelled), ("internal", 500, errors.Internal),
        ("not_ready", 409, errors.NotReady), ("storage_full", 507, errors.StorageFull),
    ],
)  # fmt: skip
async def test_each_code_is_its_class(code: str, status: int, expected: type[Exception]) -> None:
    async with connected(Server(refusal(code, status))) as connection:
        with pytest.raises(errors.OpenRuntimeError) as caught:
            await connection.json("GET", "/")
    assert type(caught.value) is expected


def test_a_failed_task_is_the_error_it_names() -> None:
    assert ended({"status": "running"}) is None
    assert ended({"status": "completed"}) is None
    assert isinstance(ended({"status": "cancelled", "code": None, "error": None}), errors.TaskCancelled)
    assert isinstance(failure("worker_crashed", "x"), errors.WorkerCrashed)


async def test_events_go_on_after_the_last_one_seen() -> None:
    server = Server()
    server.streams = [[{"type": "subscribed", "seq": 3}, {"seq": 4, "type": "task.queued"}], [{"seq": 5, "type": "task.queued"}]]
    async with connected(server) as connection:
        events = connection.events(["tasks"])
        assert [(await anext(events)).get("seq") for _ in range(3)] == [3, 4, 5]
        await events.aclose()
    assert server.heard == [{"subscribe": ["tasks"]}, {"subscribe": ["tasks"], "after": 4}]


async def test_a_refused_topic_is_an_error() -> None:
    server = Server()
    server.streams = [[{"type": "error", "code": "invalid_request", "detail": "there is no topic", "field": "subscribe"}]]
    async with connected(server) as connection:
        with pytest.raises(errors.InvalidRequest, match="no topic"):
            await anext(connection.events(["nonsense"]))


async def test_nobody_there_is_said_with_the_address() -> None:
    transport = HTTPTransport("http://127.0.0.1:9")
    await transport.open()
    with pytest.raises(Unreachable, match=r"no OpenRuntime server answers at http://127.0.0.1:9 .*openruntime serve"):
        await Connection(transport, patience=0.0).json("GET", "/")
    await transport.close()


async def test_an_address_where_nothing_ever_answered_is_given_up_soon() -> None:
    transport = HTTPTransport("http://127.0.0.1:9")
    await transport.open()
    started = time.monotonic()
    with pytest.raises(Unreachable):
        await Connection(transport).json("GET", "/")
    assert time.monotonic() - started < 2
    await transport.close()


async def test_a_server_that_answered_once_is_waited_for() -> None:
    server = Server(*[refusal("unavailable", 503, headers={"retry-after": "0.4"})] * 4, (200, {}, {"ok": True}))
    async with connected(server, patience=None) as connection:
        assert await connection.json("GET", "/") == {"ok": True}


@pytest.mark.parametrize("url", ["ftp://host", "http://", "://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="not a server's address"):
        HTTPTransport(url)
