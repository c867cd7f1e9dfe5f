"""However a run ends, whoever watches it is told, and its record and its session have what there is."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import msgspec
import pytest

from openruntime.ai.agents.feed import Feed
from openruntime.ai.agents.records import RunRecord
from openruntime.ai.agents.sessions import Recalled, Session
from openruntime.client.ai import AI, AsyncAI
from openruntime.client.connection import Connection
from openruntime.client.embedded import EmbeddedTransport
from openruntime.contracts.agents import Context, Role
from openruntime.contracts.errors import Conflict, StorageFull
from openruntime.contracts.models import WorkflowType
from openruntime.contracts.records import LOCAL
from tests.agents.conftest import Agents

STREAM = {"Accept": "text/event-stream"}


def role(**given: Any) -> Role:
    usual = {"scopes": frozenset({"tasks:read"})}
    return Role(name="tester", summary="For tests.", workflows=(WorkflowType.SYSTEM_ANALYSIS,), prompt="", **(usual | given))


async def stored(agents: Agents, task_id: str) -> RunRecord:
    """As the store has it."""
    found = await agents.runtime.store.shelf.get("ai-runs", task_id)
    assert found is not None
    return msgspec.msgpack.decode(found[0], type=RunRecord)


async def last_event(agents: Agents, task_id: str) -> tuple[str, dict[str, Any]]:
    reply = await asyncio.wait_for(agents.client.get(f"/ai/tasks/{task_id}", headers=STREAM), 5.0)
    _, kind, data = reply.text.strip().split("\n\n")[-1].split("\n")
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@pytest.mark.asyncio(loop_scope="module")
async def test_a_number_too_large_for_the_store_ends_no_stream(agents: Agents, with_role: Callable[[Role], None]) -> None:
    async def work(context: Context) -> None:
        context.report.data["large"] = {"numbers": [-(10**25)]}

    from openruntime.ai.agents.tools import run_operation

    with_role(role(work=work, tools=(run_operation,), scopes=frozenset({"tasks:read", "tasks:write"})))
    agents.script(("run_operation", {"operation": "sum", "parameters": {"x": [1], "n": 10**25}}), "done")
    run = await agents.ask("system_analysis")
    assert (run["status"], run["result"]["text"]) == ("completed", "done")
    assert (await last_event(agents, run["task_id"]))[0] == "finished"
    kept = await stored(agents, run["task_id"])
    assert (kept.status, kept.report.data) == ("completed", {"large": {"numbers": [hex(-(10**25))]}})
    assert kept.calls[-1].arguments["parameters"]["n"] == hex(10**25)
    reply = await agents.client.post("/ai/tasks", json={"workflow": "debugging", "prompt": "x", "parameters": {"a": [{"n": 1 << 64}]}})
    assert (reply.status_code, reply.json()["field"]) == (422, "parameters")


@pytest.mark.parametrize("error", [StorageFull("the disk is full"), ZeroDivisionError("secret")], ids=["full", "broken"])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_session_that_cannot_be_kept_ends_no_stream(agents: Agents, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    session = (await agents.client.post("/ai/sessions", json={})).json()["id"]

    async def fails(session: Session, instead: bytes) -> bool:
        raise error

    monkeypatch.setattr(agents.runtime.agents.sessions, "_put", fails)
    agents.script("hello")
    run = await agents.ask("debugging", parameters={"session": session})
    assert (run["status"], run["result"]["text"]) == ("completed", "hello")
    assert run["unfinished"].startswith("its session does not remember this: ")
    assert "secret" not in json.dumps(run)
    assert (await last_event(agents, run["task_id"]))[1]["status"] == "completed"
    assert (await stored(agents, run["task_id"])).status == "completed"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_store_that_fails_ends_no_stream(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*given: Any, **more: Any) -> None:
        raise ConnectionError("gone")

    agents.script("hello")
    monkeypatch.setattr(agents.runtime.store.shelf, "put", fails)
    run = await agents.ask("debugging")
    assert (run["status"], run["result"]["text"]) == ("completed", "hello")
    assert (await last_event(agents, run["task_id"]))[0] == "finished"


@pytest.mark.parametrize("how", ["cancel", "close"])
@pytest.mark.asyncio(loop_scope="module")
async def test_who_stops_a_run_while_it_is_kept_does_not_cut_that_off(agents: Agents, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    session = (await agents.client.post("/ai/sessions", json={})).json()["id"]
    manager = agents.runtime.agents
    put, keeping = manager.sessions._put, asyncio.Event()

    async def slow(session: Session, instead: bytes) -> bool:
        keeping.set()
        await asyncio.sleep(0.2)
        return await put(session, instead)

    monkeypatch.setattr(manager.sessions, "_put", slow)
    agents.script("hello")
    begun = await agents.ask("debugging", wait=None, parameters={"session": session})
    await asyncio.wait_for(keeping.wait(), 10.0)
    await (manager.cancel(begun["task_id"]) if how == "cancel" else manager.close())
    kind, run = await last_event(agents, begun["task_id"])
    assert (kind, run["status"]) == ("finished", "completed")
    assert (await stored(agents, begun["task_id"])).status == "completed"
    assert [message["content"] for message in (await agents.get(f"/ai/sessions/{session}"))["messages"]] == ["do it", "hello"]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_run_is_cancelled_while_it_settles(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tasks are stopped to the end all the same, through a client that is still open."""
    from openruntime.ai.agents.client import RunClient

    settled: list[bool] = []
    settle, settling = RunClient.settle, asyncio.Event()

    async def slow(self: RunClient) -> None:
        settling.set()
        await asyncio.sleep(0.2)
        await settle(self)
        settled.append(not self._transport._client.is_closed)  # type: ignore[union-attr]

    monkeypatch.setattr(RunClient, "settle", slow)
    agents.script("hello")
    begun = await agents.ask("debugging", wait=None)
    await asyncio.wait_for(settling.wait(), 10.0)
    assert (await agents.client.delete(f"/ai/tasks/{begun['task_id']}")).json()["status"] == "cancelled"
    assert settled == [True]


