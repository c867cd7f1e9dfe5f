"""/ws: topics, resuming, rubbish, readers that are slow or never read."""

import asyncio
import json
import socket
import time
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import connect

from openruntime.contracts.events import DeviceChanged, MetricsSampled, TaskFinished, TaskQueued
from openruntime.gateway import websocket as module

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def url(gateway: Any) -> str:
    return gateway.url.replace("http", "ws") + "/ws"


async def ask(client: Any, **message: Any) -> dict[str, Any]:
    await client.send(json.dumps(message))
    return await heard(client)


async def heard(client: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await asyncio.wait_for(client.recv(), 5))
    return found


async def test_topics_and_tenants(gateway: Any) -> None:
    async with connect(url(gateway), proxy=None) as client:
        assert (await ask(client, subscribe=["tasks.a", "devices"]))["type"] == "subscribed"
        now = time.time()
        for event in (
            TaskQueued(now, task_id="b"),
            TaskQueued(now, task_id="a", tenant="other"),
            MetricsSampled(now),
            DeviceChanged(now, device="cpu:0", status="draining"),
            TaskFinished(now, task_id="a", status="failed", code="timeout"),
        ):
            gateway.events.publish(event)
        first, second = await heard(client), await heard(client)
        assert (first["type"], first["data"]["device"]) == ("device.changed", "cpu:0")
        assert (second["type"], second["seq"], second["data"]["code"]) == ("task.failed", 5, "timeout")
        assert second["time"].endswith("Z")
        assert "tenant" not in second["data"]
        assert (await gateway.client.get("/health")).json()["websockets"] == 1
        await ask(client, unsubscribe=["devices"], subscribe=["metrics"])
        gateway.events.publish(DeviceChanged(now, device="cpu:0"))
        gateway.events.publish(MetricsSampled(now, values={"a": 1.0}))
        assert (await heard(client))["data"] == {"values": {"a": 1.0}}
    await asyncio.sleep(0.05)
    assert (await gateway.client.get("/health")).json()["websockets"] == 0


@pytest.mark.parametrize("kind", [int, str])
async def test_resume(gateway: Any, kind: Any) -> None:
    for name in "abc":
        gateway.events.publish(TaskQueued(time.time(), task_id=name))
    async with connect(url(gateway), proxy=None) as client:
        assert (await ask(client, subscribe=["tasks"], after=kind(1)))["seq"] == 1
        assert [(await heard(client))["data"]["task_id"] for _ in range(2)] == ["b", "c"]


@pytest.mark.parametrize(
    ("rubbish", "field"),
    [
        ("rubbish", None),
        ("[" * 10_000, None),
        (b"\x00\xff", None),
        ("x" * 70_000, None),
        ('{"subscribe": "tasks"}', None),
        ('{"subscribe": ["secrets"]}', "subscribe"),
        ('{"subscribe": ["tasks"], "after": "x"}', "after"),
        ('{"subscribe": ["tasks"], "after": -1}', "after"),
        ('{"more": 1}', None),
        (json.dumps({"subscribe": [f"tasks.{i}" for i in range(1001)]}), "subscribe"),
    ],
)
async def test_rubbish_is_answered_and_forgiven(gateway: Any, rubbish: Any, field: str | None) -> None:
    async with connect(url(gateway), proxy=None) as client:
        await client.send(rubbish)
        answer = await heard(client)
        assert (answer["type"], answer["code"], answer["field"]) == ("error", "invalid_request", field)
        assert (await ask(client, subscribe=["tasks"]))["type"] == "subscribed"


async def test_a_reader_that_lags_is_told(start: Any) -> None:
    gateway = await start(websocket_queue=10)
    for i in range(50):
        gateway.events.publish(TaskQueued(time.time(), task_id=str(i)))
    async with connect(url(gateway), proxy=None) as client:
        await ask(client, subscribe=["tasks"], after=0)
        first = await heard(client)
        assert (first["type"], first["data"]["missed"]) == ("gap", 40)
        assert (await heard(client))["data"]["task_id"] == "40"


async def test_a_reader_that_never_reads_is_closed(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.WebSocketManager.__init__, "__kwdefaults__", {"send_timeout": 0.2})
    gateway = await start()
    loop = asyncio.get_running_loop()
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.setblocking(False)
        await loop.sock_connect(silent, ("127.0.0.1", gateway.port))
        await loop.sock_sendall(silent, HANDSHAKE)
        assert b" 101 " in await loop.sock_recv(silent, 4096)
        text = b'{"subscribe": ["tasks"]}'
        await loop.sock_sendall(silent, bytes([0x81, 0x80 | len(text)]) + b"\x00" * 4 + text)  # masked with zeros
        await asyncio.sleep(0.1)
        assert (await gateway.client.get("/health")).json()["websockets"] == 1
        until = time.monotonic() + 30
        while (await gateway.client.get("/health")).json()["websockets"]:
            assert time.monotonic() < until
            for _ in range(200):
                gateway.events.publish(TaskFinished(time.time(), task_id="a", error="x" * 10_000))
            await asyncio.sleep(0.05)
    assert (await gateway.client.get("/health/live")).status_code == 200


async def test_pages_of_another_origin_cannot_read(start: Any) -> None:
    closed, opened = await start(), await start(cors=True)
    with pytest.raises(websockets.InvalidStatus):
        async with connect(url(closed), proxy=None, origin="http://evil.example"):
            pass
    async with connect(url(closed), proxy=None, origin=closed.url) as client:
        assert (await ask(client, subscribe=["tasks"]))["type"] == "subscribed"
    async with connect(url(opened), proxy=None, origin="http://evil.example") as client:
        assert (await ask(client, subscribe=["tasks"]))["type"] == "subscribed"
