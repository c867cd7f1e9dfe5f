"""`/tasks`: submit, look, wait, cancel, explain, trace."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from openruntime.contracts.errors import InvalidRequest, nearest
from openruntime.contracts.models import Problem, TaskRequest, TaskResponse, TaskStatus
from openruntime.contracts.records import Filter
from openruntime.gateway import examples, openapi
from openruntime.gateway.body import BodyReader
from openruntime.gateway.dependencies import Services, principal
from openruntime.gateway.exchange import application
from openruntime.gateway.openapi import BYTES, CONFLICT, FAILED, LOCATION, SPLIT_NOTE, arrays, body, example, plain, problems
from openruntime.gateway.requests import BATCH
from openruntime.gateway.results import Results, describe, to_json
from openruntime.gateway.submission import Submission
from openruntime.gateway.wire import JSON, SAFETENSORS

_SUBMIT = """As JSON; as safetensors, a tensor for each array parameter and the TaskRequest under the metadata key `task`; or as npy,
the body being the operation's first array parameter, TaskRequest's fields by name and the other parameters as JSON literals in the query.
With `Prefer: wait=N` the answer is the result, if the task ends in time, in the format that `Accept` names."""
_BATCH = """As safetensors the metadata key `tasks` holds the list, arrays are named `INDEX.PARAMETER`, outputs come back as `INDEX.OUTPUT`.
One bad request costs the others nothing: its entry in the answer is its problem."""


class ListedTask(TaskResponse):
    """`client`: whose fair share it counts on; `bytes`: what its call is estimated to move to and from memory."""

    client: str = ""
    bytes: float = 0.0


class TaskList(BaseModel):
    """Newest first, without results; `next` is the cursor of the next page."""

    tasks: list[ListedTask]
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


TaskId = Annotated[str, Path(description="The task's id.")]
_CURSOR = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
_FILTERS = ("status", "operation", "device", "tag", "limit", "cursor")


def check_cursor(cursor: str | None) -> None:
    """Raises `InvalidRequest` unless it can be the `next` of a page, which is an id."""
    if cursor and not _CURSOR(cursor):
        raise InvalidRequest(f"`cursor` must be the `next` of the page before, not {cursor[:60]!r}", field="cursor")


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, media_type=JSON)


def router(services: Services, submission: Submission, results: Results, bodies: BodyReader) -> APIRouter:
    routes = APIRouter(tags=["tasks"])
    tasks = services.tasks
    submitting = problems(400, 406, 408, CONFLICT, 413, 415, FAILED, 429, 503, 507)
    queued = {202: {"model": TaskResponse, "description": "Accepted and on disk.", "headers": LOCATION, **example(examples.QUEUED)}}
    extra = body({"$ref": "#/components/schemas/TaskRequest"}, *BYTES, examples=examples.REQUESTS)
    plain(
        routes, "POST", "/tasks", application(submission.submit, bodies), "submit_task",
        summary="Submit a task",
        description=f"{_SUBMIT}\n\n{SPLIT_NOTE}",
        status_code=202, response_model=TaskResponse,
        responses={
            200: {"model": TaskResponse, **arrays("The task ended in time.", JSON, *BYTES, shown=examples.TASK, headers=LOCATION)},
            **queued,
            **submitting,
        },
        openapi_extra=extra | {"parameters": [openapi.PREFER, openapi.IDEMPOTENCY, openapi.CACHE, openapi.TRACE]},
    )  # fmt: skip
    plain(
        routes, "POST", "/tasks/batch", application(submission.batch, bodies), "submit_batch",
        summary="Submit up to 1,000 tasks at once",
        description=_BATCH,
        status_code=202, response_model=BatchAnswer,
        responses={
            200: {"model": BatchAnswer, **arrays("All ended in time.", JSON, SAFETENSORS, shown=examples.BATCH)},
            202: example(examples.BATCH_QUEUED),
            **problems(400, 406, 408, CONFLICT, 413, 415, 429, 503, 507),
        },
        openapi_extra=body({"$ref": "#/components/schemas/Batch"}, SAFETENSORS, examples=examples.BATCH_REQUESTS)
        | {"parameters": [openapi.PREFER, openapi.IDEMPOTENCY, openapi.CACHE, openapi.TRACE]},
    )  # fmt: skip
    plain(
        routes, "GET", "/tasks/batch", application(submission.batch_results, bodies), "get_batch",
        summary="Up to 1,000 tasks with their results at once",
        description="Answers like a batch that was waited for: each task in the order of `ids`; as safetensors an array is named `{index}.{output}`.",
        response_model=BatchAnswer,
        responses={
            200: {"model": BatchAnswer, **arrays("What became of each.", JSON, SAFETENSORS, shown=examples.BATCH)},
            **problems(400, 406, 503, 507),
        },
        openapi_extra={"parameters": [openapi.IDS, openapi.WAIT]},
    )  # fmt: skip
    plain(
        routes, "GET", "/tasks/{task_id}", application(submission.status, bodies), "get_task",
        summary="A task, its result included once completed",
        response_model=TaskResponse, responses={200: example(examples.TASK), **problems(400, 404, 503, 507)},
        openapi_extra={"parameters": [openapi.TASK_ID, openapi.WAIT]},
    )  # fmt: skip
    plain(
        routes, "GET", "/tasks/{task_id}/result", application(submission.result, bodies), "get_result",
        summary="The result, in the format that `Accept` names",
        description=SPLIT_NOTE,
        response_model=TaskResponse,
        responses={200: arrays("The result.", JSON, *BYTES, shown=examples.TASK), **problems(400, 404, 406, 409, 410, FAILED, 503, 507)},
        openapi_extra={"parameters": [openapi.TASK_ID, openapi.WAIT]},
    )  # fmt: skip

    @routes.get("/tasks", response_model=TaskList, responses={200: example(examples.TASKS), **problems(400, 503)})
    async def list_tasks(
        request: Request,
        status: Annotated[TaskStatus | None, Query(description="Only tasks in this state.")] = None,
        operation: Annotated[str | None, Query(max_length=200, description="Only tasks of this operation.")] = None,
        device: Annotated[str | None, Query(max_length=200, description="Only tasks that this device ran, by its id.")] = None,
        tag: Annotated[str | None, Query(max_length=100, description="Only tasks that have this tag.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="Most tasks in the answer.")] = 50,
        cursor: Annotated[str | None, Query(max_length=500, description="`next` of the page before.")] = None,
    ) -> Response:
        """List tasks, newest first."""
        for name in request.query_params:
            if name not in _FILTERS:
                raise InvalidRequest(f"`{name[:100]}` is no filter of tasks{nearest(name, _FILTERS)}", field=name[:100])
        check_cursor(cursor)
        chosen = Filter(status=status and status.value, operation=operation, device=device, tag=tag)
        found, after = await tasks.list(chosen, principal=principal(request.scope), limit=limit, after=cursor)
        listed = [describe(task) | {"client": task.client, "bytes": task.call.estimate.bytes} for task in found]
        return json_response({"tasks": listed, "next": after})

    @routes.delete("/tasks/{task_id}", response_model=TaskResponse, responses={200: example(examples.CANCELLED), **problems(404, 503, 507)})
    async def cancel_task(request: Request, task_id: TaskId) -> Response:
        """Cancel a task; one that has ended is answered unchanged."""
        who = principal(request.scope)
        services.access.task(who, await tasks.status(task_id, principal=who))
        return Response(await results.json(await tasks.cancel(task_id, principal=who), who), media_type=JSON)

    @routes.get("/tasks/{task_id}/explain", response_model=Explanation, responses={200: example(examples.EXPLANATION), **problems(404, 503)})
    async def explain_task(request: Request, task_id: TaskId) -> Response:
        """Why it ran where it ran."""
        return json_response(await tasks.explain(task_id, principal=principal(request.scope)))

    @routes.get("/tasks/{task_id}/trace", response_model=Trace, responses={200: example(examples.TRACE), **problems(404, 503)})
    async def trace_task(request: Request, task_id: TaskId) -> Response:
        """Where the time went, as Chrome trace events; `args` names the distributed trace that the task belongs to, if any."""
        return json_response({"traceEvents": await tasks.trace(task_id, principal=principal(request.scope))})

    return routes
