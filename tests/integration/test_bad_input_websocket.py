"""A WebSocket that sends rubbish, and one that never reads, on a real server that goes on working."""

import json
import socket
import time
from typing import Any

import httpx
from websockets.sync.client import connect

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def computes(server: Any) -> bool:
    body = {"operation": "sum", "parameters": {"x": [1, time.time_ns() % 1000]}}
    answer = httpx.post(f"{server.url}/tasks", json=body, headers={"Prefer": "wait=20"}, timeout=30, trust_env=False)
    return bool(answer.json()["status"] == "completed")


def test_rubbish(server: Any) -> None:
    with connect(server.url.replace("http", "ws") + "/ws", proxy=None) as client:
        for rubbish in (
            "rubbish",
            b"\x00\xff",
            "[" * 10_000,
            '{"subscribe": ["secrets"]}',
            '{"subscribe": 5}',
            '{"subscribe": ["tasks"], "after": "x"}',
        ):
            client.send(rubbish)
            answer = json.loads(client.recv(timeout=10))
            assert (answer["type"], answer["code"]) == ("error", "invalid_request")
        client.send('{"subscribe": ["tasks"]}')
        assert json.loads(client.recv(timeout=10))["type"] == "subscribed"
        assert computes(server)
        seen = [json.loads(client.recv(timeout=10))["type"] for _ in range(3)]
        assert seen == ["task.queued", "task.started", "task.completed"]


def test_broken_frames(server: Any) -> None:
    for rubbish in (b"\xff" * 1000, bytes([0x81, 0xFF]) + b"\xff" * 12, b"\x00"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(HANDSHAKE)
            assert b" 101 " in client.recv(4096)
            client.sendall(rubbish)
    assert computes(server)


def test_never_reading(server: Any) -> None:
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect(("127.0.0.1", server.port))
        silent.sendall(HANDSHAKE)
        assert b" 101 " in silent.recv(4096)
        text = b'{"subscribe": ["tasks"]}'
        silent.sendall(bytes([0x81, 0x80 | len(text)]) + b"\x00" * 4 + text)
        tasks = [{"operation": "sum", "parameters": {"x": [i]}} for i in range(1000)]
        began = time.monotonic()
        answer = httpx.post(f"{server.url}/tasks/batch", json={"tasks": tasks}, headers={"Prefer": "wait=60"}, timeout=90, trust_env=False)
        assert [task["status"] for task in answer.json()["tasks"]] == ["completed"] * 1000
        assert time.monotonic() - began < 60
    assert computes(server)
