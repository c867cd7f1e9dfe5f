"""What debugging found, as facts with where they can be looked up, and the report that needs no model."""

from typing import Any

import msgspec

from openruntime.ai.agents.experiments import seconds, table


class Statistics(msgspec.Struct, omit_defaults=True):
    """Of one array, computed on the server. Extremes, mean and spread are of its finite elements; `smallest` is the least magnitude but 0.

    Of square matrices also the condition number (2-norm) and rank, and whether they are symmetric; of symmetric ones the least eigenvalue."""

    name: str
    dtype: str
    shape: list[int]
    nan: int = 0
    infinite: int = 0
    zeros: int = 0
    low: float | None = None
    high: float | None = None
    smallest: float | None = None
    mean: float | None = None
    std: float | None = None
    condition: float | None = None
    rank: int | None = None
    symmetric: bool | None = None
    eigenvalue: float | None = None
    note: str = ""
    tasks: list[str] = []

    @property
    def size(self) -> int:
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def magnitude(self) -> float:
        return max(abs(self.low or 0.0), abs(self.high or 0.0))


class Rerun(msgspec.Struct, omit_defaults=True):
    """The same call again. `how`: again, float64, or another place; `apart`: the largest difference from the first result, over its largest
    value; `strange`: NaN and infinities among its outputs."""

    how: str
    place: str
    status: str
    task: str
    code: str | None = None
    error: str | None = None
    seconds: float | None = None
    apart: float | None = None
    strange: int | None = None


class Shrunk(msgspec.Struct, omit_defaults=True):
    """The smallest input that still fails: shapes, and the values where they are few."""

    before: dict[str, list[int]]
    after: dict[str, list[int]]
    values: dict[str, Any] = {}
    steps: int = 0
    failing: int = 0
    last: str = ""
    note: str = ""


class Neighbours(msgspec.Struct, omit_defaults=True):
    """What else the device did while the task waited and ran."""

    device: str
    overlapping: int = 0
    busy: float = 0.0
    failed: dict[str, int] = {}
    usual: float | None = None
    usual_runs: int = 0
    examples: list[str] = []


class DevicePast(msgspec.Struct, omit_defaults=True):
    """How a device has been lately. `tasks`: its newest that ended, `failed` of them by code; `deaths`: its workers' in the last hour, after each
    of which one was started anew; `use`, `highest_use` and `memory` (what is free) as fractions; `temperature` in °C where the device tells it."""

    device: str
    status: str = ""
    tasks: int = 0
    failed: dict[str, int] = {}
    examples: list[str] = []
    deaths: int = 0
    workers: int = 0
    use: float | None = None
    highest_use: float | None = None
    memory: float | None = None
    temperature: float | None = None


class Cause(msgspec.Struct, omit_defaults=True):
    """`weight`, 0 to 1, only ranks: 1 is shown by the facts, below 0.5 is possible. `evidence`: what says so, with its source."""

    name: str
    told: str
    weight: float
    evidence: list[str] = []
    remedy: str = ""


class Diagnosis(msgspec.Struct):
    """`complaint`: failed, wrong or slow. `missing`: what could not be looked at, and what to send."""

    task_id: str
    complaint: str = ""
    task: dict[str, Any] = {}
    explain: dict[str, Any] = {}
    timeline: list[dict[str, Any]] = []
    neighbours: Neighbours | None = None
    device: DevicePast | None = None
    inputs: list[Statistics] = []
    outputs: list[Statistics] = []
    reruns: list[Rerun] = []
    verification: dict[str, Any] | None = None
    reference: dict[str, Any] | None = None
    shrunk: Shrunk | None = None
    causes: list[Cause] = []
    missing: list[str] = []


def verdict(found: Diagnosis) -> str:
    """What the facts show, in a sentence."""
    if found.causes:
        first = found.causes[0]
        return f"**{'Cause' if first.weight >= 0.8 else 'Most likely'}: {first.told}**"
    if found.task.get("status") == "completed":
        return "**Nothing wrong was found** in what could be looked at."
    return "**The facts below do not show a cause.**"


