"""What agents remember of a conversation: its questions and answers, kept on the store's shelf, cut by rule where it grows too long."""

import time
from typing import Any

import msgspec
from uuid_utils import uuid7

from openruntime.ai.agents.records import moment
from openruntime.contracts.errors import InvalidParameter, NotFound
from openruntime.contracts.interfaces import Shelf
from openruntime.contracts.records import Principal

NAMESPACE = "ai-sessions"
TTL = 30 * 86_400.0  # seconds after its last turn that a session is kept
MOST_TURNS = 200  # questions and answers that are kept
RECALLED = 24_000  # characters of them that a model is told: the newest
BLOCK = 16  # turns
PAGE = 100


class Turn(msgspec.Struct, frozen=True):
    """A question or an answer; `run`: of which it is part."""

    role: str
    content: str
    run: str
    time: float


class Session(msgspec.Struct, kw_only=True):
    id: str
    tenant: str
    title: str
    created: float
    used: float
    turns: list[Turn] = []
    dropped: int = 0  # turns that were too many


class Sessions:
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def create(self, title: str, *, principal: Principal) -> Session:
        now = time.time()
        session = Session(id=str(uuid7()), tenant=principal.tenant, title=title[:200], created=now, used=now)
        await self._put(session)
        return session

    async def get(self, session_id: str, *, principal: Principal) -> Session:
        """Raises `NotFound`."""
        kept = await self._shelf.get(NAMESPACE, session_id)
        session = msgspec.msgpack.decode(kept[0], type=Session) if kept is not None else None
        if session is None or session.tenant != principal.tenant:
            raise NotFound(f"there is no session {session_id!r:.100}; sessions are forgotten 30 days after their last turn", field="session")
        return session

    async def list(self, *, principal: Principal) -> list[Session]:
        """The newest first."""
        found: list[Session] = []
        after = ""
        while page := await self._shelf.items(NAMESPACE, tenant=principal.tenant, after=after, limit=PAGE):
            found += [msgspec.msgpack.decode(meta, type=Session) for _, meta in page]
            after = page[-1][0]
        return sorted(found, key=lambda session: session.used, reverse=True)

    async def delete(self, session_id: str, *, principal: Principal) -> None:
        await self.get(session_id, principal=principal)
        await self._shelf.delete(NAMESPACE, session_id)

    async def add(self, session_id: str, run: str, question: str, answer: str, *, principal: Principal) -> None:
        """A turn of each. A session that was deleted meanwhile stays so."""
        try:
            session = await self.get(session_id, principal=principal)
        except NotFound:
            return
        session.used = time.time()
        session.turns += [Turn("user", question, run, session.used), Turn("assistant", answer, run, session.used)]
        if (over := len(session.turns) - MOST_TURNS) > 0:
            session.dropped += over
            del session.turns[:over]
        await self._put(session)

    async def _put(self, session: Session) -> None:
        await self._shelf.put(NAMESPACE, session.id, msgspec.msgpack.encode(session), {}, ttl=TTL, tenant=session.tenant)


def recalled(session: Session) -> list[dict[str, Any]]:
    """The newest turns as messages, whole pairs, as many as fit. They begin at every `BLOCK`th turn, so that engines know the beginning again."""
    sizes = [len(turn.content) for turn in session.turns]
    starts = range(0, len(sizes), 2)
    fitting = [start for start in starts if sum(sizes[start:]) <= RECALLED]
    first = next((start for start in fitting if (session.dropped + start) % BLOCK == 0), min(fitting, default=len(sizes)))
    return [{"role": turn.role, "content": turn.content} for turn in session.turns[first:]]


def wanted(parameters: dict[str, Any]) -> str | None:
    """The session that a request continues. Raises `InvalidParameter`."""
    found = parameters.get("session")
    if found is not None and not isinstance(found, str):
        raise InvalidParameter("`parameters.session` must be a session's id", field="parameters.session")
    return found


def shown(session: Session, *, whole: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": session.id, "title": session.title, "created_at": moment(session.created), "used_at": moment(session.used),
        "turns": len(session.turns), "dropped": session.dropped,
    }  # fmt: skip
    if whole:
        found["messages"] = [{"role": t.role, "content": t.content, "task_id": t.run, "time": moment(t.time)} for t in session.turns]
    return found
