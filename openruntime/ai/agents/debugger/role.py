"""Debugger: finds out why a task failed, was slow or gave a wrong result.

`parameters` of its request: `task`, its id (or in the prompt); `parameters`, what the task was given, because history does not keep that;
`complaint`: failed, wrong or slow; `expected`: `{"operation", "parameters"}` that gives the right result.
"""

import re
from typing import Any

import msgspec

from openruntime.ai.agents.analyst.facts import known, shown
from openruntime.ai.agents.analyst.words import under_verdict
from openruntime.ai.agents.debugger.findings import Diagnosis, summary, verdict
from openruntime.ai.agents.debugger.work import Debugging
from openruntime.ai.agents.experiments import Bench
from openruntime.ai.agents.tools import LOOKING, cancel_task, run_operation, set_device_state
from openruntime.contracts.agents import Budget, Context, Fact, Role
from openruntime.contracts.errors import InvalidParameter
from openruntime.contracts.models import WorkflowType

COMPLAINTS = ("failed", "wrong", "slow")
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SEND = 'No task was named. Send its id in the prompt or as `{"task": id}` in `parameters`, and there too, as `parameters`, what it was given.'


async def work(context: Context) -> None:
    """Everything that can be known without a model, in `context.report`."""
    given = context.request.parameters or {}
    named = _ID.search(context.request.prompt)
    task_id = given.get("task") or (named[0] if named else await _last_failed(context))
    if task_id is None:
        context.report.summary = SEND
        return
    complaint, parameters, expected = given.get("complaint", ""), given.get("parameters"), given.get("expected")
    if complaint and complaint not in COMPLAINTS:
        raise InvalidParameter(f"`parameters.complaint` must be one of {', '.join(COMPLAINTS)}, not {complaint!r:.60}", field="complaint")
    for name, value in (("parameters", parameters), ("expected", expected)):
        if value is not None and not isinstance(value, dict):
            raise InvalidParameter(f"`parameters.{name}` must be an object", field=name)
    found = Diagnosis(str(task_id))
    try:
        await Debugging(
            Bench(context.client), str(task_id), parameters, complaint=complaint, expected=expected, found=found, progress=context.progress
        ).debug()
    finally:
        _fill(context, found)


async def _last_failed(context: Context) -> str | None:
    """The newest task that failed, where the prompt speaks of the last one."""
    if not re.search(r"\b(last|latest|newest)\b", context.request.prompt.lower()):
        return None
    listed = (await context.client.get("/tasks", status="failed", limit=1))["tasks"]
    return listed[0]["task_id"] if listed else None


def _fill(context: Context, found: Diagnosis) -> None:
    """Into the report; below what another task gave."""
    report = context.report
    if not found.task:
        return
    report.summary = "\n\n".join(filter(None, ("" if report.summary == SEND else report.summary, summary(found))))
    told = "\n".join(filter(None, (report.data.get("verdict"), verdict(found))))
    report.data |= msgspec.to_builtins(found) | {"verdict": told}
    source = f"/tasks/{found.task_id}"
    known(context, found.task_id, *(str(found.task.get(name) or "") for name in ("operation", "device_used", "backend")))
    known(context, *(run.place for run in found.reruns), *(run.task for run in found.reruns))
    report.facts.append(Fact("status", found.task["status"], "", source))
    for cause in found.causes:
        report.facts.append(Fact(f"cause: {cause.name}", cause.told, "", source, "; ".join(cause.evidence)))
    for name in ("predicted", "actual"):
        if found.explain.get(name) is not None:
            report.facts.append(Fact(name, found.explain[name], "s", f"{source}/explain"))
    for stage, took in (found.explain.get("stages") or {}).items():
        report.facts.append(Fact(f"seconds of {stage}", took, "s", f"{source}/explain"))
    for run in found.reruns:
        if run.seconds is not None:
            report.facts.append(Fact(f"seconds on {run.place}", run.seconds, "s", f"/tasks/{run.task}", run.how))
    if found.device is not None:
        where = f"/devices/{found.device.device}"
        report.facts.append(Fact(f"deaths of workers of {found.device.device}", found.device.deaths, "workers", where, "in the last hour"))
        report.facts.append(Fact(f"failures on {found.device.device}", sum(found.device.failed.values()), "failures", where))
    for array in (*found.inputs, *found.outputs):
        where = f"/tasks/{array.tasks[-1]}" if array.tasks else ""
        for name, value in (("NaN", array.nan), ("infinite", array.infinite), ("condition number", array.condition), ("rank", array.rank)):
            if value is not None and (value or name == "rank"):
                report.facts.append(Fact(f"{name} of {array.name}", value, "", where))


async def debug_task(context: Context, task_id: str, complaint: str = "", parameters: dict[str, Any] | None = None) -> Any:
    """Find out why a task failed, was slow or wrong: causes with evidence. `parameters`: what the task was given, so that it can be run again."""
    if complaint and complaint not in COMPLAINTS:
        raise InvalidParameter(f"`complaint` must be one of {', '.join(COMPLAINTS)}, not {complaint!r:.60}", field="complaint")
    found = Diagnosis(task_id)
    try:
        await Debugging(Bench(context.client), task_id, parameters, complaint=complaint, found=found).debug()
    finally:
        _fill(context, found)
    return summary(found)


_LOOKING = tuple(shown(tool, f"the tool {tool.__name__}", cited=False) for tool in (*LOOKING, run_operation))
ROLE = Role(
    name="debugger",
    summary="Finds out why a task failed, was slow or gave a wrong result.",
    workflows=(WorkflowType.DEBUGGING,),
    prompt="You find out why a task of a compute system went wrong. Name only causes that a tool's answer shows; say what you do not know.",
    scopes=frozenset({"tasks:read", "tasks:write"}),
    asks=frozenset({"tasks:manage", "devices:write"}),
    tools=(*_LOOKING, cancel_task, set_device_state, debug_task),
    budget=Budget(seconds=600.0, device_seconds=300.0, tasks=1500),
    work=work,
    words=under_verdict,
)
