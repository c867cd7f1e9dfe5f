"""What is kept of an agent's run, and how it is shown. Times are seconds since the epoch inside, RFC 3339 UTC on the wire."""

import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from openruntime.contracts.agents import Budget, Report, Spent

RUNNING = frozenset({"queued", "running", "waiting"})
CUT = "the server stopped while this ran; ask again"


class RequestRecord(msgspec.Struct, omit_defaults=True):
    """One request to the API."""

    method: str
    path: str
    status: int = 0
    seconds: float = 0.0
    code: str = ""


class CallRecord(msgspec.Struct, omit_defaults=True):
    """One use of a tool, or the role's own `work`. `by`: model or role; `outcome`: running, ok, failed, refused or cancelled."""

    id: int
    tool: str
    arguments: dict[str, Any]
    by: str
    started: float
    outcome: str = "running"
    seconds: float = 0.0
    result: str = ""  # its beginning
    code: str = ""
    error: str = ""
    requests: list[RequestRecord] = []
    tasks: int = 0
    device_seconds: float = 0.0


class Approval(msgspec.Struct, omit_defaults=True):
    """A request that waits, or waited, for a person. `status`: pending, approved, refused or expired."""

    id: str
    what: str
    scope: str
    method: str
    path: str
    body: Any
    asked: float
    status: str = "pending"
    decided: float | None = None
    by: str = ""
    reason: str = ""


class RunRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`owner`: the server that runs it; `beat`: when that last said so."""

    id: str
    tenant: str
    user: str
    workflow: str
    agent: str
    prompt: str
    created: float
    owner: str
    budget: Budget
    spent: Spent
    report: Report
    parameters: dict[str, Any] = {}
    max_tokens: int = 2000
    temperature: float = 0.7
    model: str = ""
    session: str | None = None
    status: str = "queued"
    code: str | None = None
    error: str | None = None
    progress: float | None = None
    message: str | None = None
    calls: list[CallRecord] = []
    approvals: list[Approval] = []
    started: float | None = None
    finished: float | None = None
    beat: float = 0.0

    @property
    def ended(self) -> bool:
        return self.status not in RUNNING


def packed(record: RunRecord) -> bytes:
    """For the shelf."""
    try:
        return msgspec.msgpack.encode(record)
    except OverflowError:
        return msgspec.msgpack.encode(storable(msgspec.to_builtins(record)))


def storable(value: Any) -> Any:
    """Plain data as msgpack can have it: whole numbers beyond 64 bits, which a model may think of, as text."""
    if isinstance(value, dict):
        return {name: storable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return f"{value:#x}" if isinstance(value, int) and not -1 << 63 <= value < 1 << 64 else value


def interrupted(record: RunRecord, grace: float) -> RunRecord:
    """As it stands, where nobody has heard of the server that ran it for more than `grace` seconds."""
    if record.ended or time.time() - record.beat <= grace:
        return record
    record.status, record.code, record.error, record.finished = "failed", "unavailable", CUT, record.beat
    for waiting in record.approvals:
        waiting.status = "expired" if waiting.status == "pending" else waiting.status
    for cut in record.calls:
        cut.outcome = "cancelled" if cut.outcome == "running" else cut.outcome
    return record


def shown(record: RunRecord, *, whole: bool = True) -> dict[str, Any]:
    """As the API answers it; not `whole` in lists."""
    found: dict[str, Any] = {
        "task_id": record.id, "status": record.status, "workflow": record.workflow, "agent": record.agent, "model": record.model or None,
        "prompt": record.prompt if whole else record.prompt[:200], "session": record.session, "code": record.code, "error": record.error,
        "unfinished": record.report.unfinished, "progress": record.progress, "message": record.message,
        "spent": spent(record.spent), "created_at": moment(record.created), "started_at": moment(record.started),
        "finished_at": moment(record.finished),
    }  # fmt: skip
    if whole:
        found |= {
            "parameters": record.parameters, "max_tokens": record.max_tokens, "temperature": record.temperature,
            "budget": {name: getattr(record.budget, name) for name in Budget.__struct_fields__},
            "result": report(record.report), "calls": [call(entry) for entry in record.calls],
            "approvals": [approval(entry) for entry in record.approvals],
        }  # fmt: skip
    return found


def report(found: Report) -> dict[str, Any]:
    """`text` is what a model said, else the summary that was computed."""

    def plain(items: Any) -> Any:
        return [_fields(item) for item in items]

    return {
        "text": found.text or found.summary, "summary": found.summary, "facts": plain(found.facts), "charts": plain(found.charts),
        "artifacts": plain(found.artifacts), "data": found.data,
    }  # fmt: skip


def spent(found: Spent) -> dict[str, Any]:
    tokens = {"prompt": found.tokens.prompt, "completion": found.tokens.completion, "cached": found.tokens.cached, "total": found.tokens.total}
    return {
        "tokens": tokens, "seconds": round(found.seconds, 6), "device_seconds": round(found.device_seconds, 6), "tasks": found.tasks,
        "requests": found.requests, "calls": found.calls, "saved": found.saved,
    }  # fmt: skip


def call(entry: CallRecord) -> dict[str, Any]:
    return _fields(entry) | {"started": moment(entry.started), "requests": [_fields(request) for request in entry.requests]}


def approval(entry: Approval) -> dict[str, Any]:
    return _fields(entry) | {"asked": moment(entry.asked), "decided": moment(entry.decided)}


def _fields(item: msgspec.Struct) -> dict[str, Any]:
    """All of them, those with their default too."""
    return {name: getattr(item, name) for name in item.__struct_fields__}


def moment(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z") if seconds is not None else None
