"""Why a task ran where it ran, and where its time went: `/tasks/{id}/explain` and `/tasks/{id}/trace`."""

from collections.abc import Mapping, Sequence
from typing import Any

from openruntime.contracts.ai import LANE
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Task, Timings
from openruntime.contracts.trace import ids
from openruntime.devices.allocator import COLUMNS
from openruntime.tasks.slots import TINY


def explain(task: Task, depths: dict[str, int], achieved: dict[str, Any], predictions: Sequence[tuple[str, str, float]]) -> dict[str, Any]:
    """Placement, prediction against outcome, rates `achieved` (null with the reason where they are not known); the trace it belongs to.

    `predictions` (device, backend, seconds) are those of now: they stand in where none were made when it was placed.
    What ran as one with others has its share of the seconds.
    """
    estimate, seconds = task.call.estimate, task.seconds
    measured = seconds is not None and seconds > 0 and not task.cached
    occupied = (task.timings.finished - task.timings.started) / _share(task) if task.timings and task.timings.finished else None
    return {
        "task_id": task.id,
        "operation": task.call.operation,
        "dtype": task.call.dtype,
        "status": task.status.value,
        "lane": task.lane,
        "device": task.device,
        "backend": task.backend,
        "reason": _reason(task),
        "candidates": _candidates(task, predictions),
        "predicted": task.predicted,
        "actual": occupied if occupied is not None else seconds,
        "transfer": task.timings.transfer if task.timings and measured else None,
        "compile": task.timings.compile if task.timings and measured else None,
        "compute": seconds,
        "estimate": {"flops": estimate.flops, "bytes": estimate.bytes, "memory": estimate.memory},
        "achieved": achieved,
        "attempt": task.life.attempt,
        "failures": task.life.failures,
        "worker_deaths": task.life.deaths,
        "waiting_for": list(task.needs),
        "waiting_in_lane": depths.get(task.lane, 0) if not task.status.ended else None,
        "cached": task.cached,
        "batch": {"size": task.timings.batch[0], "position": task.timings.batch[1]} if task.timings and task.timings.batch else None,
        "stages": stages(task),
        **ids(task.traceparent),
    }


def _reason(task: Task) -> str:
    if task.cached:
        return "the result cache had the answer; no device was touched"
    if task.placement:
        return _compared(task.placement["reason"], _candidates(task, ()))
    if task.device is None and task.lane.startswith(LANE):
        return f"waiting until {task.lane.removeprefix(LANE)} takes one more request"
    if task.device is None:
        return "waiting for tasks whose results it uses" if task.needs else "waiting for a slot"
    where = f"{task.device}/{task.backend}"
    if task.call.requires:
        return f"{where} runs {task.call.requires.partition(':')[2]} kernels, in a worker that runs nothing else"
    if task.lane != "any":
        return f"{where} was asked for ({task.lane})"
    return (
        f"{where} ran it at once: it is so short that comparing would cost more"
        if task.predicted <= TINY
        else f"{where} was the only one that could take it"
    )


def _candidates(task: Task, predictions: Sequence[tuple[str, str, float]]) -> list[dict[str, Any]]:
    """What was weighed, soonest first; where nothing was, what is predicted now."""
    if task.placement:
        return [dict(zip(COLUMNS, row, strict=True)) for row in task.placement["candidates"]]
    return [
        dict.fromkeys(COLUMNS) | {
            "device": device, "backend": backend, "predicted": seconds, "predicted_finish": seconds,
            "chosen": (device, backend) == (task.device, task.backend),
        }
        for device, backend, seconds in predictions
    ]  # fmt: skip


def _compared(reason: str, candidates: Sequence[Mapping[str, Any]]) -> str:
    """The choice among several as a sentence; candidates come soonest first."""
    chosen = next((row for row in candidates if row["chosen"]), None)
    if chosen is None:
        return reason
    told = f"{_place(chosen)} was chosen ({reason.replace('_', ' ')}): its end there was predicted after {_seconds(chosen['predicted_finish'])}"
    other = next((row for row in candidates if not row["chosen"]), None)
    if other is None:
        return told
    why = [f"{_seconds(other['predicted'])} for the task itself"]
    if other["start_cost"]:
        why.append(f"{_seconds(other['start_cost'])} until its worker is up")
    if other["backlog"]:
        why.append(f"{_seconds(other['backlog'])} of work waiting there")
    if other["first_cost"]:
        why.append(f"{_seconds(other['first_cost'])} for what a first call costs more")
    return f"{told}, on {_place(other)} after {_seconds(other['predicted_finish'])} ({', '.join(why)})"


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['device']}/{row['backend']} slot {row['slot']}"


def _seconds(value: float) -> str:
    return f"{value * 1e6:.0f} µs" if value < 1e-3 else f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.1f} s"


def stages(task: Task) -> dict[str, float]:
    """Seconds spent: waiting for a slot, on the way to the worker, there (by what it did), on the way back."""
    t = task.timings or Timings()
    points = [("queue", t.submitted, t.claimed), ("send", t.claimed, t.started), ("work", t.started, t.finished), ("return", t.finished, t.received)]
    spent: dict[str, float] = {}
    for name, start, end in points:
        if start and end:
            if name == "work":
                spent |= {what: seconds for what, seconds in _work(task, t) if seconds}
            else:
                spent[name] = max(0.0, end - start)
    return spent


def _work(task: Task, t: Timings) -> list[tuple[str, float]]:
    """What the worker did, and for how many seconds. `pack`: reading the inputs' bytes, making the outputs' bytes; `batch`: the other tasks'
    shares, where it ran as one with them."""
    whole = max(0.0, t.finished - t.started)
    rest = max(0.0, whole / _share(task) - t.transfer - t.compile)
    compute = min(task.seconds or 0.0, rest) if task.status is TaskStatus.COMPLETED else rest
    others = whole - whole / _share(task)
    return [("transfer", t.transfer), ("compile", t.compile), ("compute", compute), ("pack", rest - compute), ("batch", others)]


def _share(task: Task) -> int:
    """Of how many tasks that ran as one it was."""
    return task.timings.batch[0] if task.timings and task.timings.batch else 1


def trace(task: Task) -> list[dict[str, Any]]:
    """Chrome trace events (the "Trace Event Format", complete events, microseconds): opens in Perfetto.

    What the worker did lies inside `work` in the usual order: how long each took was measured, not when it began.
    """
    t = task.timings or Timings()
    points = [("queue", t.submitted, t.claimed), ("send", t.claimed, t.started), ("work", t.started, t.finished), ("return", t.finished, t.received)]
    if t.finished and not task.cached:
        begin = t.started
        for name, seconds in _work(task, t)[:3]:
            if seconds:
                points.append((name, begin, begin + seconds))
                begin += seconds
    whole = [(task.call.operation, t.submitted, t.received)]
    where = f"{task.device or 'queue'}/{task.backend or '-'}"
    events: list[dict[str, Any]] = [{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "openruntime"}}]
    for thread, rows in ((1, whole), (2, points)):
        events.append({"name": "thread_name", "ph": "M", "pid": 1, "tid": thread, "args": {"name": f"task {task.id}" if thread == 1 else where}})
        events.extend(
            {
                "name": name, "cat": "task", "ph": "X", "pid": 1, "tid": thread, "ts": (start - t.submitted) * 1e6, "dur": (end - start) * 1e6,
                "args": {"task_id": task.id, "attempt": task.life.attempt, "status": task.status.value, **ids(task.traceparent)},
            }
            for name, start, end in rows
            if start and end
        )  # fmt: skip
    return events
