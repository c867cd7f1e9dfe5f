"""The Analyst behind the API: its model's words reach nobody unchecked, neither at the end nor while they come."""

import re

import pytest

from openruntime.ai.agents.analyst.words import LEFT_OUT
from tests.agents.conftest import Agents, results

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_figure_that_no_tool_gave_is_shown_nowhere(agents: Agents) -> None:
    task = await agents.submit("sum", {"x": [1, 2, 3]})
    await agents.get(f"/tasks/{task}?wait=10")
    agents.script(("costs", {"by": "operation"}), "1 task of sum ended. The p99 of sum is 98.7 ms. 4321 tasks failed.")
    run = await agents.ask("system_analysis", "what happened?")
    assert run["status"] == "completed", run
    text = run["result"]["text"]
    assert "98.7" not in str(run["result"])
    assert re.fullmatch(rf"1 task of sum ended \[m\d+\]\.\s*{re.escape(LEFT_OUT)}", text), text
    streamed = (await agents.client.get(f"/ai/tasks/{run['task_id']}", headers={"Accept": "text/event-stream"})).text
    assert "event: delta" in streamed
    assert "98.7" not in streamed
    assert "4321" not in streamed


async def test_its_report_is_complete_and_every_call_recorded(agents: Agents) -> None:
    agents.script("Nothing is out of the ordinary.")
    run = await agents.ask("system_analysis", "is anything unusual? cost by client?")
    assert run["result"]["text"] == "Nothing is out of the ordinary."
    assert "## Cost by client" in run["result"]["summary"]
    assert {"anomalies", "costs"} <= {call["tool"] for call in run["calls"]}
    assert all(call["outcome"] == "ok" for call in run["calls"]), run["calls"]
    assert {request["path"].partition("?")[0] for call in run["calls"] for request in call["requests"]} >= {"/tasks", "/metrics/history", "/devices"}


async def test_a_tools_answer_has_an_id_to_cite(agents: Agents) -> None:
    agents.script(("list_devices", {}), lambda messages: f"It has id {results(messages)[0]['id']}.")
    run = await agents.ask("system_analysis", "devices?")
    assert re.fullmatch(r"It has id m\d+\.", run["result"]["text"]) or run["result"]["text"] == LEFT_OUT
    assert run["spent"]["tasks"] == 0


async def test_the_developer_hands_over_what_it_checked(agents: Agents) -> None:
    agents.script("Everything is wonderful.")
    run = await agents.ask("code_generation", "operation scaled(x, a=2.0) = a*x + 1", wait=60)
    assert run["status"] == "completed", run
    data = run["result"]["data"]
    if any(check["check"] == "run" and check["ok"] is None for check in run["result"]["artifacts"][0]["checks"]):
        pytest.skip("the sandbox runs nothing here")
    assert data["checked"] is True, run["result"]["summary"]
    assert run["result"]["text"].startswith("**Checked**")
    assert [call["tool"] for call in run["calls"]] == ["work", "check_operation"]
