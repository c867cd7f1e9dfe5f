"""How a run asks its model: each question a task of the agent's own, streamed to whoever watches, its tokens counted whatever becomes of it."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from openruntime.ai.agents.run import Run
from openruntime.ai.context import Context, Counter, History
from openruntime.contracts.ai import Completion, Generation, ModelSpec, ModelWork, Streams, Tokens
from openruntime.models.weights import reads

ANSWER = 4  # of a model's context, one part in so many is kept for its answer at least


class ModelWriter:
    """Implements `Writer` over a model of the repository."""

    def __init__(self, run: Run, spec: ModelSpec, work: ModelWork, streams: Streams) -> None:
        self.name = spec.id
        self.spec = spec
        self.aloud = run.role.words is None  # what a role judges first is said when it has
        self.counter = Counter()
        self._run = run
        self._work = work
        self._streams = streams

    async def write(self, prompt: str, *, system: str = "", schema: Mapping[str, Any] | None = None, max_tokens: int | None = None) -> str:
        messages = [{"role": "system", "content": system}] if system else []
        answer = await self.complete(Generation(
            messages=[*messages, {"role": "user", "content": prompt}], max_tokens=max_tokens, response_format=formatted(schema),
        ))  # fmt: skip
        return answer.text

    async def complete(self, asked: Generation, *, aloud: bool = False) -> Completion:
        """Its whole answer; `aloud`: said to watchers while it comes. What the run's request says of tokens and temperature holds."""
        run = self._run
        asked = msgspec.structs.replace(
            asked, max_tokens=asked.max_tokens or run.request.max_tokens,
            temperature=run.request.temperature if asked.temperature is None else asked.temperature,
            seed=run.seed if asked.seed is None else asked.seed,
        )  # fmt: skip
        asked, prompt = await self._fitted(asked)
        left = run.meter.request(prompt)
        asked = msgspec.structs.replace(asked, max_tokens=min(asked.max_tokens or left, left))
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
                usage = Tokens(prompt, len(text))
            elif usage is not None:
                self.counter.learn(asked, usage)
            if task is not None and task.cached and usage is not None:  # nothing was computed
                usage = Tokens(cached=usage.total)
            run.meter.tokens(usage or Tokens())
            if task is not None and not task.status.ended:
                await asyncio.shield(run.own.cancel(task.id))
        return Completion("".join(text), finish, usage or Tokens(), [calls[index] for index in sorted(calls)], self.spec.id)

    async def _fitted(self, asked: Generation) -> tuple[Generation, int]:
        """The request cut to what the model can read, and how many tokens its prompt is thought to have. Raises `ContextTooLong`."""
        limit, messages = reads(self.spec), list(asked.messages or ())
        if limit is None or not messages:
            return asked, (await self.counter.count(asked)).tokens
        system = ""
        if messages[0]["role"] == "system":
            system, messages = str(messages[0]["content"]), messages[1:]
        fields = {name: getattr(asked, name) for name in Generation.__struct_fields__ if name not in ("messages", "prompt")}
        answer = min(asked.max_tokens or limit, limit // ANSWER)
        window = await Context(History(messages), limit, answer=answer, counter=self.counter).window(system, **fields)
        self._run.spent.saved += window.saved
        room = max(1, limit - window.tokens)
        return msgspec.structs.replace(window.request, max_tokens=min(asked.max_tokens or room, room)), window.tokens


def formatted(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema), "strict": True}}


def _join(calls: dict[int, dict[str, Any]], piece: Mapping[str, Any]) -> None:
    """A piece of a tool call, as OpenAI streams them, to those before it."""
    known = calls.setdefault(piece.get("index", len(calls)), {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    known["id"] = piece.get("id") or known["id"]
    function = piece.get("function") or {}
    known["function"]["name"] += function.get("name") or ""
    known["function"]["arguments"] += function.get("arguments") or ""
