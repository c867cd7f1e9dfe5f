"""The server's agents: `rt.ai.ask("Why is it slow?")`, `rt.ai.chat()`, and what they ask a person for."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, suppress
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypedDict, Unpack
from urllib.parse import quote

from openruntime.client.connection import Connection
from openruntime.client.transport import Unreachable
from openruntime.contracts.errors import Conflict

if TYPE_CHECKING:
    from openruntime.client.sync import Portal

Approve = Callable[[dict[str, Any]], bool | Awaitable[bool]]
"""Asked with an approval (`what`, `method`, `path`, `body`, ...): whether that one request may go through."""
Heard = Callable[[str, Any], None]
"""Told what happens: started, call, progress, delta, approval, finished, with its data."""


class Asking(TypedDict, total=False):
    """How an agent is asked. `workflow`: system_analysis unless given, or code_generation, compute_optimization, debugging, model_inference.

    `budget` bounds it: tokens, seconds, device_seconds, tasks. `parameters` are the agent's own, such as `{"task_id": ...}`.
    """

    workflow: str
    model: str | None
    session: str | None
    budget: Mapping[str, float] | None
    max_tokens: int
    temperature: float
    parameters: Mapping[str, Any]


class AsyncAI:
    """The agents of the server: `rt.ai`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def agents(self) -> list[dict[str, Any]]:
        """Each with its workflows, what it may do, what it has to ask for, its tools and its usual budget."""
        return list((await self._connection.json("GET", "/ai/agents"))["agents"])

    async def ask(self, prompt: str, *, approve: Approve | None = None, heard: Heard | None = None, **given: Unpack[Asking]) -> dict[str, Any]:
        """Give an agent work and wait for its end: the run, `["result"]["text"]` being the answer and `["calls"]` what it did for it.

        `approve` decides about what the agent may only ask for; without it that is refused. `heard` is told what happens meanwhile. When
        this is cancelled, so is the run. Raises `InvalidParameter`, `ModelNotFound`, `Unavailable` where there is no model and one is needed.
        """
        run: dict[str, Any] = {}
        begun = await self.start(prompt, **given)
        try:
            async with aclosing(self.follow(begun["task_id"])) as events:
                async for kind, data in events:
                    if kind == "approval" and data["status"] == "pending":
                        word = approve(data) if approve is not None else False
                        said = bool(await word if isawaitable(word) else word)
                        with suppress(Conflict):  # decided elsewhere, or too late: the run goes on
                            await self.decide(begun["task_id"], data["id"], said)
                    if heard is not None:
                        heard(kind, data)
                    run = data if kind == "finished" else run
        finally:
            if not run:
                await self.cancel(begun["task_id"])
        return run

    async def start(self, prompt: str, **given: Unpack[Asking]) -> dict[str, Any]:
        """Give an agent work; `follow`, `get` and `cancel` take the run's `["task_id"]`."""
        made: dict[str, Any] = await self._connection.json("POST", "/ai/tasks", _request(prompt, given))
        return made

    async def follow(self, task_id: str) -> AsyncGenerator[tuple[str, Any]]:
        """What happens in a run, from its beginning to its end: `(kind, data)`. Goes on where it stopped when the connection is lost."""
        after, retry = 0, self._connection.retry()
        while True:
            try:
                async with aclosing(self._connection.told("GET", _path(task_id), after=after)) as events:
                    async for after, kind, data in events:  # noqa: B007  # where to go on
                        retry = self._connection.retry()
                        yield kind, data
                        if kind == "finished":
                            return
                raise Unreachable("the stream of events broke off")
            except Unreachable as lost:
                await retry.pause(lost)

    async def get(self, task_id: str, *, wait: int = 0) -> dict[str, Any]:
        """A run as it stands, or after so many seconds unless it ends before. Raises `NotFound`."""
        found: dict[str, Any] = await self._connection.json("GET", _path(task_id), query={"wait": wait or None}, wait=wait)
        return found

    async def all(self, *, limit: int = 50) -> list[dict[str, Any]]:
        """The newest runs, without their results."""
        return list((await self._connection.json("GET", "/ai/tasks", query={"limit": limit}))["tasks"])

    async def cancel(self, task_id: str) -> dict[str, Any]:
        """Stop a run and all that it has running; one that has ended is answered unchanged."""
        found: dict[str, Any] = await self._connection.json("DELETE", _path(task_id))
        return found

    async def approvals(self, task_id: str) -> list[dict[str, Any]]:
        """What a run asks, or asked, a person for."""
        return list((await self._connection.json("GET", f"{_path(task_id)}/approvals"))["approvals"])

    async def decide(self, task_id: str, approval: str, approve: bool, reason: str = "") -> dict[str, Any]:
        """Let a request of a run through, once, or refuse it. Raises `Conflict` where it is decided."""
        body = {"approve": approve, "reason": reason}
        made: dict[str, Any] = await self._connection.json("POST", f"{_path(task_id)}/approvals/{quote(approval, safe='')}", body)
        return made

    async def new_session(self, title: str = "") -> dict[str, Any]:
        """A conversation that is remembered; `ask(..., session=["id"])` continues it."""
        made: dict[str, Any] = await self._connection.json("POST", "/ai/sessions", {"title": title})
        return made

    async def sessions(self) -> list[dict[str, Any]]:
        """The conversations, the last used first."""
        return list((await self._connection.json("GET", "/ai/sessions"))["sessions"])

    async def session(self, session_id: str) -> dict[str, Any]:
        """One conversation with its messages. Raises `NotFound`."""
        found: dict[str, Any] = await self._connection.json("GET", f"/ai/sessions/{quote(session_id, safe='')}")
        return found

    async def forget(self, session_id: str) -> None:
        """Delete a conversation."""
        await self._connection.json("DELETE", f"/ai/sessions/{quote(session_id, safe='')}")


