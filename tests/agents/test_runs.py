"""Runs over the HTTP API: what a model's script does is done with the run's own token, recorded, bounded, kept."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from openruntime.ai.agents.manager import AIAgentManager
from openruntime.ai.agents.tools import LOOKING
from openruntime.contracts.agents import Budget, Context, Fact, Role
from openruntime.contracts.errors import Conflict
from openruntime.contracts.models import WorkflowType
from tests.agents.conftest import Agents, results

pytestmark = pytest.mark.asyncio(loop_scope="module")
ENDLESS = ("monte_carlo_pi", {"samples": 10**12, "seed": 7})


def role(**given: Any) -> Role:
    usual = {"scopes": frozenset({"tasks:read"})}
    return Role(name="tester", summary="For tests.", workflows=(WorkflowType.SYSTEM_ANALYSIS,), prompt="", **(usual | given))


def used(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The tools that its model has used."""
    return [call for call in run["calls"] if call["by"] == "model"]


async def test_a_tool_is_used_and_recorded(agents: Agents) -> None:
    agents.script(("run_operation", {"operation": "matmul", "parameters": {"a": [[1, 2]], "b": [[3], [4]]}}), lambda m: str(results(m)[0]["result"]))
    run = await agents.ask("debugging")
    assert run["status"] == "completed", run
    assert run["result"]["text"] == "{'output': [[11]]} [m1]"
    [call] = used(run)
    assert (call["tool"], call["outcome"], call["by"], call["tasks"]) == ("run_operation", "ok", "model", 1)
    assert call["arguments"]["operation"] == "matmul"
    assert call["requests"][0]["path"] == "/tasks"
    assert run["spent"]["tasks"] == 1
    assert run["spent"]["device_seconds"] > 0
    assert run["spent"]["tokens"]["total"] > 0
    assert (await agents.get(f"/ai/tasks/{run['task_id']}"))["calls"] == run["calls"]


async def test_every_shared_tool_does_what_it_says(agents: Agents, with_role: Callable[[Role], None]) -> None:
    with_role(role(tools=LOOKING))
    task = await agents.submit("sum", {"x": [1, 2, 3]}, tags=["seen"])
    await agents.get(f"/tasks/{task}?wait=10")
    looks: list[tuple[str, dict[str, Any], Callable[[Any], bool]]] = [
        ("list_devices", {}, lambda a: a[0]["id"] == "cpu:0"),
        ("get_device", {"device": "cpu:0"}, lambda a: "workers" in a),
        ("list_operations", {"containing": "matmul"}, lambda a: [row["name"] for row in a].count("matmul") == 1),
        ("describe_operation", {"name": "matmul"}, lambda a: set(a["parameters"]["properties"]) == {"a", "b"}),
        ("list_tasks", {"status": "completed", "limit": 3}, lambda a: a[0]["tags"] == ["seen"] and len(a) <= 3),
        ("get_task", {"task_id": task}, lambda a: a["result"] == {"output": 6}),
        ("explain_task", {"task_id": task}, lambda a: a["task_id"] == task),
        ("list_kernels", {}, lambda a: a == []),
        ("get_kernel", {"name": "none"}, lambda a: a["error"]["code"] == "not_found"),
        ("get_metrics", {}, lambda a: any("openruntime_" in str(name) for name in a) or "openruntime_" in json.dumps(a)),
    ]
    agents.script([(name, arguments) for name, arguments, _ in looks], lambda m: json.dumps(results(m)))  # type: ignore[arg-type]
    run = await agents.ask("system_analysis")
    for (name, _, holds), found in zip(looks, json.loads(run["result"]["text"]), strict=True):
        assert holds(found), (name, found)


async def test_its_tasks_are_its_own_in_its_users_tenant(agents: Agents) -> None:
    agents.script(("run_operation", {"operation": "sum", "parameters": {"x": [4, 5]}}))
    run = await agents.ask("debugging")
    record = await agents.runtime.tasks.status(json.loads(used(run)[0]["result"])["task_id"])
    assert record.tenant == "local"
    assert record.client == f"local/debugger:{run['task_id']}"


