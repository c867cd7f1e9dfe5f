"""What a request's head decides: ids, hosts, codings, traces, HEAD and OPTIONS; and what never becomes a request."""

import asyncio
import json
import logging
from typing import Any

import pytest

from openruntime.contracts import safetensors, trace
from openruntime.contracts.payload import Array

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
COMPLEX = Array("complex64", (1,), b"\x00\x00\x80\x3f\x00\x00\x00\x40")
SPLIT = {"Accept": "application/x-safetensors; complex=split"}


async def sent(port: int, data: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    found = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return found


def refusal(answer: bytes, status: int, code: str) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"x-content-type-options"] == b"nosniff"
    found: dict[str, Any] = json.loads(body)
    assert (found["status"], found["code"], found["request_id"]) == (status, code, headers[b"x-request-id"].decode())
    return found


async def test_markup_is_not_reflected(gateway: Any, problem: Any) -> None:
    answer = await gateway.client.get("/tasks/%3Cscript%3E&amp;")
    assert "<script>&amp;" in problem(answer, 404, "not_found")["detail"]
    assert not set("<>&") & set(answer.text)
    batch = await gateway.client.post("/tasks/batch", json={"tasks": [{"operation": "double", "<b>": 1}]})
    assert batch.json()["tasks"][0]["field"] == "<b>"
    assert "<" not in batch.text


@pytest.mark.parametrize("bad", ["a b", "<b>", 'a"b', "x" * 129, "é", ""])
async def test_a_request_id_that_could_be_markup_is_replaced(gateway: Any, bad: str) -> None:
    answer = await gateway.client.get("/health/live", headers={b"X-Request-ID": bad.encode()})
    assert len(answer.headers["x-request-id"]) == 36


