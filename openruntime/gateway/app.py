"""The front door: hot paths go straight to plain ASGI applications, the rest to FastAPI, which serves the same ones by its routes."""

import asyncio
import logging
import re
from collections.abc import Mapping, MutableMapping
from time import perf_counter
from typing import Any

from fastapi import FastAPI, WebSocket
from fastapi import Request as FastAPIRequest
from fastapi import Response as FastAPIResponse
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from openruntime.contracts import trace
from openruntime.contracts.errors import Forbidden, Internal, OpenRuntimeError, Unauthorized, Unavailable
from openruntime.contracts.models import AIRequest, Problem, TaskRequest
from openruntime.gateway import admission, ai, ai_models, devices, documentation, kernel_trials, kernels, operations, system, tasks, tensors
from openruntime.gateway.admission import Hosts
from openruntime.gateway.body import BodyReader, drain
from openruntime.gateway.dependencies import Services, headers
from openruntime.gateway.direct import Line
from openruntime.gateway.doors import Doors
from openruntime.gateway.errors import PROBLEM, Disconnected, from_status, invalid, problem_json, retry_after
from openruntime.gateway.exchange import Request, Response, application
from openruntime.gateway.mcp import METHODS, PATHS, McpEndpoint
from openruntime.gateway.openai import PREFIX, OpenAI
from openruntime.gateway.openai_answers import refused
from openruntime.gateway.openai_routes import SCHEMAS as OPENAI_SCHEMAS
from openruntime.gateway.openai_routes import router as openai_router
from openruntime.gateway.openapi import problems
from openruntime.gateway.results import Results
from openruntime.gateway.submission import Submission
from openruntime.gateway.websocket import WebSocketManager
from openruntime.gateway.wire import Answer, Application, Receive, Scope, Send, respond

log = logging.getLogger(__name__)

SCHEMAS = (
    Problem, TaskRequest, tasks.Batch, kernels.KernelRequest, kernel_trials.VerifyRequest, kernel_trials.TuneRequest,
    AIRequest, ai.Decision, ai.SessionRequest, ai_models.ModelAddition, ai_models.AliasTarget, *OPENAI_SCHEMAS,
)  # fmt: skip  # that bodies have and no signature mentions
_MCP = {path: [method.lower() for method in METHODS] for path in PATHS}
_UNREAD = (408, 413, 415)  # refusals that may leave before the body was read
# headers that ask something of the gateway itself
_ASKING = frozenset((b"origin", b"traceparent", b"x-request-id", b"content-encoding", b"transfer-encoding", b"expect", b"upgrade", b"authorization"))
_GET = re.compile(rb'GET (/tasks/[0-9A-Za-z-]+(?:/result)?)(?:\?([!-"$-~]*))? HTTP/1\.1').fullmatch


def create_gateway(services: Services) -> "Front":
    """The ASGI application that answers everything design §6 lists. Wired by core; nothing starts here."""
    results = Results(services.tasks, services.tensors, services.devices, services.limits.inline_elements)
    bodies = BodyReader(services.limits.body_bytes, services.limits.body_timeout, services.allocate)
    submission = Submission(services, results)
    sockets = WebSocketManager(services.events, services.limits)
    app = _api(services)
    app.include_router(system.router(services, lambda: sockets.count))
    app.include_router(devices.router(services, bodies))
    app.include_router(operations.router(services))
    app.include_router(tasks.router(services, submission, results, bodies))
    app.include_router(tensors.router(services, results, bodies))
    app.include_router(kernels.router(services, bodies))
    app.include_router(kernel_trials.router(services, bodies))
    app.include_router(ai.router(services, bodies))
    app.include_router(ai_models.router(services, bodies))
    openai = OpenAI(services, bodies)
    app.include_router(openai_router(openai))
    documentation.add(app)

    @app.websocket("/ws")
    async def events(socket: WebSocket) -> None:
        await sockets.serve(socket)

    front = Front(services, submission, openai, bodies, app)
    services.agents.use(front)
    app.router.routes += [Route(path, front.mcp, methods=METHODS) for path in PATHS]
    return front


def _api(services: Services) -> FastAPI:
    app = FastAPI(
        title="OpenRuntime",
        version=services.version,
        description="Send an operation and its arrays; it runs on the device that finishes it soonest. "
        "Arrays travel as safetensors or npy, small ones as JSON. What answers GET answers HEAD; OPTIONS lists what a path can. "
        "Clients take turns; the header `X-Client` tells programs of one machine apart.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={OpenRuntimeError: _refused, HTTPException: _unrouted, RequestValidationError: _unreadable, Exception: _unexpected},
    )
    _complete(app)
    return app


