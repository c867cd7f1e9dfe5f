"""`/ai`: agents, the runs that they are given, what those ask a person for, and sessions that remember."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field, ValidationError

from openruntime.ai.agents import sessions
from openruntime.ai.agents.records import approval as approval_shown
from openruntime.ai.agents.records import shown
from openruntime.contracts.errors import Conflict, InvalidRequest, UnsupportedMediaType
from openruntime.contracts.models import AIRequest
from openruntime.contracts.records import Principal
from openruntime.gateway import ai_examples as examples
from openruntime.gateway.body import BodyReader
from openruntime.gateway.dependencies import Services, headers, principal
from openruntime.gateway.errors import invalid
from openruntime.gateway.openapi import LOCATION, PREFER, WAIT, body, example, parameter, plain, problems
from openruntime.gateway.requests import parse_json
from openruntime.gateway.results import to_json
from openruntime.gateway.tasks import json_response
from openruntime.gateway.wire import JSON, Receive, Scope, Send, accepted, applied, media_type, preferred_wait, query_wait, respond

LARGEST = 4 << 20  # bytes of a request
STREAM = "text/event-stream"
T = TypeVar("T", bound=BaseModel)
BREATH = 15.0  # seconds of silence after which a stream says that it lives


class Agent(BaseModel):
    """A role. `scopes` is what it may do by itself, `asks` what a person has to approve each time."""

    name: str
    summary: str
    workflows: list[str]
    scopes: list[str]
    asks: list[str]
    needs_model: bool
    tools: list[dict[str, str]]
    budget: dict[str, float]


class AgentList(BaseModel):
    agents: list[Agent]


class AITask(BaseModel, extra="allow"):
    """An agent's run. `status`: queued, running, waiting (for a person), completed, failed or cancelled; `unfinished`: why it ended early."""

    task_id: str
    status: str
    workflow: str
    agent: str
    model: str | None
    prompt: str
    session: str | None = None
    code: str | None = None
    error: str | None = None
    unfinished: str | None = None
    spent: dict[str, Any]
    budget: dict[str, Any] = {}
    result: dict[str, Any] = {}
    calls: list[dict[str, Any]] = []
    approvals: list[dict[str, Any]] = []


class AITaskList(BaseModel):
    tasks: list[AITask]


class ApprovalList(BaseModel):
    approvals: list[dict[str, Any]]


class Decision(BaseModel, extra="forbid"):
    """A person's word on one request."""

    approve: bool = Field(strict=True)
    reason: str = Field("", max_length=1000, description="Told to the agent.")


class SessionRequest(BaseModel, extra="forbid"):
    title: str = Field("", max_length=200)


class SessionInfo(BaseModel, extra="allow"):
    """A conversation. `turns` that are kept; `dropped`: those that were too many."""

    id: str
    title: str
    created_at: str
    used_at: str
    turns: int
    dropped: int


class SessionList(BaseModel):
    sessions: list[SessionInfo]