async def test_a_request_beyond_its_role_waits_for_a_person_and_is_done_when_approved(agents: Agents) -> None:
    victim = await agents.submit(*ENDLESS)
    agents.script(("cancel_task", {"task_id": victim}), lambda m: results(m)[0]["status"])
    begun = await agents.ask("debugging", wait=None)
    entry = await agents.approval(begun["task_id"])
    assert (entry["what"], entry["method"], entry["path"], entry["scope"]) == ("cancel_task", "DELETE", f"/tasks/{victim}", "tasks:manage")
    assert (await agents.get(f"/ai/tasks/{begun['task_id']}"))["status"] == "waiting"
    assert (await agents.get(f"/tasks/{victim}"))["status"] in ("queued", "running")
    reply = await agents.decide(begun["task_id"], entry["id"], True)
    assert (reply.status_code, reply.json()["status"], reply.json()["by"]) == (200, "approved", "local")
    run = await agents.ended(begun["task_id"])
    assert run["status"] == "completed"
    assert (await agents.get(f"/tasks/{victim}?wait=10"))["status"] == "cancelled"
    again = await agents.decide(begun["task_id"], entry["id"], False)
    assert again.status_code == 409


async def test_what_a_person_refuses_is_not_done_nor_asked_again(agents: Agents) -> None:
    drain = ("set_device_state", {"device": "cpu:0", "state": "draining"})
    seen: list[Any] = []
    agents.script(drain, drain, lambda m: seen.extend(results(m)) or "done")  # type: ignore[func-returns-value]
    begun = await agents.ask("debugging", wait=None)
    entry = await agents.approval(begun["task_id"])
    assert entry["body"] == {"state": "draining"}
    await agents.decide(begun["task_id"], entry["id"], False, "not while others work")
    run = await agents.ended(begun["task_id"])
    first, second = seen
    assert "a person has refused PUT /devices/cpu:0/state: not while others work" in first["error"]["detail"]
    assert "refused" in second["error"]["detail"]
    assert [call["outcome"] for call in used(run)] == ["refused", "refused"]
    assert len(run["approvals"]) == 1
    assert (await agents.get("/devices/cpu:0"))["status"] != "draining"


async def test_an_approval_is_for_one_request_once(agents: Agents, with_role: Callable[[Role], None]) -> None:
    """One who approved a cancel has approved no other: not the same again, and nothing else with its token."""
    seen: list[str] = []

    async def work(context: Context) -> None:
        permission = context.client._gate.permission  # type: ignore[attr-defined]

        async def overheard(*asked: Any) -> str:
            seen.append(await permission(*asked))
            return seen[-1]

        context.client._gate.permission = overheard  # type: ignore[attr-defined]
        await context.approve("to make room", "PUT", "/devices/cpu:0/state", {"state": "ready"})
        await asyncio.sleep(1000)

    with_role(role(work=work, asks=frozenset({"devices:write"})))
    begun = await agents.ask("system_analysis", wait=None)
    entry = await agents.approval(begun["task_id"])
    assert entry["what"] == "to make room"
    await agents.decide(begun["task_id"], entry["id"], True)
    while not seen:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    token = {"Authorization": f"Bearer {seen[0]}"}
    reply = await agents.client.put("/devices/cpu:0/state", json={"state": "ready"}, headers=token)
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")
    await agents.client.delete(f"/ai/tasks/{begun['task_id']}")


