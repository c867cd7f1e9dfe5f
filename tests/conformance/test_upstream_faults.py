"""An upstream that hangs, speaks rubbish, breaks off, refuses or lies: a clear error in bounded time, never its key, never a negative count."""

import asyncio
import contextlib
import gzip
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openruntime.ai import chunks
from openruntime.ai.adapters.openai import OpenAIAdapter
from openruntime.contracts.ai import Generation, ModelSpec, Tokens
from openruntime.contracts.errors import ContextTooLong, InvalidParameter, OpenRuntimeError, OperationFailed, Unavailable
from tests.models.upstream import Exchange, Upstream, upstream

KEY = "sk-very-secret-0123456789"
HI = Generation(messages=[{"role": "user", "content": "Hi"}])


@pytest.fixture
async def server() -> AsyncIterator[Upstream]:
    async with upstream("small", "large") as here:
        yield here


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY)


def adapter(server: Upstream, **options: Any) -> OpenAIAdapter:
    return OpenAIAdapter(ModelSpec(name="remote", adapter="openai", source=server.url, upstream="small", options={"timeout": 0.4, **options}))


async def fails(server: Upstream, kind: type[OpenRuntimeError], match: str, within: float = 2.0, **options: Any) -> OpenRuntimeError:
    model = adapter(server, **options)
    try:
        async with asyncio.timeout(within):
            with pytest.raises(kind, match=match) as caught:
                await model.complete(HI)
    finally:
        await model.close()
    assert type(caught.value) is kind
    assert KEY not in f"{caught.value!r} {caught.value.message}"
    return caught.value


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


async def _hang(exchange: Exchange) -> None:
    await exchange.gone()


