"""The asyncio client: all that the SDK does stands here, over whichever transport."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Any, Literal, Self, TypedDict
from urllib.parse import quote
from uuid import uuid4

import msgspec

from openruntime.client.ai import AsyncAI
from openruntime.client.arrays import Outputs, TensorHandle, from_wire, outputs, split, to_wire
from openruntime.client.completions import Completions
from openruntime.client.connection import Connection, decode, ended, failure
from openruntime.client.kernels import AsyncKernels
from openruntime.client.models import AsyncModels
from openruntime.client.operations import AsyncOperations, arguments, check_names, unknown
from openruntime.client.task import SAFETENSORS, AsyncTask
from openruntime.client.transport import Reply, Transport
from openruntime.contracts import safetensors
from openruntime.contracts.errors import InvalidParameter
from openruntime.contracts.models import TaskResponse
from openruntime.contracts.payload import Array, Buffer
from openruntime.contracts.trace import checked

FIRST_WAIT = 5  # seconds the server is asked to hold a call before it promises an answer for later
BATCH = 100  # tasks sent together by `map`


class Options(TypedDict, total=False):
    """How a task is to run. `timeout` in seconds from submission to end; `cache` is `no-store` or `no-cache`.

    `traceparent` is the W3C trace context it belongs to, as other services have it: `00-{trace_id}-{span_id}-01`.
    """

    priority: int
    device: str | None
    timeout: float | None
    max_retries: int
    tags: Sequence[str]
    cache: Literal["no-store", "no-cache"] | None
    traceparent: str | None


_OPTIONS = Options.__optional_keys__


class AsyncRuntime(AsyncOperations):
    """A connection to a server, or to a runtime in this process. `async with openruntime.connect_async(...) as rt:`"""

    def __init__(self, transport: Transport, *, patience: float | None = None) -> None:
        self.connection = Connection(transport, patience=patience)
        self._completions = Completions(self.connection)
        self._catalogue: dict[str, dict[str, Any]] = {}
        self.kernels = AsyncKernels(self.connection, self._forget_catalogue)
        """Kernels of your own: `add`, `all`, `get`, `remove`."""
        self.ai = AsyncAI(self.connection)
        """The server's agents: `ask`, `start`, `follow`, `agents`, `approvals`, sessions."""
        self.models = AsyncModels(self.connection)
        """The server's models: `all`, `get`, `add`, `use`, `promote`, `roll_back`, `check`, `remove`."""

    async def __aenter__(self) -> Self:
        await self.connection.transport.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.connection.transport.address}>"

    async def close(self) -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.connection.transport.close)
            await self._completions.close()

    async def run(self, operation: str, /, *args: Any, **given: Any) -> Any:
        """Run an operation and wait for its output. Array parameters by position or name; `Options` by name."""
        request, arrays, headers = await self._request(operation, args, given)
        headers |= {"Accept": SAFETENSORS, "Prefer": f"wait={FIRST_WAIT}"}
        reply = await self._post(request, arrays, headers, wait=FIRST_WAIT)
        if _is_safetensors(reply):
            return outputs(reply.body)
        document = decode(reply)
        error = ended(document)
        if error is not None:
            raise error
        task = AsyncTask(self.connection, document["task_id"], operation)
        try:
            return await task.result()
        except asyncio.CancelledError:
            await asyncio.shield(task.cancel())  # nobody waits for it any more
            raise

    async def submit(self, operation: str, /, *args: Any, **given: Any) -> AsyncTask:
        """Queue an operation. Returns once the server has promised to run it; awaiting the task gives its output.

        By name, beside the parameters: priority, device, timeout, max_retries, tags, cache, traceparent (see `Runtime.submit`).
        """
        request, arrays, headers = await self._request(operation, args, given)
        await self._completions.begin()
        try:
            reply = await self._post(request, arrays, headers | {"Accept": "application/json"})
            return self._task(operation, decode(reply))
        finally:
            self._completions.finish()

    async def submit_many(
        self, requests: Iterable[Mapping[str, Any]], *, cache: str | None = None, traceparent: str | None = None
    ) -> list[AsyncTask]:
        """Queue many at once. Each is shaped like `TaskRequest`, its `parameters` with arrays. A refused one is a task that failed."""
        headers = _headers({"cache": cache, "traceparent": traceparent})
        listed = [dict(request) for request in requests]
        packed: list[tuple[dict[str, Any], dict[str, Array]]] = []
        for request in listed:
            known = await self._known_schema(request["operation"])
            parameters = request.get("parameters", {})
            plain, arrays = split(arguments(request["operation"], known, (), parameters) if known else parameters)
            packed.append((request | {"parameters": plain}, arrays))
        await self._completions.begin()
        try:
            reply = await self._send("/tasks/batch", *batch(packed), headers | {"Accept": "application/json"})
            answers = decode(reply)["tasks"]
            return [self._outcome(request["operation"], answer) for request, answer in zip(listed, answers, strict=True)]
        finally:
            self._completions.finish()

    async def map(self, operation: str, /, *iterables: Iterable[Any], **given: Any) -> AsyncGenerator[Any]:
        """The outputs for each set of positional arguments, in order, like `Executor.map`. Submits in batches."""
        tasks: list[AsyncTask] = []
        waiting: list[Mapping[str, Any]] = []
        options = {name: given.pop(name) for name in _OPTIONS & given.keys()}
        once = {name: options.pop(name) for name in ("cache", "traceparent") if name in options}
        common = _request_fields(options)
        known = await self._known_schema(operation)
        if known:
            check_names(operation, known, given, _OPTIONS)
        schema = known or {"properties": {}}
        for args in zip(*iterables, strict=False):
            waiting.append({"operation": operation, "parameters": arguments(operation, schema, args, given)} | common)
            if len(waiting) == BATCH:
                tasks += await self.submit_many(waiting, **once)
                waiting = []
        if waiting:
            tasks += await self.submit_many(waiting, **once)
        for task in tasks:
            yield await task

    async def as_completed(self, tasks: Iterable[AsyncTask]) -> AsyncGenerator[AsyncTask]:
        """The tasks in the order in which they end."""
        ends: asyncio.Queue[AsyncTask] = asyncio.Queue()
        listed = list(tasks)
        for task in listed:
            task.on_end(ends.put_nowait)
        for _ in listed:
            yield await ends.get()

    async def tensor(self, array: Any) -> TensorHandle:
        """Send an array once, to be used by many calls."""
        body = safetensors.encode({"tensor": to_wire(array, "array")})
        headers = {"Content-Type": SAFETENSORS, "Accept": "application/json", "Idempotency-Key": uuid4().hex}
        document = decode(await self.connection.call("POST", "/tensors", headers=headers, content=body))
        return msgspec.convert(document["tensors"]["tensor"], TensorHandle)

    async def fetch(self, tensor: TensorHandle | str) -> Any:
        """The array behind a handle."""
        name = tensor if isinstance(tensor, str) else tensor.id
        reply = await self.connection.call("GET", f"/tensors/{name}", headers={"Accept": SAFETENSORS})
        arrays, _ = safetensors.decode(reply.body)
        return from_wire(next(iter(arrays.values())))

    async def forget(self, tensor: TensorHandle | str) -> None:
        """Delete an array kept on the server."""
        await self.connection.call("DELETE", f"/tensors/{tensor if isinstance(tensor, str) else tensor.id}")

    async def devices(self, *, backends: bool = False, detail: bool = False) -> list[dict[str, Any]]:
        """Every device: id, name, type, memory in bytes, status, backends, load; in `detail` its workers and ceilings (FLOP/s, bytes/s) too.

        `backends`: every backend instead, working or why not.
        """
        document = await self.connection.json("GET", "/devices")
        if detail and not backends:
            return [await self.connection.json("GET", f"/devices/{device['id']}") for device in document["devices"]]
        return list(document["backends" if backends else "devices"])

    async def operations(self) -> dict[str, dict[str, Any]]:
        """Every operation by name, with its JSON Schema. Asked for once."""
        if not self._catalogue:
            document = await self.connection.json("GET", "/operations")
            self._catalogue = {entry["name"]: entry for entry in document["operations"]}
        return self._catalogue

    async def tasks(self, **filters: Any) -> list[TaskResponse]:
        """The newest tasks first. Filters: status, operation, device, tag, limit (50 unless given)."""
        found: list[TaskResponse] = []
        limit, cursor = filters.pop("limit", 50), None
        while len(found) < limit:
            query = {**filters, "limit": min(limit - len(found), 100), "cursor": cursor}
            document = await self.connection.json("GET", "/tasks", query=query)
            found += map(TaskResponse.model_validate, document["tasks"])
            cursor = document["next"]
            if cursor is None:
                break
        return found

    async def task(self, task_id: str) -> AsyncTask:
        """A task by its id, submitted by whomever. Raises `NotFound`."""
        await self._completions.begin()
        try:
            document = await self.connection.json("GET", f"/tasks/{quote(task_id, safe='')}")
            return self._task(document["operation"], document)
        finally:
            self._completions.finish()

    async def events(self, topics: Sequence[str] | str = ("tasks",), *, after: int | str | None = None) -> AsyncGenerator[dict[str, Any]]:
        """What happens, live: `{"seq", "type", "time", "data"}`. Goes on where it stopped when the connection is lost."""
        listed = [topics] if isinstance(topics, str) else list(topics)
        async with aclosing(self.connection.events(listed, after)) as events:
            async for event in events:
                if event.get("type") != "subscribed":
                    yield event

    def _forget_catalogue(self) -> None:
        for name in self._catalogue:
            self.__dict__.pop(name, None)
        self._catalogue = {}

    def _names(self) -> Iterable[str]:
        return self._catalogue

    def _entry(self, name: str) -> dict[str, Any] | None:
        if self._catalogue and name not in self._catalogue:
            raise unknown(name, self._catalogue)
        return self._catalogue.get(name)

    async def _known_schema(self, operation: str) -> dict[str, Any] | None:
        entry = (await self.operations()).get(operation)
        return entry["parameters"] if entry else None

    async def _request(self, operation: str, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Array], dict[str, str]]:
        schema = await self._known_schema(operation)
        options = {name: given.pop(name) for name in _OPTIONS & given.keys()}
        headers = _headers(options)
        if schema:
            check_names(operation, schema, given, _OPTIONS)
        plain, arrays = split(arguments(operation, schema, args, given) if schema else given)
        return {"operation": operation, "parameters": plain} | _request_fields(options), arrays, headers

    async def _post(self, request: dict[str, Any], arrays: dict[str, Array], headers: dict[str, str], wait: float = 0.0) -> Reply:
        if arrays:
            kind, body = SAFETENSORS, safetensors.encode(arrays, {"task": msgspec.json.encode(request).decode()})
        else:
            kind, body = "application/json", [msgspec.json.encode(request)]
        return await self._send("/tasks", kind, body, headers, wait)

    async def _send(self, path: str, kind: str, body: Sequence[Buffer], headers: dict[str, str], wait: float = 0.0) -> Reply:
        sent = {"Content-Type": kind, "Idempotency-Key": uuid4().hex, **headers}
        return await self.connection.call("POST", path, headers=sent, content=body, wait=wait)

    def _task(self, operation: str, document: dict[str, Any]) -> AsyncTask:
        task = AsyncTask(self.connection, document["task_id"], operation)
        task.learn(document)
        self._completions.watch(task)
        return task

    def _outcome(self, operation: str, answer: dict[str, Any]) -> AsyncTask:
        if "task_id" in answer:
            return self._task(operation, answer)
        task = AsyncTask(self.connection, "", operation)
        task.end(failure(answer["code"], answer["detail"], answer.get("field")))
        return task