@pytest.mark.parametrize(
    ("budget", "what"),
    [({"tasks": 2}, "2 tasks"), ({"tokens": 500}, "500 tokens"), ({"seconds": 0.3}, "0.3 seconds"), ({"device_seconds": 0.3}, "0.3 device seconds")],
)
async def test_a_budget_that_is_spent_ends_the_run_with_what_it_has(
    agents: Agents, with_role: Callable[[Role], None], budget: dict[str, Any], what: str
) -> None:
    async def work(context: Context) -> None:
        context.report.summary = "what was found until then"

    slow = "device_seconds" in budget or "seconds" in budget
    run = ENDLESS if slow else ("sum", {"x": [1, 2]})
    from openruntime.ai.agents.tools import run_operation

    with_role(role(work=work, tools=(run_operation,), scopes=frozenset({"tasks:read", "tasks:write"}), budget=Budget(tasks=50)))
    agents.script(*[("run_operation", {"operation": run[0], "parameters": run[1] | ({} if slow else {"x": [1, i]})}) for i in range(20)])
    ended = await agents.ask("system_analysis", parameters={"budget": budget})
    assert ended["status"] == "completed", ended
    assert ended["unfinished"].startswith(f"the budget of {what} is spent")
    assert ended["result"]["text"] == "what was found until then"
    name = next(iter(budget))
    spent = ended["spent"]["tokens"]["total"] if name == "tokens" else ended["spent"][name]
    assert spent <= budget[name] * (2 if name == "tokens" else 1) + (2.0 if slow else 0)
    running = [task for task in (await agents.get("/tasks?status=running"))["tasks"] if task["operation"] == "monte_carlo_pi"]
    assert running == [], "what it had begun was stopped"


async def test_a_cancelled_run_stops_its_tasks_and_settles(agents: Agents) -> None:
    agents.script(("run_operation", {"operation": ENDLESS[0], "parameters": ENDLESS[1]}))
    begun = await agents.ask("debugging", wait=None)
    while not [task for task in (await agents.get("/tasks?status=running"))["tasks"] if task["operation"] == ENDLESS[0]]:
        await asyncio.sleep(0.02)
    run = (await agents.client.delete(f"/ai/tasks/{begun['task_id']}")).json()
    assert (run["status"], run["code"]) == ("cancelled", "cancelled")
    assert [call["outcome"] for call in run["calls"]] == ["ok", "cancelled"], "what the role did by itself, and the tool"
    assert not [task for task in (await agents.get("/tasks?status=running"))["tasks"] if task["operation"] == ENDLESS[0]]
    assert (run["spent"]["tasks"], run["spent"]["device_seconds"] > 0) == (1, True)
    again = (await agents.client.delete(f"/ai/tasks/{begun['task_id']}")).json()
    assert again["finished_at"] == run["finished_at"]


async def test_without_a_model_what_is_computed_is_the_report(agents: Agents, with_role: Callable[[Role], None]) -> None:
    async def count(context: Context, status: str) -> Any:
        """How many tasks have a status."""
        return len((await context.client.get("/tasks", status=status))["tasks"])

    async def work(context: Context) -> None:
        found = await context.call(count, status="running")
        context.report.facts.append(Fact("running tasks", found, source="/tasks?status=running"))
        context.report.summary = f"{found} tasks run."
        context.progress(1.0, "counted")

    with_role(role(work=work))
    run = await agents.ask("system_analysis")
    assert (run["status"], run["result"]["text"]) == ("completed", "0 tasks run.")
    assert run["result"]["facts"] == [{"name": "running tasks", "value": 0, "unit": "", "source": "/tasks?status=running", "note": ""}]
    assert [(call["tool"], call["by"]) for call in run["calls"]] == [("work", "role"), ("count", "role")]
    assert "model" in run["result"]["data"], "it says that no model was asked"


async def test_a_role_that_needs_a_model_says_how_to_get_one(agents: Agents) -> None:
    for workflow in ("model_inference", "code_generation"):
        if next(agent for agent in (await agents.get("/ai/agents"))["agents"] if workflow in agent["workflows"])["needs_model"]:
            reply = await agents.client.post("/ai/tasks", json={"workflow": workflow, "prompt": "hello"})
            assert (reply.status_code, reply.json()["code"]) == (503, "unavailable"), reply.text