async def _hang_in_the_answer(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.say("So")
    await exchange.gone()


async def _ping(exchange: Exchange) -> None:
    await exchange.begin()
    while True:
        await exchange.piece(b": ping\n\n")
        await asyncio.sleep(0.05)


async def _trickle(exchange: Exchange) -> None:
    await exchange.begin()
    while True:
        await exchange.piece(b"x")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(("behave", "match"), [(_hang, "did not answer"), (_hang_in_the_answer, "said nothing"), (_ping, "said nothing"),
                                               (_trickle, "said nothing")])  # fmt: skip
async def test_one_that_hangs(server: Upstream, behave: Any, match: str) -> None:
    server.behave = behave
    begun = time.monotonic()
    await fails(server, Unavailable, match, within=7)
    assert time.monotonic() - begun < (6 if behave is _hang else 1)
    assert len(server.asked) == 1


def _sends(*data: bytes) -> Any:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        for each in data:
            await exchange.piece(each)
        await exchange.end()

    return behave


async def _breaks_off(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.say("So", " it")
    exchange.drop()


async def _ends_early(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.say("So", " it")
    await exchange.end()


async def _page(exchange: Exchange) -> None:
    await exchange.answer(200, b"<html>Please log in</html>")


async def _compressed(exchange: Exchange) -> None:
    await exchange.answer(200, gzip.compress(b"data: x\n" * 10_000), Content_Encoding="gzip")


@pytest.mark.parametrize(
    ("behave", "match"),
    [
        (_breaks_off, "broke off"),
        (_ends_early, "broke off after 2 pieces"),
        (_page, "is no event|broke off"),
        (_compressed, "compressed"),
        (_sends(b"data: {not json}\n\n"), "no piece of an answer"),
        (_sends(b"data: [1, 2]\n\n"), "no piece of an answer"),
        (_sends(b"data: \xff\xfe\n\n"), "no piece of an answer"),
        (_sends(b'data: {"choices": 7}\n\n'), "no piece of an answer"),
        (_sends(b'data: {"choices": [{"delta": {"content": 7}}]}\n\n'), "no piece of an answer"),
        (_sends(b"\x00\x01\x02\n"), "no event"),
        (_sends(b"data: [DONE]\n\n"), "without saying why"),
        (_sends(), "broke off after 0"),
        (_sends(b'data: {"error": "out of coal"}\n\n'), "out of coal"),
        (_sends(b'data: {"choices": [{"delta": {"tool_calls": [{"index": 1000000000000, "function": {"name": "f"}}]}}]}\n\n'), "128 calls"),
        (_sends(b'data: {"choices": [{"delta": {"tool_calls": [{"index": -1, "function": {"name": "f"}}]}}]}\n\n'), "128 calls"),
        (_sends(*[b"data: " + b"x" * 65536] * 20), "a line of more than"),
    ],
    ids=str,
)
async def test_rubbish(server: Upstream, behave: Any, match: str) -> None:
    server.behave = behave
    await fails(server, OperationFailed, match)


async def test_an_answer_without_end(server: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        while True:
            await exchange.say("more " * 100)

    server.behave = behave
    monkeypatch.setattr(chunks, "LONGEST_ANSWER", 100_000)
    await fails(server, OperationFailed, "did not end")


async def test_a_refusal_without_end(server: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await exchange.piece(b"x" * 10_000)

    server.behave = behave
    await fails(server, Unavailable, "HTTP 500", retries=0)


@pytest.mark.parametrize(
    ("told", "believed"),
    [
        (None, Tokens(0, 2)),
        ({}, Tokens(0, 2)),
        ("lots", Tokens(0, 2)),
        ({"prompt_tokens": -5, "completion_tokens": -7}, Tokens(0, 2)),
        ({"prompt_tokens": 3, "completion_tokens": 10**18}, Tokens(3, 2)),
        ({"prompt_tokens": 2.5, "completion_tokens": True}, Tokens(0, 2)),
        ({"prompt_tokens": 4, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 99}}, Tokens(4, 5, 4)),
        ({"prompt_tokens": 4, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -1}}, Tokens(4, 5)),
        ({"prompt_tokens": 4, "completion_tokens": 5, "prompt_tokens_details": [1]}, Tokens(4, 5)),
    ],
    ids=str,
)
async def test_lies_about_usage(server: Upstream, told: Any, believed: Tokens) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.say("Fine", ".")
        await exchange.finish(usage=told)

    server.behave = behave
    model = adapter(server)
    assert (await model.complete(HI)).usage == believed
    await model.close()


async def test_a_cancel_closes_the_connection(server: Upstream) -> None:
    closed = asyncio.Event()

    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.say("So")
        await exchange.gone()
        closed.set()

    server.behave = behave
    model = adapter(server, timeout=30)
    stream = model.stream(HI)
    assert (await anext(stream)).text == "So"
    task = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    async with asyncio.timeout(0.25):
        await closed.wait()
    closed.clear()
    stream = model.stream(HI)
    await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(0.25):
        await closed.wait()
    await model.close()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([{"embedding": [1.0], "index": 0}], "of 2 texts and sent 1"),
        ([{"embedding": [1.0], "index": 0}, {"embedding": [1.0], "index": 0}], "of 2 texts"),
        ([{"embedding": "AAAA", "index": 0}], "no embeddings"),
        ([{"embedding": [1.0], "index": 0}, {"embedding": [1.0, 2.0], "index": 1}], "of different lengths"),
        ("none", "no embeddings"),
    ],
    ids=str,
)
async def test_lies_about_vectors(server: Upstream, data: Any, match: str) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(200, {"data": data})

    server.behave = behave
    model = OpenAIAdapter(ModelSpec(name="remote", adapter="openai", kind="embedding", source=server.url))
    with pytest.raises(OperationFailed, match=match):
        await model.embed(["a", "b"])
    await model.close()


async def test_vectors_come_in_the_order_of_their_texts(server: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        data = [{"embedding": [2.0], "index": 1}, {"embedding": [1.0], "index": 0}]
        await exchange.answer(200, {"data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}})

    server.behave = behave
    model = OpenAIAdapter(ModelSpec(name="remote", adapter="openai", kind="embedding", source=server.url))
    found = await model.embed(["a", "b"])
    assert (found.vectors, found.usage) == ([[1.0], [2.0]], Tokens(2))
    await model.close()
