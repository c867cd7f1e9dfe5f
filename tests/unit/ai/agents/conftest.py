"""A run's context over a real embedded runtime, for what a role computes itself."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

import openruntime
from openruntime.client.runtime import AsyncRuntime
from openruntime.contracts.agents import Budget, Report, Spent, Tool, Writer
from openruntime.contracts.models import AIRequest, WorkflowType
from openruntime.contracts.records import LOCAL


class SmallClient:
    """The API of an embedded runtime, as a role's client gives it."""

    def __init__(self, runtime: AsyncRuntime) -> None:
        self._http = runtime.connection

    async def get(self, path: str, **query: Any) -> Any:
        return await self._http.json("GET", path, query=query)

    async def post(self, path: str, body: Any = None, *, wait: float | None = None, headers: Mapping[str, str] | None = None) -> Any:
        return await self._http.json("POST", path, body)

    async def put(self, path: str, body: Any) -> Any:
        return await self._http.json("PUT", path, body)

    async def delete(self, path: str) -> Any:
        return await self._http.json("DELETE", path)

    async def run(self, operation: str, parameters: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        found: dict[str, Any] = await self.post("/tasks", {"operation": operation, "parameters": dict(parameters or {}), **fields})
        while found["status"] not in ("completed", "failed", "cancelled"):
            found = await self.get(f"/tasks/{found['task_id']}", wait=5)
        return found


class Scripted:
    """A model that says what it was told to, one after the other, and remembers what it was asked."""

    name = "scripted"

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def write(self, prompt: str, *, system: str = "", schema: Mapping[str, Any] | None = None, max_tokens: int | None = None) -> str:
        self.asked.append(prompt)
        return self._answers.pop(0)


class SmallContext:
    id = "run"
    principal = LOCAL

    def __init__(self, runtime: AsyncRuntime, workflow: WorkflowType, prompt: str, parameters: dict[str, Any], model: Writer | None) -> None:
        self.client: Any = SmallClient(runtime)
        self.request = AIRequest(workflow=workflow, prompt=prompt, parameters=parameters)
        self.model = model
        self.budget = Budget()
        self.spent = Spent()
        self.report = Report()
        self.called: list[tuple[str, dict[str, Any]]] = []
        self.seconds = time.monotonic()

    async def call(self, tool: Tool, /, **arguments: Any) -> Any:
        self.called.append((tool.__name__, arguments))
        return await tool(self, **arguments)

    async def approve(self, what: str, method: str, path: str, body: Any = None) -> Any:
        raise AssertionError("nothing here asks a person")

    def progress(self, fraction: float | None, message: str) -> None:
        assert fraction is None or 0 <= fraction <= 1


@pytest.fixture
async def runtime(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncRuntime]:
    monkeypatch.setenv("OPENRUNTIME_BACKENDS", "numpy")
    async with openruntime.connect_async() as found:
        yield found


@pytest.fixture
def context_of() -> type[SmallContext]:
    return SmallContext


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted


@pytest.fixture
def ask(runtime: AsyncRuntime) -> Callable[..., SmallContext]:
    """`ask(prompt, model=None, workflow=..., **parameters)`: a run's context."""

    def make(prompt: str, *, model: Writer | None = None, workflow: WorkflowType = WorkflowType.SYSTEM_ANALYSIS, **parameters: Any) -> SmallContext:
        return SmallContext(runtime, workflow, prompt, parameters, model)

    return make
