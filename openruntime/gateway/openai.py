"""OpenAI's API at `/v1`, as its clients speak it: models, chat completions, completions, embeddings. Every request is a task like any other."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from openruntime.contracts.ai import Completion, Delta, Embeddings, ModelSpec, answer_of
from openruntime.contracts.errors import Internal, OpenRuntimeError, Unavailable, UnsupportedMediaType
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.payload import Buffer
from openruntime.contracts.records import Task
from openruntime.gateway import openai_answers as answers
from openruntime.gateway import openai_requests as requests
from openruntime.gateway.body import BodyReader
from openruntime.gateway.dependencies import Services, headers, principal
from openruntime.gateway.errors import Disconnected
from openruntime.gateway.openai_requests import Asked
from openruntime.gateway.wire import JSON, Application, Headers, Receive, Scope, Send, media_type, respond
from openruntime.models.weights import reads

log = logging.getLogger(__name__)

PREFIX = "/v1/"
LARGEST = 32 << 20  # bytes of a request: a context of a million tokens, and images
ALIVE = 10.0  # seconds of silence after which a stream says that it is alive
_PATIENCE = 3600.0  # seconds of one look at a task; who waits looks again
_JSON = b"application/json"
_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx: pass on each piece at once
)
_completion = msgspec.json.Decoder(Completion).decode
_embeddings = msgspec.json.Decoder(Embeddings).decode
_Read = Callable[[Buffer, Callable[[str | None], ModelSpec], bytes | None], tuple[ModelSpec, Asked]]


class OpenAI:
    """The routes, as plain ASGI applications. What they raise is answered in OpenAI's form by who calls them: `answers.refused`."""

    def __init__(self, services: Services, bodies: BodyReader) -> None:
        self._tasks = services.tasks
        self._models = services.models
        self._streams = services.streams
        self._work = services.work
        self._bodies = bodies
        self.routes: Mapping[str, tuple[str, Application]] = {
            "/v1/models": ("GET", self.models),
            "/v1/chat/completions": ("POST", self.chat),
            "/v1/completions": ("POST", self.completion),
            "/v1/embeddings": ("POST", self.embedding),
        }

    def route(self, scope: Scope) -> Application | None:
        """The application for a path under `/v1/`, as the router would choose it."""
        path, method = scope["path"], scope["method"]
        if not path.startswith(PREFIX):
            return None
        known, app = self.routes.get(path) or (("GET", self.model) if path.startswith("/v1/models/") else ("", None))
        return app if method == known else None

    # -- models ---------------------------------------------------------------------------------------------------------------

    async def models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The models there are, by every name that they can be asked by."""
        found = {spec.id: spec for spec in self._models.list()}
        named = {spec.name if self._means(spec) else spec.id: spec for spec in found.values()}
        named |= {alias: found[meant] for alias, meant in self._models.aliases().items() if meant in found}
        data = [_shown(name, spec) for name, spec in sorted(named.items())]
        await respond(send, 200, _JSON, [msgspec.json.encode({"object": "list", "data": data})])

    def _means(self, spec: ModelSpec) -> bool:
        """Whether the name alone means this version."""
        try:
            return self._models.resolve(spec.name).id == spec.id
        except OpenRuntimeError:
            return False

    async def model(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One model."""
        name = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix("/v1/models/")
        await respond(send, 200, _JSON, [msgspec.json.encode(_shown(name, self._models.resolve(name)))])

    # -- answers --------------------------------------------------------------------------------------------------------------

    async def chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer to a chat."""
        spec, asked, task = await self._submit(scope, receive, requests.chat)
        if asked.stream:
            chunks = answers.Chunks(task, spec, chat=True, with_usage=asked.usage, one_call=asked.one_call)
            await self._stream(scope, receive, send, task, spec, chunks)
            return
        found = _completion(await self._answer(scope, receive, task, spec))
        await respond(send, 200, _JSON, [answers.chat_completion(task, spec, found, one_call=asked.one_call)], _named(task))

    async def completion(self, scope: Scope, receive: Receive, send: Send) -> None:
        """How a text goes on."""
        spec, asked, task = await self._submit(scope, receive, requests.completion)
        if asked.stream:
            await self._stream(scope, receive, send, task, spec, answers.Chunks(task, spec, chat=False, with_usage=asked.usage))
            return
        found = _completion(await self._answer(scope, receive, task, spec))
        await respond(send, 200, _JSON, [answers.text_completion(task, spec, found)], _named(task))

    async def embedding(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Texts as vectors."""
        spec, asked, task = await self._submit(scope, receive, requests.embedding)
        found = _embeddings(await self._answer(scope, receive, task, spec))
        await respond(send, 200, _JSON, [answers.embeddings(spec, found, coded=asked.base64)], _named(task))

    async def _submit(self, scope: Scope, receive: Receive, read: _Read) -> tuple[ModelSpec, Asked, Task]:
        given = headers(scope)
        media = media_type(given.get(b"content-type"))
        if media != JSON:
            raise UnsupportedMediaType(f"the Content-Type {media[:100]!r} is not read here; send {JSON}", field="Content-Type")
        spec, asked = read(await self._bodies.read(scope, receive, LARGEST), self._resolve(read), given.get(b"x-priority"))
        task = await self._work.submit(
            spec.id, asked.request, principal=principal(scope), priority=asked.priority, timeout=asked.timeout,
            cache=given.get(b"cache-control", b"").decode("latin-1"), traceparent=scope.get("openruntime.trace"),
        )  # fmt: skip
        scope["openruntime.task_id"] = task.id
        return spec, asked, task

    def _resolve(self, read: _Read) -> Callable[[str | None], ModelSpec]:
        kind = "embedding" if read is requests.embedding else "chat"
        return lambda name: self._models.default(kind) if name is None else self._models.resolve(name)

    async def _answer(self, scope: Scope, receive: Receive, task: Task, spec: ModelSpec) -> bytes:
        """The whole answer's JSON. A client that goes away takes its task with it."""
        if not task.life.status.ended:
            async with self._company(scope, receive, task, self._ended(task)) as waiting:
                while not await waiting(ALIVE):
                    self._waits(task, spec)
        found = await self._tasks.result(task.id, principal=principal(scope))
        return answer_of(found.outputs or {})

    def _waits(self, task: Task, spec: ModelSpec) -> None:
        """Raises `Unavailable` where it would wait for a device that has been drained meanwhile."""
        if task.life.status is TaskStatus.QUEUED:
            self._work.begins(spec)

    async def _ended(self, task: Task) -> None:
        while not await self._tasks.wait(task, _PATIENCE):
            pass

    async def _stream(self, scope: Scope, receive: Receive, send: Send, task: Task, spec: ModelSpec, chunks: answers.Chunks) -> None:
        talk = _Talk(send, chunks, _named(task), scope["openruntime.request_id"])
        async with self._company(scope, receive, task, talk.tell(self._streams.follow(task))) as waiting:
            try:
                while not await waiting(ALIVE):
                    self._waits(task, spec)
                    await talk.alive()
            except OpenRuntimeError as error:
                if not await talk.break_off(error):
                    raise
            except asyncio.CancelledError:
                await talk.break_off(Unavailable("the server is shutting down; ask again in a moment", retry_after=2))
                raise

    @contextlib.asynccontextmanager
    async def _company(self, scope: Scope, receive: Receive, task: Task, work: Any) -> AsyncIterator[Callable[..., Any]]:
        """`work` for a client that may go away: then its task is cancelled. Yields what waits for `work`, some seconds or until it is done."""
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(_gone(receive))

        async def waiting(seconds: float | None = None) -> bool:
            await asyncio.wait((working, leaving), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
                return True
            if leaving.done():
                raise Disconnected
            return False

        try:
            yield waiting
        finally:
            leaving.cancel()
            if not working.done():
                working.cancel()
            if not task.life.status.ended:
                with contextlib.suppress(OpenRuntimeError):
                    await self._tasks.cancel(task.id, principal=principal(scope))


class _Talk:
    """A stream's answer. It begins with the first piece, or after some silence: until then a refusal still has a status of its own."""

    def __init__(self, send: Send, chunks: answers.Chunks, extra: Headers, request_id: str) -> None:
        self._send = send
        self._chunks = chunks
        self._extra = extra
        self._id = request_id
        self._begun = self._ended = self._busy = False
        self._said = 0
        self._before = 0

    async def tell(self, pieces: AsyncIterator[Delta]) -> None:
        make = self._chunks.piece
        try:
            async for delta in pieces:
                event = make(delta)
                if event:
                    await self._say(event)
            await self._say(self._chunks.end(), last=True)
        except OpenRuntimeError as error:
            if not self._begun:
                raise
            await self.break_off(error)
        except Exception:
            if not self._begun:
                raise
            log.exception("a stream broke off", extra={"request_id": self._id})
            await self.break_off(Internal(f"the server could not go on; its log has the cause under the request id {self._id}"))

    async def _say(self, event: bytes, *, last: bool = False) -> None:
        self._said += 1
        self._busy = True
        if not self._begun:
            self._begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": [*_STREAM, *self._extra]})
            event = self._chunks.start() + event
        self._ended = last
        await self._send({"type": "http.response.body", "body": event, "more_body": not last})
        self._busy = False

    async def alive(self) -> None:
        """A comment, where nothing was said since this was asked last."""
        if self._said == self._before and not self._busy and not self._ended:
            await self._say(answers.COMMENT)
        self._before = self._said

    async def break_off(self, error: OpenRuntimeError) -> bool:
        """Whether the answer has begun: else a status tells it."""
        if self._begun and not self._ended:
            await self._say(answers.broken_off(error), last=True)
        return self._begun


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _named(task: Task) -> Headers:
    """For `/tasks/{id}`, `/tasks/{id}/explain`."""
    return [(b"x-task-id", task.id.encode())]


def _shown(name: str, spec: ModelSpec) -> dict[str, Any]:
    """A model as OpenAI lists one, and what is good to know of it."""
    return {
        "id": name, "object": "model", "created": int(spec.created), "owned_by": spec.origin or "openruntime",
        "version": spec.version, "kind": spec.kind, "context_length": reads(spec),
    }  # fmt: skip
