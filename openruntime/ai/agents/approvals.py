"""What a role may only ask for: a person is shown the very request, and approves or refuses that one, once."""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Any

import msgspec
from uuid_utils import uuid7

from openruntime.ai.agents.budget import Meter
from openruntime.ai.agents.client import current
from openruntime.ai.agents.feed import Feed
from openruntime.ai.agents.records import Approval, RunRecord, approval
from openruntime.contracts.errors import Conflict, Forbidden, NotFound
from openruntime.contracts.records import Principal
from openruntime.security.tokens import Grant, TokenIssuer, digest

TOKEN = 60.0  # seconds that a token is good: one request
PATIENCE = 3600.0  # seconds that a person has to decide
MOST = 20  # asked for in one run


class Turn:
    """One of the places to work at that runs share."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._held = False
        self._taking = asyncio.Lock()

    async def take(self) -> None:
        async with self._taking:
            if not self._held:
                await self._places.acquire()
                self._held = True

    def give(self) -> None:
        if self._held:
            self._held = False
            self._places.release()


class Desk:
    """Gives one run its tokens (`Gate`), and takes people's decisions. `asks`: the scopes that a person may be asked for."""

    def __init__(
        self, record: RunRecord, principal: Principal, asks: Collection[str], tokens: TokenIssuer, meter: Meter, feed: Feed,
        places: asyncio.Semaphore, saved: Callable[[], None],
    ) -> None:  # fmt: skip
        self.turn = Turn(places)  # given back while a person is asked
        self._record = record
        self._principal = principal
        self._asks = asks
        self._tokens = tokens
        self._meter = meter
        self._feed = feed
        self._saved = saved
        self._deciding: dict[str, asyncio.Future[bool]] = {}

    def token(self) -> str:
        return self._tokens.issue(self._principal, seconds=TOKEN, run=self._record.id)

    async def permission(self, scope: str, what: str, method: str, path: str, content: bytes) -> str:
        if scope not in self._asks:
            raise Forbidden(f"{method} {path} needs the scope {scope}, which the {self._record.agent} neither has nor may ask for", field=scope)
        entry = self._new(scope, what, method, path, _body(content))
        self._record.approvals.append(entry)
        try:
            self._told(entry, "waiting")
            await self._word(entry)
        finally:
            if entry.status == "pending":  # nobody said anything, or the run was cancelled meanwhile
                entry.status = "expired"
            entry.decided = entry.decided or time.time()
            self._told(entry, "waiting" if self._deciding else "running")
        if entry.status != "approved":
            why = "refused" if entry.status == "refused" else "not decided in time about"
            raise Forbidden(f"a person has {why} {method} {path}{f': {entry.reason}' if entry.reason else ''}", field=scope)
        who = msgspec.structs.replace(self._principal, scopes=self._principal.scopes | {scope})
        return self._tokens.issue(who, seconds=TOKEN, run=self._record.id, grant=Grant(method, path, digest(content)))

    def decide(self, approval_id: str, approve: bool, *, by: str, reason: str = "") -> Approval:
        """Raises `NotFound`, `Conflict` where it is decided."""
        entry = next((entry for entry in self._record.approvals if entry.id == approval_id), None)
        if entry is None:
            raise NotFound(f"run {self._record.id} asks for no approval {approval_id!r:.100}", field="approval")
        decided = self._deciding.get(approval_id)
        if decided is None or decided.done():
            raise Conflict(f"it is {entry.status} already", field="approval")
        entry.status, entry.decided, entry.by, entry.reason = "approved" if approve else "refused", time.time(), by, reason
        decided.set_result(approve)
        return entry

    def _new(self, scope: str, what: str, method: str, path: str, body: Any) -> Approval:
        """Raises `Forbidden` where it was refused before, or too much is asked."""
        known = self._record.approvals
        if any(old.status == "refused" and (old.method, old.path, old.body) == (method, path, body) for old in known):
            raise Forbidden(f"a person has refused {method} {path} before", field=scope)
        if len(known) >= MOST:
            raise Forbidden(f"this run has asked {MOST} times for approval, which is the most", field=scope)
        call = current.get()
        return Approval(
            str(uuid7()), what or (call.tool if call and call.tool != "work" else "the role's own work"), scope, method, path, body, time.time()
        )

    async def _word(self, entry: Approval) -> None:
        """Until a person has spoken, or has had the time to."""
        decided = self._deciding[entry.id] = asyncio.get_running_loop().create_future()
        self.turn.give()
        try:
            with self._meter.paused():
                await asyncio.wait((decided,), timeout=PATIENCE)
                if len(self._deciding) == 1:
                    await self.turn.take()
        finally:
            del self._deciding[entry.id]

    def _told(self, entry: Approval, status: str) -> None:
        self._record.status = status
        self._feed.tell("approval", approval(entry))
        self._saved()


def _body(content: bytes) -> Any:
    """What a person is shown of it."""
    if not content:
        return None
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError:
        return f"{len(content)} bytes"
