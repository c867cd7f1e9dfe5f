"""Refusals as RFC 9457 problem details: a stable code, a sentence, the request id; never a stack trace."""

from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from typing import Any

import msgspec
from pydantic import ValidationError

from openruntime.contracts.errors import (
    CompileError,
    Forbidden,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    OpenRuntimeError,
    PayloadTooLarge,
    nearest,
)
from openruntime.contracts.models import Problem

PROBLEM = b"application/problem+json"
TASK_SHAPE = "a JSON object with `operation` and `parameters`"
_encode = msgspec.json.Encoder().encode
_KINDS = {
    "int": "a whole number", "float": "a number", "finite": "a finite number", "string": "a string", "bool": "true or false",
    "dict": "a JSON object", "model": "a JSON object", "list": "a list", "tuple": "a list",
}  # fmt: skip


class Disconnected(Exception):
    """The client went away; there is nobody to answer."""


def problem(error: OpenRuntimeError, request_id: str | None = None) -> dict[str, Any]:
    """`error` as a problem document."""
    found = Problem(
        title=HTTPStatus(error.status).phrase, status=error.status, code=error.code, detail=error.message, field=error.field, request_id=request_id
    )
    if isinstance(error, CompileError):
        found.log, found.lines = error.log or None, [dict(line) for line in error.lines]
    return found.model_dump(exclude_none=True)


def escaped(value: Any) -> bytes:
    """JSON that is harmless even where it is taken for HTML: what a client sent may stand in it."""
    return _encode(value).replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


def problem_json(error: OpenRuntimeError, request_id: str | None = None) -> bytes:
    return escaped(problem(error, request_id))


def retry_after(error: OpenRuntimeError) -> list[tuple[bytes, bytes]]:
    """When trying again can help: whole seconds, at least one."""
    if error.status not in (429, 503, 507):
        return []
    return [(b"retry-after", b"%d" % max(1, ceil(error.retry_after or 1)))]


def invalid(error: ValidationError | Mapping[str, Any], known: Mapping[str, Any] | None = None, shape: str = "a JSON object") -> InvalidRequest:
    """Pydantic's first complaint as one sentence that names the field; `known` are the names there are, `shape` what the whole must be."""
    first = error.errors(include_url=False, include_context=True)[0] if isinstance(error, ValidationError) else error
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return InvalidRequest(f"`{field}` is missing", field=field)
    if first["type"] == "extra_forbidden":
        return InvalidRequest(f"`{field}` is not a field of this request{nearest(field, known or ())}", field=field)
    if not field:
        return InvalidRequest(f"the body must be {shape}")
    return InvalidRequest(f"`{field}` {_wish(first)}{_seen(first.get('input'))}", field=field)


def _wish(complaint: Mapping[str, Any]) -> str:
    """What would be right, in our words; a comparison pydantic makes that we have none for, in its own."""
    kind, context = complaint["type"], complaint.get("ctx") or {}
    match kind:
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "less_than":
            return f"must be below {context['lt']}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "greater_than":
            return f"must be above {context['gt']:g}"
        case "string_too_short" | "too_short":
            return f"must not be shorter than {context['min_length']}"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
        case "too_long":
            return f"must have at most {context['max_length']} items"
        case "enum" | "literal_error":
            return f"must be {context['expected']}"
    named = _KINDS.get(kind.split("_")[0])
    return f"must be {named}" if named else complaint["msg"][:1].lower() + complaint["msg"][1:]


def _seen(given: Any) -> str:
    """What was sent, as JSON, where it is short enough to be shown."""
    if isinstance(given, list | dict):
        return f", not {'a list' if isinstance(given, list) else 'an object'}"
    try:
        return f", not {_encode(given[:60] if isinstance(given, str) else given).decode()}"
    except (TypeError, ValueError, OverflowError):
        return ""


def from_status(status: int, path: str, method: str) -> OpenRuntimeError:
    """What the router refuses, as ours."""
    if status == 404:
        return NotFound(f"there is nothing at {path[:200]!r}; /docs lists what there is")
    if status == 405:
        return MethodNotAllowed(f"{method} is not possible at {path[:200]!r}; the `Allow` header lists what is")
    if status == 413:
        return PayloadTooLarge("the body is too large")
    if status == 403:
        return Forbidden("this is not allowed")
    if 400 <= status < 500:
        return InvalidRequest(f"the request is not valid: {HTTPStatus(status).phrase}")
    return OpenRuntimeError("the server could not answer; its log has the cause under this request id")
