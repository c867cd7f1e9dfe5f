"""What engines and upstreams say in OpenAI's form: server-sent events as bytes -> `Delta`s -> a `Completion`. They may lie, or send anything."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Any

import msgspec

from openruntime.contracts.ai import Completion, Delta, Tokens
from openruntime.contracts.errors import OperationFailed, Unavailable

LONGEST_EVENT = 1 << 20  # bytes: a whole tool call may come as one
LONGEST_ANSWER = 32 << 20  # bytes of events of one answer: whoever says more does not mean to end
MOST_TOKENS = 10_000_000  # of one request; a figure beyond it is none
MOST_CALLS = 128  # of tools, in one answer
FINISHES = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls", "content_filter": "content_filter"}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Said | None = None
    text: str | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """One event, as far as it is understood: of chat completions `delta`, of completions `text`."""

    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


_decoder = msgspec.json.Decoder(Chunk)


async def _events(pieces: AsyncIterable[bytes], who: str) -> AsyncIterator[bytes]:
    """The data of each event. Raises `OperationFailed` for lines or answers without end."""
    rest, total = bytearray(), 0
    async for piece in pieces:
        rest += piece
        total += len(piece)
        *lines, rest = rest.split(b"\n") if b"\n" in piece else (rest,)
        for line in lines:
            if line.startswith(b"data:"):
                yield bytes(line[5:].strip())
            elif line.startswith(b"error:"):
                yield bytes(b'{"error":' + line[6:].strip() + b"}")
            elif line[:1] == b"{" or not (line.strip() == b"" or line[:1] == b":" or line.startswith((b"event:", b"id:", b"retry:"))):
                raise OperationFailed(f"{who} sent what is no event: {_quoted(line)}")
        if len(rest) > LONGEST_EVENT:
            raise OperationFailed(f"{who} sent a line of more than {LONGEST_EVENT} bytes")
        if total > LONGEST_ANSWER:
            raise OperationFailed(f"{who} sent more than {LONGEST_ANSWER} bytes and did not end")
    if rest.startswith(b"data:"):  # the last line without its end
        yield bytes(rest[5:].strip())


async def deltas(pieces: AsyncIterable[bytes], who: str, *, silence: float, limit: int | None = None) -> AsyncGenerator[Delta, None]:
    """An answer's pieces from its bytes, the last with `finish` and `usage`. `who` speaks is for the errors, `limit` a bound on tokens.

    Raises `Unavailable` after `silence` seconds without an event, `OperationFailed` for rubbish, and for an answer that breaks off.
    """
    events = aiter(_events(pieces, who))
    finish: str | None = None
    usage: Tokens | None = None
    told = calls = 0
    done = False
    while True:
        try:
            async with asyncio.timeout(silence):
                data = await anext(events)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise Unavailable(f"{who} said nothing for {silence:g} s; try again, or allow it more with the model's option `timeout`") from None
        if data == b"[DONE]":
            done = True
            with contextlib.suppress(StopAsyncIteration, TimeoutError):  # to its very end: only then is the connection used again
                async with asyncio.timeout(0.05):
                    await anext(events)
            break
        try:
            chunk = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise OperationFailed(f"{who} sent what is no piece of an answer: {_quoted(data)}") from None
        if chunk.error is not None:
            raise OperationFailed(f"{who} failed in its answer: {_message(chunk.error)}")
        if chunk.usage is not None:
            usage = usage_of(chunk.usage, limit)
        for choice in (chunk.choices or ())[:1]:
            said = choice.delta
            text = choice.text or (said and (said.content or said.refusal)) or ""
            tools = [_call(call, at) for at, call in enumerate(said.tool_calls)] if said and said.tool_calls else []
            calls = max([calls, *(call["index"] + 1 for call in tools)])
            if calls > MOST_CALLS:
                raise OperationFailed(f"{who} asked for more than {MOST_CALLS} calls of tools at once")
            if choice.finish_reason:
                finish = FINISHES.get(choice.finish_reason, "stop")
            if text or tools:
                told += 1
                yield Delta(text, tools)
    if finish is None:
        raise OperationFailed(f"{who} {'ended its answer without saying why' if done else 'broke off'} after {told} pieces of it")
    if usage is None or (not usage.completion and told):  # each piece is a token at least
        usage = Tokens(usage.prompt if usage else 0, told, usage.cached if usage else 0)
    yield Delta(finish=finish, usage=usage)


async def collected(pieces: AsyncIterable[Delta], model: str) -> Completion:
    """The whole answer."""
    text: list[str] = []
    finish, usage = "stop", Tokens()
    calls: dict[int, dict[str, Any]] = {}
    async for delta in pieces:
        if delta.text:
            text.append(delta.text)
        for piece in delta.tool_calls:
            call = calls.setdefault(piece["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
            call["id"] = call["id"] or piece.get("id", "")
            for field, value in piece.get("function", {}).items():
                call["function"][field] += value
        finish, usage = delta.finish or finish, delta.usage or usage
    return Completion("".join(text), finish, usage, [calls[at] for at in sorted(calls)], model)


def usage_of(told: Any, limit: int | None = None) -> Tokens:
    """What is believable of `usage`; what is not counts as 0."""
    if not isinstance(told, dict):
        return Tokens()
    details = told.get("prompt_tokens_details")
    prompt, completion = _count(told.get("prompt_tokens"), limit), _count(told.get("completion_tokens"), limit)
    return Tokens(prompt, completion, min(prompt, _count(details.get("cached_tokens"), limit) if isinstance(details, dict) else 0))


def _count(told: Any, limit: int | None) -> int:
    return told if type(told) is int and 0 <= told <= (limit or MOST_TOKENS) else 0


def _call(call: _ToolCall, at: int) -> dict[str, Any]:
    index = at if call.index is None else call.index
    if not 0 <= index < 1 << 31:
        index = MOST_CALLS  # refused by the caller
    piece: dict[str, Any] = {"index": index}
    if call.id:
        piece |= {"id": call.id, "type": "function"}
    if call.function is not None:
        piece["function"] = {k: v for k, v in (("name", call.function.name), ("arguments", call.function.arguments)) if v is not None}
    return piece


def _message(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return f"{message!s:.300}" if message else "it did not say why"


def _quoted(data: bytes | bytearray) -> str:
    return repr(bytes(data[:80]).decode(errors="replace")) + ("…" if len(data) > 80 else "")
