"""`/kernels/{name}/verify` and `/kernels/{name}/tune`: whether a kernel computes what it claims, and how it does so fastest."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field, ValidationError

from openruntime.contracts.errors import UnsupportedMediaType
from openruntime.contracts.models import TaskResponse, TaskStatus
from openruntime.gateway import examples
from openruntime.gateway.body import BodyReader
from openruntime.gateway.dependencies import Services, headers, principal
from openruntime.gateway.errors import invalid
from openruntime.gateway.openapi import FAILED, LOCATION, PREFER, body, example, parameter, plain, problems
from openruntime.gateway.requests import parse_json
from openruntime.gateway.results import describe, failed, to_json
from openruntime.gateway.tasks import json_response
from openruntime.gateway.wire import JSON, Receive, Scope, Send, applied, media_type, preferred_wait, respond

LARGEST = 1 << 20  # bytes of a request
SEED = "Of the random inputs; a report's own repeats its trial. Drawn anew unless given."


class VerifyRequest(BaseModel, extra="forbid"):
    """All may be left out."""

    sizes: list[dict[str, int]] = Field([], description="Sizes to try besides, each a value for every symbol.", examples=[[{"n": 1000000}]])
    seed: int | None = Field(None, description=SEED)
    launch: float = Field(5.0, description="Seconds that one run may take.", gt=0, le=600)
    limit: float = Field(120.0, description="Seconds that all of it may take.", gt=0, le=600)
    priority: int = Field(5, ge=1, le=10)
    device_preference: str | None = None


class TuneRequest(BaseModel, extra="forbid"):
    """All may be left out."""

    sizes: dict[str, int] | None = Field(None, description="What to tune for, a value for every symbol.", examples=[{"n": 1048576}])
    baseline: str | None = Field(None, description="A kernel with the same signature that gains are told against; this one's defaults unless given.")
    rounds: int = Field(15, description="Of the last measurement, in which the best take turns with the baseline.", ge=3, le=200)
    seed: int | None = Field(None, description=SEED)
    launch: float = Field(10.0, description="Seconds that one run may take.", gt=0, le=600)
    limit: float = Field(300.0, description="Seconds that all of it may take.", gt=0, le=600)
    priority: int = Field(5, ge=1, le=10)
    device_preference: str | None = None


class Verification(BaseModel, extra="allow"):
    """`verdict` says it in a sentence. `cases`: each with its `sizes`, `data`, `findings`, and `worst`, the largest error over its tolerance."""

    ok: bool
    verdict: str
    findings: list[str]
    cases: list[dict[str, Any]]
    refused: list[dict[str, Any]] = Field(description="Cases that the reference or the kernel's own formulas refuse, with the reason.")
    not_tried: list[str] = Field(description="What was left out by the kernel's domain or cannot be seen on this device.")
    seed: int
    device: str
    task_id: str


class Tuning(BaseModel, extra="allow"):
    """`winner`: the values that later runs use on this device for sizes near `sizes`; null where the defaults are as good. Seconds."""

    seed: int
    sizes: dict[str, int]
    baseline: dict[str, Any]
    candidates: list[dict[str, Any]]
    winner: dict[str, int] | None
    gain: float | None = Field(description="Of the best over the baseline, by medians.")
    gain_spread: list[float] | None = Field(description="Its quartiles, round by round.")
    device: str
    task_id: str


def router(services: Services, bodies: BodyReader) -> APIRouter:
    routes = APIRouter(tags=["kernels"])
    trials, tasks, limits = services.trials, services.tasks, services.limits

    def beginning(kind: str) -> Any:
        async def begin(scope: Scope, receive: Receive, send: Send) -> None:
            given, who = headers(scope), principal(scope)
            if kind == "tune":
                services.access.kernel(who, scope["path_params"]["name"], f"to tune the kernel {scope['path_params']['name'][:100]}")
            data = bytes(await bodies.read(scope, receive, LARGEST))
            if data and media_type(given.get(b"content-type")) != JSON:
                raise UnsupportedMediaType(f"the Content-Type must be {JSON}", field="Content-Type")
            model = VerifyRequest if kind == "verify" else TuneRequest
            try:
                asked = model.model_validate(parse_json(data) if data else {}, strict=True).model_dump(exclude_unset=True, exclude_none=True)
            except ValidationError as error:
                raise invalid(error, model.model_fields) from None
            run: dict[str, Any] = {field: asked.pop(field) for field in ("priority", "device_preference") if field in asked}
            wait = preferred_wait(given.get(b"prefer"), limits.longest_wait)
            task = await trials.begin(kind, scope["path_params"]["name"], asked, run, principal=who)
            extra = [(b"location", f"/tasks/{task.id}".encode())]
            if wait is None:
                await respond(send, 202, JSON.encode(), [to_json(describe(task))], extra)
                return
            extra.append(applied(wait))
            if not await tasks.wait(task, wait):
                await respond(send, 202, JSON.encode(), [to_json(describe(task))], extra)
                return
            if task.life.status is not TaskStatus.COMPLETED:
                raise failed(task)
            report = await trials.report(kind, scope["path_params"]["name"], task.id, principal=who)
            await respond(send, 200, JSON.encode(), [to_json(report)], extra)

        return begin

    name = parameter("name", "path", "The kernel's name.", {"type": "string"})
    queued = {
        "model": TaskResponse,
        "description": "Accepted; the task has its progress and its end.",
        "headers": LOCATION,
        **example(examples.QUEUED),
    }
    told: tuple[tuple[str, Any, str, str, str, Any], ...] = (
        ("verify", Verification, "VerifyRequest", "Compare a kernel with its reference",
         "On seeded random inputs of many sizes, with NaN, infinities, denormals and empty arrays, between guarded and poisoned memory, twice and "
         "more; the reference runs in float64 in another process.", examples.VERIFICATION),
        ("tune", Tuning, "TuneRequest", "Find the best values of what a kernel leaves open",
         "A line `// tune: TILE = 8, 16, 32` in the source names a constant and its values. Every candidate is verified before it is timed.",
         examples.TUNING),
    )  # fmt: skip
    for kind, model, request, summary, description, shown in told:
        asked = body({"$ref": f"#/components/schemas/{request}"}, examples=examples.TRIALS[kind])
        asked["requestBody"]["required"] = False
        plain(
            routes, "POST", f"/kernels/{{name}}/{kind}", beginning(kind), f"{kind}_kernel",
            summary=summary, description=f"{description} It is a task. With `Prefer: wait=N` the answer is the report, if it ends in time.",
            status_code=202, response_model=TaskResponse,
            responses={202: queued, 200: {"model": model, **example(shown)}, **problems(400, 404, 408, 413, 415, FAILED, 429, 503, 507)},
            openapi_extra=asked | {"parameters": [name, PREFER]},
        )  # fmt: skip

    task = Query(description="The task whose report it is to be; the newest unless given.")

    @routes.get(
        "/kernels/{name}/verify", response_model=Verification, responses={200: example(examples.VERIFICATION), **problems(404, 409, 410, 503)}
    )
    async def get_verification(
        request: Request, name: Annotated[str, Path(description="The kernel's name.")], task_id: Annotated[str | None, task] = None
    ) -> Response:
        """The report of the last verification."""
        return json_response(await trials.report("verify", name, task_id, principal=principal(request.scope)))

    @routes.get("/kernels/{name}/tune", response_model=Tuning, responses={200: example(examples.TUNING), **problems(404, 409, 410, 503)})
    async def get_tuning(
        request: Request, name: Annotated[str, Path(description="The kernel's name.")], task_id: Annotated[str | None, task] = None
    ) -> Response:
        """The report of the last tuning."""
        return json_response(await trials.report("tune", name, task_id, principal=principal(request.scope)))

    return routes
