"""An upstream that hangs, speaks rubbish, breaks off, refuses or lies: a clear error in bounded time, never its key, never a negative count."""

import asyncio
import contextlib
import gzip
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from openruntime.ai import chunks
from openruntime.ai.adapters.openai import OpenAIAdapter
from openruntime.ai.context import estimate_request
from openruntime.contracts.ai import Generation, ModelSpec, Tokens
from openruntime.contracts.errors import OperationFailed, Unavailable
from tests.models.asking import HI, adapter, fails
from tests.models.lying_upstream import Exchange, Upstream, upstream

GUESSED = estimate_request(HI)  # tokens of its prompt


@pytest.fixture
async def server() -> AsyncIterator[Upstream]:
    async with upstream("small", "large") as here:
        yield here


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


async def _say_nothing(exchange: Exchange) -> None:
    await exchange.begin()
    while True:
        await exchange.say("")
        await asyncio.sleep(0.02)


async def _trickle(exchange: Exchange) -> None:
    await exchange.begin()
    while True:
        await exchange.piece(b"x")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(("behave", "match"), [(_hang, "did not answer"), (_hang_in_the_answer, "said nothing"), (_ping, "said nothing"),
                                               (_say_nothing, "said nothing"), (_trickle, "said nothing")])  # fmt: skip
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
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_rubbish(server: Upstream, behave: Any, match: str) -> None:
    server.behave = behave
    await fails(server, OperationFailed, match, retries=0)


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
        (None, Tokens(GUESSED, 2)),
        ({}, Tokens(GUESSED, 2)),
        ("lots", Tokens(GUESSED, 2)),
        ({"prompt_tokens": -5, "completion_tokens": -7}, Tokens(GUESSED, 2)),
        ({"prompt_tokens": 3, "completion_tokens": 10**18}, Tokens(3, 2)),
        ({"prompt_tokens": 2.5, "completion_tokens": True}, Tokens(GUESSED, 2)),
        ({"prompt_tokens": 4, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 99}}, Tokens(4, 5, 4)),
        ({"prompt_tokens": 4, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -1}}, Tokens(4, 5)),
        ({"prompt_tokens": 4, "completion_tokens": 5, "prompt_tokens_details": [1]}, Tokens(4, 5)),
        ({"prompt_tokens": 4, "completion_tokens": 1}, Tokens(4, 2)),
        ({"prompt_tokens": 9_000_000, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9_000_000}}, Tokens(GUESSED, 2, GUESSED)),
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


async def test_a_long_answer_is_not_charged_as_a_short_one(server: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.say(*["x"] * 500)
        await exchange.finish(usage={"prompt_tokens": 0, "completion_tokens": 1})

    server.behave = behave
    model = adapter(server)
    assert (await model.complete(HI)).usage == Tokens(GUESSED, 500)
    await model.close()


async def test_a_short_answer_does_not_spend_a_budget(server: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.say("Fine")
        await exchange.finish(usage={"prompt_tokens": 3, "completion_tokens": 9_000_000})

    server.behave = behave
    model = adapter(server)
    assert (await model.complete(replace(HI, max_tokens=64))).usage == Tokens(3, 64)
    assert (await model.complete(HI)).usage.completion < 400  # bytes that it sent
    await model.close()


async def test_what_it_thought_and_saw_may_be_charged(server: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        for _ in range(4):
            await asyncio.sleep(0.15)  # all four are longer than it may say nothing
            await exchange.event({"choices": [{"index": 0, "delta": {"reasoning_content": "so then "}}]})
        await exchange.say("Fine")
        await exchange.finish(usage={"prompt_tokens": 1100, "completion_tokens": 14})

    server.behave = behave
    model = adapter(server)
    parts = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    answer = await model.complete(Generation(messages=[{"role": "user", "content": parts}]))
    assert (answer.text, answer.usage) == ("Fine", Tokens(1100, 14))
    await model.close()


async def test_events_without_data_are_passed_over(server: Upstream) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.piece(b"data:\n\n")
        await exchange.say("Fine")
        await exchange.piece(b"data: \n\n")
        await exchange.finish()

    server.behave = behave
    model = adapter(server)
    assert (await model.complete(HI)).text == "Fine"
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


@pytest.mark.parametrize("told", [None, {"prompt_tokens": 0}, {"prompt_tokens": 9_000_000}, {"prompt_tokens": -1}], ids=str)
async def test_lies_about_what_vectors_cost(server: Upstream, told: Any) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(200, {"data": [{"embedding": [1.0], "index": 0}], "usage": told})

    server.behave = behave
    model = OpenAIAdapter(ModelSpec(name="remote", adapter="openai", kind="embedding", source=server.url))
    assert (await model.embed(["a cat sleeps"])).usage == Tokens(3)
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
