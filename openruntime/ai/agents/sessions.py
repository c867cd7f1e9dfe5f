"""What agents remember of a conversation: its questions and answers, kept on the store's shelf, cut by rule where it grows too long."""

import time
from typing import Any, NamedTuple

import msgspec
from uuid_utils import uuid7

from openruntime.ai.agents.records import moment
from openruntime.ai.context import Context, History
from openruntime.contracts.errors import InvalidParameter, NotFound
from openruntime.contracts.interfaces import Shelf
from openruntime.contracts.records import Principal

NAMESPACE = "ai-sessions"
TTL = 30 * 86_400.0  # seconds after its last turn that a session is kept
MOST_TURNS = 200  # questions and answers that are kept
RECALLED = 50  # of them that a model is told whose context is not known
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
    untold: int = 0  # of the turns that are kept, those that a model is told by the `summary` only
    summary: str = ""


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
        return (await self._kept(session_id, principal))[1]

    async def _kept(self, session_id: str, principal: Principal) -> tuple[bytes, Session]:
        """It, and as it is kept."""
        kept = await self._shelf.get(NAMESPACE, session_id)
        session = msgspec.msgpack.decode(kept[0], type=Session) if kept is not None else None
        if kept is None or session is None or session.tenant != principal.tenant:
            raise NotFound(f"there is no session {session_id!r:.100}; sessions are forgotten 30 days after their last turn", field="session")
        return kept[0], session

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

    async def add(self, session_id: str, run: str, question: str, answer: str, *, principal: Principal, cut: "Recalled | None" = None) -> None:
        """A turn of each, and what is left out from now on. A session that was deleted meanwhile stays so."""
        while True:
            try:
                kept, session = await self._kept(session_id, principal)
            except NotFound:
                return
            session.used = time.time()
            if cut is not None and cut.until > session.dropped + session.untold:  # another run may have left out more meanwhile
                session.untold, session.summary = cut.until - session.dropped, cut.summary
            session.turns += [Turn("user", question, run, session.used), Turn("assistant", answer, run, session.used)]
            if (over := len(session.turns) - MOST_TURNS) > 0:
                session.dropped += over
                session.untold = max(0, session.untold - over)
                del session.turns[:over]
            if await self._put(session, instead=kept):
                return  # otherwise another run, here or at another gateway, was faster

    async def _put(self, session: Session, instead: bytes | None = None) -> bool:
        packed = msgspec.msgpack.encode(session)
        return await self._shelf.put(NAMESPACE, session.id, packed, {}, ttl=TTL, tenant=session.tenant, instead=instead)


class Recalled(NamedTuple):
    """What a model is told of a conversation."""

    messages: list[dict[str, Any]]
    summary: str = ""
    until: int = 0  # of all turns there ever were, those that are not among the messages by rule


async def recalled(session: Session, system: str, question: str, limit: int | None, answer: int) -> Recalled:
    """As much as fits beside the question into a model that reads `limit` tokens; what is left out stays left out (`ai/context.py`)."""
    messages = [{"role": turn.role, "content": turn.content} for turn in session.turns]
    if limit is None:
        return Recalled(messages[-RECALLED:])
    history = History([*messages, {"role": "user", "content": question}], session.untold, session.summary)
    await Context(history, limit, answer=min(answer, limit // 4)).window(system)
    return Recalled(messages[history.dropped :], history.summary, session.dropped + history.dropped)


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
