"""What the API's document says beside the signatures: problems, the byte formats, examples."""

from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request

from openruntime.contracts.models import Problem
from openruntime.gateway import examples as examples_of
from openruntime.gateway.wire import JSON, NPY, SAFETENSORS, Application

_PROBLEMS: dict[int, tuple[str, str, str]] = {
    400: ("invalid_request", "The request cannot be read; `field` names the offending part.", "`priority` must be at most 10, not 11"),
    403: ("forbidden", "The `Host` header is no name of this server, or whoever asks may not do this.", "this server is not 'example.com'"),
    404: ("not_found", "There is no such thing.", "there is no task '0199'"),
    405: ("method_not_allowed", "The `Allow` header lists what is possible.", "PATCH is not possible at '/tasks'"),
    406: ("not_acceptable", "The answer cannot have this format.", "npy holds one array, but svd has 3 outputs (u, s, vh)"),
    408: ("request_timeout", "The body stopped coming.", "no byte of the body came for 30 seconds"),
    409: ("not_ready", "The task has not ended, or the request contradicts an earlier one.", "task 0199 is running"),
    410: ("expired", "It was there; its time is over.", "the result of task 0199 is no longer kept"),
    413: ("payload_too_large", "The body, or what the task would need, does not fit.", "the body is larger than the limit"),
    415: ("unsupported_media_type", "This content type is not read here.", "the Content-Type 'text/plain' is not read here"),
    422: ("invalid_parameter", "The operation, a parameter or the device is not right.", "`a` has 3 columns and `b` 2 rows"),
    429: ("queue_full", "Try again after `Retry-After` seconds; nothing was lost.", "the queue is full"),
    503: ("unavailable", "Not ready, or draining; try again after `Retry-After` seconds.", "no worker can take work yet"),
    507: ("storage_full", "The disk is full; nothing was accepted.", "the data directory has no space left"),
}
_BODIES = {NPY: examples_of.NPY_BODY, SAFETENSORS: examples_of.SAFETENSORS_BODY}
PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}
BINARY = {"type": "string", "format": "binary"}
CONFLICT = (409, "conflict", "The `Idempotency-Key` was used with another request.", "the Idempotency-Key 'k1' belongs to another request")
FAILED = (422, "operation_failed", "The operation, a parameter or the device is not right; or the task failed.", "the matrix is singular")
SPLIT_NOTE = """complex128 is not in the safetensors format: it is sent as `C128`, which OpenRuntime's clients read and others refuse.
With `Accept: application/x-safetensors; complex=split` complex arrays are F32 or F64 with a last axis of 2 (real, imaginary), listed under
the metadata key `complex`, separated by commas; every reader opens that. The same key is understood in bodies that are sent."""
_ID_HEADER = {"X-Request-ID": {"description": "The request's id; the one sent, if one was.", "schema": {"type": "string"}}}
LOCATION = {"Location": {"description": "Where the task is.", "schema": {"type": "string"}}}


def problems(*wanted: int | tuple[int, str, str, str]) -> dict[int | str, dict[str, Any]]:
    """The documentation of these refusals, each with an example; (status, code, description, detail) where it is a special one."""
    found: dict[int | str, dict[str, Any]] = {}
    for item in wanted:
        status, code, description, detail = (item, *_PROBLEMS[item]) if isinstance(item, int) else item
        example = Problem(title=code.replace("_", " ").capitalize(), status=status, code=code, detail=detail).model_dump(exclude_none=True)
        found[status] = {
            "description": description,
            "headers": _ID_HEADER | ({"Retry-After": {"schema": {"type": "integer"}}} if status in (429, 503, 507) else {}),
            "content": {"application/problem+json": {"schema": PROBLEM_SCHEMA, "example": example}},
        }
    return found


def arrays(description: str, *media: str, shown: Any, **rest: Any) -> dict[str, Any]:
    """A response that may also be bytes."""
    return {
        "description": description,
        "content": {name: {"example": shown} if name == JSON else {"schema": BINARY} for name in media},
        "headers": _ID_HEADER,
        **rest,
    }


def body(schema: dict[str, Any] | None, *media: str, examples: dict[str, Any] | None = None) -> dict[str, Any]:
    """`openapi_extra` for a request body that is JSON of this schema (unless None), or bytes."""
    content: dict[str, Any] = {name: {"schema": BINARY, "examples": _BODIES[name]} for name in media}
    if schema is not None:
        content = {JSON: {"schema": schema, **({"examples": examples} if examples else {})}, **content}
    return {"requestBody": {"required": True, "content": content}}


def example(value: Any) -> dict[str, Any]:
    return {"content": {JSON: {"example": value}}}


def parameter(name: str, where: str, description: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": where, "required": required or where == "path", "description": description, "schema": schema}


PREFER = parameter("Prefer", "header", "`wait=10`: answer with the result when the task ends within so many seconds (RFC 7240).", {"type": "string"})
IDEMPOTENCY = parameter("Idempotency-Key", "header", "The same key and request give the same task, once.", {"type": "string", "maxLength": 255})
CACHE = parameter("Cache-Control", "header", "`no-store`: past the result cache; `no-cache`: compute anew and keep the result.", {"type": "string"})
TRACE = parameter("traceparent", "header", "The W3C trace context that the task belongs to; kept with it.", {"type": "string"})
WAIT = parameter("wait", "query", "Wait up to so many seconds for the end.", {"type": "number", "minimum": 0})
IDS = parameter("ids", "query", "Up to 1,000 task ids, separated by commas.", {"type": "string"}, required=True)
TASK_ID = parameter("task_id", "path", "The task's id.", {"type": "string"})
BYTES = (SAFETENSORS, NPY)


def answered_by(app: Application) -> type[APIRoute]:
    """A route class whose requests go to a plain ASGI application; its endpoint only documents it."""

    class Answered(APIRoute):
        def get_route_handler(self) -> Any:
            async def handler(request: Request) -> Application:
                return app

            return handler

    return Answered


def plain(router: APIRouter, method: str, path: str, app: Application, name: str, **documentation: Any) -> None:
    """Registers an ASGI application as a route: its summary is its docstring's first line unless given."""

    async def documented() -> None:
        raise AssertionError("answered by the ASGI application")

    documented.__name__ = name
    router.add_api_route(path, documented, methods=[method], name=name, route_class_override=answered_by(app), **documentation)
