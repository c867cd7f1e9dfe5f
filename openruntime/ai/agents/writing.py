"""How a run asks its model: each question a task of the agent's own, streamed to whoever watches, its tokens counted whatever becomes of it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from openruntime.ai.agents.run import Run
from openruntime.ai.context import Context, Counter, History, reads
from openruntime.contracts.ai import Completion, Generation, ModelSpec, ModelWork, Streams, Tokens

LETTERS = 4  # a token has about so many, where nobody counts better


class ModelWriter:
    """Implements `Writer` over a model of the repository."""

    def __init__(self, run: Run, spec: ModelSpec, work: ModelWork, streams: Streams) -> None:
        self.name = spec.id
        self.spec = spec
        self._run = run
        self._work = work
        self._streams = streams
        self._history = History()
        self._counter = Counter()

    async def write(self, prompt: str, *, system: str = "", schema: Mapping[str, Any] | None = None, max_tokens: int | None = None) -> str:
        messages = [{"role": "system", "content": system}] if system else []
        answer = await self.complete(Generation(
            messages=[*messages, {"role": "user", "content": prompt}], max_tokens=max_tokens, response_format=formatted(schema),
        ))  # fmt: skip
        return answer.text

    async def complete(self, asked: Generation, *, aloud: bool = False) -> Completion:
        """Its whole answer; `aloud`: said to watchers while it comes. What the run's request says of tokens and temperature holds."""
        run = self._run
        left = run.meter.request() - estimated(asked.messages or ())
        if left <= 0:
            run.meter.over = run.meter.exceeded("tokens")
            raise run.meter.over
        wanted = run.request.parameters or {}
        asked = msgspec.structs.replace(
            asked, max_tokens=min(asked.max_tokens or run.request.max_tokens, left),
            temperature=run.request.temperature if asked.temperature is None else asked.temperature,
            seed=asked.seed if asked.seed is not None else wanted.get("seed"),
        )  # fmt: skip
        asked = await self._fitting(asked)
        text: list[str] = []
        calls: dict[int, dict[str, Any]] = {}
        finish, usage, task = "stop", None, None
        try:
            task = await self._work.submit(self.spec.id, asked, principal=run.principal, timeout=max(0.001, run.meter.seconds_left))
            async for delta in self._streams.follow(task):
                text.append(delta.text)
                if aloud:
                    run.feed.say(delta.text)
                for piece in delta.tool_calls:
                    _join(calls, piece)
                finish, usage = delta.finish or finish, delta.usage or usage
        finally:
            if usage is None and task is not None:  # it was cut off: what it was told, and what it has said
                usage = Tokens(estimated(asked.messages or ()), len(text))
            if task is not None and task.cached and usage is not None:  # nothing was computed
                usage = Tokens(cached=usage.total)
            if usage is not None and task is not None and not task.cached:
                self._counter.learn(asked, usage)
            run.meter.tokens(usage or Tokens())
            if task is not None and not task.status.ended:
                await asyncio.shield(run.own.cancel(task.id))
        return Completion("".join(text), finish, usage or Tokens(), [calls[index] for index in sorted(calls)], self.spec.id)

    async def _fitting(self, asked: Generation) -> Generation:
        """With as much of its messages as the model reads. Raises `ContextTooLong`."""
        limit, messages = reads(self.spec), list(asked.messages or ())
        if limit is None or not messages:
            return asked
        system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
        known = self._history.messages
        if messages[: len(known)] != known:
            self._history = History()  # another conversation
        self._history.messages = messages
        context = Context(self._history, limit, answer=min(asked.max_tokens or limit, limit // 2), counter=self._counter)
        window = await context.window(system, tools=asked.tools, response_format=asked.response_format)
        self._run.spent.saved += window.saved
        return msgspec.structs.replace(asked, messages=window.request.messages)


def formatted(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema), "strict": True}}


def estimated(messages: Sequence[Mapping[str, Any]]) -> int:
    """Tokens that they have at least, roughly."""
    return sum(len(str(message.get("content") or "")) for message in messages) // LETTERS


def _join(calls: dict[int, dict[str, Any]], piece: Mapping[str, Any]) -> None:
    """A piece of a tool call, as OpenAI streams them, to those before it."""
    known = calls.setdefault(piece.get("index", len(calls)), {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    known["id"] = piece.get("id") or known["id"]
    function = piece.get("function") or {}
    known["function"]["name"] += function.get("name") or ""
    known["function"]["arguments"] += function.get("arguments") or ""