def batch(requests: Sequence[tuple[dict[str, Any], dict[str, Array]]]) -> tuple[str, list[Buffer]]:
    """Many requests as one body: the tensor `3.x` is the parameter `x` of the fourth request in the metadata's `tasks`."""
    arrays = {f"{i}.{name}": array for i, (_, named) in enumerate(requests) for name, array in named.items()}
    listed = [request for request, _ in requests]
    if not arrays:
        return "application/json", [msgspec.json.encode({"tasks": listed})]
    return SAFETENSORS, safetensors.encode(arrays, {"tasks": msgspec.json.encode(listed).decode()})


def _headers(options: dict[str, Any]) -> dict[str, str]:
    """The options that travel as headers, taken out of all. Raises `InvalidParameter` for a trace context that a server would not know."""
    cache, traceparent = options.pop("cache", None), options.pop("traceparent", None)
    if traceparent is not None and (not isinstance(traceparent, str) or checked(traceparent) is None):
        raise InvalidParameter(
            f"`traceparent` must be a W3C trace context, 00-{{32 hexadecimal digits}}-{{16}}-{{2}}, not {traceparent!r:.80}", field="traceparent"
        )
    return ({"Cache-Control": cache} if cache else {}) | ({"traceparent": traceparent} if traceparent else {})


def _request_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    fields = {"device_preference" if name == "device" else name: value for name, value in options.items() if value is not None}
    if "tags" in fields:
        fields["tags"] = list(fields["tags"])
    return fields


def _is_safetensors(reply: Reply) -> bool:
    return reply.headers.get("content-type", "").partition(";")[0] == SAFETENSORS


__all__ = ["AsyncRuntime", "Options", "Outputs", "TensorHandle"]