@pytest.mark.asyncio(loop_scope="module")
async def test_who_has_seen_the_end_is_not_kept_waiting(agents: Agents) -> None:
    feed = Feed()
    for kind in ("started", "finished"):
        feed.tell(kind, {})

    async def seen(after: int) -> list[str]:
        return [kind async for _, kind, _ in feed.events(after)]

    assert [await asyncio.wait_for(seen(after), 1.0) for after in (0, 1, 2, 7)] == [["started", "finished"], ["finished"], [], []]
    agents.script("hello")
    run = await agents.ask("debugging")
    whole = await agents.client.get(f"/ai/tasks/{run['task_id']}", headers=STREAM)
    number = whole.text.strip().split("\n\n")[-1].split("\n")[0].removeprefix("id: ")
    reply = await asyncio.wait_for(agents.client.get(f"/ai/tasks/{run['task_id']}", headers=STREAM | {"Last-Event-ID": number}), 5.0)
    assert (reply.status_code, reply.content) == (204, b""), "a browser's EventSource asks again unless it is told not to"


@pytest.mark.asyncio(loop_scope="module")
async def test_turns_at_the_same_time_are_all_remembered(agents: Agents) -> None:
    sessions = agents.runtime.agents.sessions
    session = await sessions.create("crowded", principal=LOCAL)
    real = sessions._shelf.get

    async def slow(namespace: str, key: str) -> Any:
        found = await real(namespace, key)
        await asyncio.sleep(0.01)
        return found

    sessions._shelf.get = slow  # type: ignore[method-assign]
    try:
        await asyncio.gather(*(sessions.add(session.id, str(n), f"q{n}", f"a{n}", principal=LOCAL) for n in range(4)))
    finally:
        sessions._shelf.get = real  # type: ignore[method-assign]
    assert len((await sessions.get(session.id, principal=LOCAL)).turns) == 8


@pytest.mark.asyncio(loop_scope="module")
async def test_an_older_summary_replaces_no_newer_one(agents: Agents) -> None:
    sessions = agents.runtime.agents.sessions
    session = await sessions.create("long", principal=LOCAL)
    for n in range(5):
        await sessions.add(session.id, str(n), f"q{n}", f"a{n}", principal=LOCAL)
    for cut in (Recalled([], "of six", 6), Recalled([], "of four", 4), Recalled([])):
        await sessions.add(session.id, "x", "q", "a", principal=LOCAL, cut=cut)
        found = await sessions.get(session.id, principal=LOCAL)
        assert (found.untold, found.summary) == (6, "of six")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_decision_that_somebody_else_has_taken_leaves_the_run_alone(agents: Agents) -> None:
    transport = EmbeddedTransport(lambda: nullcontext(agents.client._transport.app))  # type: ignore[attr-defined]
    agents.script(("set_device_state", {"device": "cpu:0", "state": "ready"}), "done")

    async def too_late(entry: dict[str, Any]) -> bool:
        run = (await agents.get("/ai/tasks?limit=1"))["tasks"][0]["task_id"]
        assert (await agents.decide(run, entry["id"], False)).status_code == 200
        return True

    await transport.open()
    try:
        run = await AsyncAI(Connection(transport)).ask("drain it", workflow="debugging", approve=too_late)
    finally:
        await transport.close()
    assert (run["status"], [entry["status"] for entry in run["approvals"]]) == ("completed", ["refused"])


class Decided(AI):
    """Of a server where somebody is always faster."""

    def __init__(self) -> None:
        pass

    def start(self, prompt: str, **given: Any) -> dict[str, Any]:
        return {"task_id": "1"}

    def follow(self, task_id: str) -> Iterator[tuple[str, Any]]:
        yield "approval", {"status": "pending", "id": "2"}
        yield "finished", {"status": "completed"}

    def decide(self, task_id: str, approval: str, approve: bool, reason: str = "") -> dict[str, Any]:
        raise Conflict("it is expired already", field="approval")

    def cancel(self, task_id: str) -> dict[str, Any]:
        raise AssertionError("nobody asked for that")


def test_nor_does_it_end_the_facade() -> None:
    assert Decided().ask("x", approve=lambda entry: True) == {"status": "completed"}
