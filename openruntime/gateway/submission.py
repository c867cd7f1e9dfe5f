"""The hot paths as plain ASGI applications: submit, status, result, batch. The routes of `tasks.py` document and serve the same."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from openruntime.contracts import safetensors
from openruntime.contracts.errors import Internal, InvalidRequest, OpenRuntimeError
from openruntime.contracts.models import TaskRequest, TaskStatus
from openruntime.contracts.payload import Array, Buffer
from openruntime.contracts.records import Principal, Task
from openruntime.gateway.body import BodyReader
from openruntime.gateway.dependencies import Services, headers, principal
from openruntime.gateway.errors import Disconnected, problem_json
from openruntime.gateway.requests import BATCH, parse, parse_batch
from openruntime.gateway.results import Results, describe, to_json
from openruntime.gateway.wire import (
    JSON,
    SAFETENSORS,
    SPLIT,
    Headers,
    Receive,
    Scope,
    Send,
    accepted,
    applied,
    media_type,
    preferred_wait,
    query,
    query_wait,
    respond,
)

log = logging.getLogger(__name__)
_JSON = b"application/json"


class Submission:
    def __init__(self, services: Services, results: Results, bodies: BodyReader) -> None:
        self._first_array = services.catalogue.first_array
        self._bodies = bodies
        self._tasks = services.tasks
        self._limits = services.limits
        self._results = results

    async def submit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /tasks`."""
        given, limits = headers(scope), self._limits
        wait = preferred_wait(given.get(b"prefer"), limits.longest_wait)
        media = accepted(given.get(b"accept")) if wait is not None else JSON
        body = await self._bodies.read(scope, receive)
        request, arrays = parse(media_type(given.get(b"content-type")), scope, body, self._first_array)
        del body
        who = principal(scope)
        task = await self._tasks.submit(
            request,
            arrays,
            principal=who,
            promised=wait is None,
            idempotency=_idempotency(given.get(b"idempotency-key")),
            cache=given.get(b"cache-control", b"").decode("latin-1"),
            traceparent=scope.get("openruntime.trace"),
        )
        scope["openruntime.task_id"] = task.id
        location = (b"location", b"/tasks/" + task.id.encode())
        if wait is None:
            await respond(send, 202, _JSON, [to_json(describe(task))], [location])
            return
        if task.life.status.ended or await self._wait(task, wait, request, receive, who):
            content_type, parts = await self._results.encoded(task, media, who)
            await respond(send, 200, content_type, parts, [location, applied(wait)])
            return
        await self._tasks.keep(task)
        await respond(send, 202, _JSON, [to_json(describe(task))], [location, applied(wait)])

    async def status(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /tasks/{task_id}`."""
        who = principal(scope)
        task = await self._tasks.status(scope["path_params"]["task_id"], principal=who)
        wait = query_wait(scope, self._limits.longest_wait)
        if wait and not task.life.status.ended:
            await self._tasks.wait(task, wait)
        await respond(send, 200, _JSON, [await self._results.json(task, who)])

    async def result(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /tasks/{task_id}/result`."""
        who = principal(scope)
        media = accepted(headers(scope).get(b"accept"))
        task_id = scope["path_params"]["task_id"]
        wait = query_wait(scope, self._limits.longest_wait)
        if wait:
            task = await self._tasks.status(task_id, principal=who)
            if not task.life.status.ended:
                await self._tasks.wait(task, wait)
        task = await self._tasks.result(task_id, principal=who)
        content_type, parts = await self._results.encoded(task, media, who)
        await respond(send, 200, content_type, parts)

    async def batch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /tasks/batch`."""
        given, limits = headers(scope), self._limits
        wait = preferred_wait(given.get(b"prefer"), limits.longest_wait)
        media = accepted(given.get(b"accept"), (JSON, SAFETENSORS)) if wait is not None else JSON
        body = await self._bodies.read(scope, receive)
        outcomes = parse_batch(media_type(given.get(b"content-type")), body)
        del body
        who = principal(scope)
        good = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
        cache = given.get(b"cache-control", b"").decode("latin-1")
        trace = scope.get("openruntime.trace")
        submitted = iter(await self._tasks.submit_many(good, principal=who, promised=wait is None, cache=cache, traceparent=trace) if good else ())
        tasks: list[Task | Exception] = [next(submitted) if isinstance(outcome, tuple) else outcome for outcome in outcomes]
        extra: list[tuple[bytes, bytes]] = []
        ended = False
        if wait is not None:
            ended = await self._wait_all([task for task in tasks if isinstance(task, Task)], wait)
            extra = [applied(wait)]
        await self._answer_batch(scope, send, tasks, media, extra, 200 if ended else 202)

    async def batch_results(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /tasks/batch?ids=...`."""
        who, limits = principal(scope), self._limits
        media = accepted(headers(scope).get(b"accept"), (JSON, SAFETENSORS))
        ids = next((value for name, value in query(scope) if name == "ids"), "").split(",")
        if not ids[0] or len(ids) > BATCH:
            raise InvalidRequest(f"`ids` must be 1 to {BATCH} task ids, separated by commas", field="ids")
        tasks: list[Task | Exception] = []
        for task_id in ids:
            try:
                tasks.append(await self._tasks.status(task_id, principal=who))
            except OpenRuntimeError as error:
                tasks.append(error)
        wait = query_wait(scope, limits.longest_wait)
        if wait:
            await self._wait_all([task for task in tasks if isinstance(task, Task)], wait)
        await self._answer_batch(scope, send, tasks, media, (), 200)

    async def _answer_batch(self, scope: Scope, send: Send, tasks: Sequence[Task | Exception], media: str, extra: Headers, status: int) -> None:
        """Every task in its place, with its result where there is one, unless the answer (202) only acknowledges."""
        who, whole = principal(scope), status == 200
        if media in (SAFETENSORS, SPLIT) and whole:
            parts = await self._batch_arrays(tasks, who, scope, split=media == SPLIT)
            await respond(send, status, b"application/x-safetensors", parts, extra)
            return
        entries: list[dict[str, Any] | msgspec.Raw] = []
        for task in tasks:
            if isinstance(task, Task):
                entries.append(await self._results.fields(task, who) if whole else describe(task))
            else:
                entries.append(_refused(task, scope))
        await respond(send, status, _JSON, [to_json({"tasks": entries})], extra)

    async def _batch_arrays(self, tasks: Sequence[Task | Exception], who: Principal, scope: Scope, *, split: bool) -> list[Buffer]:
        """Outputs named `{index}.{output}`; what became of each task stands in the metadata's `tasks`."""
        arrays: dict[str, Array] = {}
        entries: list[dict[str, Any] | msgspec.Raw] = []
        for index, task in enumerate(tasks):
            if isinstance(task, Task):
                entries.append(describe(task))
                if task.life.status is TaskStatus.COMPLETED:
                    try:
                        outputs = await self._results.outputs(task, who)
                    except OpenRuntimeError as error:  # expired: the others' results are there
                        entries[-1] = _refused(error, scope)
                    else:
                        arrays |= {f"{index}.{name}": array for name, array in outputs.items()}
            else:
                entries.append(_refused(task, scope))
        return safetensors.encode(arrays, {"tasks": to_json(entries).decode()}, split=split)

    async def _wait_all(self, tasks: Sequence[Task], seconds: float) -> bool:
        """Whether all ended in time; those that did not are promised to the client."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        for task in tasks:
            if not task.life.status.ended:
                await self._tasks.wait(task, max(0.0, until - loop.time()))
        late = [task for task in tasks if not task.life.status.ended]
        if late:
            await asyncio.gather(*(self._tasks.keep(task) for task in tasks))
        return not late

    async def _wait(self, task: Task, seconds: float, request: TaskRequest, receive: Receive, who: Principal) -> bool:
        """Whether the task ended in time. A client that goes away takes its task with it, if it asked for that."""
        if not request.cancel_on_disconnect:
            return await self._tasks.wait(task, seconds)
        waiting = asyncio.ensure_future(self._tasks.wait(task, seconds))
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            await self._tasks.cancel(task.id, principal=who)
            raise Disconnected
        finally:
            waiting.cancel()
            leaving.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _idempotency(header: bytes | None) -> str | None:
    if header is None:
        return None
    if not 1 <= len(header) <= 255:
        raise InvalidRequest(f"the Idempotency-Key must have 1 to 255 characters, not {len(header)}", field="Idempotency-Key")
    return header.decode("latin-1")


def _refused(error: Exception, scope: Scope) -> msgspec.Raw:
    if not isinstance(error, OpenRuntimeError):
        log.error("a task of a batch could not be taken", exc_info=error, extra={"request_id": scope.get("openruntime.request_id")})
        error = Internal("the server could not take this task; its log has the cause under this request id")
    return msgspec.Raw(problem_json(error, scope.get("openruntime.request_id")))
