"""Bad input through a real server: the right code, a sentence that names the field, and the server and its other tasks unharmed."""

import io
import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import numpy as np
import pytest

from openruntime.contracts import npy, safetensors
from openruntime.contracts.payload import Array

WAIT = {"Prefer": "wait=20"}
SAFETENSORS = {"Content-Type": "application/x-safetensors"}
NPY = {"Content-Type": "application/x-npy"}
DEEP = b'{"operation":"sum","parameters":{"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}}"


@pytest.fixture
def client(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as found:
        yield found
        # whatever a test sent, the server computes on
        answer = found.post("/tasks", json={"operation": "sum", "parameters": {"x": [1, 2, 3]}}, headers=WAIT)
        assert answer.json()["result"] == {"output": 6}, answer.text
        assert server.process.poll() is None


def refused(answer: httpx.Response, status: int, code: str, field: str | None = None) -> str:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    found = answer.json()
    assert found["code"] == code, found
    assert found["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    if field is not None:
        assert found.get("field") == field, found
        assert field in found["detail"], found
    detail: str = found["detail"]
    return detail


def submit(client: httpx.Client, operation: str, wait: bool = True, **parameters: Any) -> httpx.Response:
    return client.post("/tasks", json={"operation": operation, "parameters": parameters}, headers=WAIT if wait else None)


def packed(operation: str, arrays: dict[str, Any], **parameters: Any) -> bytes:
    found = {name: Array(x.dtype.name, x.shape, x.tobytes()) for name, x in arrays.items()}
    return b"".join(safetensors.encode(found, {"task": json.dumps({"operation": operation, "parameters": parameters})}))


def test_unknown_operation_offers_the_nearest(client: httpx.Client) -> None:
    assert "matmul" in refused(submit(client, "matmull"), 422, "unknown_operation", "operation")


@pytest.mark.parametrize(
    ("operation", "parameters", "field"),
    [
        ("matmul", {"a": [[1.0]]}, "b"),
        ("matmul", {"a": [[1.0]], "b": [[1.0]], "c": 1}, "c"),
        ("matmul", {"a": [[1.0, 2.0]], "b": [[1.0, 2.0]]}, "b"),
        ("matmul", {"a": "text", "b": [[1.0]]}, "a"),
        ("matmul", {"a": [[1.0], [1.0, 2.0]], "b": [[1.0]]}, "a"),
        ("matmul", {"a": None, "b": [[1.0]]}, "a"),
        ("matmul", {"a": {"tensor": 7}, "b": [[1.0]]}, "a"),
        ("kmeans", {"x": [[1.0], [2.0]], "k": 0, "seed": 1}, "k"),
        ("kmeans", {"x": [[1.0], [2.0]], "k": 2.5, "seed": 1}, "k"),
        ("kmeans", {"x": [[1.0], [2.0]], "k": "two", "seed": 1}, "k"),
        ("uniform", {"shape": [-1], "seed": 1}, "shape"),
        ("expression", {"formula": "__import__('os')", "x": [1.0]}, "formula"),
        ("expression", {"formula": "x +", "x": [1.0]}, "formula"),
        ("max", {"x": {"real": [1.0], "imag": [0.0]}}, "x"),
        ("max", {"x": []}, "x"),
    ],
)
def test_parameters_are_named(client: httpx.Client, operation: str, parameters: dict[str, Any], field: str) -> None:
    refused(submit(client, operation, wait=False, **parameters), 422, "invalid_parameter", field)


def test_not_a_number_is_a_value(client: httpx.Client) -> None:
    assert submit(client, "sum", x=[1.0, "NaN"]).json()["result"] == {"output": "NaN"}
    refused(
        client.post("/tasks", content=b'{"operation":"sum","parameters":{"x":[NaN]}}', headers={"Content-Type": "application/json"}),
        400,
        "invalid_request",
    )


def test_what_needs_the_values_fails_the_task(client: httpx.Client) -> None:
    found = submit(client, "inv", x=[[1.0, 1.0], [1.0, 1.0]])
    assert found.status_code == 200
    assert (found.json()["status"], found.json()["code"]) == ("failed", "operation_failed")
    assert "singular" in found.json()["error"].lower()
    task = client.get(found.headers["location"] + "/result")
    assert task.json()["code"] == "operation_failed"


def test_sizes_that_would_not_fit_are_refused_at_once(client: httpx.Client) -> None:
    began = time.monotonic()
    refused(submit(client, "uniform", shape=[10**7, 10**6], seed=1, wait=False), 413, "out_of_memory")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("priority", [0, 11, "5", 5.5, True, None])
def test_priority(client: httpx.Client, priority: Any) -> None:
    refused(client.post("/tasks", json={"operation": "sum", "parameters": {"x": [1]}, "priority": priority}), 400, "invalid_request", "priority")


def test_unknown_device(client: httpx.Client) -> None:
    request = {"operation": "sum", "parameters": {"x": [1]}, "device_preference": "cuda:7"}
    until = time.monotonic() + 60
    while (answer := client.post("/tasks", json=request)).status_code == 503 and time.monotonic() < until:
        assert answer.headers["retry-after"] == "1"  # a server that was just started asks its backends what they drive
        time.sleep(0.2)
    assert "cpu:0" in refused(answer, 422, "no_such_device")


@pytest.mark.parametrize(
    ("body", "said"), [(b"", "empty"), (b"{", "JSON"), (b"[]", "body"), (DEEP, "deep"), (b"[" * 10_000, "deep"), (b'{"operation":"\xff"}', "UTF-8")]
)
def test_malformed_json(client: httpx.Client, body: bytes, said: str) -> None:
    assert said in refused(client.post("/tasks", content=body, headers={"Content-Type": "application/json"}), 400, "invalid_request")


def test_misspelt_field(client: httpx.Client) -> None:
    assert "priority" in refused(client.post("/tasks", json={"operation": "sum", "prioritty": 3}), 400, "invalid_request", "prioritty")


def test_content_type(client: httpx.Client) -> None:
    refused(client.post("/tasks", content=b"{}", headers={"Content-Type": "text/plain"}), 415, "unsupported_media_type", "Content-Type")
    refused(client.post("/tensors", json={}), 415, "unsupported_media_type", "Content-Type")


def lying(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"abc", None),
        (lying({"x": ENTRY}, b"ab"), "x"),
        (lying({"x": ENTRY}, length=2**63), None),
        (lying({"x": ENTRY | {"shape": [2**40, 2**40]}}, b"abcd"), "x"),
        (lying({"x": ENTRY | {"shape": [-1]}}, b"abcd"), "x"),
        (lying({"x": ENTRY, "y": ENTRY | {"data_offsets": [2, 6]}}, b"abcdef"), "y"),
        (lying(b'{"x":%b,"x":%b}' % ((json.dumps(ENTRY).encode(),) * 2), b"abcd"), "x"),
        (lying({"x": ENTRY | {"dtype": "O"}}, b"abcd"), "x"),
        (lying({"x": ENTRY}, b"abcd"), "task"),
    ],
)
def test_safetensors_that_lie(client: httpx.Client, body: bytes, field: str | None) -> None:
    refused(client.post("/tasks", content=body, headers=SAFETENSORS), 400, "invalid_request", field)