class _Applications:
    """Those that read a body or stream, as plain ASGI applications."""

    def __init__(self, services: Services, bodies: BodyReader) -> None:
        self._agents = services.agents
        self._limits = services.limits
        self._bodies = bodies

    async def ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /ai/tasks`."""
        given, who = headers(scope), principal(scope)
        media = accepted(given.get(b"accept"), (JSON, STREAM))
        wait = preferred_wait(given.get(b"prefer"), self._limits.longest_wait)
        request = await self._read(scope, receive, AIRequest)
        run = await self._agents.submit(request, principal=who)
        extra = [(b"location", f"/ai/tasks/{run.id}".encode())]
        if media == STREAM:
            await _stream(send, run.feed.events(), extra)
            return
        if wait is not None:
            extra.append(applied(wait))
            await asyncio.wait((run.task,), timeout=wait)
        await respond(send, 200 if wait is not None and run.record.ended else 202, JSON.encode(), [to_json(shown(run.record))], extra)

    async def look(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /ai/tasks/{run_id}`."""
        given, who, run_id = headers(scope), principal(scope), scope["path_params"]["run_id"]
        streams = accepted(given.get(b"accept"), (JSON, STREAM)) == STREAM
        record = await self._agents.get(run_id, principal=who)
        run = await self._agents.live(run_id, principal=who) if streams or record.owner == self._agents.owner else None
        if streams:
            after = _number(given.get(b"last-event-id"))
            if run is not None and run.feed.over(after):
                await send({"type": "http.response.start", "status": 204, "headers": []})  # by which a browser's EventSource stops asking
                await send({"type": "http.response.body", "body": b""})
                return
            await _stream(send, run.feed.events(after) if run is not None else self._told(run_id, who), [])
            return
        wait = query_wait(scope["query_string"], self._limits.longest_wait)
        if wait and run is not None and not run.record.ended:
            await asyncio.wait((run.task,), timeout=wait)
        await respond(send, 200, JSON.encode(), [to_json(shown(await self._agents.get(run_id, principal=who)))])

    async def _told(self, run_id: str, who: Principal) -> AsyncGenerator[tuple[int, str, Any]]:
        """Of a run of which only the record is left: that."""
        yield 1, "finished", shown(await self._agents.get(run_id, principal=who))

    async def decide(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /ai/tasks/{run_id}/approvals/{approval}`."""
        who, names = principal(scope), scope["path_params"]
        decision = await self._read(scope, receive, Decision)
        run = await self._agents.live(names["run_id"], principal=who)
        if run is None or run.record.ended:
            raise Conflict(f"run {names['run_id']} has ended: there is nothing to approve any more", field="approval")
        entry = run.desk.decide(names["approval"], decision.approve, by=who.id, reason=decision.reason)
        await respond(send, 200, JSON.encode(), [to_json(approval_shown(entry))])

    async def begin(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /ai/sessions`."""
        request = await self._read(scope, receive, SessionRequest)
        made = await self._agents.sessions.create(request.title, principal=principal(scope))
        await respond(send, 201, JSON.encode(), [to_json(sessions.shown(made))], [(b"location", f"/ai/sessions/{made.id}".encode())])

    async def _read(self, scope: Scope, receive: Receive, model: type[T]) -> T:
        if media_type(headers(scope).get(b"content-type")) != JSON:
            raise UnsupportedMediaType(f"the Content-Type must be {JSON}", field="Content-Type")
        found = parse_json(await self._bodies.read(scope, receive, LARGEST))
        try:
            return model.model_validate(found)
        except ValidationError as error:
            raise invalid(error, model.model_fields, "a JSON object") from None


async def _stream(send: Send, events: AsyncGenerator[tuple[int, str, Any]], extra: list[tuple[bytes, bytes]]) -> None:
    """Server-sent events (WHATWG HTML, section 9.2). A client that goes away leaves the run alone."""
    start = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"), *extra]
    await send({"type": "http.response.start", "status": 200, "headers": start})
    async with aclosing(events):
        waiting = asyncio.ensure_future(anext(events))
        try:
            while True:
                done, _ = await asyncio.wait((waiting,), timeout=BREATH)
                if not done:
                    await send({"type": "http.response.body", "body": b": waiting\n\n", "more_body": True})
                    continue
                try:
                    number, kind, data = waiting.result()
                except StopAsyncIteration:
                    break
                text = b"id: %d\nevent: %s\ndata: %s\n\n" % (number, kind.encode(), to_json(data))
                await send({"type": "http.response.body", "body": text, "more_body": True})
                waiting = asyncio.ensure_future(anext(events))
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    await send({"type": "http.response.body", "body": b""})


def _number(header: bytes | None) -> int:
    if header is None:
        return 0
    if not header.isdigit() or len(header) > 12:
        raise InvalidRequest("`Last-Event-ID` must be the `id` of an event that was seen", field="Last-Event-ID")
    return int(header)


def router(services: Services, bodies: BodyReader) -> APIRouter:
    routes = APIRouter(tags=["ai"])
    agents, applications = services.agents, _Applications(services, bodies)
    run_path = parameter("run_id", "path", "The run's id.", {"type": "string"})
    streamed = {"content": {JSON: {"example": examples.RUN}, STREAM: {"schema": {"type": "string"}, "example": examples.STREAM}}}
    RunId = Annotated[str, Path(description="The run's id.")]
    SessionId = Annotated[str, Path(description="The session's id.")]

    @routes.get("/ai/agents", response_model=AgentList, responses={200: example(examples.AGENTS), **problems(503)})
    async def list_agents() -> Response:
        """The agents: what each is for, what it may do, which tools it has."""
        return json_response({"agents": agents.agents()})

    plain(
        routes, "POST", "/ai/tasks", applications.ask, "ask_agent",
        summary="Give an agent work",
        description="`workflow` chooses the agent. `parameters` may name a `model`, a `session` to continue, a `budget` (tokens, seconds, "
        "device_seconds, tasks) and a `seed`; what else there is belongs to the agent. With `Prefer: wait=N` the answer is the run, ended "
        "if it ends in time; with `Accept: text/event-stream` it is told as it goes: `started`, `call`, `progress`, `delta` (a piece of the answer), "
        "`approval`, and at last `finished` with the run.",
        status_code=202, response_model=AITask,
        responses={202: {"headers": LOCATION, **streamed}, 200: {"model": AITask, "headers": LOCATION, **streamed},
                   **problems(400, 404, 406, 408, 413, 415, 422, 429, 503)},
        openapi_extra=body({"$ref": "#/components/schemas/AIRequest"}, examples=examples.REQUESTS) | {"parameters": [PREFER]},
    )  # fmt: skip
    plain(
        routes, "GET", "/ai/tasks/{run_id}", applications.look, "get_ai_task",
        summary="A run: its result, every call of a tool, what it has spent",
        description="With `Accept: text/event-stream` its events from the beginning, or after `Last-Event-ID`; 204 when it has ended and that was "
        "the last.",
        response_model=AITask, responses={200: streamed, 204: {"description": "All events were seen."}, **problems(400, 404, 406, 503)},
        openapi_extra={"parameters": [run_path, WAIT]},
    )  # fmt: skip
    plain(
        routes, "POST", "/ai/tasks/{run_id}/approvals/{approval}", applications.decide, "decide_approval",
        summary="Approve or refuse what a run asks for",
        description="What is approved is that one request, once.",
        response_model=None, responses={200: example(examples.APPROVED), **problems(400, 404, 408, 409, 413, 415, 503)},
        openapi_extra=body({"$ref": "#/components/schemas/Decision"}, examples={"approve": {"value": {"approve": True}}})
        | {"parameters": [run_path, parameter("approval", "path", "The approval's id.", {"type": "string"})]},
    )  # fmt: skip
    plain(
        routes, "POST", "/ai/sessions", applications.begin, "create_session",
        summary="Begin a session",
        description="Its id in `parameters.session` makes a run part of it: it is told what was said before.",
        status_code=201, response_model=SessionInfo, responses={201: example(examples.SESSION), **problems(400, 408, 413, 415, 503, 507)},
        openapi_extra=body({"$ref": "#/components/schemas/SessionRequest"}, examples={"titled": {"value": {"title": "Why is it slow?"}}}),
    )  # fmt: skip

    @routes.get("/ai/tasks", response_model=AITaskList, responses={200: example(examples.RUNS), **problems(400, 503)})
    async def list_ai_tasks(request: Request, limit: Annotated[int, Query(ge=1, le=1000, description="Most runs in the answer.")] = 50) -> Response:
        """List the runs, newest first, without results."""
        found = await agents.list(principal=principal(request.scope), limit=limit)
        return json_response({"tasks": [shown(record, whole=False) for record in found]})

    @routes.delete("/ai/tasks/{run_id}", response_model=AITask, responses={200: example(examples.RUN), **problems(404, 503)})
    async def cancel_ai_task(request: Request, run_id: RunId) -> Response:
        """Stop a run and all that it has running; one that has ended is answered unchanged."""
        return json_response(shown(await agents.cancel(run_id, principal=principal(request.scope))))

    @routes.get("/ai/tasks/{run_id}/approvals", response_model=ApprovalList, responses={200: example(examples.APPROVALS), **problems(404, 503)})
    async def list_approvals(request: Request, run_id: RunId) -> Response:
        """What a run asks, or asked, a person for."""
        record = await agents.get(run_id, principal=principal(request.scope))
        return json_response({"approvals": [approval_shown(entry) for entry in record.approvals]})

    @routes.get("/ai/sessions", response_model=SessionList, responses={200: example(examples.SESSIONS), **problems(503)})
    async def list_sessions(request: Request) -> Response:
        """List the sessions, the last used first."""
        found = await agents.sessions.list(principal=principal(request.scope))
        return json_response({"sessions": [sessions.shown(session, whole=False) for session in found]})

    @routes.get("/ai/sessions/{session}", response_model=SessionInfo, responses={200: example(examples.SESSION), **problems(404, 503)})
    async def get_session(request: Request, session: SessionId) -> Response:
        """A session with what was said."""
        return json_response(sessions.shown(await agents.sessions.get(session, principal=principal(request.scope))))

    @routes.delete("/ai/sessions/{session}", status_code=204, response_class=Response, responses=problems(404, 503))
    async def delete_session(request: Request, session: SessionId) -> Response:
        """Forget a session; its runs' records stay."""
        await agents.sessions.delete(session, principal=principal(request.scope))
        return Response(status_code=204)

    return routes