class Front:
    """Gives every request its id, sends hot paths straight on, and turns whatever is raised into a problem."""

    def __init__(self, services: Services, submission: Submission, openai: OpenAI, bodies: BodyReader, rest: FastAPI) -> None:
        self.rest = rest
        self._openai = openai
        self._bodies = bodies
        self._route = submission.route
        posts = {b"POST /tasks HTTP/1.1": submission.submit, b"POST /tasks/batch HTTP/1.1": submission.batch}
        self._posts = {text: Line(text, handler) for text, handler in posts.items()}
        self._hosts = Hosts(services.limits.hosts)
        self._doors = Doors(services.access, bodies)
        self._preflight: CORSMiddleware | None = None
        self._exposed: list[tuple[bytes, bytes]] = []
        self.mcp = McpEndpoint(self, services.limits, services.version)
        if services.limits.cors:
            exposed = ["Location", "X-Request-ID", "X-Task-ID", "Preference-Applied", "Retry-After", "traceparent"]
            self._preflight = CORSMiddleware(rest, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"], expose_headers=exposed)
            self._exposed = [(name.lower().encode(), value.encode()) for name, value in self._preflight.simple_headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
            return
        if scope["type"] == "websocket":
            try:
                self._hosts.check(headers(scope).get(b"host"))
                await self._doors.enter(scope, receive)
            except (Forbidden, Unauthorized):
                await send({"type": "websocket.close", "code": 1008})  # before it is accepted: HTTP 403
                return
        await self.rest(scope, receive, send)

    def drain(self) -> None:
        """The server is about to stop: what would otherwise be listened to for ever ends."""
        self.mcp.drain()

    async def close(self) -> None:
        """Before the runtime stops."""
        await self.mcp.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = headers(scope)
        request_id = scope["openruntime.request_id"] = admission.request_id(given.get(b"x-request-id"))
        answer = Answer(send, request_id)
        logged = log.isEnabledFor(logging.DEBUG)
        began = perf_counter() if logged else 0.0
        try:
            if b"origin" in given and not _preflight(scope):
                answer.extra += self._exposed
            if b"traceparent" in given:
                _trace(scope, given[b"traceparent"], answer)
            self._hosts.check(given.get(b"host"))
            if b"content-encoding" in given and scope["method"] in ("POST", "PUT"):
                admission.check_coding(given[b"content-encoding"])
            if b"authorization" in given or "openruntime.principal" in scope:
                await self._doors.enter(scope, receive)
            await (self._hot(scope) or self._unusual(scope) or self.rest)(scope, receive, answer)
        except Disconnected:
            pass
        except asyncio.CancelledError:  # by our own server when its grace is over; by whoever called an embedded runtime and gave up
            if not answer.ours:
                raise
            if not answer.status:
                await respond(answer, *_problem(_stopping(), request_id, scope))
        except OpenRuntimeError as error:
            if answer.status:
                log.error("an answer broke off", exc_info=error, extra=_ids(scope))
            else:
                await _send_problem(answer, receive, error, scope)
        except Exception:
            log.exception("a request failed", extra=_ids(scope))
            if not answer.status:
                await _send_problem(answer, receive, _internal(request_id), scope)
        if logged:
            _log_answer(scope["method"], scope["path"], answer.status, began, _ids(scope))

    def _unusual(self, scope: Scope) -> Application | None:
        """The application for a method that no route lists."""
        if scope["method"] == "HEAD":
            return self._head
        if scope["method"] != "OPTIONS":
            return None
        return self._preflight if self._preflight is not None and _preflight(scope) else self._options

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What GET would answer, without its body."""

        async def bodiless(message: MutableMapping[str, Any]) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        asked = {**scope, "method": "GET"}
        await (self._hot(asked) or self.rest)(asked, receive, bodiless)

    async def _options(self, scope: Scope, receive: Receive, send: Send) -> None:
        methods = _allowed(self.rest, scope)
        if not methods:
            raise from_status(404, scope["path"], "OPTIONS")
        await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", methods.encode())]})
        await send({"type": "http.response.body", "body": b""})

    def _hot(self, scope: Scope) -> Application | None:
        """The plain application for a hot path, as the router would choose it."""
        if scope.get("root_path"):
            return None
        found = self._route(scope["method"], scope["path"])
        if found is None:
            return self._openai.route(scope)
        handler, task_id = found
        scope["path_params"] = {"task_id": task_id}
        return application(handler, self._bodies)

    # -- the short way: see `direct.Gateway`

    def plain(self, headers: Mapping[bytes, bytes]) -> bool:
        try:
            self._hosts.check(headers.get(b"host"))
        except Forbidden:
            return False
        return not headers.keys() & _ASKING

    def line(self, line: bytes) -> Line | None:
        found = self._posts.get(line)
        if found is not None:
            return found
        asked = _GET(line)
        if asked is None:
            return None
        path, query = asked.groups()
        route = self._route("GET", path.decode())
        return None if route is None else Line(line, *route, query or b"")

    async def respond(self, line: Line, request: Request) -> Response | None:
        logged = log.isEnabledFor(logging.DEBUG)
        began = perf_counter() if logged else 0.0
        response = None
        try:
            response = await line.handler(request)
        except Disconnected:
            pass
        except asyncio.CancelledError:  # the server's grace is over
            response = _problem(_stopping(), request.id)
        except OpenRuntimeError as error:
            response = _problem(error, request.id)
        except Exception:
            log.exception("a request failed", extra={"request_id": request.id, "task_id": request.task_id or None})
            response = _problem(_internal(request.id), request.id)
        if logged:
            method, target, _ = line.text.decode("ascii").split(" ")
            ids = {"request_id": request.id, "task_id": request.task_id or None}
            _log_answer(method, target.partition("?")[0], response.status if response is not None else 0, began, ids)
        return response


def _preflight(scope: Scope) -> bool:
    """Whether a browser asks what a page of another origin may send."""
    return scope["method"] == "OPTIONS" and {b"origin", b"access-control-request-method"} <= headers(scope).keys()


def _trace(scope: Scope, traceparent: bytes, answer: Answer) -> None:
    """A request that is part of a distributed trace says so in the log, in its answer and in the records of the tasks it submits."""
    found = trace.checked(traceparent.decode("latin-1"))
    if found is not None:
        scope["openruntime.trace"] = found
        answer.extra.append((b"traceparent", traceparent))


def _ids(scope: Scope) -> dict[str, Any]:
    """What belongs to a line of the log about a request."""
    found = {"request_id": scope["openruntime.request_id"], "task_id": scope.get("openruntime.task_id")}
    return found | trace.ids(scope.get("openruntime.trace"))


def _log_answer(method: str, path: str, status: int, began: float, ids: dict[str, Any]) -> None:
    log.debug("%s %s %d %.2f ms", method, path, status, (perf_counter() - began) * 1e3, extra=ids | {"status": status})


def _internal(request_id: str) -> Internal:
    return Internal(f"the server could not answer; its log has the cause under the request id {request_id}")


def _stopping() -> Unavailable:
    return Unavailable("the server is shutting down; try again in a moment", retry_after=2)


def _problem(error: OpenRuntimeError, request_id: str, scope: Scope | None = None) -> Response:
    """`error` in the form of the protocol that the path belongs to."""
    if scope is not None and scope["path"].removeprefix(scope.get("root_path", "")).startswith(PREFIX):
        return refused(error)
    return Response(error.status, PROBLEM, [problem_json(error, request_id)], retry_after(error))


async def _send_problem(send: Send, receive: Receive, error: OpenRuntimeError, scope: Scope) -> None:
    found = _problem(error, scope["openruntime.request_id"], scope)
    if found.status not in _UNREAD:
        await respond(send, *found)
        return
    body = b"".join(found.body)
    start = [(b"content-type", found.content_type), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": found.status, "headers": start})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await drain(receive)
    await send({"type": "http.response.body", "body": b""})


def _reply(request: FastAPIRequest, error: OpenRuntimeError, extra: dict[str, str] | None = None) -> FastAPIResponse:
    status, media, body, found = _problem(error, request.scope.get("openruntime.request_id", ""), request.scope)
    return FastAPIResponse(
        b"".join(body), status, {name.decode(): value.decode() for name, value in found} | (extra or {}), media_type=media.decode()
    )


async def _refused(request: FastAPIRequest, error: Exception) -> Any:
    assert isinstance(error, OpenRuntimeError)
    refusal = error

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await _send_problem(send, receive, refusal, scope)

    return answer


async def _unexpected(request: FastAPIRequest, error: Exception) -> FastAPIResponse:
    return _reply(request, _internal(request.scope["openruntime.request_id"]))


async def _unrouted(request: FastAPIRequest, error: Exception) -> FastAPIResponse:
    assert isinstance(error, HTTPException)
    refusal = from_status(error.status_code, request.url.path, request.method)
    headers = {"Allow": _allowed(request.app, request.scope)} if error.status_code == 405 else dict(error.headers or {})
    return _reply(request, refusal, headers)


def _allowed(app: FastAPI, scope: Scope) -> str:
    """The methods of all routes of this path, empty where there is none; the router knows only those of the first."""
    paths: dict[str, Any] = {"/openapi.json": ["get"], "/docs": ["get"], "/docs/{name}": ["get"], **_MCP, **app.openapi()["paths"]}
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    found = {method.upper() for template, methods in paths.items() if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path) for method in methods}
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found | {"OPTIONS"})) if found else ""


async def _unreadable(request: FastAPIRequest, error: Exception) -> FastAPIResponse:
    assert isinstance(error, RequestValidationError)
    first = dict(error.errors()[0])
    first["loc"] = first["loc"][1:] or first["loc"]  # without "query" or "path"
    return _reply(request, invalid(first))


def _complete(app: FastAPI) -> None:
    """The document's schemas that no signature mentions."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            for methods in document["paths"].values():
                for operation in methods.values():
                    operation["responses"].setdefault("403", problems(403)[403])
                    if "HTTPValidationError" in str(operation["responses"].get("422")):
                        del operation["responses"]["422"]  # FastAPI's own, which we answer as 400
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            for model in SCHEMAS:
                found = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(found.pop("$defs", {}))
                schemas[model.__name__] = found
        return made()

    app.openapi = openapi  # type: ignore[method-assign]
