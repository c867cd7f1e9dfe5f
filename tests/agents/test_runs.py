"""Runs over the HTTP API: what a model's script does is done with the run's own token, recorded, bounded, kept."""

import pytest

from tests.agents.conftest import Agents

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_tool_is_used_and_recorded(agents: Agents) -> None:
    agents.script(("run_operation", {"operation": "matmul", "parameters": {"a": [[1, 2]], "b": [[3], [4]]}}), "it is 11")
    run = await agents.ask("debugging")
    assert run["status"] == "completed", run
    assert run["result"]["text"] == "it is 11"
    [call] = run["calls"]
    assert (call["tool"], call["outcome"], call["by"]) == ("run_operation", "ok", "model")
    assert call["requests"][0]["path"] == "/tasks"
    assert run["spent"]["tasks"] == 1
    assert run["spent"]["device_seconds"] > 0
