"""Bodies that lie, stop, break off or are too large; each over a raw socket where a client library would not send it."""

import asyncio
import json
from typing import Any

import pytest

from openruntime.contracts import npy, safetensors
from openruntime.contracts.payload import Array

PROTOCOLS = pytest.mark.parametrize("own_protocol", [False, True], ids=["uvicorn", "shared-memory"])


async def raw(port: int, sent: bytes, *more: bytes, pause: float = 0.0, close: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    for part in more:
        await asyncio.sleep(pause)
        writer.write(part)
    if close:
        writer.close()
        return b""
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = next(int(line.split(b":")[1]) for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length"))
    answer += await asyncio.wait_for(reader.readexactly(length), 10)
    writer.close()
    return answer


def head(length: int | None, media: str = "application/json", path: str = "/tasks") -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {media}\r\n{size}\r\n\r\n".encode()


def document(answer: bytes) -> Any:
    return json.loads(answer.split(b"\r\n\r\n", 1)[1])


@PROTOCOLS
async def test_too_large_by_its_length(start: Any, own_protocol: bool) -> None:
    gateway = await start(body_bytes=1000, own_protocol=own_protocol)
    answer = await raw(gateway.port, head(1 << 40))
    assert document(answer)["code"] == "payload_too_large"
    assert b"connection: close" in answer
    answer = await raw(gateway.port, head(1001) + b"x" * 1001)
    assert document(answer)["code"] == "payload_too_large"


async def test_too_large_in_chunks(start: Any) -> None:
    gateway = await start(body_bytes=1000)
    answer = await raw(gateway.port, head(None), *[b"258\r\n" + b"x" * 600 + b"\r\n"] * 2, pause=0.02)
    assert document(answer)["code"] == "payload_too_large"


@PROTOCOLS
@pytest.mark.parametrize("length", [100, 2 << 20], ids=["small", "large"])
async def test_too_slow(start: Any, own_protocol: bool, length: int) -> None:
    gateway = await start(body_timeout=0.2, own_protocol=own_protocol)
    answer = await raw(gateway.port, head(length) + b"{")
    assert b" 408 " in answer
    assert document(answer)["code"] == "request_timeout"


@PROTOCOLS
@pytest.mark.parametrize("length", [100, 2 << 20], ids=["small", "large"])
async def test_cut_off(start: Any, own_protocol: bool, length: int, caplog: pytest.LogCaptureFixture) -> None:
    gateway = await start(own_protocol=own_protocol)
    await raw(gateway.port, head(length) + b"{", close=True)
    await asyncio.sleep(0.05)
    assert (await gateway.client.get("/health/live")).status_code == 200
    assert not caplog.records
    assert gateway.tasks.tasks == {}


@PROTOCOLS
async def test_a_large_array_arrives_whole(start: Any, own_protocol: bool) -> None:
    gateway = await start(own_protocol=own_protocol, inline_elements=1)
    data = bytes(range(256)) * 16384
    body = b"".join(safetensors.encode({"x": Array("uint8", (len(data),), data)}, {"task": '{"operation": "double"}'}))
    headers = {"Content-Type": "application/x-safetensors", "Accept": "application/x-npy", "Prefer": "wait=5"}
    for _ in range(2):
        answer = await gateway.client.post("/tasks", content=body, headers=headers)
        assert bytes(npy.decode(answer.content).view) == data


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b'{"operation": "double", "parameters": {"x": NaN}}', "NaN"),
        (b'{"operation": "double", "parameters": {"x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}}", "deep"),
        (b"[" * 10_000, "deep"),
        (b'{"operation": "double\xff"}', "UTF-8"),
    ],
)
async def test_malformed_json(gateway: Any, problem: Any, body: bytes, said: str) -> None:
    for path in ("/tasks", "/tasks/batch"):
        answer = await gateway.client.post(path, content=body, headers={"Content-Type": "application/json; charset=utf-8"})
        assert said in problem(answer, 400, "invalid_request")["detail"]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ([], None),
        ({}, "operation"),
        ({"operation": ""}, "operation"),
        ({"operation": 5}, "operation"),
        ({"operation": "double", "priority": 0}, "priority"),
        ({"operation": "double", "priority": 11}, "priority"),
        ({"operation": "double", "priority": "5"}, "priority"),
        ({"operation": "double", "priority": True}, "priority"),
        ({"operation": "double", "priority": 5.5}, "priority"),
        ({"operation": "double", "priority": 11.0}, "priority"),
        ({"operation": "double", "parameters": []}, "parameters"),
        ({"operation": "double", "timeout": -1}, "timeout"),
        ({"operation": "double", "max_retries": 101}, "max_retries"),
        ({"operation": "double", "tags": [""]}, "tags.0"),
        ({"operation": "double", "paramters": {}}, "paramters"),
    ],
)
async def test_fields_are_named(gateway: Any, problem: Any, request_: Any, field: str | None) -> None:
    problem(await gateway.client.post("/tasks", json=request_), 400, "invalid_request", field=field)
    assert gateway.tasks.tasks == {}


async def test_a_misspelt_field_gets_the_nearest(gateway: Any, problem: Any) -> None:
    answer = await gateway.client.post("/tasks", json={"operation": "double", "paramters": {}})
    assert "`" not in answer.json()["detail"].split("did you mean ")[1]
    assert "parameters" in answer.json()["detail"]


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "<script>", ""])
async def test_content_types(gateway: Any, problem: Any, media: str) -> None:
    answer = await gateway.client.post("/tasks", content=b"{}", headers={"Content-Type": media})
    problem(answer, 415, "unsupported_media_type", field="Content-Type")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({}, "operation"),
        ({"operation": "double", "axis": "one"}, "axis"),
        ({"operation": "double", "axis": ["1", "2"]}, "axis"),
        ({"operation": "double", "x": "1"}, "x"),
        ({"operation": "double", "priority": "11"}, "priority"),
    ],
)
async def test_npy_queries(gateway: Any, problem: Any, query: Any, field: str) -> None:
    body = b"".join(npy.encode(Array("uint8", (1,), b"a")))
    answer = await gateway.client.post("/tasks", params=query, content=body, headers={"Content-Type": "application/x-npy"})
    problem(answer, 400, "invalid_request", field=field)


async def test_safetensors_without_a_task(gateway: Any, problem: Any) -> None:
    headers = {"Content-Type": "application/x-safetensors"}
    array = Array("uint8", (1,), b"a")
    answer = await gateway.client.post("/tasks", content=b"".join(safetensors.encode({"x": array})), headers=headers)
    problem(answer, 400, "invalid_request", field="task")
    both = {"task": '{"operation": "double", "parameters": {"x": 1}}'}
    answer = await gateway.client.post("/tasks", content=b"".join(safetensors.encode({"x": array}, both)), headers=headers)
    assert "twice" in problem(answer, 400, "invalid_request", field="x")["detail"]