def test_wrong_dtype_as_bytes(client: httpx.Client) -> None:
    body = packed("inv", {"x": np.eye(2, dtype="float16")})
    refused(client.post("/tasks", content=body, headers=SAFETENSORS), 422, "invalid_parameter", "x")


class Boom:
    """What a pickle could do: it would leave a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def test_pickled_objects_are_never_loaded(client: httpx.Client, tmp_path: Any) -> None:
    mark = tmp_path / "executed"
    file = io.BytesIO()
    np.save(file, np.array([Boom(str(mark))], dtype=object), allow_pickle=True)
    assert pickle.dumps(Boom("x"))
    answer = client.post("/tasks", params={"operation": "sum"}, content=file.getvalue(), headers=NPY)
    assert "pickle" in refused(answer, 400, "invalid_request")
    refused(client.post("/tensors", content=file.getvalue(), headers=NPY), 400, "invalid_request")
    assert not mark.exists()


def test_a_result_asked_for_too_early(client: httpx.Client) -> None:
    sent = submit(client, "monte_carlo_pi", wait=False, samples=10**12, seed=1)
    assert sent.status_code == 202, sent.text
    place = sent.headers["location"]
    refused(client.get(place + "/result"), 409, "not_ready")
    assert client.delete(place).status_code == 200
    assert client.get(place, params={"wait": 10}).json()["status"] == "cancelled"
    assert client.get(place + "/result").json()["code"] == "cancelled"


def test_a_format_that_the_result_cannot_have(client: httpx.Client) -> None:
    x = [[2.0, 0.0], [0.0, 1.0]]
    sent = submit(client, "svd", x=x)
    refused(client.get(sent.headers["location"] + "/result", headers={"Accept": "application/x-npy"}), 406, "not_acceptable")
    refused(client.get(sent.headers["location"] + "/result", headers={"Accept": "image/png"}), 406, "not_acceptable", "Accept")


ODD = ["none", "'%20OR%201=1%20--", "%3Cscript%3Ealert(1)%3C%2Fscript%3E", "%00", "%2e%2e", "a" * 3000, "%F0%9F%92%A5", "%2F%2Fetc%2Fpasswd"]


@pytest.mark.parametrize("odd", ODD)
def test_ids_that_do_not_exist(client: httpx.Client, odd: str) -> None:
    for path in (f"/tasks/{odd}", f"/tasks/{odd}/result", f"/tasks/{odd}/explain", f"/tensors/{odd}", f"/devices/{odd}", f"/operations/{odd}"):
        answer = client.get(path)
        refused(answer, 404, "not_found")
        assert answer.headers["x-content-type-options"] == "nosniff"
    refused(client.delete(f"/tasks/{odd}"), 404, "not_found")
    refused(submit(client, "sum", x={"tensor": odd}, wait=False), 422, "invalid_parameter", "x")
    refused(submit(client, "sum", x={"task": odd}, wait=False), 422, "invalid_parameter", "x")
    listed = client.get("/tasks", params={"tag": odd[:100], "operation": odd[:100], "device": odd[:100]})
    assert listed.json() == {"tasks": [], "next": None}


def test_cursors_are_only_text(client: httpx.Client) -> None:
    for path in ("/tasks", "/tensors"):
        assert client.get(path, params={"cursor": "' OR 1=1 --"}).status_code in (200, 400)


def raw(server: Any, *parts: bytes, pause: float = 0.0, close: bool = False) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        if close:
            return b""
        found = b""
        while chunk := connection.recv(65_536):
            found += chunk
        return found


def head(length: int) -> bytes:
    return f"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()


def test_a_body_over_the_limit(client: httpx.Client, server: Any) -> None:
    assert b'"payload_too_large"' in raw(server, head(1 << 50))


@pytest.mark.parametrize("length", [100, 1 << 20, 64 << 20])
def test_a_body_that_is_cut_off(client: httpx.Client, server: Any, length: int) -> None:
    before = client.get("/tasks", params={"limit": 1}).json()["tasks"][:1]
    raw(server, head(length), b"{" * 50, close=True)
    assert client.get("/tasks", params={"limit": 1}).json()["tasks"][:1] == before


StartServer = Callable[..., AbstractContextManager[Any]]


def test_a_body_that_is_too_slow_and_a_result_that_expired(start_server: StartServer) -> None:
    with start_server(store="memory", environment={"OPENRUNTIME_BODY_TIMEOUT": "0.5", "OPENRUNTIME_RESULT_TTL": "1"}) as server:
        for length in (100, 1 << 20):
            assert b'"request_timeout"' in raw(server, head(length), b"{")
        with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
            place = submit(client, "sum", x=[1, 2]).headers["location"] + "/result"
            until = time.monotonic() + 15
            while (answer := client.get(place)).status_code == 200:
                assert time.monotonic() < until
                time.sleep(0.2)
            refused(answer, 410, "expired")


def test_a_tensor_that_expired_is_told_from_one_that_never_was(start_server: StartServer) -> None:
    environment = {"OPENRUNTIME_TENSOR_TTL": "1"}
    with (
        start_server(store="memory", environment=environment) as server,
        httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client,
    ):
        body = b"".join(npy.encode(Array("int8", (1,), b"a")))
        short, long = (client.post(f"/tensors{query}", content=body, headers=NPY).json()["id"] for query in ("", "?ttl=60"))
        assert client.get(f"/tensors/{short}").status_code == 200
        until = time.monotonic() + 15
        while (answer := client.get(f"/tensors/{short}")).status_code == 200:
            assert time.monotonic() < until
            time.sleep(0.2)
        assert "kept for 1 s" in refused(answer, 410, "expired")
        refused(client.delete(f"/tensors/{short}"), 410, "expired")
        assert client.get(f"/tensors/{long}").status_code == 200, "its own time to live is longer"
        used = refused(submit(client, "sum", x={"tensor": short}), 422, "invalid_parameter", field="x")
        assert "has expired" in used
        ahead = f"ffffffff{short[8:]}"
        for never in ("nobody", ahead, short.replace("-7", "-4", 1), short.upper() + "x"):
            refused(client.get(f"/tensors/{never}"), 404, "not_found")


def test_submissions_over_the_bound(start_server: StartServer) -> None:
    with (
        start_server(store="memory", environment={"OPENRUNTIME_QUEUE_BOUND": "5"}) as server,
        httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client,
    ):
        blocking = [submit(client, "monte_carlo_pi", wait=False, samples=10**12, seed=i) for i in range(120)]
        accepted = [answer for answer in blocking if answer.status_code == 202]
        full = [answer for answer in blocking if answer.status_code != 202]
        assert accepted
        for answer in full:
            refused(answer, 429, "queue_full")
            assert int(answer.headers["retry-after"]) >= 1
        assert full
        for answer in accepted:
            assert client.delete(answer.headers["location"]).status_code == 200
        for answer in accepted:
            assert client.get(answer.headers["location"], params={"wait": 20}).json()["status"] == "cancelled"
        assert submit(client, "sum", x=[1, 2, 3]).json()["result"] == {"output": 6}


def test_bad_input_beside_good(client: httpx.Client, server: Any) -> None:
    """Tasks go through while others send rubbish."""
    stop = threading.Event()

    def rubbish() -> None:
        while not stop.is_set():
            for part in (b"\x00\xff" * 500, b"GET / HTTP/9.9\r\n\r\n", head(10) + DEEP[:10], head(1 << 20) + b"[" * 1000):
                raw(server, part, close=True)

    senders = [threading.Thread(target=rubbish) for _ in range(2)]
    for sender in senders:
        sender.start()
    try:
        for i in range(100):
            assert submit(client, "sum", x=[i, 1]).json()["result"] == {"output": i + 1}
    finally:
        stop.set()
        for sender in senders:
            sender.join()
