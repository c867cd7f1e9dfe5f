"""One run of a role: what it may use, what it has spent, who watches it, and whom it waits for."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Protocol

import msgspec
from uuid_utils import uuid7

from openruntime.ai.agents.budget import Meter
from openruntime.ai.agents.client import RunClient, current, purpose
from openruntime.ai.agents.records import Approval, CallRecord, RunRecord, approval, call, shown
from openruntime.contracts.agents import Budget, BudgetSpent, Client, Report, Role, Spent, Tool, Writer
from openruntime.contracts.errors import Conflict, Forbidden, NotFound, OpenRuntimeError
from openruntime.contracts.models import AIRequest
from openruntime.contracts.records import Principal
from openruntime.security.tokens import Grant, TokenIssuer, digest

log = logging.getLogger(__name__)

TOKEN = 60.0  # seconds that a token is good: one request
PATIENCE = 3600.0  # seconds that a person has to decide
MOST_APPROVALS = 20  # asked for in one run
RESULT = 2000  # characters of a tool's answer that are kept
EVENTS = 20_000  # of one run that are kept for those who come later; pieces of text count each


class Application(Protocol):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Run:
    """Implements `Context`; what its manager and watchers need besides."""

    def __init__(
        self, record: RunRecord, role: Role, principal: Principal, request: AIRequest, tokens: TokenIssuer, application: Application,
        saved: Callable[["Run"], None],
    ) -> None:  # fmt: skip
        self.record = record
        self.role = role
        self.meter = Meter(record.budget, record.spent)
        self.history: list[dict[str, Any]] = []  # what its session remembers, as messages
        self.writer: Writer | None = None
        self._principal = principal
        self._request = request
        self._tokens = tokens
        self._saved = saved
        self._client = RunClient(application, self.meter, self)
        self._deciding: dict[str, asyncio.Future[bool]] = {}
        self._events: list[tuple[str, Any]] = []
        self._first = 0  # the number of the first event that is kept
        self._happened = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.stopping: str | None = None  # why it is being cancelled
        self.turn: asyncio.Semaphore | None = None  # one of those that work at the same time; given back while a person is asked

    # -- Context

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def request(self) -> AIRequest:
        return self._request

    @property
    def principal(self) -> Principal:
        return self._principal

    @property
    def client(self) -> Client:
        return self._client

    @property
    def own(self) -> RunClient:
        """The client, with what settles it."""
        return self._client

    @property
    def model(self) -> Writer | None:
        return self.writer

    @property
    def budget(self) -> Budget:
        return self.record.budget

    @property
    def spent(self) -> Spent:
        return self.record.spent

    @property
    def report(self) -> Report:
        return self.record.report

    async def call(self, tool: Tool, /, **arguments: Any) -> Any:
        return await self.use(tool, arguments, by="role")

    async def approve(self, what: str, method: str, path: str, body: Any = None) -> Any:
        send = {"GET": self._client.get, "DELETE": self._client.delete}.get(method)
        outer = purpose.set(what)
        try:
            if send is not None:
                return await send(path)
            return await (self._client.post if method == "POST" else self._client.put)(path, body)
        finally:
            purpose.reset(outer)

    def progress(self, fraction: float | None, message: str) -> None:
        self.record.progress, self.record.message = fraction, message
        self.tell("progress", {"progress": fraction, "message": message})

    # -- tools

    async def use(self, tool: Tool, arguments: Mapping[str, Any], *, by: str) -> Any:
        """Its answer, recorded. What it raises passes."""
        self.meter.check()
        self.spent.calls += 1
        entry = CallRecord(len(self.record.calls) + 1, getattr(tool, "__name__", "tool"), _plain(arguments), by, time.time())
        self.record.calls.append(entry)
        self.tell("call", call(entry))
        outer, began = current.set(entry), time.monotonic()
        try:
            found = await tool(self, **arguments)
            entry.outcome, entry.result = "ok", _brief(found)
            return found
        except OpenRuntimeError as error:
            entry.outcome = "refused" if isinstance(error, Forbidden) else "failed"
            entry.code, entry.error = error.code, error.message[:RESULT]
            raise
        except (BudgetSpent, asyncio.CancelledError):
            entry.outcome = "cancelled"
            raise
        except Exception as error:
            entry.outcome, entry.code, entry.error = "failed", "internal", f"the tool is broken ({type(error).__name__})"
            log.exception("the tool %s of an agent failed", entry.tool)
            raise
        finally:
            current.reset(outer)
            entry.seconds = time.monotonic() - began
            self.tell("call", call(entry))
            self._saved(self)

    # -- tokens and approvals: `Gate`

    def token(self) -> str:
        return self._tokens.issue(self._principal, seconds=TOKEN, run=self.id)

    async def permission(self, scope: str, what: str, method: str, path: str, content: bytes) -> str:
        await self._asked(scope, what, method, path, content)
        who = msgspec.structs.replace(self._principal, scopes=self._principal.scopes | {scope})
        return self._tokens.issue(who, seconds=TOKEN, run=self.id, grant=Grant(method, path, digest(content)))

    async def _asked(self, scope: str, what: str, method: str, path: str, content: bytes) -> None:
        """Until a person has approved it. Raises `Forbidden`."""
        if scope not in self.role.asks:
            raise Forbidden(f"{method} {path} needs the scope {scope}, which the {self.role.name} neither has nor may ask for", field=scope)
        body = _body(content)
        if any(old.status == "refused" and (old.method, old.path, old.body) == (method, path, body) for old in self.record.approvals):
            raise Forbidden(f"a person has refused {method} {path} before", field=scope)
        if len(self.record.approvals) >= MOST_APPROVALS:
            raise Forbidden(f"this run has asked {MOST_APPROVALS} times for approval, which is the most", field=scope)
        call_ = current.get()
        entry = Approval(str(uuid7()), what or (call_.tool if call_ else "the role's own work"), scope, method, path, body, time.time())
        self.record.approvals.append(entry)
        decided = self._deciding[entry.id] = asyncio.get_running_loop().create_future()
        self.record.status = "waiting"
        self.tell("approval", approval(entry))
        self._saved(self)
        try:
            approved = await self._word(decided)
        except TimeoutError:
            entry.status, entry.decided = "expired", time.time()
            approved = False
        finally:
            del self._deciding[entry.id]
            if entry.status == "pending":  # the run was cancelled meanwhile
                entry.status, entry.decided = "expired", time.time()
            self.record.status = "waiting" if self._deciding else "running"
            self.tell("approval", approval(entry))
            self._saved(self)
        if not approved:
            why = "refused" if entry.status == "refused" else "not decided in time about"
            raise Forbidden(f"a person has {why} {method} {path}{f': {entry.reason}' if entry.reason else ''}", field=scope)

    async def _word(self, decided: asyncio.Future[bool]) -> bool:
        if self.turn is not None and len(self._deciding) == 1:
            self.turn.release()
        try:
            with self.meter.paused():
                async with asyncio.timeout(PATIENCE):
                    return await decided
        finally:
            if self.turn is not None and len(self._deciding) == 1:
                await self.turn.acquire()

    def decide(self, approval_id: str, approve: bool, *, by: str, reason: str = "") -> Approval:
        """Raises `NotFound`, `Conflict` where it is decided."""
        entry = next((entry for entry in self.record.approvals if entry.id == approval_id), None)
        if entry is None:
            raise NotFound(f"run {self.id} asks for no approval {approval_id!r:.100}", field="approval")
        decided = self._deciding.get(approval_id)
        if decided is None or decided.done():
            raise Conflict(f"it is {entry.status} already", field="approval")
        entry.status, entry.decided, entry.by, entry.reason = "approved" if approve else "refused", time.time(), by, reason
        decided.set_result(approve)
        return entry

    # -- watchers

    def say(self, text: str) -> None:
        """A piece of what the model says."""
        if text:
            self.tell("delta", {"text": text})

    def tell(self, kind: str, data: Any) -> None:
        self._events.append((kind, data))
        if len(self._events) > EVENTS:
            del self._events[: EVENTS // 2]
            self._first += EVENTS // 2
        self._happened.set()
        self._happened = asyncio.Event()

    async def events(self, after: int = 0) -> AsyncGenerator[tuple[int, str, Any]]:
        """`(number, kind, data)`, those after a number that was seen; the last is `finished` with the run."""
        at = max(after, self._first)
        while True:
            while at - self._first < len(self._events):
                kind, data = self._events[at - self._first]
                at += 1
                yield at, kind, data
                if kind == "finished":
                    return
                at = max(at, self._first)
            await self._happened.wait()

    def finish(self) -> None:
        """The last word."""
        self.tell("finished", shown(self.record))


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON, long texts cut."""
    found: dict[str, Any] = msgspec.to_builtins(dict(arguments), enc_hook=str)
    return {name: value if len(text := _brief(value)) < RESULT else text for name, value in found.items()}


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
    return text if len(text) <= RESULT else f"{text[: RESULT - 1]}…"


def _body(content: bytes) -> Any:
    """What a person is shown of it."""
    if not content:
        return None
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError:
        return f"{len(content)} bytes"
