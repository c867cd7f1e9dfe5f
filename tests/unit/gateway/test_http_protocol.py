"""Our HTTP protocol under a real uvicorn server and raw sockets: whatever way the bytes come, each request gets its own answer."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
import uvicorn

from openruntime.contracts.errors import OpenRuntimeError
from openruntime.gateway.body import BodyReader
from openruntime.gateway.connection import LARGE_BODY
from openruntime.gateway.errors import Disconnected
from openruntime.gateway.http_protocol import protocol_class
from openruntime.gateway.wire import Answer, respond
from openruntime.runtimes.shared_memory import SlabPool

POOL = SlabPool()
READER = BodyReader(4 * LARGE_BODY, 0.5, POOL.allocate)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Says what it read: path, length and sum of the body, whether it was in shared memory."""
    answer = Answer(send, "test")
    try:
        body = await READER.read(scope, receive)
    except Disconnected:
        return
    except OpenRuntimeError as error:
        await respond(answer, error.status, b"text/plain", [error.message.encode()])
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(0.1)
    if scope["path"] == "/echo":
        await respond(answer, 200, b"application/octet-stream", [body])
        return
    told = {
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "length": len(body),
        "sum": sum(body),
        "shared": isinstance(body, memoryview),
    }
    await respond(answer, 200, b"application/json", [json.dumps(told).encode()])


@contextmanager
def serving() -> Iterator[int]:
    http = protocol_class(POOL.allocate, limit=4 * LARGE_BODY, body_timeout=0.5)
    config = uvicorn.Config(application, port=0, http=http, lifespan="off", access_log=False, log_config=None, timeout_keep_alive=1)
    server = uvicorn.Server(config)
    thread = Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as found:
        yield found


def message(path: str, body: bytes = b"", *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Client:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.file = self.socket.makefile("rb")

    def answer(self) -> tuple[int, bytes]:
        status = int(self.file.readline().split()[1])
        length = 0
        while (line := self.file.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return status, self.file.read(length)

    def told(self) -> dict[str, Any]:
        status, body = self.answer()
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()


def test_the_same_head_again_and_again_means_its_own_body(port: int) -> None:
    with Client(port) as client:
        for number in range(6):
            client.socket.sendall(message("/a?x=1", bytes([number]) * 10))
            assert client.told() == {"path": "/a", "query": "x=1", "length": 10, "sum": 10 * number, "shared": False}


def test_requests_sent_at_once_are_answered_in_order(port: int) -> None:
    with Client(port) as client:
        for _ in range(3):  # the last round meets remembered heads
            client.socket.sendall(message("/slow", b"1") + message("/b", b"22") + message("/c", b"", method="GET") + message("/slow", b"4444"))
            assert [client.told()["length"] for _ in range(4)] == [1, 2, 0, 4]


@pytest.mark.parametrize("cut", [1, 7, 50, 90])
def test_a_request_in_pieces(port: int, cut: int) -> None:
    whole = message("/pieces", b"0123456789")
    with Client(port) as client:
        for _ in range(3):
            for at in range(0, len(whole), cut):
                client.socket.sendall(whole[at : at + cut])
            assert client.told()["length"] == 10
        client.socket.sendall(whole)
        assert client.told()["length"] == 10


def test_a_large_body_goes_into_shared_memory_and_the_next_request_is_met(port: int) -> None:
    body = bytes(range(256)) * (LARGE_BODY // 128)
    with Client(port) as client:
        for _ in range(3):
            client.socket.sendall(message("/large", body) + message("/after", b"xyz"))
            assert client.told() == {"path": "/large", "query": "", "length": len(body), "sum": sum(body), "shared": True}
            assert client.told()["path"] == "/after"
        client.socket.sendall(message("/echo", body))
        assert client.answer() == (200, body)
    for _ in range(200):
        if not POOL.leased_bytes:
            break
        time.sleep(0.01)
    assert POOL.leased_bytes == 0, "nothing holds the memory any more"


def test_a_client_that_asks_before_sending_a_large_body_is_told_to_go_on(port: int) -> None:
    body = b"z" * LARGE_BODY
    head, _, _ = message("/asked", body, "Expect: 100-continue").partition(b"\r\n\r\n")
    with Client(port) as client:
        client.socket.sendall(head + b"\r\n\r\n")
        assert client.file.readline() == b"HTTP/1.1 100 Continue\r\n"
        client.file.readline()
        client.socket.sendall(body)
        assert client.told()["length"] == LARGE_BODY


def test_a_large_body_that_stops_is_a_timeout(port: int) -> None:
    with Client(port) as client:
        client.socket.sendall(message("/stops", b"z" * LARGE_BODY)[: LARGE_BODY // 2])
        status, reason = client.answer()
    assert (status, b"stopped after" in reason) == (408, True)


def test_a_client_that_leaves_in_the_middle_harms_nobody(port: int) -> None:
    for _ in range(3):
        with Client(port) as client:
            client.socket.sendall(message("/leaves", b"z" * LARGE_BODY)[: LARGE_BODY // 2])
    with Client(port) as client:
        client.socket.sendall(message("/stays", b"1"))
        assert client.told()["path"] == "/stays"


def test_a_body_over_the_limit_is_refused_before_it_is_read(port: int) -> None:
    with Client(port) as client:
        client.socket.sendall(f"POST /over HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        assert client.answer()[0] == 413


def test_closing_is_heeded_with_remembered_heads_too(port: int) -> None:
    for _ in range(3):
        with Client(port) as client:
            client.socket.sendall(message("/closing", b"1", "Connection: close"))
            assert client.told()["length"] == 1
            assert client.file.read() == b""


def test_chunked_bodies_and_other_methods(port: int) -> None:
    with Client(port) as client:
        for _ in range(3):
            client.socket.sendall(b"POST /chunked HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
            assert client.told()["length"] == 5
        client.socket.sendall(message("/percent%20sign?q=%C3%A9", method="GET"))
        assert client.told()["path"] == "/percent sign"


def test_an_idle_connection_is_closed_and_a_used_one_is_not(port: int) -> None:
    with Client(port) as idle, Client(port) as used:
        idle.socket.sendall(message("/idle", b"1"))
        idle.told()
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            used.socket.sendall(message("/used", b"1"))
            used.told()
            time.sleep(0.2)
        assert idle.file.read() == b"", "closed by the server"
