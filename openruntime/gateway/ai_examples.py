"""What the API's document shows of `/ai`. One story: an analyst is asked which tasks fail."""

from typing import Any

from openruntime.ai.agents import records, sessions
from openruntime.contracts.agents import Budget, Fact, Report, Spent
from openruntime.contracts.ai import Tokens

_ID, _WHO, _SESSION = "0199c0de-7a3b-7c11-9d55-5b1f3c1a2b3c", "0199c0de-8c02-7d4e-8a10-02c1d7e9f5aa", "0199c0de-9d13-7e5f-8b21-13d2e8f0a6bb"
_NOW = 1_763_892_000.0
_RECORD = records.RunRecord(
    id=_ID, tenant="local", user="local", workflow="system_analysis", agent="analyst", prompt="Which tasks fail, and why?", created=_NOW, owner=_WHO,
    model="smollm2-135m-instruct:1", session=_SESSION, status="completed", started=_NOW, finished=_NOW + 2.0,
    budget=Budget(), spent=Spent(tokens=Tokens(420, 36), seconds=2.0, requests=2, calls=1),
    report=Report(
        summary="3 of 120 tasks failed.", text="Three tasks failed, all of them `solve` with a singular matrix.",
        facts=[Fact("failed tasks", 3, source="/tasks?status=failed")],
    ),
    calls=[
        records.CallRecord(
            1, "list_tasks", {"status": "failed"}, "model", _NOW + 0.5, "ok", 0.003, '[{"task_id":"0199…","operation":"solve"}]',
            requests=[records.RequestRecord("GET", "/tasks?status=failed&limit=20", 200, 0.002)],
        )
    ],
)  # fmt: skip
_APPROVAL = records.Approval(
    _WHO, "cancel_task", "tasks:manage", "DELETE", f"/tasks/{_SESSION}", None, _NOW + 1.0, "approved", _NOW + 9.0, "local", "it hangs"
)
_TALK = sessions.Session(
    id=_SESSION, tenant="local", title="Why is it slow?", created=_NOW, used=_NOW,
    turns=[sessions.Turn("user", "Why is it slow?", _ID, _NOW), sessions.Turn("assistant", "Because it waits.", _ID, _NOW)],
)  # fmt: skip
RUN: dict[str, Any] = records.shown(_RECORD)
RUNS = {"tasks": [records.shown(_RECORD, whole=False)]}
APPROVED = records.approval(_APPROVAL)
APPROVALS = {"approvals": [APPROVED]}
SESSION = sessions.shown(_TALK)
SESSIONS = {"sessions": [sessions.shown(_TALK, whole=False)]}
STREAM = 'id: 1\nevent: started\ndata: {"task_id":"0199…","agent":"analyst"}\n\nid: 2\nevent: delta\ndata: {"text":"Three"}\n\n'
AGENTS = {
    "agents": [
        {
            "name": "analyst", "summary": "Answers questions about the system from its metrics and history.", "workflows": ["system_analysis"],
            "scopes": ["tasks:read"], "asks": [], "needs_model": False, "tools": [{"name": "list_tasks", "summary": "The newest tasks."}],
            "budget": {"tokens": 50_000, "seconds": 300.0, "device_seconds": 120.0, "tasks": 100},
        }
    ]
}  # fmt: skip
REQUESTS = {
    "analysis": {"summary": "A question about the system", "value": {"workflow": "system_analysis", "prompt": "Which tasks fail, and why?"}},
    "model": {
        "summary": "A plain model, bounded",
        "value": {"workflow": "model_inference", "prompt": "Say hello.", "parameters": {"budget": {"tokens": 500}}, "max_tokens": 50},
    },
}
