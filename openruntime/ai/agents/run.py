"""One run of a role: what it may use, what it has spent, what it has found."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from openruntime.ai.agents.approvals import Desk
from openruntime.ai.agents.budget import Meter
from openruntime.ai.agents.client import RunClient, current, purpose
from openruntime.ai.agents.feed import Feed
from openruntime.ai.agents.records import CallRecord, RunRecord, call
from openruntime.ai.agents.sessions import Recalled
from openruntime.client.embedded import Application
from openruntime.contracts.agents import Budget, BudgetSpent, Client, Report, Role, Spent, Tool, Writer
from openruntime.contracts.ai import Models
from openruntime.contracts.errors import Forbidden, OpenRuntimeError
from openruntime.contracts.models import AIRequest
from openruntime.contracts.records import Principal
from openruntime.security.tokens import TokenIssuer

log = logging.getLogger(__name__)

RESULT = 2000  # characters of a tool's answer that are kept


class Run:
    """Implements `Context`. Its manager and watchers use `record`, `feed` and `desk` besides."""

    def __init__(
        self, record: RunRecord, role: Role, principal: Principal, request: AIRequest, tokens: TokenIssuer, application: Application,
        places: asyncio.Semaphore, saved: Callable[["Run"], None], models: Models | None = None,
    ) -> None:  # fmt: skip
        self.record = record
        self.role = role
        self.feed = Feed()
        self.meter = Meter(record.budget, record.spent)
        self.desk = Desk(record, principal, role.asks, tokens, self.meter, self.feed, places, lambda: saved(self))
        self.own = RunClient(application, self.meter, self.desk, models)
        self.seed: int | None = None  # for its model
        self.recalled = Recalled([])  # of its session
        self.writer: Writer | None = None
        self.task: asyncio.Task[None] | None = None
        self.stopping: str | None = None  # why it is being cancelled
        self._principal = principal
        self._request = request
        self._saved = saved

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
        return self.own

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
        outer = purpose.set(what)
        try:
            if method in ("GET", "DELETE"):
                return await (self.client.get if method == "GET" else self.client.delete)(path)
            return await (self.client.post if method == "POST" else self.client.put)(path, body)
        finally:
            purpose.reset(outer)

    def progress(self, fraction: float | None, message: str) -> None:
        self.record.progress, self.record.message = fraction, message
        self.feed.tell("progress", {"progress": fraction, "message": message})

    async def use(self, tool: Tool, arguments: Mapping[str, Any], *, by: str) -> Any:
        """A tool's answer, recorded. What it raises passes."""
        self.meter.check()
        self.spent.calls += tool is not self.role.work
        entry = CallRecord(len(self.record.calls) + 1, getattr(tool, "__name__", "tool"), _plain(arguments), by, time.time())
        self.record.calls.append(entry)
        self.feed.tell("call", call(entry))
        outer, began = current.set(entry), time.monotonic()
        try:
            with self.meter.strand():
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
            self.feed.tell("call", call(entry))
            self._saved(self)


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON, long ones as their beginning."""
    found: dict[str, Any] = msgspec.to_builtins(dict(arguments), enc_hook=str)
    return {name: value if len(text := _brief(value)) < RESULT else text for name, value in found.items()}


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
    return text if len(text) <= RESULT else f"{text[: RESULT - 1]}…"
