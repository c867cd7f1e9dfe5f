"""Whatever speaks OpenAI's API, through the official SDK: OpenAI, vLLM, Ollama, LM Studio, llama.cpp's server, another OpenRuntime."""

import asyncio
import itertools
import os
import random
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec
import openai

from openruntime.ai.checks import asked, check
from openruntime.ai.chunks import LONGEST_ANSWER, TEMPLATE, collected, deltas, usage_of
from openruntime.ai.context import estimate
from openruntime.contracts.ai import Completion, Delta, EmbeddingModel, Embeddings, Generation, ModelSpec, Tokens
from openruntime.contracts.errors import ContextTooLong, InvalidParameter, OpenRuntimeError, OperationFailed, Unavailable
from openruntime.contracts.models import ModelInfo
from openruntime.models.requests import sees

OFFICIAL = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
CONNECT = 5.0  # seconds
LONGEST_REFUSAL = 64 * 1024  # bytes of an error that are read
TRIED_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
TOO_LONG = ("context_length_exceeded", "exceed_context_size_error", "context_too_long")
_LONG = re.compile(r"context[ _-]?(length|size|window)|too many tokens|maximum.{0,20}tokens", re.IGNORECASE)


class OpenAIAdapter(EmbeddingModel):
    """A model of an upstream at `spec.source`, which calls it `spec.upstream`. What goes wrong before the first piece of an answer is tried again.

    Of `spec.options`: `api_key_env` the variable that holds the key (for api.openai.com `OPENAI_API_KEY`; others get none unless it is named),
    `timeout` seconds that it may say nothing (120), `retries` (2) of refusals that may pass, `patience` seconds that those may take together (30),
    `images` whether it can see (true), `max_tokens_field` what it calls `max_tokens`, `stream_usage` whether it knows `stream_options` (true).
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        options = spec.options
        self._url = (spec.source or os.environ.get("OPENAI_BASE_URL") or OFFICIAL).rstrip("/")
        official = urlsplit(self._url).hostname == "api.openai.com"
        self._key_name: str | None = options.get("api_key_env") or (KEY if official or not spec.source else None)
        self._silence = float(options.get("timeout", 120))
        self._retries = int(options.get("retries", 2))
        self._patience = float(options.get("patience", 30))
        self._images = sees(spec)
        self._limit = str(options.get("max_tokens_field", "max_completion_tokens" if official else "max_tokens"))
        self._stream_usage = bool(options.get("stream_usage", True))
        self._name = spec.upstream or spec.name
        self._who = f"the upstream {_shown(self._url)}"
        self._client: openai.AsyncOpenAI | None = None
        self._key = ""

    async def generate(self, prompt: str, **kwargs: Any) -> str:
        return (await self.complete(asked(prompt, kwargs))).text

    def get_model_info(self) -> ModelInfo:
        spec = self.spec
        return ModelInfo(
            id=spec.id, name=spec.name, version=spec.version, provider=urlsplit(self._url).hostname or "openai",
            context_length=spec.context_length, size=spec.size or None, license=spec.license or None,
        )  # fmt: skip

    async def complete(self, request: Generation) -> Completion:
        return await collected(self.stream(request), self._name)

    async def stream(self, request: Generation) -> AsyncIterator[Delta]:
        if self.spec.kind == "embedding":
            raise InvalidParameter(f"{self.spec.id} turns texts into vectors; it writes none", field="model")
        check(request, images=self._images)
        until = time.monotonic() + self._patience
        for attempt in itertools.count():
            begun = False
            try:
                async with self._response(self._asking(request), chat=request.messages is not None) as response:
                    pieces = self._pieces(response)
                    async with aclosing(deltas(pieces, self._who, request, silence=self._silence, limit=self.spec.context_length)) as told:
                        async for delta in told:
                            begun = True
                            yield delta
                return
            except _FAILS as error:
                await self._again(error, self._retries if begun else attempt, until)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        if self.spec.kind != "embedding":
            raise InvalidParameter(f"{self.spec.id} writes texts; for vectors ask an embedding model", field="model")
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise InvalidParameter("input is one text or more, none of them empty", field="input")
        body = await self._vectors({"model": self._name, "input": list(texts), "encoding_format": "float"}, LONGEST_ANSWER + 65_536 * len(texts))
        try:
            told = msgspec.json.decode(body, type=_Vectors)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise OperationFailed(f"{self._who} sent what are no embeddings: {bytes(body[:80])!r}") from None
        found = sorted(told.data, key=lambda each: each.index)
        vectors = [each.embedding for each in found]
        if [each.index for each in found] != list(range(len(texts))):
            raise OperationFailed(f"{self._who} was asked for vectors of {len(texts)} texts and sent {len(found)}, not one for each")
        if len({len(vector) for vector in vectors}) > 1:
            raise OperationFailed(f"{self._who} sent vectors of different lengths")
        used, most = usage_of(told.usage).prompt, sum(len(text.encode()) for text in texts) + TEMPLATE
        return Embeddings(vectors, Tokens(used if 0 < used <= most else sum(map(estimate, texts))), self._name)

    async def _vectors(self, asking: dict[str, Any], most: int) -> bytes:
        until = time.monotonic() + self._patience
        for attempt in itertools.count():
            body = bytearray()
            try:
                async with self._response(asking, embed=True) as response:
                    async for piece in self._pieces(response):
                        body += piece
                        if len(body) > most:
                            break
            except _FAILS as error:
                await self._again(error, attempt, until)
                continue
            if len(body) > most:
                raise OperationFailed(f"{self._who} sent {len(body)} bytes of vectors and did not end")
            return bytes(body)
        raise AssertionError  # counting does not end

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _asking(self, request: Generation) -> dict[str, Any]:
        body = {name: value for name, value in msgspec.to_builtins(request).items() if value is not None}
        if "max_tokens" in body:
            body[self._limit] = body.pop("max_tokens")
        if not request.tools:
            body.pop("parallel_tool_calls", None)  # OpenAI refuses it then
        body |= {"model": self._name, "stream": True}
        if self._stream_usage:
            body["stream_options"] = {"include_usage": True}
        return body

    @asynccontextmanager
    async def _response(self, body: dict[str, Any], *, chat: bool = True, embed: bool = False) -> AsyncIterator[Any]:
        """The upstream's answer, once it has begun one."""
        client = self._connected()
        resource = client.embeddings if embed else client.chat.completions if chat else client.completions
        opened: AbstractAsyncContextManager[Any] = resource.with_streaming_response.create(**_within(body, embed))
        async with asyncio.timeout(self._silence + CONNECT):
            response = await opened.__aenter__()
        try:
            yield response
        finally:
            await response.close()

    async def _again(self, raised: Exception, attempt: int, until: float) -> None:
        """Waits until it may be tried again. Raises what went wrong, translated, where it may not, or that cannot help."""
        told = raised.__cause__ if isinstance(raised.__cause__, (_Refused, OpenRuntimeError)) else raised  # the SDK may wrap it
        pause = self._pause(told, attempt)
        if pause is None or attempt >= self._retries or time.monotonic() + pause > until:
            raise await self._translated(told) from None
        await asyncio.sleep(pause)

    async def _pieces(self, response: Any) -> AsyncIterator[bytes]:
        try:
            async for piece in response.iter_bytes():
                yield piece
        except Exception as error:  # of the SDK's HTTP client, whichever it is
            if "Timeout" in type(error).__name__:
                raise Unavailable(f"{self._who} said nothing for {self._silence:g} s in its answer") from None
            raise OperationFailed(f"{self._who} broke off in its answer ({type(error).__name__})") from None

    def _connected(self) -> openai.AsyncOpenAI:
        key = os.environ.get(self._key_name, "").strip() if self._key_name else "none"
        if not key:
            raise _lasting(Unavailable(f"{self._who} needs a key: set the variable {self._key_name} where the server runs, and start it again"))
        if self._client is None or key != self._key:
            self._key = key
            self._client = openai.AsyncOpenAI(
                api_key=key, base_url=self._url, max_retries=0,
                timeout=openai.Timeout(self._silence, connect=CONNECT, pool=None), default_headers={"Accept-Encoding": "identity"},
                http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_look_at]}),
            )  # fmt: skip
        return self._client

    def _pause(self, error: Exception, attempt: int) -> float | None:
        """Seconds until it may be tried again; None where that cannot help."""
        if isinstance(error, _Refused):
            if error.status not in TRIED_AGAIN or error.code == "insufficient_quota":
                return None
            if error.retry_after is not None:
                return error.retry_after
        elif isinstance(error, openai.APITimeoutError) or not isinstance(error, (openai.APIConnectionError, OperationFailed)):
            return None  # it had its time, or would say the same again
        return float(0.25 * 2**attempt * random.uniform(0.8, 1.2))

    async def _translated(self, error: Exception) -> OpenRuntimeError:
        if isinstance(error, OpenRuntimeError):
            error.message = self._without_key(error.message)
            error.args = (error.message,)
            return error
        if isinstance(error, _Refused):
            return await self._refusal(error)
        if isinstance(error, (openai.APITimeoutError, TimeoutError)):
            return Unavailable(
                f"{self._who} did not answer within {self._silence:g} s; try again, or allow it more with the model's option `timeout`"
            )
        if isinstance(error, openai.APIConnectionError):
            return Unavailable(f"{self._who} cannot be reached ({self._cause(error)}); see that it runs, and that this is its address")
        return OperationFailed(f"{self._who} was not understood: {self._without_key(str(error)):.300}")

    async def _refusal(self, told: "_Refused") -> OpenRuntimeError:
        said = f": {self._without_key(told.message):.500}" if told.message else ""
        if told.status in (401, 403):  # what it says may hold the key
            key = f"the key in the variable {self._key_name}" if self._key_name else "to answer without a key (option `api_key_env` of the model)"
            return _lasting(Unavailable(f"{self._who} refused {key} (HTTP {told.status})"))
        if told.code in TOO_LONG or (told.status == 400 and _LONG.search(told.message)):
            return ContextTooLong(_too_long(told, self._name), field="messages")
        if told.status == 404 or told.code == "model_not_found":
            return _lasting(Unavailable(f"{self._who} has no model {self._name!r}{await self._what_it_has()}"))
        if told.status == 429:
            return Unavailable(f"{self._who} is asked for too much (HTTP 429){said}", retry_after=told.retry_after)
        if told.status >= 500:
            return Unavailable(f"{self._who} failed (HTTP {told.status}){said}", retry_after=told.retry_after)
        if told.status in (400, 413, 422):
            return InvalidParameter(f"{self._who} refused the request (HTTP {told.status}){said}", field=told.param)
        return OperationFailed(f"{self._who} answered with HTTP {told.status}{said}")

    async def _what_it_has(self) -> str:
        try:
            async with asyncio.timeout(CONNECT):
                page = await self._connected().models.list()
            names = sorted(str(model.id) for model in page.data)[:20]
        except Exception:  # it answered one question with 404; that it cannot answer this one either is no news
            return ""
        return f"; it has {', '.join(names)}" if names else "; it has none"

    def _cause(self, error: BaseException) -> str:
        while error.__cause__ is not None:
            error = error.__cause__
        return self._without_key(f"{error}" or type(error).__name__)[:200]

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "…") if len(self._key) > 4 else text


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: Any = None


