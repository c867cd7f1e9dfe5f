"""The tasks and metrics that the Analyst computes from: loaded once a moment, bounded, and told how far back they reach."""

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from openruntime.ai.agents.analyst.facts import known
from openruntime.contracts.agents import Context

MOST = 5000  # tasks, the newest
PAGE = 1000
FRESH = 5.0  # seconds that what was loaded is used again
ENDED = ("completed", "failed", "cancelled")


class Row(msgspec.Struct, frozen=True):
    """A task. Times in seconds since the epoch; `waited` and `seconds` are None where it did not start or compute."""

    id: str
    operation: str
    status: str
    created: float
    finished: float | None
    waited: float | None
    seconds: float | None
    device: str
    backend: str
    client: str
    bytes: float
    cached: bool
    code: str
    error: str
    attempt: int

    @property
    def place(self) -> str:
        return f"{self.device}/{self.backend}" if self.device else "nowhere"

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Past(msgspec.Struct, frozen=True):
    """Tasks in the order of their submission. `complete`: the server had no older ones in this period."""

    rows: list[Row]
    now: float
    complete: bool
    source: str

    @property
    def ran(self) -> list[Row]:
        """Those that computed something to the end."""
        return [row for row in self.rows if row.status == "completed" and not row.cached and row.seconds is not None]

    def period(self) -> str:
        if not self.rows:
            return "no tasks"
        return f"submitted {clock(self.rows[0].created)} to {clock(self.rows[-1].created)}{'' if self.complete else ', the newest only'}"


_LOADED: "WeakKeyDictionary[Any, list[Past]]" = WeakKeyDictionary()


def clock(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


async def tasks(context: Context, window: float | None = None, operation: str | None = None, device: str | None = None) -> Past:
    """The newest tasks of the last `window` seconds, of one operation or device where given."""
    whole = next((past for past in _LOADED.get(context, []) if time.time() - past.now < FRESH), None)
    if whole is None:
        whole = await _load(context)
        _LOADED[context] = [whole]
    rows = [
        row for row in whole.rows
        if (window is None or row.created >= whole.now - window) and operation in (None, row.operation) and device in (None, row.device, row.place)
    ]  # fmt: skip
    reaches = whole.complete or (window is not None and bool(whole.rows) and whole.rows[0].created <= whole.now - window)
    return Past(rows, whole.now, reaches, whole.source)


async def _load(context: Context) -> Past:
    rows: list[Row] = []
    cursor: str | None = None
    now = time.time()
    while len(rows) < MOST:
        page = await context.client.get("/tasks", limit=PAGE, cursor=cursor)
        rows += map(_row, page["tasks"])
        cursor = page["next"]
        if cursor is None:
            break
    rows.sort(key=lambda row: row.created)
    for row in rows:
        known(context, row.operation, row.device, row.place if row.device else None, row.backend, row.client)
    return Past(rows, now, cursor is None, "GET /tasks")


def _row(task: Mapping[str, Any]) -> Row:
    created, started = epoch(task["created_at"]) or 0.0, epoch(task.get("started_at"))
    return Row(
        task["task_id"], task["operation"], task["status"], created, epoch(task.get("finished_at")),
        max(0.0, started - created) if started is not None else None, task.get("execution_time"), task.get("device_used") or "",
        task.get("backend") or "", task.get("client") or "", task.get("bytes") or 0.0, bool(task.get("cached")), task.get("code") or "",
        task.get("error") or "", task.get("attempt") or 0,
    )  # fmt: skip


def epoch(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()


def grouped(rows: Sequence[Row], *fields: str) -> dict[tuple[str, ...], list[Row]]:
    """By these fields, the largest group first."""
    found: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(getattr(row, field) for field in fields)].append(row)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


class Metrics(msgspec.Struct, frozen=True):
    """How metrics went: `times` since the epoch, and by name a value for each."""

    times: list[float]
    series: dict[str, list[float | None]]
    source: str

    def last(self, name: str) -> float | None:
        return next((value for value in reversed(self.series.get(name, [])) if value is not None), None)

    def points(self, name: str) -> tuple[list[float], list[float]]:
        pairs = [(when, value) for when, value in zip(self.times, self.series.get(name, []), strict=True) if value is not None]
        return [when for when, _ in pairs], [value for _, value in pairs]

    def rates(self, name: str) -> tuple[list[float], list[float]]:
        """Of a counter, what it rose a second; a restart (it fell) is left out."""
        times, values = self.points(name)
        found = [
            (later, (after - before) / (later - earlier))
            for earlier, later, before, after in zip(times, times[1:], values, values[1:], strict=False)
            if later - earlier >= 1.0 and after >= before
        ]
        return [when for when, _ in found], [rate for _, rate in found]


async def metrics(context: Context, *names: str, window: float | None = None) -> Metrics:
    found = await context.client.get("/metrics/history", name=list(names) or None, seconds=window)
    known(context, *found["series"])
    return Metrics([epoch(when) or 0.0 for when in found["times"]], found["series"], "GET /metrics/history")


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PERIOD = re.compile(
    r"\b(?:last|past|previous)\s+(\d{1,5}(?:\.\d+)?)?\s*(s|m|h|d|w)(?:ec(?:ond)?s?|in(?:ute)?s?|(?:ou)?rs?|ays?|eeks?)?\b", re.IGNORECASE
)


def window_of(question: str) -> float | None:
    """The seconds that `last 10 minutes`, `past hour` or `today` mean."""
    found = _PERIOD.search(question)
    if found is not None:
        return float(found[1] or 1) * _UNITS[found[2].lower()]
    return 86400.0 if re.search(r"\btoday\b", question, re.IGNORECASE) else None
