"""`/v1` over real sockets, before models small enough to read: what OpenAI's client sends, and what it is answered."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from openruntime.contracts.ai import Delta, ModelSpec, Tokens
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Call, Estimate, Principal, Task
from openruntime.gateway import openai as gateway_openai
from openruntime.gateway.openai_answers import Chunks
from openruntime.security.tokens import TokenIssuer
from tests.unit.gateway.small_models import CHAT, check_refusal, said


@pytest.fixture
async def gateway(start: Any) -> Any:
    return await start(own_protocol=True)


@pytest.fixture
async def client(gateway: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="sk-none", max_retries=0, timeout=10) as made:
        yield made


# -- answers ------------------------------------------------------------------------------------------------------------------


async def test_chat(gateway: Any, client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(**said("hello there"), extra_body={"priority": 8, "timeout": 2.5})
    answer = raw.parse()
    assert answer.choices[0].message.content == "hello there "
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "echo:2"
    assert answer.system_fingerprint == "fp_" + "ab" * 6
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 2, 5)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 1
    assert raw.headers["x-task-id"] in gateway.tasks.tasks
    assert answer.id == f"chatcmpl-{raw.headers['x-task-id']}"
    assert (gateway.models.asked[0]["priority"], gateway.models.asked[0]["timeout"]) == (8, 2.5)


async def test_chat_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(**said("hello there"), stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "hello there "
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 5
    assert len({chunk.id for chunk in chunks}) == 1


async def test_each_piece_leaves_at_once(gateway: Any, client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(**said("one two"), stream=True)
    seen = [(await anext(stream)).choices[0].delta.content for _ in range(2)]
    assert seen == ["", "one "]
    gateway.models.go_on.set()
    assert [chunk.choices[0].delta.content async for chunk in stream] == ["two ", None]


async def test_events_are_as_they_stand_on_the_wire(gateway: Any) -> None:
    async with gateway.client.stream("POST", CHAT, json=said('he said "hi"\n\u2028\x1f', stream=True)) as answer:
        lines = (await answer.aread()).split(b"\n")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert all(line.startswith(b"data: ") for line in lines[:-1:2])
    assert not any(lines[1::2])
    assert lines[-3] == b"data: [DONE]"
    found = [json.loads(line[6:]) for line in lines[:-3:2]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in found) == 'he said "hi"\n\u2028\x1f '
    assert all("usage" not in chunk for chunk in found)


async def test_completion(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="echo:1", prompt="once upon", max_tokens=5)
    assert (answer.choices[0].text, answer.choices[0].finish_reason, answer.model) == ("once upon ", "stop", "echo:1")
    assert answer.id.startswith("cmpl-")
    stream = await client.completions.create(model="echo:1", prompt=["once upon"], stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "once upon "
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_embeddings(gateway: Any, client: openai.AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="vectors", input=["a", "bcd"])  # in base64, as the client asks by itself
    assert [item.embedding for item in answer.data] == [[0.5, -0.25, 1.0], [0.5, -0.25, 3.0]]
    assert answer.usage.prompt_tokens == 2
    plain = await client.embeddings.create(model="vectors", input="a", encoding_format="float")
    assert plain.data[0].embedding == [0.5, -0.25, 1.0]
    coded = (await gateway.client.post("/v1/embeddings", json={"model": "vectors", "input": "a", "encoding_format": "base64"})).json()
    assert struct.unpack("<3f", base64.b64decode(coded["data"][0]["embedding"])) == (0.5, -0.25, 1.0)


async def test_tool_calls(client: openai.AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
    one = await client.chat.completions.create(**said("call"), tools=[tool], parallel_tool_calls=False)
    assert [call.id for call in one.choices[0].message.tool_calls or []] == ["call_1"]
    answer = await client.chat.completions.create(**said("call"), tools=[tool])
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert [call.id for call in message.tool_calls or []] == ["call_1", "call_2"]
    back = [*said("add")["messages"], message.model_dump(), {"role": "tool", "tool_call_id": "call_1", "content": "2"}]
    assert (await client.chat.completions.create(model="echo", messages=back)).choices[0].message.content == "2 "


def test_tool_calls_in_pieces() -> None:
    task = Task("t", Call("echo:1", 1, {}, {}, Estimate()), "local", "io/echo:1", 5, 1.0, 0.0)
    chunks = Chunks(task, ModelSpec(name="echo", adapter="small"), chat=True, with_usage=True)
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}}
    made = (
        chunks.start() + chunks.piece(Delta(tool_calls=[call])) + chunks.piece(Delta("so ", finish="tool_calls", usage=Tokens(4, 6))) + chunks.end()
    )
    events = [json.loads(event[6:]) for event in made.decode().split("\n\n")[:-2]]
    assert [event["choices"][0]["delta"] for event in events[:-1]] == [
        {"role": "assistant", "content": ""}, {"tool_calls": [call]}, {"content": "so "}, {}
    ]  # fmt: skip
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert all(event["usage"] is None for event in events[:-1])
    assert events[-1]["usage"]["total_tokens"] == 10
    assert made.endswith(b"data: [DONE]\n\n")


async def test_models(client: openai.AsyncOpenAI) -> None:
    found = {model.id: model async for model in client.models.list()}
    assert list(found) == ["echo", "echo:1", "production", "vectors"]
    assert (await client.models.retrieve("production")).model_dump()["version"] == "1"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("gpt-9")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


# -- what is asked ------------------------------------------------------------------------------------------------------------


async def test_what_the_model_is_told(gateway: Any, client: openai.AsyncOpenAI) -> None:
    messages: Any = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
    ]
    schema: Any = {
        "type": "json_schema",
        "json_schema": {"name": "n", "strict": True, "schema": {"type": "object", "properties": {"a": {"type": "number"}}}},
    }
    await client.chat.completions.create(
        model="echo", messages=messages, max_completion_tokens=7, temperature=0, top_p=1, seed=3, stop="END", presence_penalty=0.5,
        frequency_penalty=-0.5, response_format=schema, n=1, user="u", metadata={"a": "b"}, store=True, logprobs=False, service_tier="auto",
        modalities=["text"], prompt_cache_key="k", safety_identifier="s", logit_bias={},
        extra_headers={"X-Priority": "9", "Cache-Control": "no-store"},
    )  # fmt: skip
    asked = gateway.models.asked[0]
    told = asked["request"]
    assert told.messages == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one\ntwo", "name": "ann"}]
    assert (told.max_tokens, told.temperature, told.top_p, told.seed, told.stop) == (7, 0, 1, 3, ["END"])
    assert (told.presence_penalty, told.frequency_penalty, told.response_format) == (0.5, -0.5, schema)
    assert (asked["priority"], asked["cache"], asked["model"]) == (9, "no-store", "echo:2")


async def test_without_a_model_the_default_answers(gateway: Any) -> None:
    answer = await gateway.client.post(CHAT, json={"messages": [{"role": "user", "content": "x"}]})
    assert answer.json()["model"] == "echo:2"


async def test_refusals_before_the_body_is_looked_at(gateway: Any, start: Any) -> None:
    post = gateway.client.post
    check_refusal(await post(CHAT, content=b"x", headers={"content-type": "text/plain"}), 415, "unsupported_media_type", "Content-Type")
    check_refusal(await post(CHAT, json=said("x"), headers={"content-encoding": "gzip"}), 415, "unsupported_media_type", "Content-Encoding")
    check_refusal(await post(CHAT, json=said("x"), headers={"x-priority": "high"}), 400, "invalid_request", "X-Priority")
    check_refusal(await post(CHAT, json=said("x" * (33 << 20))), 413, "payload_too_large")
    small = await start(body_bytes=1000, hosts=frozenset({"127.0.0.1"}))
    check_refusal(await small.client.get("/v1/models", headers={"host": "evil.example"}), 403, "forbidden", "Host")


async def test_no_such_path_or_method(gateway: Any, start: Any) -> None:
    check_refusal(await gateway.client.get("/v1/assistants"), 404, "unknown_url")
    check_refusal(await gateway.client.post("/v1/responses", json={}), 404, "unknown_url")
    answer = await gateway.client.get(CHAT)
    check_refusal(answer, 405, "method_not_supported")
    assert "POST" in answer.headers["allow"]
    check_refusal(await gateway.client.delete("/v1/models/echo"), 405, "method_not_supported")
    assert (await gateway.client.head("/v1/models")).status_code == 200
    assert (await gateway.client.get("/v1beta")).headers["content-type"] == "application/problem+json"
    below = await start(root_path="/api")
    assert (await below.client.get("/v1/models")).json()["object"] == "list"
    assert (await below.client.post(CHAT, json=said("x"))).json()["model"] == "echo:2"
    check_refusal(await below.client.get("/v1/models/gpt"), 404, "model_not_found", "model")
    check_refusal(await below.client.get("/v1/assistants"), 404, "unknown_url")


async def test_tokens_of_this_server_bound_what_an_agent_may_ask(gateway: Any) -> None:
    issuer = TokenIssuer(lambda: b"secret")  # the gateway's

    def bearer(*scopes: str, seconds: float = 60) -> dict[str, str]:
        return {"authorization": f"Bearer {issuer.issue(Principal('agent', 'local', frozenset(scopes)), seconds=seconds)}"}

    post = gateway.client.post
    assert (await post(CHAT, json=said("x"), headers=bearer("tasks:write"))).status_code == 200
    assert gateway.models.asked[-1]["principal"].id == "agent"
    check_refusal(await post(CHAT, json=said("x"), headers=bearer("tasks:read")), 403, "forbidden", "tasks:write")
    check_refusal(await post(CHAT, json=said("x"), headers=bearer("tasks:write", seconds=-1)), 401, "invalid_api_key", "Authorization", "expired")
    assert (await gateway.client.get("/v1/models", headers=bearer("tasks:read"))).status_code == 200


# -- what goes wrong ----------------------------------------------------------------------------------------------------------


async def test_refused_and_failed(gateway: Any, client: openai.AsyncOpenAI) -> None:
    post = gateway.client.post
    check_refusal(await post(CHAT, json=said("x", model="gpt-9")), 404, "model_not_found", "model")
    full = await post(CHAT, json=said("full"))
    check_refusal(full, 429, "queue_full")
    assert full.headers["retry-after"] == "3"
    closed = await post(CHAT, json=said("closed", stream=True))
    check_refusal(closed, 503, "unavailable")
    assert closed.headers["retry-after"]
    check_refusal(await post(CHAT, json=said("fails")), 500, "operation_failed")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**said("long"), stream=True)  # nothing was said: the refusal has its own status
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


async def test_an_error_in_the_midst_of_a_stream(client: openai.AsyncOpenAI) -> None:
    for how, says in (("breaks", "the engine ended"), ("defect", "its log has the cause")):
        stream = await client.chat.completions.create(**said(how), stream=True)
        assert [(await anext(stream)).choices[0].delta.content for _ in range(2)] == ["", f"{how} "]
        with pytest.raises(openai.APIError, match=says) as caught:
            await anext(stream)
        assert "secret" not in str(caught.value)
        assert caught.value.type == "server_error"


async def test_a_client_that_goes_away_cancels_its_task(gateway: Any) -> None:
    for stream in (True, False):
        with pytest.raises(httpx.ReadTimeout):
            await gateway.client.post(CHAT, json=said("slow", stream=stream), timeout=httpx.Timeout(10, read=0.1))
    async with asyncio.timeout(2):
        while [task.life.status for task in gateway.tasks.tasks.values()] != [TaskStatus.CANCELLED] * 2:
            await asyncio.sleep(0.01)


async def test_a_stream_that_waits_says_so(gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_openai, "ALIVE", 0.05)
    async with gateway.client.stream("POST", CHAT, json=said("one two", stream=True)) as answer:
        lines = answer.aiter_lines()
        seen = [await anext(lines)]
        while not seen[-1].startswith(":"):
            seen.append(await anext(lines))
        gateway.models.go_on.set()
        seen += [line async for line in lines]
    assert ": waiting" in seen
    assert '"two "' in "".join(seen)
    assert seen[-2] == "data: [DONE]"


async def test_who_waits_when_the_device_is_drained_is_told_so(gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_openai, "ALIVE", 0.05)
    asking = asyncio.ensure_future(gateway.client.post(CHAT, json=said("slow")))
    async with gateway.client.stream("POST", CHAT, json=said("slow", stream=True)) as answer:
        lines = answer.aiter_lines()
        while not (await anext(lines)).startswith(":"):
            pass
        gateway.models.drained = True
        rest = [line async for line in lines]
    assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "unavailable"
    refused = await asking
    check_refusal(refused, 503, "unavailable", says="draining")
    assert refused.headers["retry-after"] == "30"
    async with asyncio.timeout(2):
        while [task.life.status for task in gateway.tasks.tasks.values()] != [TaskStatus.CANCELLED] * 2:
            await asyncio.sleep(0.01)


async def test_the_document_has_them(gateway: Any) -> None:
    document = (await gateway.client.get("/openapi.json")).json()
    for path in (CHAT, "/v1/completions", "/v1/embeddings"):
        assert (
            document["paths"][path]["post"]["responses"]["400"]["content"]["application/json"]["example"]["error"]["type"] == "invalid_request_error"
        )
    assert document["components"]["schemas"]["ChatRequest"]["required"] == ["messages"]
