"""Answers in OpenAI's form: whole, in pieces, and refusals."""

import array
import base64
import sys
from typing import Any

import msgspec

from openruntime.contracts.ai import Completion, Delta, Embeddings, ModelSpec, Tokens
from openruntime.contracts.errors import (
    ContextTooLong,
    InvalidParameter,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    OpenRuntimeError,
    QueueFull,
    RateLimited,
    TaskTimeout,
    Unauthorized,
)
from openruntime.contracts.records import Task
from openruntime.gateway.errors import escaped, retry_after
from openruntime.gateway.exchange import Response

DONE = b"data: [DONE]\n\n"
COMMENT = b": waiting\n\n"
_JSON = b"application/json"
_encode = msgspec.json.Encoder().encode
# our errors whose code or status OpenAI has other words for; of several that fit, the first
_WORDS: tuple[tuple[type[OpenRuntimeError], int, str], ...] = (
    (ContextTooLong, 400, "context_length_exceeded"),
    (ModelNotFound, 404, "model_not_found"),
    (NotFound, 404, "unknown_url"),
    (MethodNotAllowed, 405, "method_not_supported"),
    (Unauthorized, 401, "invalid_api_key"),
    (RateLimited, 429, "rate_limit_exceeded"),
    (QueueFull, 429, "queue_full"),
    (TaskTimeout, 504, "timeout"),
    (InvalidParameter, 400, "invalid_value"),
)


def refusal(error: OpenRuntimeError) -> tuple[int, dict[str, Any]]:
    """The status, and what stands under `error`."""
    status, code = next(((status, code) for kind, status, code in _WORDS if isinstance(error, kind)), (error.status, error.code))
    if error.code in _FAILED:
        status = 500  # what was asked for was right: the model, or who runs it, could not answer
    elif status == 422:
        status = 400
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    param = "model" if isinstance(error, ModelNotFound) else "messages" if isinstance(error, ContextTooLong) and not error.field else error.field
    return status, {"message": error.message, "type": kind, "param": param, "code": code}


_FAILED = frozenset({"operation_failed", "worker_crashed", "dependency_failed"})


def refused(error: OpenRuntimeError) -> Response:
    status, body = refusal(error)
    return Response(status, _JSON, [escaped({"error": body})], retry_after(error))


def broken_off(error: OpenRuntimeError) -> bytes:
    """The event that ends a stream in its midst."""
    return b"data: " + escaped({"error": refusal(error)[1]}) + b"\n\n"


def usage(used: Tokens) -> dict[str, Any]:
    return {
        "prompt_tokens": used.prompt, "completion_tokens": used.completion, "total_tokens": used.total,
        "prompt_tokens_details": {"cached_tokens": used.cached},
    }  # fmt: skip


def _frame(task: Task, spec: ModelSpec, kind: str, *, chat: bool) -> dict[str, Any]:
    """What every answer begins with. `system_fingerprint`: the weights that a `seed` holds for."""
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{task.id}", "object": kind, "created": int(task.created), "model": spec.id,
        "system_fingerprint": f"fp_{spec.digest[:12]}" if spec.digest else None,
    }  # fmt: skip


def chat_completion(task: Task, spec: ModelSpec, answer: Completion, *, one_call: bool) -> bytes:
    calls = answer.tool_calls[:1] if one_call else answer.tool_calls
    message: dict[str, Any] = {"role": "assistant", "content": answer.text if answer.text or not calls else None, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish}
    return _encode({**_frame(task, spec, "chat.completion", chat=True), "choices": [choice], "usage": usage(answer.usage)})


def text_completion(task: Task, spec: ModelSpec, answer: Completion) -> bytes:
    choice = {"index": 0, "text": answer.text, "logprobs": None, "finish_reason": answer.finish}
    return _encode({**_frame(task, spec, "text_completion", chat=False), "choices": [choice], "usage": usage(answer.usage)})


def embeddings(spec: ModelSpec, found: Embeddings, *, coded: bool) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": _base64(vector) if coded else vector} for index, vector in enumerate(found.vectors)]
    used = {"prompt_tokens": found.usage.prompt, "total_tokens": found.usage.prompt}
    return _encode({"object": "list", "model": spec.id, "data": data, "usage": used})


def _base64(vector: list[float]) -> str:
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers).decode()


class Chunks:
    """A stream's events. What all have in common is encoded once: a piece costs the encoding of its text."""

    def __init__(self, task: Task, spec: ModelSpec, *, chat: bool, with_usage: bool, one_call: bool = False) -> None:
        head = _encode(_frame(task, spec, "chat.completion.chunk" if chat else "text_completion", chat=chat))[:-1]
        self._head = b"data: " + head + b',"choices":['
        self._end = b'],"usage":null}\n\n' if with_usage else b"]}\n\n"
        self._opening = self._head + (b'{"index":0,"delta":{"content":' if chat else b'{"index":0,"text":')
        self._closing = (b"}" if chat else b"") + b',"logprobs":null,"finish_reason":null}' + self._end
        self._chat, self._with_usage, self._one_call = chat, with_usage, one_call
        self._usage: Tokens | None = None
        self._finish: str | None = None

    def start(self) -> bytes:
        """What comes before the first piece."""
        return self._choice({"role": "assistant", "content": ""}) if self._chat else b""

    def piece(self, delta: Delta) -> bytes:
        """May be empty."""
        if delta.usage is not None:
            self._usage = delta.usage
        if not delta.tool_calls and delta.finish is None:
            return self._opening + _encode(delta.text) + self._closing if delta.text else b""
        made = self._opening + _encode(delta.text) + self._closing if delta.text else b""
        calls = [call for call in delta.tool_calls if not self._one_call or not call.get("index")]
        if calls:
            made += self._choice({"tool_calls": calls})
        if delta.finish is not None:
            self._finish = delta.finish
            made += self._choice({}, delta.finish)
        return made

    def end(self) -> bytes:
        """What comes after the last piece."""
        made = b"" if self._finish is not None else self._choice({}, "stop")
        if self._with_usage:
            made += self._head + b'],"usage":' + _encode(usage(self._usage or Tokens())) + b"}\n\n"
        return made + DONE

    def _choice(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        said = {"delta": delta} if self._chat else {"text": ""}
        return self._head + _encode({"index": 0, **said, "logprobs": None, "finish_reason": finish}) + self._end