class AI:
    """The agents of the server: `rt.ai`. See `AsyncAI`, whose methods these are."""

    def __init__(self, portal: "Portal", client: AsyncAI) -> None:
        self._portal = portal
        self._client = client

    def agents(self) -> list[dict[str, Any]]:
        """Each with its workflows, what it may do, what it has to ask for, its tools and its usual budget."""
        return self._portal.run(self._client.agents())

    def ask(self, prompt: str, *, approve: Approve | None = None, heard: Heard | None = None, **given: Unpack[Asking]) -> dict[str, Any]:
        """Give an agent work and wait for its end: the run, `["result"]["text"]` being the answer and `["calls"]` what it did for it.

        `approve` decides about what the agent may only ask for; without it that is refused. `heard` is told what happens meanwhile. Both are
        called in the caller's thread. When this is interrupted, the run is cancelled.
        """
        run: dict[str, Any] = {}
        begun = self.start(prompt, **given)
        try:
            for kind, data in self.follow(begun["task_id"]):
                if kind == "approval" and data["status"] == "pending":
                    said = bool(approve(data)) if approve is not None else False
                    with suppress(Conflict):
                        self.decide(begun["task_id"], data["id"], said)
                if heard is not None:
                    heard(kind, data)
                run = data if kind == "finished" else run
        finally:
            if not run:
                self.cancel(begun["task_id"])
        return run

    def start(self, prompt: str, **given: Unpack[Asking]) -> dict[str, Any]:
        """Give an agent work; `follow`, `get` and `cancel` take the run's `["task_id"]`."""
        return self._portal.run(self._client.start(prompt, **given))

    def follow(self, task_id: str) -> Iterator[tuple[str, Any]]:
        """What happens in a run, from its beginning to its end: `(kind, data)`."""
        return self._portal.iterate(self._client.follow(task_id))

    def get(self, task_id: str, *, wait: int = 0) -> dict[str, Any]:
        """A run as it stands, or after so many seconds unless it ends before. Raises `NotFound`."""
        return self._portal.run(self._client.get(task_id, wait=wait))

    def all(self, *, limit: int = 50) -> list[dict[str, Any]]:
        """The newest runs, without their results."""
        return self._portal.run(self._client.all(limit=limit))

    def cancel(self, task_id: str) -> dict[str, Any]:
        """Stop a run and all that it has running; one that has ended is answered unchanged."""
        return self._portal.run(self._client.cancel(task_id))

    def approvals(self, task_id: str) -> list[dict[str, Any]]:
        """What a run asks, or asked, a person for."""
        return self._portal.run(self._client.approvals(task_id))

    def decide(self, task_id: str, approval: str, approve: bool, reason: str = "") -> dict[str, Any]:
        """Let a request of a run through, once, or refuse it. Raises `Conflict` where it is decided."""
        return self._portal.run(self._client.decide(task_id, approval, approve, reason))

    def new_session(self, title: str = "") -> dict[str, Any]:
        """A conversation that is remembered; `ask(..., session=["id"])` continues it."""
        return self._portal.run(self._client.new_session(title))

    def sessions(self) -> list[dict[str, Any]]:
        """The conversations, the last used first."""
        return self._portal.run(self._client.sessions())

    def session(self, session_id: str) -> dict[str, Any]:
        """One conversation with its messages. Raises `NotFound`."""
        return self._portal.run(self._client.session(session_id))

    def forget(self, session_id: str) -> None:
        """Delete a conversation."""
        self._portal.run(self._client.forget(session_id))


def _request(prompt: str, given: Asking) -> dict[str, Any]:
    """As `AIRequest` has it."""
    parameters = dict(given.get("parameters") or {})
    parameters |= {name: value for name in ("model", "session", "budget") if (value := given.get(name)) is not None}
    every: Mapping[str, Any] = given
    fields = {name: every[name] for name in ("max_tokens", "temperature") if name in every}
    return {"workflow": given.get("workflow", "system_analysis"), "prompt": prompt, "parameters": parameters, **fields}


def _path(task_id: str) -> str:
    return f"/ai/tasks/{quote(task_id, safe='')}"
