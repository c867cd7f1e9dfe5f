"""What an upstream refuses, clearly told: without its key, what may pass tried again, what cannot said at once."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openruntime.ai.adapters.openai import OpenAIAdapter
from openruntime.contracts.ai import Generation, ModelSpec, Tokens
from openruntime.contracts.errors import ContextTooLong, InvalidParameter, OperationFailed, Unavailable
from tests.models.asking import HI, KEY, adapter, fails
from tests.models.lying_upstream import Exchange, Upstream, upstream


@pytest.fixture
async def server() -> AsyncIterator[Upstream]:
    async with upstream("small", "large") as here:
        yield here


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY)


async def test_what_is_fair_works_and_one_connection_serves_many(server: Upstream) -> None:
    model = adapter(server)
    for _ in range(3):
        answer = await model.complete(HI)
        assert (answer.text, answer.finish, answer.usage, answer.model) == ("Fine.", "stop", Tokens(3, 2), "small")
    await model.close()
    assert server.connections == 1
    asked = server.asked[0]
    assert asked.body == {"model": "small", "messages": HI.messages, "stream": True, "stream_options": {"include_usage": True}}
    assert asked.headers["authorization"] == "Bearer none"  # OPENAI_API_KEY is OpenAI's, and nobody else's


async def test_fields_arrive_as_they_were_asked(server: Upstream) -> None:
    model = adapter(server)
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    fields = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["x"], "frequency_penalty": 0.1, "presence_penalty": 0.2}
    await model.complete(Generation(messages=HI.messages, response_format=shape, tools=tools, tool_choice="auto", **fields))
    await model.close()
    assert {**fields, "response_format": shape, "tools": tools, "tool_choice": "auto"}.items() <= server.asked[0].body.items()


async def test_the_key_of_the_variable_that_was_named_is_sent(server: Upstream, keyed: None) -> None:
    model = adapter(server, api_key_env="THE_KEY")
    await model.complete(HI)
    await model.close()
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"


async def test_without_a_key_the_variable_is_named(server: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THE_KEY", raising=False)
    error = await fails(server, Unavailable, "set the variable THE_KEY", api_key_env="THE_KEY")
    assert not error.retryable
    assert not server.asked
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(Unavailable, match=r"api\.openai\.com/v1 needs a key: set the variable OPENAI_API_KEY"):
        await OpenAIAdapter(ModelSpec(name="gpt", adapter="openai")).complete(HI)


async def test_a_refused_key_is_told_by_its_variable_and_never_shown(server: Upstream, keyed: None, caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(401, {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}})

    server.behave = refuse
    caplog.set_level("DEBUG")
    error = await fails(server, Unavailable, "refused the key in the variable THE_KEY", api_key_env="THE_KEY")
    assert not error.retryable
    assert len(server.asked) == 1
    assert KEY not in caplog.text

    async def mention(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.event({"error": {"message": f"the backend of {KEY} is down"}})

    server.behave = mention
    await fails(server, OperationFailed, "the backend of … is down", api_key_env="THE_KEY")
    assert KEY not in caplog.text


async def test_a_model_that_it_does_not_have(server: Upstream) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(404, {"error": {"message": "no such model", "code": "model_not_found"}})

    server.behave = refuse
    error = await fails(server, Unavailable, "has no model 'small'; it has large, small")
    assert not error.retryable


@pytest.mark.parametrize(
    ("told", "length", "allowed"),
    [
        (
            {
                "message": "This model's maximum context length is 4,096 tokens. However, your messages resulted in 5011 tokens.",
                "code": "context_length_exceeded",
            },
            "5011", "4096",
        ),
        ({"message": "too big", "type": "exceed_context_size_error", "code": 400, "n_prompt_tokens": 900, "n_ctx": 512}, "900", "512"),
        ({"message": "the prompt is 700 tokens long; small can read 256", "code": "context_too_long"}, "700", "256"),
    ],
)  # fmt: skip
async def test_a_context_too_long(server: Upstream, told: Any, length: str, allowed: str) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(400, {"error": told})

    server.behave = refuse
    error = await fails(server, ContextTooLong, f"{length} tokens long")
    assert allowed in error.message


async def test_a_refused_field_is_named(server: Upstream) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(400, {"error": {"message": "seed is not supported", "param": "seed"}})

    server.behave = refuse
    assert (await fails(server, InvalidParameter, "seed is not supported")).field == "seed"


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_what_may_pass_is_tried_again(server: Upstream, status: int) -> None:
    fair, times = server.behave, []

    async def behave(exchange: Exchange) -> None:
        times.append(time.monotonic())
        if len(times) < 3:
            await exchange.answer(status, {"error": {"message": "busy"}}, **({"Retry_After": "0.3"} if status == 429 else {}))
        else:
            await fair(exchange)

    server.behave = behave
    model = adapter(server)
    assert (await model.complete(HI)).text == "Fine."
    await model.close()
    assert len(times) == 3
    assert all(later - earlier > (0.29 if status == 429 else 0.15) for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize("status", [429, 500])
async def test_what_does_not_pass_ends(server: Upstream, status: int) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(status, {"error": {"message": "come back later"}})

    server.behave = behave
    error = await fails(server, Unavailable, rf"HTTP {status}\): come back later")
    assert error.retryable
    assert len(server.asked) == 3


async def _drops(exchange: Exchange) -> None:
    await exchange.begin()
    exchange.drop()


async def _fails_in_an_event(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    await exchange.event({"error": {"message": "out of memory"}})
    await exchange.end()


@pytest.mark.parametrize("fails_so", [_drops, _fails_in_an_event])
async def test_what_goes_wrong_before_the_first_piece_is_tried_again(server: Upstream, fails_so: Any) -> None:
    fair = server.behave

    async def behave(exchange: Exchange) -> None:
        await (fails_so if len(server.asked) < 3 else fair)(exchange)

    server.behave = behave
    model = adapter(server)
    assert (await model.complete(HI)).text == "Fine."
    assert len(server.asked) == 3
    server.asked.clear()
    server.behave = fails_so
    with pytest.raises(OperationFailed, match=r"broke off|out of memory"):
        await model.complete(HI)
    assert len(server.asked) == 3
    await model.close()


async def test_what_goes_wrong_after_the_first_piece_is_not_tried_again(server: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.say("So")
        await asyncio.sleep(0.05)
        exchange.drop()

    server.behave = behave
    await fails(server, OperationFailed, "broke off")
    assert len(server.asked) == 1


async def test_vectors_that_break_off_are_asked_for_again(server: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        if len(server.asked) < 2:
            await exchange.raw(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"data": [')
            exchange.drop()
        else:
            await exchange.answer(200, {"data": [{"embedding": [1.0], "index": 0}]})

    server.behave = behave
    model = OpenAIAdapter(ModelSpec(name="remote", adapter="openai", kind="embedding", source=server.url))
    assert (await model.embed(["a"])).vectors == [[1.0]]
    assert len(server.asked) == 2
    await model.close()


async def test_a_long_wait_is_left_to_the_caller(server: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(429, {"error": {"message": "slow down"}}, Retry_After="3600")

    server.behave = behave
    assert (await fails(server, Unavailable, "slow down")).retry_after == 3600
    assert len(server.asked) == 1


async def test_an_empty_purse_is_not_tried_again(server: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}})

    server.behave = behave
    await fails(server, Unavailable, "exceeded your current quota")
    assert len(server.asked) == 1


async def test_nobody_there(server: Upstream) -> None:
    gone = Upstream("http://127.0.0.1:9/v1", [])
    await fails(gone, Unavailable, "cannot be reached")


async def test_calls_of_tools_come_in_pieces(server: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        for call in (
            {"index": 0, "id": "call_a", "type": "function", "function": {"name": "f", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"x":'}},
            {"index": 1, "id": "call_b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            {"index": 0, "function": {"arguments": " 1}"}},
        ):
            await exchange.event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})
        await exchange.finish("tool_calls", {"prompt_tokens": 9, "completion_tokens": 8})

    server.behave = behave
    model = adapter(server)
    tools = [{"type": "function", "function": {"name": name}} for name in "fg"]
    asked = Generation(messages=HI.messages, tools=tools, tool_choice="required")
    answer = await model.complete(asked)
    pieces = [delta async for delta in model.stream(asked)]
    await model.close()
    assert (answer.text, answer.finish) == ("", "tool_calls")
    assert answer.tool_calls == [
        {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "call_b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert [call["index"] for delta in pieces for call in delta.tool_calls] == [0, 0, 1, 0]
    assert server.asked[0].body["tool_choice"] == "required"