@pytest.mark.parametrize("head", [b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nA"])
async def test_a_head_that_stops_is_a_timeout(start: Any, head: bytes) -> None:
    gateway = await start(body_timeout=0.2, own_protocol=True)
    assert "head" in refusal(await sent(gateway.port, head), 408, "request_timeout")["detail"]


async def test_an_answered_message_that_stops_is_closed_without_another_answer(start: Any) -> None:
    gateway = await start(body_timeout=0.2, own_protocol=True)
    answer = await sent(gateway.port, b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_slow_head_that_goes_on_is_answered(start: Any) -> None:
    gateway = await start(body_timeout=0.3, own_protocol=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    for part in (b"GET /health", b"/live HTTP/1.1\r\n", b"Host: x\r\n", b"A: b\r\n", b"\r\n"):
        writer.write(part)
        await asyncio.sleep(0.15)
    assert await asyncio.wait_for(reader.readline(), 5) == b"HTTP/1.1 200 OK\r\n"
    writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_problem_too(start: Any, data: bytes) -> None:
    gateway = await start(own_protocol=True)
    refusal(await sent(gateway.port, data), 400, "invalid_request")


async def test_preflights_have_a_request_id(start: Any) -> None:
    gateway = await start(cors=True)
    headers = {"Origin": "http://a.example", "Access-Control-Request-Method": "PUT"}
    answer = await gateway.client.options("/tasks", headers=headers)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
    assert answer.headers["x-request-id"]
    refused = await gateway.client.get("/tasks/none", headers={"Origin": "http://a.example"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (404, "*")
    assert "Location" in refused.headers["access-control-expose-headers"]


@pytest.mark.parametrize("own_protocol", [False, True])
async def test_head_is_get_without_its_body(start: Any, own_protocol: bool) -> None:
    gateway = await start(own_protocol=own_protocol)
    client = gateway.client
    task = (await client.post("/tasks", json={"operation": "double", "parameters": {"x": [1]}})).headers["location"]
    tensor = await client.post(
        "/tensors", content=b"".join(safetensors.encode({"a": COMPLEX})), headers={"Content-Type": "application/x-safetensors"}
    )
    kept = f"/tensors/{tensor.json()['tensors']['a']['id']}"
    for path in ("/", "/health/live", "/metrics", "/devices", "/devices/cpu:0", "/operations", "/operations/double", "/tasks", task, f"{task}/result",
                 f"{task}/explain", f"{task}/trace", f"/tasks/batch?ids={task[7:]}", "/tensors", kept, "/docs", "/openapi.json"):  # fmt: skip
        got, headed = await client.get(path), await client.head(path)
        assert (headed.status_code, headed.content) == (200, b""), path
        assert headed.headers["content-length"] == got.headers["content-length"], path
        assert headed.headers["content-type"] == got.headers["content-type"]
    assert (await client.head("/tasks/none")).status_code == 404
    assert (await client.head("/devices/cpu:0/state")).status_code == 405


async def test_options_lists_the_methods(gateway: Any, problem: Any) -> None:
    for path, allowed in (("/tasks", "GET, HEAD, OPTIONS, POST"), ("/devices/cpu:0/state", "OPTIONS, PUT"), ("/docs", "GET, HEAD, OPTIONS")):
        answer = await gateway.client.options(path)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (204, allowed, b"")
        assert answer.headers["x-request-id"]
    problem(await gateway.client.options("/none"), 404, "not_found")


async def test_coded_bodies_are_refused(gateway: Any, problem: Any) -> None:
    for path in ("/tasks", "/tasks/batch", "/tensors"):
        answer = await gateway.client.post(path, content=b"x", headers={"Content-Encoding": "gzip"})
        problem(answer, 415, "unsupported_media_type", field="Content-Encoding")
    plain = await gateway.client.post("/tasks", json={"operation": "double", "parameters": {"x": 1}}, headers={"Content-Encoding": "identity"})
    assert plain.status_code == 202


async def test_pages_are_bounded_by_what_they_can_be(gateway: Any, problem: Any) -> None:
    for path in ("/tasks", "/tensors"):
        problem(await gateway.client.get(path, params={"cursor": "zzz"}), 400, "invalid_request", field="cursor")
    answer = await gateway.client.get("/tasks", params={"statsu": "queued"})
    assert "status" in problem(answer, 400, "invalid_request", field="statsu")["detail"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[]", "the body must be a JSON object with `operation` and `parameters`"),
        (b'"x"', "the body must be a JSON object with `operation` and `parameters`"),
        (b'{"operation": "double", "priority": null}', "`priority` must be a whole number, not null"),
        (b'{"operation": "double", "priority": true}', "`priority` must be a whole number, not true"),
        (b'{"operation": "double", "priority": 11}', "`priority` must be at most 10, not 11"),
        (b'{"operation": "double", "timeout": 0}', "`timeout` must be above 0, not 0"),
        (b'{"operation": "double", "parameters": []}', "`parameters` must be a JSON object, not a list"),
        (b'{"operation": "", "parameters": {}}', '`operation` must not be shorter than 1, not ""'),
        (b'{"operation": "\\ud800"}', "half of a surrogate pair"),
        (b'{"operation": "a", "parameters": {"x": "\\udc00 and more text"}}', "half of a surrogate pair"),
    ],
)
async def test_messages_are_in_our_words(gateway: Any, problem: Any, body: bytes, said: str) -> None:
    answer = await gateway.client.post("/tasks", content=body, headers={"Content-Type": "application/json"})
    assert said in problem(answer, 400, "invalid_request")["detail"]


async def test_small_bodies_are_not_sent_to_tensors(gateway: Any, problem: Any) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await gateway.client.put("/devices/cpu:0/state", content=b" " * 70_000, headers=headers)
    assert "/tensors" not in problem(answer, 413, "payload_too_large")["detail"]


async def test_only_our_own_names_are_answered(start: Any, problem: Any) -> None:
    gateway = await start(hosts=frozenset({"localhost", "127.0.0.1", "[::1]", "*.localhost"}))
    for good in ("localhost", "LocalHost:8000", "127.0.0.1:9", "[::1]:80", "a.localhost:1"):
        for _ in range(2):
            assert (await gateway.client.get("/health/live", headers={"Host": good})).status_code == 200, good
    for bad in ("evil.example", "evil.example:8000", "localhost.evil.example", "evillocalhost", "127.0.0.1.evil.example", "[::2]:80", ""):
        problem(await gateway.client.get("/health/live", headers={"Host": bad}), 403, "forbidden", field="Host")
    upgrade = b"GET /ws HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    assert (await sent(gateway.port, upgrade + key)).startswith(b"HTTP/1.1 403 ")


async def test_traces_are_passed_on(gateway: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "openruntime.gateway.app"):
        answer = await gateway.client.get("/tasks/none", headers={"traceparent": TRACE})
    assert answer.headers["traceparent"] == TRACE
    assert caplog.records[-1].trace_id == TRACE.split("-")[1]  # type: ignore[attr-defined]
    assert caplog.records[-1].parent_id == TRACE.split("-")[2]  # type: ignore[attr-defined]
    assert "traceparent" not in (await gateway.client.get("/tasks/none", headers={"traceparent": "00-zz"})).headers
    for header, kept in ((TRACE, TRACE), ("00-zz", None)):
        await gateway.client.post("/tasks", json={"operation": "double", "parameters": {"x": [1]}}, headers={"traceparent": header})
        assert gateway.tasks.calls[-1]["traceparent"] == kept


@pytest.mark.parametrize(
    ("header", "valid"),
    [
        (TRACE, True),
        ("01" + TRACE[2:] + "-more", True),
        (TRACE + "-more", False),
        ("ff" + TRACE[2:], False),
        (TRACE.upper(), False),
        ("00-" + "0" * 32 + TRACE[35:], False),
        (TRACE[:36] + "0" * 16 + "-01", False),
        ("01" + TRACE[2:] + "-" + "x" * 300, False),
        ("", False),
    ],
)
def test_trace_contexts(header: str, valid: bool) -> None:
    found = trace.checked(header)
    assert trace.ids(found) == ({"trace_id": TRACE[3:35], "parent_id": TRACE[36:52]} if valid else {})
    assert (found or "")[2:] == (TRACE[2:] if valid else "")


async def test_complex_arrays_can_be_split(gateway: Any, problem: Any) -> None:
    body = b"".join(safetensors.encode({"x": COMPLEX}, {"task": '{"operation": "double"}'}, split=True))
    headers = {"Content-Type": "application/x-safetensors", "Prefer": "wait=5"} | SPLIT
    answer = await gateway.client.post("/tasks", content=body, headers=headers)
    assert gateway.tasks.calls[0]["arrays"]["x"].dtype == "complex64"
    assert b'"complex":"output"' in answer.content
    assert b'"F32","shape":[1,2]' in answer.content
    arrays, _ = safetensors.decode(answer.content)
    assert (arrays["output"].dtype, bytes(arrays["output"].view)) == ("complex64", COMPLEX.data)
    tensor = await gateway.client.post("/tensors", content=body, headers={"Content-Type": "application/x-safetensors"})
    place = f"/tensors/{tensor.json()['tensors']['x']['id']}"
    assert b'"complex":"tensor"' in (await gateway.client.get(place, headers=SPLIT)).content
    batch = await gateway.client.get("/tasks/batch", params={"ids": next(iter(gateway.tasks.tasks))}, headers=SPLIT)
    assert b'"complex":"0.output"' in batch.content
    odd = {"Accept": "application/x-safetensors; complex=joined"}
    problem(await gateway.client.get(place, headers=odd), 406, "not_acceptable", field="Accept")


async def test_every_success_and_every_parameter_is_shown(gateway: Any) -> None:
    document = (await gateway.client.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert "403" in operation["responses"], where
            assert "500" not in operation["responses"], where
            for status, answer in operation["responses"].items():
                for media, content in answer.get("content", {}).items():
                    if status[0] == "2" and "json" in media:
                        assert "example" in content, (where, status)
            for parameter in operation.get("parameters", ()):
                assert parameter.get("description"), (where, parameter["name"])
            for media, content in operation.get("requestBody", {}).get("content", {}).items():
                assert content["examples"], (where, media)
    assert document["paths"]["/tasks"]["post"]["responses"]["409"]["content"]["application/problem+json"]["example"]["code"] == "conflict"
    assert "410" in document["paths"]["/tensors/{tensor_id}"]["get"]["responses"]
    for path, method in (("/tasks", "post"), ("/tasks/{task_id}/result", "get"), ("/tensors", "post")):
        assert "C128" in document["paths"][path][method]["description"]