async def test_a_run_is_told_as_it_goes(agents: Agents) -> None:
    agents.script(("list_devices", {}), "they are listed")
    names, last = [], {}
    asked = {"workflow": "debugging", "prompt": "which devices?"}
    async with agents.client.stream("POST", "/ai/tasks", json=asked, headers={"Accept": "text/event-stream"}) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        place = reply.headers["location"]
        async for line in reply.aiter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            elif line.startswith("data: "):
                last = json.loads(line.removeprefix("data: "))
    assert [name for name in names if name != "progress"] == ["started", *["call"] * 4, "delta", "finished"], "the role's own work, and a tool's"
    assert last["result"]["text"] == "they are listed"
    later = await agents.client.get(place, headers={"Accept": "text/event-stream", "Last-Event-ID": str(len(names) - 1)})
    assert later.text.startswith(f"id: {len(names)}\nevent: finished\n")


async def test_a_session_remembers_until_it_is_deleted(agents: Agents) -> None:
    session = (await agents.client.post("/ai/sessions", json={"title": "Names"})).json()
    agents.script("Hello Ada.")
    await agents.ask("debugging", "I am Ada.", parameters={"session": session["id"]})

    def remembers(messages: list[Any]) -> str:
        return " | ".join(str(part.content) for message in messages for part in message.parts)

    agents.script(remembers)
    run = await agents.ask("debugging", "Who am I?", parameters={"session": session["id"]})
    assert run["result"]["text"].split(" | ")[1:3] == ["I am Ada.", "Hello Ada."]
    found = await agents.get(f"/ai/sessions/{session['id']}")
    assert [message["content"] for message in found["messages"]][:3] == ["I am Ada.", "Hello Ada.", "Who am I?"]
    assert session["id"] in [entry["id"] for entry in (await agents.get("/ai/sessions"))["sessions"]]
    assert (await agents.client.delete(f"/ai/sessions/{session['id']}")).status_code == 204
    reply = await agents.client.post("/ai/tasks", json={"workflow": "debugging", "prompt": "x", "parameters": {"session": session["id"]}})
    assert (reply.status_code, reply.json()["field"]) == (404, "session")


async def test_a_broken_tool_fails_its_run_and_no_more(agents: Agents, with_role: Callable[[Role], None]) -> None:
    async def broken(context: Context) -> Any:
        """Fails."""
        raise ZeroDivisionError("secret")

    with_role(role(tools=(broken,)))
    agents.script(("broken", {}))
    run = await agents.ask("system_analysis")
    assert (run["status"], run["code"]) == ("failed", "internal")
    assert "secret" not in json.dumps(run)


async def test_arguments_that_do_not_fit_are_told_to_the_model(agents: Agents) -> None:
    agents.script(("get_task", {"id": 5}), ("get_task", {"task_id": "none"}), lambda m: json.dumps(results(m)))
    run = await agents.ask("debugging")
    assert run["status"] == "completed", run
    assert [call["arguments"] for call in used(run)] == [{"task_id": "none"}]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"prompt": "x"}, 400, "workflow"),
        ({"workflow": "debuging", "prompt": "x"}, 400, "workflow"),
        ({"workflow": "debugging", "prompt": ""}, 400, "prompt"),
        ({"workflow": "debugging", "prompt": "x", "scopes": ["*"]}, 400, "scopes"),
        ({"workflow": "debugging", "prompt": "x", "max_tokens": 0}, 400, "max_tokens"),
        ({"workflow": "debugging", "prompt": "x", "temperature": 3}, 400, "temperature"),
        ({"workflow": "debugging", "prompt": "x", "parameters": {"budget": {"tokens": 10**9}}}, 422, "parameters.budget.tokens"),
        ({"workflow": "debugging", "prompt": "x", "parameters": {"budget": {"seconds": -1}}}, 422, "parameters.budget.seconds"),
        ({"workflow": "debugging", "prompt": "x", "parameters": {"budget": {"money": 1}}}, 422, "parameters.budget.money"),
        ({"workflow": "debugging", "prompt": "x", "parameters": {"session": 5}}, 422, "parameters.session"),
        ({"workflow": "debugging", "prompt": "x", "parameters": {"seed": "one"}}, 422, "parameters.seed"),
        ({"workflow": "debugging", "prompt": "x", "parameters": {"session": "none"}}, 404, "session"),
        ({"workflow": "debugging", "prompt": "x", "parameters": {"model": 5}}, 422, "parameters.model"),
    ],
)
async def test_a_bad_request_is_refused_by_its_field(agents: Agents, body: dict[str, Any], status: int, field: str) -> None:
    reply = await agents.client.post("/ai/tasks", json=body)
    assert (reply.status_code, reply.json()["field"]) == (status, field), reply.text


