"""The short way past ASGI, over raw sockets: whoever repeats a header block gets what they got the first time, however the bytes come."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from openruntime.contracts import safetensors
from openruntime.contracts.payload import Array
from openruntime.gateway import http_protocol
from openruntime.gateway.connection import Outbox
from openruntime.gateway.direct import Direct

DOUBLE = b'{"operation": "double", "parameters": {"x": [1, 2]}}'
SLOW = b'{"operation": "slow"}'
GONE = b'{"operation": "slow", "cancel_on_disconnect": true}'
WAIT = "Prefer: wait=5"
Answer = tuple[int, dict[str, str], bytes]


def message(body: bytes = b"", *headers: str, line: str = "POST /tasks") -> bytes:
    lines = [f"{line} HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def answer(self) -> Answer:
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 5)).decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:-2])}
        return int(head[0].split()[1]), headers, await self._reader.readexactly(int(headers.get("content-length", 0)))

    async def ended(self) -> bool:
        return await asyncio.wait_for(self._reader.read(1), 5) == b""

    async def ask(self, data: bytes) -> Answer:
        self.writer.write(data)
        return await self.answer()


@asynccontextmanager
async def connected(gateway: Any) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies that went the short way."""
    seen: list[bytes] = []

    class Seen(Direct):
        __slots__ = ()

        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            seen.append(bytes(self.body))

    monkeypatch.setattr(http_protocol, "Direct", Seen)
    return seen


@pytest.fixture
async def gateway(start: Any) -> Any:
    return await start(own_protocol=True, body_timeout=0.3)


def same(answer: Answer) -> tuple[int, set[str], Any]:
    """What does not change between two answers to the same request."""
    status, headers, body = answer
    found = json.loads(body) if headers["content-type"].endswith("json") else {name: a.data for name, a in safetensors.decode(body)[0].items()}
    volatile = ["task_id", "created_at", "started_at", "finished_at", "request_id"] + ["detail"] * (status == 500)

    def stripped(value: Any) -> Any:
        if isinstance(value, list):
            return [stripped(item) for item in value]
        return {name: stripped(item) for name, item in value.items() if name not in volatile} if isinstance(value, dict) else value

    return status, set(headers), stripped(found)


