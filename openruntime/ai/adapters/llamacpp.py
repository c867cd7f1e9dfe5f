"""Models in GGUF files by llama.cpp (xllamacpp), in a process of their own: many requests at once, by the engine's continuous batching."""

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from openruntime.ai import tools
from openruntime.ai.checks import asked, check
from openruntime.ai.chunks import collected, deltas, usage_of
from openruntime.ai.engines.http import Answer, post
from openruntime.ai.engines.process import Engine, needs
from openruntime.ai.grammars import Verdicts, is_json, json_grammar, shape_of
from openruntime.contracts.ai import Completion, Delta, EmbeddingModel, Embeddings, Generation, ModelSpec
from openruntime.contracts.errors import ContextTooLong, InvalidParameter, OpenRuntimeError, OperationFailed, Unavailable
from openruntime.contracts.models import ModelInfo
from openruntime.models.gguf import read_header
from openruntime.models.weights import examine, reads

log = logging.getLogger(__name__)
needs("xllamacpp")  # only the engine imports it: it would be 100 MB in the gateway

SILENCE = 120.0  # seconds: it says something with every batch of a prompt that it has read
SILENCE_OF_GRAMMARS = 10.0  # seconds: a token by a user's GBNF may take llama.cpp for ever, and nobody else gets one meanwhile
MOST_THREADS = 8
POOLINGS = ("mean", "cls", "last")
_TOO_LARGE = re.compile(r"input \((\d+) tokens\) is too large.*batch size: (\d+)")
RANDOM = (1 << 32) - 1  # the seed by which llama.cpp means any


