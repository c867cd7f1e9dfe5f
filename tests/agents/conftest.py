"""A whole runtime in this process whose agents' models are scripts: what they do is what the script says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from openruntime.contracts.agents import Role
from openruntime.core.config import Settings
from openruntime.core.runtime import Runtime, running
from openruntime.gateway.app import create_gateway

Step = tuple[str, dict[str, Any]] | str | Callable[[list[ModelMessage]], Any]


def scripted(*steps: Step) -> FunctionModel:
    """A model that does one step a turn: calls a tool `(name, arguments)`, says a text, or does what a function of the messages answers."""
    left = list(steps)

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        step: Any = left.pop(0) if left else "done"
        if callable(step):
            step = step(messages)
        if isinstance(step, str):
            return ModelResponse(parts=[TextPart(step)])
        calls = step if isinstance(step, list) else [step]
        return ModelResponse(parts=[ToolCallPart(name, arguments) for name, arguments in calls])

    return FunctionModel(answer)


class Agents:
    """What tests use: the HTTP API, and the runtime below it."""

    def __init__(self, runtime: Runtime, client: httpx.AsyncClient) -> None:
        self.runtime = runtime
        self.client = client

    def script(self, *steps: Step) -> None:
        """What the models of all roles do from now on; each run begins anew."""
        self.runtime.agents.scripted = lambda role: scripted(*steps)

    async def ask(self, workflow: str, prompt: str = "do it", *, wait: float | None = 20.0, **fields: Any) -> dict[str, Any]:
        headers = {"Prefer": f"wait={wait:g}"} if wait is not None else {}
        reply = await self.client.post("/ai/tasks", json={"workflow": workflow, "prompt": prompt, **fields}, headers=headers)
        assert reply.status_code in (200, 202), reply.text
        found: dict[str, Any] = reply.json()
        return found

    async def get(self, path: str) -> Any:
        reply = await self.client.get(path)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def submit(self, operation: str, parameters: dict[str, Any], **fields: Any) -> str:
        reply = await self.client.post("/tasks", json={"operation": operation, "parameters": parameters, **fields})
        assert reply.status_code == 202, reply.text
        return str(reply.json()["task_id"])

    async def approval(self, task_id: str, seconds: float = 10.0) -> dict[str, Any]:
        """The next one that is pending."""
        async with asyncio.timeout(seconds):
            while True:
                for entry in (await self.get(f"/ai/tasks/{task_id}/approvals"))["approvals"]:
                    if entry["status"] == "pending":
                        return dict(entry)
                assert (await self.get(f"/ai/tasks/{task_id}"))["status"] in ("queued", "running", "waiting")
                await asyncio.sleep(0.01)

    async def decide(self, task_id: str, approval: str, approve: bool, reason: str = "") -> httpx.Response:
        return await self.client.post(f"/ai/tasks/{task_id}/approvals/{approval}", json={"approve": approve, "reason": reason})

    async def ended(self, task_id: str) -> dict[str, Any]:
        return dict(await self.get(f"/ai/tasks/{task_id}?wait=20"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _runtime() -> AsyncIterator[tuple[Runtime, httpx.AsyncClient]]:
    settings = Settings.load({"store": "memory", "backends": "numpy", "calibrate": False, "shutdown_grace": 0.1})
    async with running(settings) as runtime:
        app = create_gateway(runtime.services())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=60) as client:
            yield runtime, client


@pytest_asyncio.fixture(loop_scope="module")
async def agents(_runtime: tuple[Runtime, httpx.AsyncClient]) -> AsyncIterator[Agents]:
    """One runtime for a module; scripts and roles are each test's own."""
    runtime, client = _runtime
    models, runtime.agents.models = runtime.agents.models, None  # as on a machine that has none
    yield Agents(runtime, client)
    runtime.agents.scripted, runtime.agents.models = None, models


@pytest.fixture
def with_role(monkeypatch: pytest.MonkeyPatch) -> Callable[[Role], None]:
    """A role that stands in for those of its workflows."""
    from openruntime.ai.agents.manager import AIAgentManager

    def use(role: Role) -> None:
        usual = AIAgentManager.roles
        monkeypatch.setattr(AIAgentManager, "roles", lambda self: [role, *usual(self)])

    return use


def results(messages: Sequence[ModelMessage]) -> list[Any]:
    """What tools have answered so far."""
    return [part.content for message in messages for part in message.parts if part.part_kind == "tool-return"]
