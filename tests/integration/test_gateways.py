"""Several gateways on one Redis: real servers, a real Redis that fsyncs every write."""

import io
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.sync.client import connect

from benchmarks.redis_server import RedisServer, redis_server
from benchmarks.servers import Server

SLOW = {"operation": "monte_carlo_pi", "parameters": {"samples": 10**11, "seed": 1}}
TINY = {"operation": "sum", "parameters": {"x": [1.0, 2.0]}}


http = httpx.Client(timeout=60)


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    http.close()


class Gateways:
    """Redis, and servers that share it; `a` and `b` are there from the start."""

    def __init__(self, redis: RedisServer, start: Callable[..., Any], folder: Path, stack: ExitStack) -> None:
        self.redis = redis
        self._start = start
        self._folder = folder
        self._stack = stack
        self.a, self.b = self.start(), self.start()

    def start(self) -> Server:
        settings = {"OPENRUNTIME_SLOTS": "1"}
        server: Server = self._stack.enter_context(self._start(store=self.redis.url, data_dir=self._folder, environment=settings))
        return server


@pytest.fixture(scope="module")
def gateways(start_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    folder = tmp_path_factory.mktemp("gateways")
    with redis_server(folder / "redis") as redis, ExitStack() as stack:
        yield Gateways(redis, start_server, folder / "data", stack)


def submit(server: Server, body: dict[str, Any], **headers: str) -> str:
    answer = http.post(f"{server.url}/tasks", json=body, headers=headers, timeout=20)
    assert answer.status_code == 202, answer.text
    task: str = answer.json()["task_id"]
    return task


def ended(server: Server, task: str, seconds: float = 30.0) -> dict[str, Any]:
    answer = http.get(f"{server.url}/tasks/{task}", params={"wait": seconds}, timeout=seconds + 10)
    assert answer.status_code == 200, answer.text
    record: dict[str, Any] = answer.json()
    return record


def until(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + seconds, f"not within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - start


def running(server: Server, task: str) -> bool:
    return bool(http.get(f"{server.url}/tasks/{task}").json()["status"] == "running")


def test_any_gateway_answers_for_any_task(gateways: Gateways) -> None:
    a, b = gateways.a, gateways.b
    with connect(f"ws://127.0.0.1:{b.port}/ws") as socket:
        socket.send(json.dumps({"subscribe": ["tasks"]}))
        cursor = json.loads(socket.recv(5))["seq"]
        tasks = [submit(a, {**TINY, "parameters": {"x": [1.0, n]}}, **{"Idempotency-Key": f"key-{n}"}) for n in range(20)]
        for n, task in enumerate(tasks):
            record = ended(b, task)
            assert (record["status"], record["result"]) == ("completed", {"output": 1.0 + n})
            assert submit(b, {**TINY, "parameters": {"x": [1.0, n]}}, **{"Idempotency-Key": f"key-{n}"}) == task
        conflict = http.post(f"{b.url}/tasks", json=TINY, headers={"Idempotency-Key": "key-5"})
        assert (conflict.status_code, conflict.json()["code"]) == (409, "conflict")
        listed = http.get(f"{b.url}/tasks", params={"limit": 7}).json()
        assert [task["task_id"] for task in listed["tasks"]] == tasks[:-8:-1]
        told: dict[str, list[str]] = {task: [] for task in tasks}
        numbers = []
        while sum(map(len, told.values())) < 60:
            event = json.loads(socket.recv(5))
            numbers.append(event["seq"])
            told[event["data"]["task_id"]].append(event["type"])
        assert all(sorted(kinds) == ["task.completed", "task.queued", "task.started"] for kinds in told.values())
        assert numbers == sorted(set(numbers))
    with connect(f"ws://127.0.0.1:{a.port}/ws") as socket:  # the cursor of one gateway is good at another
        socket.send(json.dumps({"subscribe": ["tasks"], "after": cursor}))
        assert json.loads(socket.recv(5))["type"] == "subscribed"
        assert [json.loads(socket.recv(5))["seq"] for _ in range(60)] == numbers


def test_a_batch_sent_again_to_another_gateway_is_the_same_tasks(gateways: Gateways) -> None:
    many = {"tasks": [{**TINY, "parameters": {"x": [2.0, n]}} for n in range(5)]}
    first, again = (
        http.post(f"{gateway.url}/tasks/batch", json=many, headers={"Idempotency-Key": "many"}).json()["tasks"]
        for gateway in (gateways.a, gateways.b)
    )
    assert [task["task_id"] for task in first] == [task["task_id"] for task in again]
    assert ended(gateways.b, first[4]["task_id"])["result"] == {"output": 6.0}


def test_large_arrays_results_and_tensors_are_shared(gateways: Gateways) -> None:
    a, b = gateways.a, gateways.b
    body = io.BytesIO()
    np.save(body, np.ones((300, 300)))
    tensor = http.post(f"{a.url}/tensors", content=body.getvalue(), headers={"Content-Type": "application/x-npy"})
    assert tensor.status_code == 201, tensor.text
    name = {"tensor": tensor.json()["id"]}
    first = submit(b, {"operation": "matmul", "parameters": {"a": name, "b": name}})
    second = submit(b, {"operation": "sum", "parameters": {"x": {"task": first}}})
    assert ended(a, second)["result"] == {"output": 300.0**3}


def test_a_task_is_cancelled_wherever_it_runs(gateways: Gateways) -> None:
    a, b = gateways.a, gateways.b
    tasks = [submit(a, {**SLOW, "parameters": {"samples": 10**11, "seed": n}}) for n in range(4)]  # two run, two wait
    until(lambda: sum(running(a, task) for task in tasks) == 2)
    until(lambda: sum(running(b, task) for task in tasks) == 2)
    for task in tasks:
        assert http.delete(f"{b.url}/tasks/{task}").status_code == 200
    took = time.monotonic()
    assert [ended(a, task, 10)["status"] for task in tasks] == ["cancelled"] * 4
    assert time.monotonic() - took < 5
    assert ended(b, submit(a, TINY))["status"] == "completed"


def test_a_cancel_that_meets_a_claim_is_not_forgotten(gateways: Gateways) -> None:
    a, b = gateways.a, gateways.b
    for n in range(20):
        task = submit(a, {**SLOW, "parameters": {"samples": 10**11, "seed": 100 + n}})
        assert http.delete(f"{(a, b)[n % 2].url}/tasks/{task}").status_code == 200
        assert ended(b, task, 10)["status"] == "cancelled"


def test_what_a_killed_gateway_held_ends_at_the_others_within_seconds(gateways: Gateways) -> None:
    b, c = gateways.b, gateways.start()
    slow = [submit(c, {"operation": "monte_carlo_pi", "parameters": {"samples": 10**11, "seed": n}, "timeout": 60}) for n in range(3)]
    until(lambda: sum(running(b, task) for task in slow) == 3)  # one on each
    tiny = [submit(c, TINY) for _ in range(50)]
    chained = submit(c, {"operation": "sum", "parameters": {"x": {"task": tiny[49]}}})
    c.kill()
    mine = [task for task in slow if http.get(f"{b.url}/tasks/{task}").json()["attempt"] == 1]
    assert mine == slow
    for task in slow[:2]:
        http.delete(f"{b.url}/tasks/{task}")  # whichever runs where: those that go on make room
    until(lambda: sum(ended(b, task, 0)["status"] == "cancelled" for task in slow[:2]) == 2)
    records = [ended(b, task, 30) for task in [*tiny, chained]]
    assert [record["status"] for record in records] == ["completed"] * 51
    assert max(record["attempt"] for record in records) <= 2
    http.delete(f"{b.url}/tasks/{slow[2]}")
    assert ended(b, slow[2], 20)["status"] == "cancelled"


def test_redis_restarts_and_nothing_acknowledged_is_lost(gateways: Gateways) -> None:
    a, b = gateways.a, gateways.b
    accepted: list[str] = []
    refused = 0
    for n in range(60):
        if n in (20, 40):
            gateways.redis.kill()
        if n in (21, 41):
            assert http.get(f"{b.url}/health/ready").status_code == 503
            gateways.redis.start()
        server = (a, b)[n % 2]
        answer = http.post(f"{server.url}/tasks", json=TINY, headers={"Idempotency-Key": str(n)})
        if answer.status_code == 202:
            accepted.append(answer.json()["task_id"])
        else:
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert "retry-after" in answer.headers
            refused += 1
    assert refused == 2
    assert all(ended(b, task)["status"] == "completed" for task in accepted)


def test_a_full_redis_refuses_and_loses_nothing(gateways: Gateways) -> None:
    a = gateways.a
    task = submit(a, TINY)
    gateways.redis.ask("CONFIG", "SET", "maxmemory", "1")
    answer = http.post(f"{a.url}/tasks", json=TINY)
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert "retry-after" in answer.headers
    assert ended(a, task)["status"] == "completed"
    gateways.redis.ask("CONFIG", "SET", "maxmemory", "0")
    assert ended(a, submit(a, TINY))["status"] == "completed"


def test_a_redis_that_refuses_writes_loses_nothing(gateways: Gateways) -> None:
    a, redis = gateways.a, gateways.redis
    task = submit(a, TINY)
    ended(a, task)
    redis.ask("REPLICAOF", "127.0.0.1", "1")  # a replica takes no writes
    answer = http.post(f"{a.url}/tasks", json=TINY)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "retry-after" in answer.headers
    redis.ask("REPLICAOF", "NO", "ONE")
    until(lambda: http.get(f"{a.url}/health/ready").status_code == 200)
    assert ended(a, submit(a, TINY))["status"] == "completed"
    with redis.unable_to_save():  # MISCONF: the last snapshot failed, so writes are refused
        answer = http.post(f"{a.url}/tasks", json=TINY)
        assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
        assert ended(a, task)["status"] == "completed"
    assert ended(a, submit(a, TINY))["status"] == "completed"


def test_a_slow_redis_is_waited_for(gateways: Gateways) -> None:
    a, b = gateways.a, gateways.b
    slow = submit(a, SLOW)
    until(lambda: running(b, slow))
    gateways.redis.signal(signal.SIGSTOP)
    time.sleep(3)
    gateways.redis.signal(signal.SIGCONT)
    assert ended(a, submit(b, TINY))["status"] == "completed"
    time.sleep(2.5)  # longer than a lease
    record = ended(b, slow, 0)
    assert (record["status"], record["attempt"]) == ("running", 1)  # a pause of Redis is nobody's death
    http.delete(f"{b.url}/tasks/{slow}")
    assert ended(a, slow)["status"] == "cancelled"


def test_a_kernel_registered_at_one_gateway_runs_at_all(gateways: Gateways) -> None:
    pytest.importorskip("pyopencl", reason="the extra opencl is not installed")
    kernel = {
        "name": "double_it", "language": "opencl", "grid": ["n"],
        "source": "__kernel void double_it(__global const float *x, __global float *y) { int i = get_global_id(0); y[i] = 2 * x[i]; }",
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["n"]}], "outputs": [{"name": "y", "dtype": "float32", "shape": ["n"]}],
    }  # fmt: skip
    assert http.post(f"{gateways.a.url}/kernels", json=kernel).status_code == 201
    until = time.monotonic() + 10
    while not http.get(f"{gateways.b.url}/kernels").json()["kernels"]:
        assert time.monotonic() < until
        time.sleep(0.1)
    http.get(f"{gateways.b.url}/devices")  # waits until backends have told what they drive
    task = submit(gateways.b, {"operation": "double_it", "parameters": {"x": [1, 2]}})
    assert http.get(f"{gateways.b.url}/tasks/{task}?wait=30").json()["result"] == {"y": [2.0, 4.0]}
    assert http.delete(f"{gateways.b.url}/kernels/double_it").status_code == 204
    while http.get(f"{gateways.a.url}/kernels").json()["kernels"]:
        assert time.monotonic() < until + 10
        time.sleep(0.1)