class LlamaCppAdapter(EmbeddingModel):
    """The GGUF file at `spec.source`, up to `spec.parallel` requests at a time, each with a context of its own; others wait for a place.

    Of `spec.options`: `context` tokens of each request and its answer (`spec.context_length`), `threads` (the machine's cores, at most 8), `batch`
    tokens of a prompt that are read at a time (a cancel waits for one), `timeout` seconds that the engine may say nothing (120), `gpu_layers` (all,
    where the library was built for a GPU), `cache` MiB of prompts that are kept beside those in the places (0), `pooling` how a text's vector is made
    of its tokens' (`mean`, `cls` or `last`; as the file says, else `mean`).
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._path = Path(spec.source)
        self._engine: Engine | None = None
        self._opening = asyncio.Lock()
        self._silence = float(spec.options.get("timeout") or SILENCE)
        self._verdicts = Verdicts()
        self._places = asyncio.Semaphore(max(1, spec.parallel))

    async def generate(self, prompt: str, **kwargs: Any) -> str:
        return (await self.complete(asked(prompt, kwargs))).text

    def get_model_info(self) -> ModelInfo:
        spec = self.spec
        return ModelInfo(
            id=spec.id, name=spec.name, version=spec.version, provider="llama.cpp", context_length=reads(self.spec),
            size=spec.size or None, license=spec.license or None,
        )  # fmt: skip

    async def complete(self, request: Generation) -> Completion:
        return await collected(self.stream(request), self.spec.id)

    async def stream(self, request: Generation) -> AsyncIterator[Delta]:
        self._writes(True)
        check(request, images=False, grammar=True)
        body, who = _body(request), f"the engine of {self.spec.id}"
        async with self._places:
            engine = await self._opened()
            await self._can_hold(engine, request)
            target = "/v1/completions" if request.messages is None else "/v1/chat/completions"
            gbnf = _gbnf(request) is not None
            silence = min(self._silence, SILENCE_OF_GRAMMARS) if gbnf else self._silence
            body["cache_prompt"] = not self.mixed
            try:
                async with (
                    self._asking(engine, target, body, silence) as answer,
                    aclosing(deltas(answer.pieces(), who, request, silence=silence)) as said,
                ):
                    async for delta in _whole(_with_calls(said, request) if tools.open_to_call(request) else said, request):
                        yield delta
            except Unavailable as error:  # it is stuck, and would be for everybody
                log.warning("%s; it is ended", error.message)
                await engine.end()
                if gbnf:
                    raise InvalidParameter("this grammar takes the engine too long; make it simpler", field="response_format.grammar") from None
                raise

    async def count(self, request: Generation) -> int:
        self._writes(True)
        check(request, images=False, grammar=True)
        engine = await self._opened()
        prompt = request.prompt
        if request.messages is not None:
            prompt = (await self._told(engine, "/apply-template", {"messages": tools.told(request)}))["prompt"]
        return len((await self._told(engine, "/tokenize", {"content": prompt, "add_special": True, "parse_special": True}))["tokens"])

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        self._writes(False)
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise InvalidParameter("input is one text or more, none of them empty", field="input")
        async with self._places:
            told = await self._told(await self._opened(), "/v1/embeddings", {"input": list(texts), "encoding_format": "float"})
        vectors = [each["embedding"] for each in sorted(told["data"], key=lambda each: int(each["index"]))]
        return Embeddings(vectors, usage_of(told.get("usage")), self.spec.id)

    async def open(self) -> None:
        await self._opened()

    async def close(self) -> None:
        async with self._opening:
            engine, self._engine = self._engine, None
            if engine is not None:
                await engine.end()

    @property
    def pid(self) -> int | None:
        """Of its engine's process, while that is up."""
        return self._engine.pid if self._engine is not None and self._engine.alive else None

    def resident(self) -> int:
        return self._engine.memory() if self._engine is not None else 0

    def _writes(self, text: bool) -> None:
        if text is (self.spec.kind == "embedding"):
            what = "turns texts into vectors; it writes none" if text else "writes texts; for vectors ask an embedding model"
            raise InvalidParameter(f"{self.spec.id} {what}", field="model")

    async def _opened(self) -> Engine:
        if self._engine is not None and self._engine.alive:
            return self._engine
        async with self._opening:
            if self._engine is None or not self._engine.alive:
                engine = Engine(
                    "openruntime.ai.engines.llamacpp", await asyncio.to_thread(self._settings), threads=self._threads(), name=self.spec.id
                )
                await engine.start()
                self._engine = engine
            return self._engine

    def _threads(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return int(self.spec.options.get("threads") or min(cores, MOST_THREADS))

    def _settings(self) -> dict[str, Any]:
        """Raises `Unavailable` where the file is none that an engine could load."""
        try:
            found = examine(self._path)
        except InvalidParameter as error:
            raise _lasting(f"{self.spec.id} cannot be loaded: {error.message}") from None
        options, embeds = self.spec.options, self.spec.kind == "embedding"
        pooling = options.get("pooling") or read_header(self._path).pooling or "mean"
        if pooling not in POOLINGS:
            raise _lasting(f"{self.spec.id} cannot be loaded: it would pool by {pooling!r:.60}, and `pooling` is one of {', '.join(POOLINGS)}")
        context = reads(self.spec)
        assert context is not None  # llama.cpp is always told one
        batch = context if embeds else _batch(found.size, self._threads())  # a vector is made of its whole text at once
        return {
            "path": str(self._path), "parallel": max(1, self.spec.parallel), "context": context,
            "batch": int(options.get("batch") or batch), "gpu_layers": int(options.get("gpu_layers", -1)),
            "cache": int(options.get("cache", 0)), "pooling": pooling if embeds else "",
        }  # fmt: skip

    @asynccontextmanager
    async def _asking(self, engine: Engine, target: str, body: Any, silence: float) -> AsyncIterator[Answer]:
        """The engine's answer, when it has begun one. Raises what it refused with, and why it ended where it did."""
        try:
            async with post(engine.folder / "engine.sock", target, body, silence) as answer:
                if answer.status != 200:
                    raise self._refusal(answer.status, await answer.body())
                yield answer
        except TimeoutError:
            raise Unavailable(f"the engine of {self.spec.id} said nothing for {silence:g} s, and is ended; it starts again") from None
        except (OSError, EOFError) as error:
            raise await engine.ending() or OperationFailed(f"the engine of {self.spec.id} broke off: {error!r}") from None

    async def _told(self, engine: Engine, target: str, body: Any) -> Any:
        async with self._asking(engine, target, body, self._silence) as answer:
            return msgspec.json.decode(await answer.body())

    async def _can_hold(self, engine: Engine, request: Generation) -> None:
        async def ask(trial: dict[str, Any]) -> str:
            return str((await self._told(engine, "/completion", trial))["content"])

        shape = request.response_format or {}
        for schema, index in zip(tools.schemas(request), tools.open_to_call(request), strict=True):
            await self._verdicts.check(schema, f"tools[{index}].function.parameters", ask, engine.log)
        if shape.get("type") == "json_schema":
            await self._verdicts.check(shape["json_schema"]["schema"], "response_format.json_schema.schema", ask, engine.log)

    def _refusal(self, status: int, body: bytes) -> OpenRuntimeError:
        try:
            error = msgspec.json.decode(body)["error"]
            message = str(error["message"])
        except (msgspec.DecodeError, KeyError, TypeError):
            return OperationFailed(f"the engine of {self.spec.id} answered with HTTP {status}: {body[:200]!r}")
        if error.get("type") == "exceed_context_size_error":
            length, allowed = error.get("n_prompt_tokens"), error.get("n_ctx")
            return ContextTooLong(f"the prompt is {length} tokens long; {self.spec.id} can read {allowed}", field="messages")
        if too_large := _TOO_LARGE.search(message):  # what it says of texts to be turned into vectors
            return ContextTooLong(f"a text is {too_large[1]} tokens long; {self.spec.id} can read {too_large[2]}", field="input")
        if status == 400:
            field = "response_format" if "grammar" in message.lower() or "schema" in message.lower() else None
            return InvalidParameter(f"{self.spec.id} cannot do this: {message:.500}", field=field)
        return OperationFailed(f"the engine of {self.spec.id} failed: {message:.500}")


def _batch(size: int, threads: int) -> int:
    """Tokens that are read at a time: what a processor reads in a tenth of a second, about, as a cancel has to wait for two of them."""
    return max(16, min(128, 1_500_000_000 * threads // max(1, size)))


def _body(request: Generation) -> dict[str, Any]:
    plain = ("max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty")
    body: dict[str, Any] = {name: value for name in plain if (value := getattr(request, name)) is not None}
    if request.seed is not None:
        body["seed"] = request.seed % RANDOM
    body |= {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
    if request.stop:
        body["stop"] = request.stop
    if request.messages is None:
        body["prompt"] = request.prompt
    else:
        body["messages"] = tools.told(request)
    shape = shape_of(request.response_format)
    if (grammar := tools.grammar(request)) is not None:
        body["grammar"] = grammar
    elif shape is not None:
        body["grammar"] = json_grammar(shape)
    elif (gbnf := _gbnf(request)) is not None:
        body["grammar"] = gbnf
    return body


def _gbnf(request: Generation) -> str | None:
    told = request.response_format or {}
    return str(told["grammar"]) if told.get("type") == "grammar" else None


async def _whole(said: AsyncIterator[Delta], request: Generation) -> AsyncIterator[Delta]:
    """As it is said; of JSON that was asked for it is seen that it is some."""
    text: list[str] | None = [] if shape_of(request.response_format) is not None else None
    async for delta in said:
        if text is not None:
            text.append(delta.text)
            if delta.finish and not request.stop and not is_json("".join(text), whole=delta.finish == "stop"):
                raise OperationFailed("the model left the schema that it was held to; try again, or with a simpler one")
        yield delta


async def _with_calls(said: AsyncIterator[Delta], request: Generation) -> AsyncIterator[Delta]:
    """What begins as a call of a tool is held back until it is one, or is seen to be none."""
    beginnings, text, may = tools.beginnings(request), "", True
    cut = bool(request.stop) or shape_of(request.response_format) is not None  # it may end in its midst, or be no call
    async for delta in said:
        if may:
            text += delta.text
            may = any(text.startswith(beginning) or beginning.startswith(text) for beginning in beginnings)
            delta = Delta("" if may else text, finish=delta.finish, usage=delta.usage)
        if not may or not text:
            yield delta
        elif delta.finish and (call := tools.call_of(text)) is not None:
            yield Delta("", [call])
            yield Delta(finish="tool_calls", usage=delta.usage)
        elif delta.finish == "length" or (delta.finish and cut):  # as OpenAI does, what there is of it is told, and why there is no more
            yield Delta(text, finish=delta.finish, usage=delta.usage)
        elif delta.finish:
            raise OperationFailed(f"the model began the call of a tool, and it is not whole: {text:.100}")


def _lasting(message: str) -> Unavailable:
    error = Unavailable(message)
    error.retryable = False
    return error
