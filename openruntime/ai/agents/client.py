"""The API as one run may use it: in this process, with a fresh token for every request; counted, recorded, and a person asked where that is due."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import msgspec

from openruntime.ai.agents.budget import Meter
from openruntime.ai.agents.records import CallRecord, RequestRecord
from openruntime.ai.context import estimate
from openruntime.client.connection import Connection, decode, problem
from openruntime.client.embedded import Application, EmbeddedTransport
from openruntime.contracts.ai import ANSWER, Models, ModelSpec, Tokens
from openruntime.contracts.errors import CompileError, Forbidden, ModelNotFound, OpenRuntimeError, TaskFailed
from openruntime.contracts.payload import Buffer
from openruntime.models.weights import reads

PROCESS = {"Host": "localhost"}  # a name that every server answers to
POLL = 10.0  # seconds that a wait for a task's end lasts at most
SETTLE = 5.0  # seconds that tasks have to stop in when their run ends
ENDED = ("completed", "failed", "cancelled")
ASKED = ("messages", "prompt", "input")  # what a model is asked with
LIMITS = ("max_tokens", "max_completion_tokens")  # how many tokens its answer may have, in the API's two spellings
STEP = 0.25  # seconds between looks at how long tasks have been running

current: ContextVar[CallRecord | None] = ContextVar("current", default=None)
"""The use of a tool that what happens belongs to."""
purpose: ContextVar[str] = ContextVar("purpose", default="")
"""What a request is for, as the person is told who has to approve it."""


class Gate(Protocol):
    """What gives tokens out."""

    def token(self) -> str:
        """For one request, now."""

    async def permission(self, scope: str, what: str, method: str, path: str, content: bytes) -> str:
        """A token for this request only, once a person approved it. Raises `Forbidden` where none is asked, or one has refused."""


class RunClient:
    """Implements `Client`."""

    def __init__(self, application: Application, meter: Meter, gate: Gate, models: Models | None = None) -> None:
        self._transport = EmbeddedTransport(lambda: nullcontext(application))
        self._connection = Connection(self._transport, patience=5.0)
        self._meter = meter
        self._gate = gate
        self._models = models
        self._known: dict[str, ModelSpec | None] = {}  # what names of operations mean
        self._open: dict[str, float] = {}  # own tasks that have not been seen to end -> device seconds counted of it so far
        self._ended: set[str] = set()

    async def __aenter__(self) -> "RunClient":
        await self._transport.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._transport.close()

    # -- Client

    async def get(self, path: str, **query: Any) -> Any:
        given = {name: value for name, value in query.items() if value is not None}
        return await self._json("GET", f"{path}?{urlencode(given, doseq=True)}" if given else path)

    async def post(self, path: str, body: Any = None, *, wait: float | None = None, headers: Mapping[str, str] | None = None) -> Any:
        """What makes tasks is told their ids before it waits for them: whatever ends the run then also ends them."""
        with ExitStack() as keeping:
            if path == "/tasks/batch" and isinstance(body, Mapping) and isinstance(body.get("tasks"), list):
                body = {**body, "tasks": [self._bounded("/tasks", task, keeping) for task in body["tasks"]]}
            return await self._post(path, self._bounded(path, body, keeping), wait, headers)

    async def _post(self, path: str, body: Any, wait: float | None, headers: Mapping[str, str] | None) -> Any:
        count = _submitted(path, body)
        if not count or path == "/kernels" or path.startswith("/v1/"):
            prefer = {} if wait is None else {"Prefer": f"wait={min(wait, self._meter.seconds_left):g}"}
            answer = await self._json("POST", path, body, {**(headers or {}), **prefer}, count)
            self._said(answer)
            return answer
        found = await self._begun(path, body, headers or {}, count)
        if wait is None or (path != "/tasks/batch" and found.get("status") in ENDED):
            return found
        if path == "/tasks/batch":
            ids = ",".join(task["task_id"] for task in found["tasks"] if "task_id" in task)
            return await self.get("/tasks/batch", ids=ids, wait=f"{wait:g}") if len(ids) and all("task_id" in t for t in found["tasks"]) else found
        task = await self.get(f"/tasks/{found['task_id']}", wait=f"{wait:g}")
        if path == "/tasks" or task["status"] != "completed":
            return task
        return await self.get(path, task_id=task["task_id"])  # the report of verifying or tuning

    async def put(self, path: str, body: Any) -> Any:
        return await self._json("PUT", path, body)

    async def delete(self, path: str) -> Any:
        return await self._json("DELETE", path)

    async def run(self, operation: str, parameters: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        request = {"operation": operation, "parameters": dict(parameters or {}), **fields}
        found: dict[str, Any] = await self.post("/tasks", request, wait=POLL)
        while found["status"] not in ENDED:
            found = await self.get(f"/tasks/{found['task_id']}", wait=f"{POLL:g}")
        return found

    async def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, content: Sequence[Buffer] = ()
    ) -> tuple[int, Mapping[str, str], Buffer]:
        if path.startswith("/tasks/batch"):
            raise ValueError("a batch goes through `post`, where its tasks are counted before they are there")
        count = _submitted(path, None) if method == "POST" else 0
        reply = await self._request(method, path, headers or {}, content, count)
        place = reply.headers.get("location", "")
        if count and place.startswith("/tasks/"):
            self._open.setdefault(place.removeprefix("/tasks/"), 0.0)  # counted when it is seen to end, at the latest by `settle`
        return reply.status, reply.headers, reply.body

    # -- behind it

    def _bounded(self, path: str, body: Any, keeping: ExitStack) -> Any:
        """What asks a model, with no more tokens for the answer than are left; they are kept for it. Raises `BudgetSpent`."""
        openai = path.startswith("/v1/")
        if not isinstance(body, Mapping) or not (openai or path == "/tasks"):
            return body
        spec = self._model(body.get("model" if openai else "operation"))
        fields: Any = body if openai else body.get("parameters")
        told = [fields[name] for name in ASKED if name in fields] if isinstance(fields, Mapping) else []
        if not told or (spec is None and not openai):
            return body
        prompt = estimate(msgspec.json.encode(told).decode())
        left = self._meter.request(prompt)
        if "input" in fields:  # embeddings have no answer to be counted
            keeping.enter_context(self._meter.keeping(prompt))
            return body
        limit = reads(spec) if spec is not None else None
        most = left if limit is None else min(left, max(1, limit - prompt))
        names = [name for name in LIMITS if fields.get(name) is not None] or LIMITS[:1]
        capped = {name: most if (asked := fields.get(name)) is None or (type(asked) is int and asked > most) else asked for name in names}
        keeping.enter_context(self._meter.keeping(prompt + min([most, *(value for value in capped.values() if type(value) is int)])))
        return {**body, **capped} if openai else {**body, "parameters": {**fields, **capped}}

    def _model(self, name: Any) -> ModelSpec | None:
        """Which model a name means; None where it means none."""
        if self._models is None or not isinstance(name, str):
            return None
        if name not in self._known:
            try:
                self._known[name] = self._models.resolve(name)
            except ModelNotFound:
                self._known[name] = None
        return self._known[name]

    async def _begun(self, path: str, body: Any, headers: Mapping[str, str], count: int) -> Any:
        """The answer to what makes tasks; the run does not end between asking and knowing them."""
        asking = asyncio.create_task(self._json("POST", path, body, headers, count))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            await asyncio.wait((asking,), timeout=SETTLE)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            raise

    async def _json(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, count: int = 0) -> Any:
        given = {"Accept": "application/json", **(headers or {})}
        content: Sequence[Buffer] = ()
        if body is not None:
            given["Content-Type"] = "application/json"
            content = [msgspec.json.encode(body)]
        answer = decode(await self._request(method, path, given, content, count))
        self._learn(answer, submitted=count > 0)
        return answer

    async def _request(self, method: str, path: str, headers: Mapping[str, str], content: Sequence[Buffer], count: int) -> Any:
        if count:
            self._meter.tasks(count)
        elif method != "DELETE":  # what it has made can be given up when nothing is left
            self._meter.check()
        record = RequestRecord(method, path)
        if (call := current.get()) is not None:
            call.requests.append(record)
            call.tasks += count
        began = time.monotonic()
        try:
            with self._meter.strand():
                reply = await self._admitted(method, path, headers, content)
            record.status = reply.status
            return reply
        except OpenRuntimeError as error:
            record.status, record.code = error.status, error.code
            if not isinstance(error, CompileError | TaskFailed):  # those have been computed
                self._meter.untask(count)
            raise
        finally:
            record.seconds = time.monotonic() - began

    async def _admitted(self, method: str, path: str, headers: Mapping[str, str], content: Sequence[Buffer]) -> Any:
        try:
            return await self._send(self._gate.token(), method, path, headers, content)
        except Forbidden as refusal:
            if refusal.field is None:
                raise
            self._meter.check()  # nobody is asked for a run that is over
            body = b"".join(content)
            token = await self._gate.permission(refusal.field, purpose.get(), method, path, body)
            return await self._once(token, method, path, headers, [body] if body else [])

    async def _send(self, token: str, method: str, path: str, headers: Mapping[str, str], content: Sequence[Buffer]) -> Any:
        return await self._connection.call(method, path, headers=_headers(headers, token), content=content)

    async def _once(self, token: str, method: str, path: str, headers: Mapping[str, str], content: Sequence[Buffer]) -> Any:
        """With a token that is good for one request."""
        reply = await self._transport.send(method, path, _headers(headers, token), content, wait=0.0)
        if reply.status >= 400:
            raise problem(reply)
        return reply

    # -- what tasks cost

    def _learn(self, answer: Any, *, submitted: bool) -> None:
        """Own tasks that an answer tells of; what those have cost that have ended."""
        if not isinstance(answer, dict):
            return
        if "tasks" in answer and isinstance(answer["tasks"], list):
            for each in answer["tasks"]:
                self._learn(each, submitted=submitted)
            return
        if isinstance(answer.get("compiled"), dict):  # a kernel that was registered: compiling it was a task
            compiled = answer["compiled"]
            answer = {"task_id": compiled.get("task_id"), "status": "completed", "execution_time": compiled.get("seconds")}
        task_id = answer.get("task_id")
        if not isinstance(task_id, str) or task_id in self._ended:
            return
        if submitted:
            self._open.setdefault(task_id, 0.0)
        if task_id in self._open and answer.get("status") in (*ENDED, None):
            cached = answer.get("cached", False)
            self._spend(task_id, 0.0 if cached else answer.get("execution_time") or self._open[task_id])
            del self._open[task_id]
            self._ended.add(task_id)
            result = answer.get("result")
            self._said(result.get(ANSWER) if isinstance(result, dict) and not cached else None)

    def _said(self, answer: Any) -> None:
        """The tokens of a model that a tool has asked past the run's own: they are the run's too."""
        usage = answer.get("usage") if isinstance(answer, dict) else None
        if isinstance(usage, dict):
            counts = [int(usage.get(name) or usage.get(f"{name}_tokens") or 0) for name in ("prompt", "completion")]
            self._meter.tokens(Tokens(*counts))

    def _spend(self, task_id: str, seconds: float) -> None:
        """Device seconds of a task so far."""
        more = max(0.0, seconds - self._open[task_id])
        self._open[task_id] += more
        self._meter.spent.device_seconds += more
        if (call := current.get()) is not None:
            call.device_seconds += more

    async def watch(self) -> None:
        """Until device seconds are spent: what is running counts as it runs."""
        while True:
            await asyncio.sleep(STEP)
            for task_id in list(self._open):
                found = await self._look("GET", task_id)
                if found is not None and found.get("started_at") and task_id in self._open and found["status"] in ("running", "cancelling"):
                    self._spend(task_id, time.time() - _epoch(found["started_at"]))
            if self._meter.device_seconds_left <= 0:
                return

    async def settle(self) -> None:
        """Stop what still runs of its own, and count it to the end."""
        await asyncio.gather(*(self._stop(task_id) for task_id in list(self._open)))

    async def _stop(self, task_id: str) -> None:
        until = time.monotonic() + SETTLE
        method, query = "DELETE", ""
        while task_id in self._open and time.monotonic() < until:
            if await self._look(method, task_id, query) is None:
                return
            method, query = "GET", "?wait=1"

    async def cancel(self, task_id: str) -> None:
        """A task of its own."""
        await self._look("DELETE", task_id)

    async def _look(self, method: str, task_id: str, query: str = "") -> dict[str, Any] | None:
        """Past the budget, which this is to settle; None where it cannot be had."""
        try:
            reply = await self._send(self._gate.token(), method, f"/tasks/{quote(task_id, safe='')}{query}", {"Accept": "application/json"}, ())
        except OpenRuntimeError:
            return None
        found: dict[str, Any] = decode(reply)
        self._learn(found, submitted=False)
        return found


def _headers(given: Mapping[str, str], token: str) -> dict[str, str]:
    return {name: value for name, value in given.items() if name.lower() != "authorization"} | PROCESS | {"Authorization": f"Bearer {token}"}


def _submitted(path: str, body: Any) -> int:
    """Tasks that a POST makes."""
    resource, *rest = path.partition("?")[0].strip("/").split("/")
    if resource == "tasks" and rest == ["batch"]:
        listed = body.get("tasks") if isinstance(body, dict) else None
        return len(listed) if isinstance(listed, list) else 1
    trial = resource == "kernels" and (not rest or rest[-1] in ("verify", "tune"))
    return int((resource == "tasks" and not rest) or trial or resource == "v1")


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
