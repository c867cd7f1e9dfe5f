"""The hot paths: submit, status, result, batch. The routes of `tasks.py` document and serve the same."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec

from openruntime.contracts import safetensors
from openruntime.contracts.errors import Forbidden, Internal, InvalidRequest, OpenRuntimeError, RateLimited, Unavailable
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.payload import Array, Buffer
from openruntime.contracts.records import Principal, Task
from openruntime.gateway.dependencies import Services
from openruntime.gateway.errors import Disconnected, problem_json
from openruntime.gateway.exchange import Handler, Request, Response
from openruntime.gateway.requests import BATCH, parse, parse_batch
from openruntime.gateway.requests import Submission as Parsed
from openruntime.gateway.results import Results, describe, failed, to_json
from openruntime.gateway.wire import (
    JSON,
    SAFETENSORS,
    SPLIT,
    Headers,
    accepted,
    applied,
    media_type,
    preferred_wait,
    query,
    query_wait,
)
from openruntime.security.access import ALL

log = logging.getLogger(__name__)
_JSON = b"application/json"


class Submission:
    def __init__(self, services: Services, results: Results) -> None:
        self._catalogue = services.catalogue
        self._tasks = services.tasks
        self._limits = services.limits
        self._results = results
        self._access = services.access

    def route(self, method: str, path: str) -> tuple[Handler, str] | None:
        """The handler of a hot path, and the task id in it; None for any other path."""
        if method == "POST":
            return (self.submit, "") if path == "/tasks" else (self.batch, "") if path == "/tasks/batch" else None
        if method != "GET" or not path.startswith("/tasks/"):
            return None
        task_id, slash, rest = path[7:].partition("/")
        if not task_id or rest not in ("", "result") or (slash and not rest):
            return None
        if task_id == "batch":
            return None if rest else (self.batch_results, "")
        return (self.result if rest else self.status), task_id

    async def submit(self, asked: Request) -> Response:
        """`POST /tasks`."""
        given = asked.headers
        wait = preferred_wait(given.get(b"prefer"), self._limits.longest_wait)
        media = accepted(given.get(b"accept")) if wait is not None else JSON
        request, arrays = parse(
            media_type(given.get(b"content-type")), asked.query, await asked.read(), self._catalogue.of(asked.principal.tenant).first_array
        )
        asked.body = b""  # the task has what it needs of it
        if ALL not in asked.principal.scopes:
            self._access.operation(asked.principal, request.operation, request.parameters)
        task = await self._tasks.submit(
            request,
            arrays,
            principal=asked.principal,
            promised=wait is None,
            idempotency=_idempotency(given.get(b"idempotency-key")),
            cache=given.get(b"cache-control", b"").decode("latin-1"),
            traceparent=asked.trace,
        )
        asked.task_id = task.id
        location = (b"location", b"/tasks/" + task.id.encode())
        if wait is None:
            return Response(202, _JSON, [to_json(describe(task))], [location])
        doomed = [task] if request.cancel_on_disconnect and self._access.owns(asked.principal, task) else ()
        if task.life.status.ended or await self._wait(self._tasks.wait(task, wait), doomed, asked):
            content_type, parts = await self._results.encoded(task, media, asked.principal)
            return Response(200, content_type, parts, [location, applied(wait)])
        await self._tasks.keep(task)
        return Response(202, _JSON, [to_json(describe(task))], [location, applied(wait)])

    async def status(self, asked: Request) -> Response:
        """`GET /tasks/{task_id}`."""
        task = await self._tasks.status(asked.task_id, principal=asked.principal)
        wait = query_wait(asked.query, self._limits.longest_wait)
        if wait and not task.life.status.ended:
            await self._tasks.wait(task, wait)
        return Response(200, _JSON, [await self._results.json(task, asked.principal)])

    async def result(self, asked: Request) -> Response:
        """`GET /tasks/{task_id}/result`."""
        who = asked.principal
        media = accepted(asked.headers.get(b"accept"))
        wait = query_wait(asked.query, self._limits.longest_wait)
        if wait:
            task = await self._tasks.status(asked.task_id, principal=who)
            if not task.life.status.ended:
                await self._tasks.wait(task, wait)
        try:
            task = await self._tasks.result(asked.task_id, principal=who)
        except (RateLimited, Unavailable):  # the task met it, or this request
            task = await self._tasks.status(asked.task_id, principal=who)
            if task.failure is None:
                raise
            raise failed(task) from None
        return Response(200, *await self._results.encoded(task, media, who))

    async def batch(self, asked: Request) -> Response:
        """`POST /tasks/batch`."""
        given = asked.headers
        wait = preferred_wait(given.get(b"prefer"), self._limits.longest_wait)
        media = accepted(given.get(b"accept"), (JSON, SAFETENSORS)) if wait is not None else JSON
        outcomes = parse_batch(media_type(given.get(b"content-type")), await asked.read())
        asked.body = b""
        if ALL not in asked.principal.scopes:
            outcomes = [self._allowed(outcome, asked.principal) for outcome in outcomes]
        good = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
        cache = given.get(b"cache-control", b"").decode("latin-1")
        made = (
            await self._tasks.submit_many(
                good,
                principal=asked.principal,
                promised=wait is None,
                idempotency=_idempotency(given.get(b"idempotency-key")),
                cache=cache,
                traceparent=asked.trace,
            )
            if good
            else ()
        )
        submitted = iter(made)
        tasks: list[Task | Exception] = [next(submitted) if isinstance(outcome, tuple) else outcome for outcome in outcomes]
        extra: list[tuple[bytes, bytes]] = []
        ended = False
        if wait is not None:
            who = asked.principal
            doomed = [
                task for outcome, task in zip(outcomes, tasks, strict=True)
                if isinstance(task, Task) and isinstance(outcome, tuple) and outcome[0].cancel_on_disconnect and self._access.owns(who, task)
            ]  # fmt: skip
            ended = await self._wait(self._wait_all([task for task in tasks if isinstance(task, Task)], wait), doomed, asked)
            extra = [applied(wait)]
        return await self._batch(asked, tasks, media, extra, 200 if ended else 202)

    def _allowed(self, outcome: Parsed | OpenRuntimeError, who: Principal) -> Parsed | OpenRuntimeError:
        """One request of a batch, or why `who` may not ask it."""
        if isinstance(outcome, tuple):
            try:
                self._access.operation(who, outcome[0].operation, outcome[0].parameters)
            except Forbidden as error:
                return error
        return outcome

    async def batch_results(self, asked: Request) -> Response:
        """`GET /tasks/batch?ids=...`."""
        media = accepted(asked.headers.get(b"accept"), (JSON, SAFETENSORS))
        ids = next((value for name, value in query(asked.query) if name == "ids"), "").split(",")
        if not ids[0] or len(ids) > BATCH:
            raise InvalidRequest(f"`ids` must be 1 to {BATCH} task ids, separated by commas", field="ids")
        tasks: list[Task | Exception] = []
        for task_id in ids:
            try:
                tasks.append(await self._tasks.status(task_id, principal=asked.principal))
            except OpenRuntimeError as error:
                tasks.append(error)
        wait = query_wait(asked.query, self._limits.longest_wait)
        if wait:
            await self._wait_all([task for task in tasks if isinstance(task, Task)], wait)
        return await self._batch(asked, tasks, media, (), 200)

    async def _batch(self, asked: Request, tasks: Sequence[Task | Exception], media: str, extra: Headers, status: int) -> Response:
        """Every task in its place, with its result where there is one, unless the answer (202) only acknowledges."""
        whole = status == 200
        if media in (SAFETENSORS, SPLIT) and whole:
            return Response(status, b"application/x-safetensors", await self._batch_arrays(tasks, asked, split=media == SPLIT), extra)
        entries: list[dict[str, Any] | msgspec.Raw] = []
        for task in tasks:
            if isinstance(task, Task):
                entries.append(await self._results.fields(task, asked.principal) if whole else describe(task))
            else:
                entries.append(_refused(task, asked.id))
        return Response(status, _JSON, [to_json({"tasks": entries})], extra)

    async def _batch_arrays(self, tasks: Sequence[Task | Exception], asked: Request, *, split: bool) -> list[Buffer]:
        """Outputs named `{index}.{output}`; what became of each task stands in the metadata's `tasks`."""
        arrays: dict[str, Array] = {}
        entries: list[dict[str, Any] | msgspec.Raw] = []
        for index, task in enumerate(tasks):
            if isinstance(task, Task):
                entries.append(describe(task))
                if task.life.status is TaskStatus.COMPLETED:
                    try:
                        outputs = await self._results.outputs(task, asked.principal)
                    except OpenRuntimeError as error:  # expired: the others' results are there
                        entries[-1] = _refused(error, asked.id)
                    else:
                        arrays |= {f"{index}.{name}": array for name, array in outputs.items()}
            else:
                entries.append(_refused(task, asked.id))
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

    async def _wait(self, ended: Coroutine[Any, Any, bool], doomed: Sequence[Task], asked: Request) -> bool:
        """Whether what is waited for `ended` in time. A client that goes away takes the `doomed` tasks with it: it asked for that."""
        if not doomed:
            return await ended
        waiting = asyncio.ensure_future(ended)
        leaving = asyncio.ensure_future(asked.gone())
        try:
            await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            for task in doomed:
                await self._tasks.cancel(task.id, principal=asked.principal)
            raise Disconnected
        finally:
            waiting.cancel()
            leaving.cancel()


def _idempotency(header: bytes | None) -> str | None:
    if header is None:
        return None
    if not 1 <= len(header) <= 255:
        raise InvalidRequest(f"the Idempotency-Key must have 1 to 255 characters, not {len(header)}", field="Idempotency-Key")
    return header.decode("latin-1")


def _refused(error: Exception, request_id: str) -> msgspec.Raw:
    if not isinstance(error, OpenRuntimeError):
        log.error("a task of a batch could not be taken", exc_info=error, extra={"request_id": request_id})
        error = Internal("the server could not take this task; its log has the cause under this request id")
    return msgspec.Raw(problem_json(error, request_id))