async def test_a_role_is_told_its_own_parameters_alone(agents: Agents, with_role: Callable[[Role], None]) -> None:
    told: list[Any] = []

    async def work(context: Context) -> None:
        told.append(context.request.parameters)

    with_role(role(work=work))
    await agents.ask("system_analysis", parameters={"window": 5, "budget": {"tasks": 1}, "seed": 3})
    await agents.ask("system_analysis")
    assert told == [{"window": 5}, {}]


async def test_an_unknown_run_is_not_found(agents: Agents) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/approvals")):
        assert (await agents.client.request(method, f"/ai/tasks/none{path}")).status_code == 404
    assert (await agents.decide("none", "none", True)).status_code == 404


async def test_the_agents_are_listed_with_what_they_may(agents: Agents) -> None:
    found = {agent["name"]: agent for agent in (await agents.get("/ai/agents"))["agents"]}
    assert {"developer", "analyst", "optimizer", "debugger"} <= found.keys()
    assert found["analyst"]["workflows"] == ["system_analysis"]
    assert "*" not in {scope for agent in found.values() for scope in [*agent["scopes"], *agent["asks"]]}
    assert not [scope for agent in found.values() for scope in agent["scopes"] if scope.startswith(("ai:", "devices:", "models:", "tasks:manage"))]


async def test_a_run_at_another_server_is_shown_and_otherwise_left_to_that(agents: Agents, with_role: Callable[[Role], None]) -> None:
    """As replicas on one Redis see each other's; here two managers on one shelf."""

    async def work(context: Context) -> None:
        await asyncio.sleep(1000)

    with_role(role(work=work))
    begun = await agents.ask("system_analysis", wait=None)
    here = agents.runtime.agents
    there = AIAgentManager(agents.runtime.access.tokens, agents.runtime.store.shelf, shared=True)
    assert (await there.get(begun["task_id"])).status in ("queued", "running")
    for asked in (there.cancel, there.live):
        with pytest.raises(Conflict, match="another server"):
            await asked(begun["task_id"])
    alone = AIAgentManager(agents.runtime.access.tokens, agents.runtime.store.shelf)
    assert (await alone.get(begun["task_id"])).error == "the server stopped while this ran; ask again"
    assert (await here.cancel(begun["task_id"])).status == "cancelled"
    assert (await there.cancel(begun["task_id"])).status == "cancelled"


async def test_runs_beyond_those_that_work_wait_and_one_that_asks_a_person_holds_nobody_up(
    agents: Agents, with_role: Callable[[Role], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(context: Context) -> None:
        if context.request.prompt == "ask":
            await context.client.put("/devices/cpu:0/state", {"state": "ready"})

    with_role(role(work=work, asks=frozenset({"devices:write"})))
    monkeypatch.setattr(agents.runtime.agents, "_places", asyncio.Semaphore(1))
    first = await agents.ask("system_analysis", "ask", wait=None)
    entry = await agents.approval(first["task_id"])
    second = await agents.ask("system_analysis", "go")
    assert second["status"] == "completed", "the place was given up while a person is asked"
    await agents.decide(first["task_id"], entry["id"], True)
    assert (await agents.ended(first["task_id"]))["status"] == "completed"