@pytest.mark.parametrize(
    "asked",
    [
        message(DOUBLE),
        message(DOUBLE, WAIT),
        message(DOUBLE, WAIT, "Accept: application/x-safetensors"),
        message(DOUBLE, WAIT, "Connection: keep-alive"),
        message(b'{"operation": "fail"}', WAIT),
        message(b'{"operation": "unknown"}'),
        message(b'{"operation": "full"}'),
        message(b'{"operation": "defect"}', WAIT),
        message(b"{", WAIT),
        message(DOUBLE, "Prefer: wait=5", "Accept: image/png"),
        message(b'{"tasks": [' + DOUBLE + b', {"operation": "unknown"}]}', line="POST /tasks/batch"),
        message(line="GET /tasks/00000000-0000-7000-8000-000000000000"),
        message(line="GET /tasks/00000000-0000-7000-8000-000000000000?wait=1"),
        message(line="GET /tasks/00000000-0000-7000-8000-000000000000/result"),
        message(line="GET /tasks/00000000-0000-7000-8000-000000000000/result?wait=x"),
        message(line="GET /tasks/none-such"),
        message(line="GET /tasks/batch?ids=00000000-0000-7000-8000-000000000000"),
    ],
)
async def test_the_third_answer_is_as_the_first(gateway: Any, direct: list[bytes], asked: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # one of them is a defect
    await gateway.client.post("/tasks", json={"operation": "double", "parameters": {"x": [1]}})
    async with connected(gateway) as client:
        first, second = await client.ask(asked), await client.ask(asked)
        assert not direct
        third = await client.ask(asked)
    assert len(direct) == 1
    assert same(third) == same(first) == same(second)
    assert third[1]["x-content-type-options"] == "nosniff"
    assert third[1]["x-request-id"] not in (first[1]["x-request-id"], second[1]["x-request-id"])


@pytest.mark.parametrize(
    "asked",
    [
        message(DOUBLE, "X-Request-ID: mine"),
        message(DOUBLE, "Origin: http://elsewhere"),
        message(DOUBLE, "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        message(DOUBLE, "Content-Encoding: gzip"),
        message(DOUBLE).replace(b"localhost", b"evil.example"),
        message(line="GET /devices"),
        message(line="GET /tasks"),
        message(line="DELETE /tasks/00000000-0000-7000-8000-000000000000"),
        message(line="GET /tasks/a%2Fb"),
    ],
)
async def test_what_asks_for_more_goes_the_ordinary_way(start: Any, direct: list[bytes], asked: bytes) -> None:
    gateway = await start(own_protocol=True, hosts=frozenset({"localhost"}))
    answers = []
    for _ in range(4):
        async with connected(gateway) as client:
            answers.append(await client.ask(asked))
    assert not direct
    assert len({answer[0] for answer in answers}) == 1


async def test_a_body_over_the_limit_never_goes_the_short_way(start: Any, direct: list[bytes]) -> None:
    gateway = await start(own_protocol=True, body_bytes=20)
    for _ in range(4):
        async with connected(gateway) as client:
            assert (await client.ask(message(DOUBLE)))[0] == 413
    assert not direct


async def known(client: Client, asked: bytes) -> None:
    for _ in range(2):
        await client.ask(asked)


async def test_bodies_are_their_own(gateway: Any, direct: list[bytes]) -> None:
    arrays = [Array("float32", (2,), bytes([number]) * 8) for number in range(1, 5)]
    bodies = [b"".join(safetensors.encode({"x": array}, {"task": '{"operation":"double"}'})) for array in arrays]
    async with connected(gateway) as client:
        for array, body in zip(arrays, bodies, strict=True):
            asked = message(body, WAIT, "Accept: application/x-safetensors").replace(b"application/json", b"application/x-safetensors", 1)
            status, _, answered = await client.ask(asked)
            assert status == 200
            assert bytes(safetensors.decode(answered)[0]["output"].data) == array.data
    assert len(direct) == 2


async def test_requests_sent_at_once_are_answered_in_order(gateway: Any, direct: list[bytes]) -> None:
    async with connected(gateway) as client:
        await known(client, message(DOUBLE, WAIT))
        client.writer.write(message(DOUBLE, WAIT) + message(SLOW, "Prefer: wait=0.1") + message(DOUBLE, WAIT) + message(line="GET /devices"))
        client.writer.write(message(DOUBLE, WAIT))
        answers = [await client.answer() for _ in range(5)]
    assert [answer[0] for answer in answers] == [200, 202, 200, 200, 200]
    assert "devices" in json.loads(answers[3][2])
    assert len(direct) >= 1


async def test_a_request_that_comes_while_another_is_answered_waits(gateway: Any, direct: list[bytes]) -> None:
    slow = message(SLOW, "Prefer: wait=0.2")
    async with connected(gateway) as client:
        await known(client, slow)
        client.writer.write(slow)
        await asyncio.sleep(0.05)
        client.writer.write(slow[:30])
        await asyncio.sleep(0.02)
        client.writer.write(slow[30:])
        assert [(await client.answer())[0] for _ in range(2)] == [202, 202]
    assert direct


async def test_a_request_in_pieces(gateway: Any) -> None:
    """Cut in two anywhere, the middle of the end of its head included."""
    asked = message(DOUBLE, WAIT)
    async with connected(gateway) as client:
        await known(client, asked)
        for cut in range(1, len(asked)):
            client.writer.write(asked[:cut])
            await asyncio.sleep(0.001)
            assert (await client.ask(asked[cut:]))[0] == 200, cut


async def test_a_head_that_begins_like_one_seen_before(gateway: Any) -> None:
    """The shorter message's block stands in the longer's first piece, whose next byte is one more digit of its length."""
    short, long = message(b" " * 5), message(DOUBLE)
    async with connected(gateway) as client:
        await known(client, short)
        at = long.index(b"Content-Length: 52") + len(b"Content-Length: 52")
        client.writer.write(long[:at])
        await asyncio.sleep(0.02)
        assert (await client.ask(long[at:]))[0] == 202


async def test_an_empty_line_before_a_request_does_not_make_its_line_a_header(gateway: Any, direct: list[bytes]) -> None:
    first = b"\r\n" + message(line="GET /tasks/none-such")
    async with connected(gateway) as client:
        for _ in range(3):
            assert (await client.ask(first))[0] == 404
        assert (await client.ask(b"GET /tasks/none-such HTTP/1.1" + first))[0] == 400
    assert not direct


async def test_head_and_body_apart_go_the_short_way(gateway: Any, direct: list[bytes]) -> None:
    """As HTTP libraries send them."""
    asked = message(DOUBLE, WAIT)
    async with connected(gateway) as client:
        await known(client, asked)
        client.writer.write(asked[: -len(DOUBLE)])
        await asyncio.sleep(0.02)
        assert (await client.ask(DOUBLE))[0] == 200
    assert direct == [DOUBLE]


async def test_a_body_that_does_not_come_is_answered_with_408(gateway: Any, problem: Any) -> None:
    asked = message(DOUBLE, WAIT)
    async with connected(gateway) as client:
        await known(client, asked)
        status, headers, body = await client.ask(asked[:-5])
        assert (status, headers["connection"]) == (408, "close")
        assert json.loads(body)["code"] == "request_timeout"


async def test_a_client_that_leaves_takes_its_task_with_it(gateway: Any, direct: list[bytes]) -> None:
    asked = message(GONE, "Prefer: wait=0.1")
    async with connected(gateway) as client:
        await known(client, asked)
        client.writer.write(asked)
        await asyncio.sleep(0.02)
    for _ in range(100):
        if gateway.tasks.tasks[max(gateway.tasks.tasks)].life.status.value == "cancelled":
            break
        await asyncio.sleep(0.01)
    assert [task.life.status.value for _, task in sorted(gateway.tasks.tasks.items())] == ["queued", "queued", "cancelled"]
    assert direct == [GONE]


async def test_a_client_that_left_before_its_task_was_taken_takes_it_with_it(
    gateway: Any, direct: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = message(GONE, "Prefer: wait=3")
    async with connected(gateway) as client:
        await known(client, message(b'{"operation": "double", "parameters": {"x": [1]}}'.ljust(len(GONE)), "Prefer: wait=3"))
        submit = gateway.tasks.submit

        async def slowly(*given: Any, **named: Any) -> Any:
            await asyncio.sleep(0.1)
            return await submit(*given, **named)

        monkeypatch.setattr(gateway.tasks, "submit", slowly)
        client.writer.write(asked)
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    assert len(direct) == 1
    assert gateway.tasks.tasks[max(gateway.tasks.tasks)].life.status.value == "cancelled"


async def test_a_large_answer_that_leaves_slowly_keeps_its_connection(start: Any, direct: list[bytes]) -> None:
    """Longer than an unused connection is kept, and no slower than its client."""
    gateway = await start(own_protocol=True, keep_alive=0.5)
    large = b"".join(safetensors.encode({"x": Array("uint8", (16_000_000,), bytes(16_000_000))}, {"task": '{"operation":"double"}'}))
    asked = message(large, WAIT, "Accept: application/x-safetensors").replace(b"application/json", b"application/x-safetensors", 1)
    async with connected(gateway) as client:
        task_id = (await client.ask(asked))[1]["location"].rpartition("/")[2]
        fetch = message(b"", "Accept: application/x-safetensors", line=f"GET /tasks/{task_id}/result")
        await known(client, fetch)
        client.writer.write(fetch)
        await asyncio.sleep(1.2)
        assert len((await client.answer())[2]) > 16_000_000
        assert (await client.ask(fetch))[0] == 200
    assert direct


async def test_a_server_that_stops_says_that_it_closes(gateway: Any, direct: list[bytes]) -> None:
    slow = message(SLOW, "Prefer: wait=0.2")
    async with connected(gateway) as client:
        await known(client, slow)
        client.writer.write(slow)
        await asyncio.sleep(0.05)
        for connection in list(gateway.server.server_state.connections):
            connection.shutdown()
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (202, "close")
        assert await client.ended()
    assert direct


@pytest.mark.parametrize("before", [0, 2])
async def test_a_wait_that_outlasts_the_server_is_answered_with_503(
    gateway: Any, direct: list[bytes], caplog: pytest.LogCaptureFixture, before: int
) -> None:
    async with connected(gateway) as client:
        for _ in range(before):
            await client.ask(message(DOUBLE, WAIT))
        client.writer.write(message(SLOW.ljust(len(DOUBLE)), WAIT))
        await asyncio.sleep(0.05)
        for connection in list(gateway.server.server_state.connections):
            connection.shutdown()
        for task in list(gateway.server.server_state.tasks):
            task.cancel()
        status, headers, body = await client.answer()
        assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "2")
        assert json.loads(body)["code"] == "unavailable"
    assert len(direct) == before // 2
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_the_log_says_what_was_answered(gateway: Any, direct: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    asked = message(line="GET /tasks/none-such?wait=1")
    async with connected(gateway) as client:
        await known(client, asked)
        caplog.set_level(logging.DEBUG, "openruntime.gateway.app")
        _, headers, _ = await client.ask(asked)
    assert len(direct) == 1
    (line,) = [record for record in caplog.records if record.name == "openruntime.gateway.app"]
    assert line.getMessage().startswith("GET /tasks/none-such 404 ")
    assert (line.__dict__["status"], line.__dict__["request_id"]) == (404, headers["x-request-id"])


async def test_an_unused_connection_is_closed_and_a_waiting_one_is_not(start: Any, direct: list[bytes]) -> None:
    gateway = await start(own_protocol=True, keep_alive=0.2, body_timeout=0.2)
    asked = message(SLOW, "Prefer: wait=0.6")
    async with connected(gateway) as client:
        await known(client, asked)
        assert (await client.ask(asked))[0] == 202, "it waited longer than a connection is kept, or a body may stop"
        assert direct
        assert await client.ended()


async def test_a_client_that_is_gone_costs_no_other_its_answer(gateway: Any) -> None:
    """What two connections wait to write, when one of them closes meanwhile."""
    loop, outbox = asyncio.get_running_loop(), Outbox()
    async with connected(gateway) as leaving, connected(gateway) as staying:
        leaving.writer.transport.abort()
        outbox.write(loop, leaving.writer.transport, message(DOUBLE))
        outbox.write(loop, staying.writer.transport, message(DOUBLE))
        assert (await staying.answer())[0] == 202


async def test_a_client_that_leaves_while_its_answers_wait_for_it_is_no_defect(gateway: Any, caplog: pytest.LogCaptureFixture) -> None:
    large = b"".join(safetensors.encode({"x": Array("uint8", (16_000_000,), bytes(16_000_000))}, {"task": '{"operation":"double"}'}))
    asked = message(large, WAIT, "Accept: application/x-safetensors").replace(b"application/json", b"application/x-safetensors", 1)
    async with connected(gateway) as client:
        task_id = (await client.ask(asked))[1]["location"].rpartition("/")[2]
        client.writer.write(message(b"", "Accept: application/x-safetensors", line=f"GET /tasks/{task_id}/result") * 5)
        await asyncio.sleep(0.2)
        client.writer.transport.abort()
    await asyncio.sleep(0.2)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
