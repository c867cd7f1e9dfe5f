"""What the API's document says beside the signatures: problems, the byte formats, examples."""

from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request

from openruntime.contracts.models import Problem, TaskResponse, TaskStatus
from openruntime.gateway.wire import JSON, NPY, SAFETENSORS, Application

_PROBLEMS: dict[int, tuple[str, str, str]] = {
    400: ("invalid_request", "The request cannot be read; `field` names the offending part.", "`priority`: must be at most 10, not 11"),
    403: ("forbidden", "This may not be done by whoever asks.", "this is not allowed"),
    404: ("not_found", "There is no such thing.", "there is no task '0199'"),
    405: ("method_not_allowed", "The `Allow` header lists what is possible.", "PATCH is not possible at '/tasks'"),
    406: ("not_acceptable", "The answer cannot have this format.", "npy holds one array, but svd has 3 outputs (u, s, vh)"),
    408: ("request_timeout", "The body came too slowly.", "no byte of the body came for 30 seconds"),
    409: ("not_ready", "The task has not ended, or the request contradicts an earlier one.", "task 0199 is running"),
    410: ("expired", "It was there; its time is over.", "the result of task 0199 is no longer kept"),
    413: ("payload_too_large", "The body, or what the task would need, does not fit.", "the body is larger than the limit"),
    415: ("unsupported_media_type", "This content type is not read here.", "the Content-Type 'text/plain' is not read here"),
    422: ("invalid_parameter", "The operation, a parameter or the device is not right.", "`a` has 3 columns and `b` 2 rows"),
    429: ("queue_full", "Try again after `Retry-After` seconds; nothing was lost.", "the queue is full"),
    500: ("operation_failed", "The task failed; the server itself failed only where the code is `internal`.", "the matrix is singular"),
    503: ("unavailable", "Not ready, or draining; try again after `Retry-After` seconds.", "no worker can take work yet"),
    507: ("storage_full", "The disk is full; nothing was accepted.", "the data directory has no space left"),
}
PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}
BINARY = {"type": "string", "format": "binary"}
TASK_EXAMPLE: dict[str, Any] = TaskResponse(
    task_id="0199c0de-7a3b-7c11-9d55-5b1f3c1a2b3c",
    status=TaskStatus.COMPLETED,
    result={"output": [[19, 22], [43, 50]]},
    execution_time=0.0004,
    device_used="cpu:0",
    operation="matmul",
    backend="numpy",
    attempt=1,
    created_at="2025-11-23T10:00:00Z",
    started_at="2025-11-23T10:00:00.001Z",
    finished_at="2025-11-23T10:00:00.002Z",
).model_dump(mode="json")
QUEUED_EXAMPLE = TaskResponse(
    task_id=TASK_EXAMPLE["task_id"], status=TaskStatus.QUEUED, operation="matmul", created_at=TASK_EXAMPLE["created_at"]
).model_dump(mode="json")
REQUEST_EXAMPLES = {
    "matmul": {"summary": "Nested lists", "value": {"operation": "matmul", "parameters": {"a": [[1, 2], [3, 4]], "b": [[5, 6], [7, 8]]}}},
    "expression": {"summary": "A formula, urgent", "value": {"operation": "expression", "parameters": {"formula": "2*x", "x": [1.0]}, "priority": 9}},
}
_ID_HEADER = {"X-Request-ID": {"description": "The request's id; the one sent, if one was.", "schema": {"type": "string"}}}
LOCATION = {"Location": {"description": "Where the task is.", "schema": {"type": "string"}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of these refusals, each with an example."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted(set(statuses)):
        code, description, detail = _PROBLEMS[status]
        example = Problem(title=code.replace("_", " ").capitalize(), status=status, code=code, detail=detail).model_dump(exclude_none=True)
        found[status] = {
            "description": description,
            "headers": _ID_HEADER | ({"Retry-After": {"schema": {"type": "integer"}}} if status in (429, 503) else {}),
            "content": {"application/problem+json": {"schema": PROBLEM_SCHEMA, "example": example}},
        }
    return found


def arrays(description: str, *media: str, **rest: Any) -> dict[str, Any]:
    """A response that may also be bytes."""
    return {
        "description": description,
        "content": {name: {} if name == JSON else {"schema": BINARY} for name in media},
        "headers": _ID_HEADER,
        **rest,
    }


def body(schema: dict[str, Any] | None, *media: str, examples: dict[str, Any] | None = None) -> dict[str, Any]:
    """`openapi_extra` for a request body that is JSON of this schema (unless None), or bytes."""
    content: dict[str, Any] = {name: {"schema": BINARY} for name in media}
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
