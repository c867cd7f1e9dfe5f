"""`/tasks`: submit, look, wait, cancel, explain, trace."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from openruntime.contracts.models import Problem, TaskRequest, TaskResponse, TaskStatus
from openruntime.gateway import openapi
from openruntime.gateway.dependencies import Services, principal
from openruntime.gateway.openapi import BYTES, LOCATION, TASK_EXAMPLE, arrays, body, example, plain, problems
from openruntime.gateway.requests import BATCH
from openruntime.gateway.results import Results, describe, to_json
from openruntime.gateway.submission import Submission
from openruntime.gateway.wire import JSON, SAFETENSORS

_SUBMIT = """As JSON; as safetensors, a tensor for each array parameter and the TaskRequest under the metadata key `task`; or as npy,
the body being the operation's first array parameter, TaskRequest's fields by name and the other parameters as JSON literals in the query.
With `Prefer: wait=N` the answer is the result, if the task ends in time, in the format that `Accept` names."""
_BATCH = """As safetensors the metadata key `tasks` holds the list, arrays are named `INDEX.PARAMETER`, outputs come back as `INDEX.OUTPUT`.
One bad request costs the others nothing: its entry in the answer is its problem."""


class TaskList(BaseModel):
    """Newest first, without results; `next` is the cursor of the next page."""

    tasks: list[TaskResponse]
    next: str | None


class Batch(BaseModel):
    tasks: Annotated[list[TaskRequest], Field(min_length=1, max_length=BATCH)]


class BatchAnswer(BaseModel):
    """One entry a request, in order: the task, or why it was refused."""

    tasks: list[TaskResponse | Problem]


class Explanation(BaseModel, extra="allow"):
    """Why this device and backend, predicted against actual, position, batch, attempts."""


class Trace(BaseModel):
    """Chrome trace events; opens in Perfetto."""

    traceEvents: list[dict[str, Any]]


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, media_type=JSON)


def router(services: Services, submission: Submission, results: Results) -> APIRouter:
    routes = APIRouter(tags=["tasks"])
    tasks = services.tasks
    submitting = problems(400, 406, 408, 413, 415, 422, 429, 500, 503, 507)
    queued = {202: {"model": TaskResponse, "description": "Accepted and on disk.", "headers": LOCATION, **example(openapi.QUEUED_EXAMPLE)}}
    extra = body({"$ref": "#/components/schemas/TaskRequest"}, *BYTES, examples=openapi.REQUEST_EXAMPLES)
    plain(
        routes, "POST", "/tasks", submission.submit, "submit_task",
        summary="Submit a task",
        description=_SUBMIT,
        status_code=202, response_model=TaskResponse,
        responses={200: {"model": TaskResponse, **arrays("The task ended in time.", JSON, *BYTES, headers=LOCATION)}, **queued, **submitting},
        openapi_extra=extra | {"parameters": [openapi.PREFER, openapi.IDEMPOTENCY, openapi.CACHE]},
    )  # fmt: skip
    plain(
        routes, "POST", "/tasks/batch", submission.batch, "submit_batch",
        summary="Submit up to 1,000 tasks at once",
        description=_BATCH,
        status_code=202, response_model=BatchAnswer,
        responses={200: {"model": BatchAnswer, **arrays("All ended in time.", JSON, SAFETENSORS)}, **problems(400, 406, 413, 415, 429, 503, 507)},
        openapi_extra=body({"$ref": "#/components/schemas/Batch"}, SAFETENSORS) | {"parameters": [openapi.PREFER, openapi.CACHE]},
    )  # fmt: skip
    plain(
        routes, "GET", "/tasks/batch", submission.batch_results, "get_batch",
        summary="Up to 1,000 tasks with their results at once",
        description="Answers like a batch that was waited for: each task in the order of `ids`; as safetensors an array is named `{index}.{output}`.",
        response_model=BatchAnswer,
        responses={200: {"model": BatchAnswer, **arrays("What became of each.", JSON, SAFETENSORS)}, **problems(400, 406, 503, 507)},
        openapi_extra={"parameters": [openapi.IDS, openapi.WAIT]},
    )  # fmt: skip
    plain(
        routes, "GET", "/tasks/{task_id}", submission.status, "get_task",
        summary="A task, its result included once completed",
        response_model=TaskResponse, responses={200: example(TASK_EXAMPLE), **problems(400, 404, 503, 507)},
        openapi_extra={"parameters": [openapi.TASK_ID, openapi.WAIT]},
    )  # fmt: skip
    plain(
        routes, "GET", "/tasks/{task_id}/result", submission.result, "get_result",
        summary="The result, in the format that `Accept` names",
        response_model=TaskResponse,
        responses={200: arrays("The result.", JSON, *BYTES), **problems(400, 404, 406, 409, 410, 500, 503, 507)},
        openapi_extra={"parameters": [openapi.TASK_ID, openapi.WAIT]},
    )  # fmt: skip

    @routes.get("/tasks", response_model=TaskList, responses=problems(400, 503))
    async def list_tasks(
        request: Request,
        status: TaskStatus | None = None,
        operation: Annotated[str | None, Query(max_length=200)] = None,
        device: Annotated[str | None, Query(max_length=200)] = None,
        tag: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        cursor: Annotated[str | None, Query(max_length=500)] = None,
    ) -> Response:
        """List tasks, newest first."""
        found, after = await tasks.list(
            principal=principal(request.scope), status=status and status.value, operation=operation, device=device, tag=tag, limit=limit, after=cursor
        )
        return json_response({"tasks": [describe(task) for task in found], "next": after})

    @routes.delete("/tasks/{task_id}", response_model=TaskResponse, responses={200: example(TASK_EXAMPLE), **problems(404, 503, 507)})
    async def cancel_task(request: Request, task_id: str) -> Response:
        """Cancel a task; one that has ended is answered unchanged."""
        who = principal(request.scope)
        return Response(await results.json(await tasks.cancel(task_id, principal=who), who), media_type=JSON)

    @routes.get("/tasks/{task_id}/explain", response_model=Explanation, responses=problems(404, 503))
    async def explain_task(request: Request, task_id: str) -> Response:
        """Why it ran where it ran."""
        return json_response(await tasks.explain(task_id, principal=principal(request.scope)))

    @routes.get("/tasks/{task_id}/trace", response_model=Trace, responses=problems(404, 503))
    async def trace_task(request: Request, task_id: str) -> Response:
        """Where the time went, as Chrome trace events."""
        return json_response({"traceEvents": await tasks.trace(task_id, principal=principal(request.scope))})

    return routes
