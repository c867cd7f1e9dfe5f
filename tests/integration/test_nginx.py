"""`deploy/nginx.conf` under a real nginx, before real gateways."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from socket import create_connection
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as websocket

import openruntime
from benchmarks import nginx
from benchmarks.load import SAFETENSORS, Connection, request
from benchmarks.servers import Server, free_port
from benchmarks.works import SIDE, body_b, output

TINY = {"operation": "sum", "parameters": {"x": [1.0, 2.0]}}
SLOW = {"operation": "monte_carlo_pi", "parameters": {"samples": 10**11, "seed": 1}}

Start = Callable[..., AbstractContextManager[Server]]

pytestmark = pytest.mark.skipif(nginx.program() is None, reason="nginx is not installed")


class Front(NamedTuple):
    port: int
    server: Server
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> list[str]:
        time.sleep(1.2)  # nginx writes it once a second
        return (self.folder / "access.log").read_text().splitlines()


@pytest.fixture(scope="module")
def front(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """One gateway, and two addresses where nobody listens."""
    folder = tmp_path_factory.mktemp("nginx")
    with nginx.running(folder, [free_port(), server.port, free_port()]) as port:
        yield Front(port, server, folder)


def until(look: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What `look` finds once it finds something."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def test_the_sdk_works_through_it(front: Front) -> None:
    a = np.arange(12.0).reshape(3, 4)
    with openruntime.connect(front.url) as runtime:
        np.testing.assert_allclose(runtime.matmul(a, a.T), a @ a.T)
        futures = [runtime.submit("sum", a + n) for n in range(50)]
        assert [float(future.result(30)) for future in futures] == [float((a + n).sum()) for n in range(50)]


def test_events_come_through_a_websocket(front: Front) -> None:
    with websocket(f"ws://127.0.0.1:{front.port}/ws") as socket:
        socket.send(json.dumps({"subscribe": ["tasks"]}))
        assert json.loads(socket.recv(5))["type"] == "subscribed"
        task = httpx.post(f"{front.url}/tasks", json=TINY, headers={"Cache-Control": "no-store"}).json()["task_id"]
        seen = []
        while "task.completed" not in seen:
            event = json.loads(socket.recv(10))
            seen += [event["type"]] if event["data"].get("task_id") == task else []
        assert seen[0] == "task.queued"


def test_large_bodies_are_streamed_both_ways(front: Front) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random((SIDE, SIDE), dtype=np.float32) for _ in range(2))
    headers = {"Content-Type": SAFETENSORS, "Accept": SAFETENSORS, "Prefer": "wait=30"}
    with Connection(front.port) as connection:
        got = connection.ask(request("POST", "/tasks", body_b(a, b), headers))
    np.testing.assert_allclose(output(got), a @ b, rtol=1e-4)
    assert [path for name in ("client_body", "proxy") for path in (front.folder / name).rglob("*") if path.is_file()] == []


def test_the_gateway_has_a_body_before_its_end_and_says_itself_what_is_too_large(front: Front) -> None:
    """Buffered, nothing would arrive before the last byte was sent."""
    with Connection(front.port) as connection:
        head = f"POST /tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {SAFETENSORS}\r\nContent-Length: {2 << 30}\r\n\r\n"
        connection.send(head.encode() + bytes(1000))
        answer = None
        while answer is None:
            answer = connection.feed()
    assert answer.status == 413
    assert answer.json()["code"] == "payload_too_large"


def test_long_waits_are_waited_for(front: Front) -> None:
    configured = nginx.CONFIGURATION.read_text()
    assert "proxy_read_timeout 75s" in configured
    task = httpx.post(f"{front.url}/tasks", json=SLOW).json()["task_id"]
    began = time.monotonic()
    answer = httpx.get(f"{front.url}/tasks/{task}", params={"wait": 3}, timeout=20)
    assert answer.status_code == 200
    assert time.monotonic() - began >= 2.9
    httpx.delete(f"{front.url}/tasks/{task}").raise_for_status()


def test_request_ids_go_through_and_are_made_where_none_came(front: Front) -> None:
    assert httpx.get(f"{front.url}/health", headers={"X-Request-ID": "mine-1"}).headers["X-Request-ID"] == "mine-1"
    made = httpx.get(f"{front.url}/health").headers["X-Request-ID"]
    assert len(made) == 32
    logged = front.log()
    assert any(line.endswith(" mine-1") for line in logged)
    assert any(line.endswith(f" {made}") for line in logged)


def test_names_are_checked_at_the_front(front: Front) -> None:
    assert httpx.get(f"{front.url}/health", headers={"Host": nginx.NAME}).status_code == 200
    assert httpx.get(f"{front.url}/health", headers={"Host": "evil.example"}).status_code == 421
    with pytest.raises(InvalidStatus, match="421"), closing(create_connection(("127.0.0.1", front.port))) as raw:
        websocket("ws://evil.example/ws", sock=raw)


def test_a_client_that_goes_away_is_seen_by_the_gateway(front: Front) -> None:
    with Connection(front.port) as connection:
        body = json.dumps({**SLOW, "cancel_on_disconnect": True}).encode()
        connection.send(request("POST", "/tasks", body, {"Content-Type": "application/json", "Prefer": "wait=60"}))
        task = until(lambda: httpx.get(f"{front.url}/tasks", params={"status": "running"}).json()["tasks"])[0]["task_id"]
    until(lambda: httpx.get(f"{front.url}/tasks/{task}").json()["status"] == "cancelled")


def test_no_gateway_at_all_is_a_problem_that_says_so(tmp_path: Path) -> None:
    with nginx.running(tmp_path, [free_port(), free_port()]) as port:
        answer = httpx.post(f"http://127.0.0.1:{port}/tasks", json=TINY, headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.json()["code"], answer.json()["request_id"]) == (502, "unavailable", "mine")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Retry-After"] == "1"
