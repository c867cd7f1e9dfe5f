"""What engines and upstreams say in OpenAI's form: server-sent events as bytes -> `Delta`s -> a `Completion`. They may lie, or send anything."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Any

import msgspec

from openruntime.ai.context import estimate_request
from openruntime.contracts.ai import Completion, Delta, Generation, Tokens
from openruntime.contracts.errors import OperationFailed, Unavailable

LONGEST_EVENT = 1 << 20  # bytes: a whole tool call may come as one
LONGEST_ANSWER = 32 << 20  # bytes of events of one answer: whoever says more does not mean to end
MOST_TOKENS = 10_000_000  # of one request; a figure beyond it is none
TEMPLATE = 2048  # of a prompt, what a server may add to what it was sent
IMAGE = 16_384  # of a prompt, what an image may be
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
    reasoning_content: Any = None  # what it thinks is not told, and shows that it is at work
    reasoning: Any = None


class _Choice(msgspec.Struct):
    delta: _Said | None = None
    text: str | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """One event, as far as it is understood: of chat completions `delta`, of completions `text`."""

    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    prompt_progress: Any = None  # llama.cpp's, while it reads


_decoder = msgspec.json.Decoder(Chunk)
_encode = msgspec.json.Encoder().encode


async def _events(pieces: AsyncIterable[bytes], who: str) -> AsyncIterator[bytes]:
    """The data of each event. Raises `OperationFailed` for lines or answers without end."""
    rest, total = bytearray(), 0
    async for piece in pieces:
        rest += piece
        total += len(piece)
        *lines, rest = rest.split(b"\n") if b"\n" in piece else (rest,)
        for line in lines:
            if line.startswith(b"data:"):
                if data := bytes(line[5:].strip()):
                    yield data
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


async def deltas(
    pieces: AsyncIterable[bytes], who: str, request: Generation, *, silence: float, limit: int | None = None
) -> AsyncGenerator[Delta, None]:
    """An answer's pieces from its bytes, the last with `finish`, and `usage` as far as it can be. `who` speaks is for the errors, `limit` a bound on
    tokens.

    Raises `Unavailable` after `silence` seconds in which nothing was said, `OperationFailed` for rubbish, and for an answer that breaks off.
    """
    events = aiter(_events(pieces, who))
    finish: str | None = None
    usage = Tokens()
    told = calls = size = 0
    done = False
    now = asyncio.get_running_loop().time
    spoke = now()
    while True:
        try:
            async with asyncio.timeout_at(spoke + silence):  # events that say nothing do not count
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
        size += len(data)
        if chunk.usage is not None:
            usage = usage_of(chunk.usage, limit)
        if chunk.prompt_progress is not None:
            spoke = now()
        for choice in (chunk.choices or ())[:1]:
            said = choice.delta
            text = choice.text or (said and (said.content or said.refusal)) or ""
            tools = [_call(call, at) for at, call in enumerate(said.tool_calls)] if said and said.tool_calls else []
            calls = max([calls, *(call["index"] + 1 for call in tools)])
            if calls > MOST_CALLS:
                raise OperationFailed(f"{who} asked for more than {MOST_CALLS} calls of tools at once")
            if choice.finish_reason:
                finish = FINISHES.get(choice.finish_reason, "stop")
            if text or tools or choice.finish_reason or (said and (said.reasoning_content or said.reasoning)):
                spoke = now()
            if text or tools:
                told += 1
                yield Delta(text, tools)
    if finish is None:
        raise OperationFailed(f"{who} {'ended its answer without saying why' if done else 'broke off'} after {told} pieces of it")
    yield Delta(finish=finish, usage=_believed(usage, told, size, request))


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


def _believed(said: Tokens, pieces: int, size: int, request: Generation) -> Tokens:
    """What an answer of `pieces` in `size` bytes may have used, within what was `said` of it: a piece is a token at least, and a token a byte at
    least, those not shown too, for an event is hundreds of bytes; so of the prompt, but for what a template adds, and for images."""
    images = sum(part.get("type") == "image_url" for message in request.messages or () for part in _parts(message))
    prompt = said.prompt if 0 < said.prompt <= len(_encode(request)) + TEMPLATE + IMAGE * images else estimate_request(request)
    return Tokens(prompt, max(pieces, min(said.completion, size, request.max_tokens or size)), min(said.cached, prompt))


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else []


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
