"""Refusals as RFC 9457 problem details: a stable code, a sentence, the request id; never a stack trace."""

from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from typing import Any

from pydantic import ValidationError

from openruntime.contracts.errors import Forbidden, InvalidRequest, MethodNotAllowed, NotFound, OpenRuntimeError, PayloadTooLarge, nearest
from openruntime.contracts.models import Problem

PROBLEM = b"application/problem+json"


class Disconnected(Exception):
    """The client went away; there is nobody to answer."""


def problem(error: OpenRuntimeError, request_id: str | None = None) -> dict[str, Any]:
    """`error` as a problem document."""
    return Problem(
        title=HTTPStatus(error.status).phrase, status=error.status, code=error.code, detail=error.message, field=error.field, request_id=request_id
    ).model_dump(exclude_none=True)


def retry_after(error: OpenRuntimeError) -> list[tuple[bytes, bytes]]:
    """When trying again can help: whole seconds, at least one."""
    if error.status not in (429, 503):
        return []
    return [(b"retry-after", b"%d" % max(1, ceil(error.retry_after or 1)))]


def invalid(error: ValidationError | Mapping[str, Any], known: Mapping[str, Any] | None = None) -> InvalidRequest:
    """Pydantic's first complaint as one sentence that names the field; `known` are the names there are."""
    first = error.errors(include_url=False, include_context=True)[0] if isinstance(error, ValidationError) else error
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return InvalidRequest(f"`{field}` is missing", field=field)
    if first["type"] == "extra_forbidden":
        return InvalidRequest(f"`{field}` is not a field of this request{nearest(field, known or ())}", field=field)
    got = first.get("input")
    seen = f", not {str(got)[:60]!r}" if isinstance(got, (str, int, float, bool)) or got is None else ""
    said = first["msg"][:1].lower() + first["msg"][1:]
    return InvalidRequest(f"{f'`{field}`' if field else 'the body'}: {said}{seen}", field=field or None)


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