class _Refused(Exception):
    """What an upstream answered instead of an answer, read within bounds."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.retry_after = _retry_after(headers)
        try:
            told = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            told = {}
        error = told.get("error", told) if isinstance(told, dict) else {}
        self.detail: dict[str, Any] = error if isinstance(error, dict) else {"message": error}
        self.message = str(self.detail.get("message") or self.detail.get("detail") or "")
        self.code = str(self.detail.get("code") or "")
        if not self.code or self.code.isdigit():
            self.code = str(self.detail.get("type") or "")
        param = self.detail.get("param")
        self.param = param if isinstance(param, str) else None


_FAILS = (openai.OpenAIError, TimeoutError, _Refused, OpenRuntimeError)


async def _look_at(response: Any) -> None:
    """Of each response, before the SDK reads it: a refusal is read within bounds; what was not asked for is not read at all."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise OperationFailed("the upstream sent compressed what it was asked to send plainly")
    if response.status_code < 400:
        return
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > LONGEST_REFUSAL:
            break
    raise _Refused(response.status_code, response.headers, bytes(body))


def _within(body: dict[str, Any], embed: bool) -> dict[str, Any]:
    """As the SDK's method takes it: the fields as they are, past its types, which name OpenAI's own models' fields only."""
    needed = ("model", "input", "encoding_format") if embed else ("model", "messages", "prompt", "stream")
    return {name: body[name] for name in needed if name in body} | {"extra_body": {name: body[name] for name in body if name not in needed}}


def _too_long(told: _Refused, model: str) -> str:
    detail = told.detail
    length, allowed = detail.get("n_prompt_tokens"), detail.get("n_ctx")
    numbers = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?= tokens)|(?<=is )\d[\d,]*", told.message)]
    if length is None and len(numbers) >= 2:
        length, allowed = max(numbers), min(numbers)
    if length is None or allowed is None:
        return f"the prompt is longer than {model} can read: {told.message:.300}"
    return f"the prompt is {length} tokens long; {model} can read {allowed}"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    told = headers.get("retry-after")
    if not told:
        return None
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(told).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), 86_400.0) if seconds == seconds else None


def _lasting(error: Unavailable) -> Unavailable:
    error.retryable = False
    return error


def _shown(url: str) -> str:
    """Without what somebody may have written into it that is nobody's business."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