def summary(found: Diagnosis) -> str:
    """Markdown, complete without a model."""
    task = found.task
    lines = [f"# Task {found.task_id}: {task.get('operation', '?')} {task.get('status', '?')}", "", verdict(found)]
    if found.causes:
        first = found.causes[0]
        lines += ["", *(f"- {line}" for line in first.evidence)]
        if first.remedy:
            lines.append(f"- What helps: {first.remedy}")
    if len(found.causes) > 1:
        lines += ["", "## Other causes that the facts leave open", ""]
        for cause in found.causes[1:]:
            lines.append(f"- {cause.told} ({'; '.join(cause.evidence)})")
    lines += ["", "## The task", ""]
    lines += _about(found)
    if found.inputs or found.outputs:
        lines += ["", "## Its arrays", ""]
        lines += table(("array", "dtype", "shape", "NaN", "infinite", "zeros", "least", "largest", "condition", "note"), [
            (s.name, s.dtype, "×".join(map(str, s.shape)) or "a number", s.nan, s.infinite, s.zeros, _number(s.low), _number(s.high),
             _number(s.condition), s.note)
            for s in (*found.inputs, *found.outputs)
        ])  # fmt: skip
    if found.reruns:
        lines += ["", "## Run again", ""]
        lines += table(("how", "where", "ended", "took", "apart from the first", "NaN or infinite", "task"), [
            (r.how, r.place, r.status if r.code is None else f"{r.status}: {r.code}", "" if r.seconds is None else seconds(r.seconds),
             _number(r.apart), "" if r.strange is None else r.strange, r.task)
            for r in found.reruns
        ])  # fmt: skip
    if found.shrunk is not None:
        lines += ["", "## The smallest input that still fails", ""]
        shapes = ", ".join(f"`{name}` {found.shrunk.before[name]} → {shape}" for name, shape in found.shrunk.after.items())
        lines.append(f"{shapes} after {found.shrunk.steps} tries, {found.shrunk.failing} of which failed alike. {found.shrunk.note}".rstrip())
        lines += [f"- `{name}` = {str(value)[:400]}" for name, value in found.shrunk.values.items()]
    if found.missing:
        lines += ["", "## What could not be looked at", "", *(f"- {line}" for line in dict.fromkeys(found.missing))]
    return "\n".join(lines) + "\n"


def _about(found: Diagnosis) -> list[str]:
    task, why = found.task, found.explain
    told = []
    if task.get("error"):
        told.append(f"- Error ({task.get('code')}): {task['error']}")
    if why:
        where = f"{why.get('device') or 'no device'}/{why.get('backend') or '-'}"
        told.append(f"- Ran on {where}, attempt {why.get('attempt')}; {why.get('reason')} (/tasks/{found.task_id}/explain)")
        spent = ", ".join(f"{name} {seconds(value)}" for name, value in (why.get("stages") or {}).items())
        if spent:
            told.append(f"- Its time: {spent}")
        if why.get("predicted") and why.get("actual"):
            told.append(f"- Predicted {seconds(why['predicted'])}, took {seconds(why['actual'])}")
    told += [f"- {event['time']}: {event['what']}" for event in found.timeline]
    near = found.neighbours
    if near is not None:
        failed = (
            f", of which {sum(near.failed.values())} failed ({', '.join(f'{n} {code}' for code, n in near.failed.items())})" if near.failed else ""
        )
        told.append(f"- Meanwhile on {near.device}: {near.overlapping} other tasks{failed}, {seconds(near.busy)} of computing")
        if near.usual is not None:
            told.append(f"- Others of this operation took {seconds(near.usual)} (median of {near.usual_runs})")
    past = found.device
    if past is not None:
        told.append(f"- {past.device} lately: {'; '.join(_lately(past))} (/devices/{past.device}, /metrics/history)")
    return told


def _lately(past: DevicePast) -> list[str]:
    failed = ", ".join(f"{n} {code}" for code, n in past.failed.items()) or "none"
    told = [f"{past.status}, {past.workers} workers", f"of its newest {past.tasks} other tasks failed: {failed}"]
    told.append(f"{past.deaths} of its workers died and were started anew in the last hour" if past.deaths else "no worker died in the last hour")
    told += [
        f"{what} {value:.0%}"
        for what, value in (("in use now", past.use), ("at most", past.highest_use), ("memory free", past.memory))
        if value is not None
    ]
    return told + ([f"{past.temperature:g} °C"] if past.temperature is not None else [])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
