"""The Optimizer and the Debugger as roles: through the API, with their own tokens and budgets, without a model."""

import pytest

from tests.agents.conftest import Agents

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(autouse=True)
def no_model(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever models this machine has."""
    monkeypatch.setattr(agents.runtime.agents, "models", None)


async def test_the_debugger_finds_a_singular_matrix_without_a_model(agents: Agents) -> None:
    given = {"a": [[1.0, 2.0], [2.0, 4.0]], "b": [1.0, 2.0]}
    task = await agents.submit("solve", given)
    run = await agents.ask("debugging", f"why did {task} fail?", parameters={"parameters": given})
    assert run["status"] == "completed", run
    assert run["result"]["data"]["causes"][0]["name"] == "singular_matrix"
    assert "the matrix `a` is singular" in run["result"]["text"]
    assert any(fact["name"] == "rank of a" and fact["value"] == 1 and fact["source"].startswith("/tasks/") for fact in run["result"]["facts"])
    assert run["result"]["data"]["shrunk"]["after"] == {"a": [2, 2], "b": [2]}
    assert 0 < run["spent"]["tasks"] < 1500
    assert run["approvals"] == []


async def test_the_debugger_says_what_to_send(agents: Agents) -> None:
    run = await agents.ask("debugging", "why is it slow?")
    assert "No task was named" in run["result"]["text"]
    refused = await agents.ask("debugging", "why?", parameters={"task": "x", "complaint": "odd"})
    assert (refused["status"], refused["code"]) == ("failed", "invalid_parameter")
    assert "failed, wrong, slow" in refused["error"]
    unknown = await agents.ask("debugging", "why?", parameters={"task": "01900000-0000-7000-8000-000000000000"})
    assert (unknown["status"], unknown["code"]) == ("failed", "not_found")


async def test_the_debugger_keeps_to_its_budget_and_hands_over_what_it_has(agents: Agents) -> None:
    given = {"a": [[1.0, 2.0], [2.0, 4.0]], "b": [1.0, 2.0]}
    task = await agents.submit("solve", given)
    run = await agents.ask("debugging", parameters={"task": task, "parameters": given, "budget": {"tasks": 5}})
    assert run["spent"]["tasks"] <= 5
    assert run["unfinished"]
    assert run["result"]["data"]["causes"][0]["name"] == "singular_matrix"


async def test_the_optimizer_rewrites_a_formula_without_a_model(agents: Agents) -> None:
    run = await agents.ask("compute_optimization", "faster, please", parameters={"formula": "x**5 + 1/x/3", "shapes": {"x": [50_000]}}, wait=60)
    assert run["status"] == "completed", run
    data = run["result"]["data"]
    products = next(candidate for candidate in data["candidates"] if "powers as products" in candidate["what"])
    assert products["verified"], run["result"]["text"]
    gain = next(fact for fact in run["result"]["facts"] if fact["name"] == "gain")
    assert gain["value"] == data["gain"] >= 1.0
    if data["gain"] > 1.0:
        winner = next(candidate for candidate in data["candidates"] if candidate["name"] == data["winner"])
        assert winner["confirmed"]["low"] > 1.0
        assert gain["source"].startswith("/tasks/")


async def test_the_optimizer_says_what_to_send(agents: Agents) -> None:
    run = await agents.ask("compute_optimization", "make everything faster")
    assert "Nothing was named" in run["result"]["text"]
    for parameters, field in (
        ({"formulas": "x"}, "formulas"),
        ({"formula": "x +", "shapes": {"x": [3]}}, "formula"),
        ({"operation": "sum", "shapes": 3}, "shapes"),
        ({"formula": "x + 1", "shapes": {"x": [3]}, "finite": "false"}, "finite"),
    ):
        refused = await agents.ask("compute_optimization", "do it", parameters=parameters)
        assert (refused["status"], refused["code"]) == ("failed", "invalid_parameter"), refused
        assert field in refused["error"]
    missing = await agents.ask("compute_optimization", "do it", parameters={"kernel": "none"})
    assert (missing["status"], missing["code"]) == ("failed", "not_found")
