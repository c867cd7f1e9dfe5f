"""What a run may spend, and what it leaves behind: the bounds hold for whatever its tools do, and nothing of its own stays when they cut it off."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import pytest

from openruntime.ai.agents.budget import Meter
from openruntime.ai.agents.client import RunClient
from openruntime.ai.agents.developer import checks
from openruntime.ai.agents.experiments import Bench
from openruntime.ai.agents.optimizer.kernels import KernelOptimizer
from openruntime.ai.agents.tools import run_operation
from openruntime.contracts.agents import Budget, BudgetSpent, Context, Role, Spent
from openruntime.contracts.ai import ModelSpec, Tokens
from openruntime.contracts.errors import CompileError, ModelNotFound, OpenRuntimeError
from openruntime.contracts.models import WorkflowType
from tests.agents.conftest import Agents

pytestmark = pytest.mark.asyncio(loop_scope="module")
Asked = tuple[str, str, Any]  # method, path, body
Answer = Callable[[str, str, Any], Awaitable[tuple[int, Any]]]


class Server:
    """An API whose answers a test says; `asked`: what it was sent."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[Asked] = []
        self._answer = answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raw = (await receive())["body"]
        body = msgspec.json.decode(raw) if raw else None
        self.asked.append((scope["method"], scope["path"], body))
        status, answer = await self._answer(*self.asked[-1])
        kind = b"application/json" if status < 400 else b"application/problem+json"
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": msgspec.json.encode(answer)})


class Gate:
    """Asks nobody, and notes who would have been."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def token(self) -> str:
        return "t"

    async def permission(self, scope: str, what: str, method: str, path: str, content: bytes) -> str:
        self.asked.append(path)
        return "p"


class One:
    """A repository of one model, `small`, that reads 100 tokens, and another that nobody knows how much."""

    def resolve(self, name: str) -> ModelSpec:
        if name not in ("small", "large"):
            raise ModelNotFound(name)
        return ModelSpec(name=name, adapter="openai", context_length=100 if name == "small" else None)


def meter(**budget: Any) -> Meter:
    made = Meter(Budget(**budget), Spent())
    made.start()
    return made


async def fine(method: str, path: str, body: Any) -> tuple[int, Any]:
    return 200, {}


async def refused(method: str, path: str, body: Any) -> tuple[int, Any]:
    return 403, {"code": "forbidden", "detail": "not yours", "field": "kernels:manage", "status": 403, "title": "x"}


async def test_what_was_registered_for_a_while_is_given_up_past_the_budget() -> None:
    server, spent = Server(fine), meter()
    async with RunClient(server, spent, Gate()) as client:
        optimizer = KernelOptimizer(Bench(client), "saxpy")
        optimizer._made = ["saxpy_try_x_0", "saxpy_locked_x_1"]
        spent.over = spent.exceeded("seconds")  # as when time is over
        await optimizer.close()
        assert [(method, path) for method, path, _ in server.asked] == [("DELETE", "/kernels/saxpy_try_x_0"), ("DELETE", "/kernels/saxpy_locked_x_1")]
        with pytest.raises(BudgetSpent):
            await client.get("/kernels")


async def test_nobody_is_asked_to_approve_anything_for_a_run_that_is_over() -> None:
    spent, gate = meter(), Gate()
    async with RunClient(Server(refused), spent, gate) as client:
        spent.over = spent.exceeded("seconds")
        with pytest.raises(BudgetSpent):
            await client.delete("/kernels/theirs")
    assert gate.asked == []


@pytest.mark.parametrize("how", ["cancelled", "over"])
async def test_a_kernel_that_was_not_verified_in_time_is_not_left_behind(how: str) -> None:
    spent = meter(tasks=5)
    working: list[asyncio.Task[Any]] = []

    async def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        if path == "/kernels":
            return 201, {"name": "mine", "compiled": {"task_id": "1", "seconds": 0.1}}
        if path == "/kernels/mine/verify":
            spent.over = spent.exceeded("seconds")
            if how == "cancelled":
                working[0].cancel()
            return 202, {"task_id": "2", "status": "queued"}
        return (204, None) if method == "DELETE" else (200, {"task_id": "2", "status": "running"})

    server = Server(answer)
    async with RunClient(server, spent, Gate()) as client:

        class Here:
            pass

        here: Any = Here()
        here.client = client
        working.append(asyncio.create_task(checks.kernel(here, {"name": "mine"})))
        with pytest.raises(asyncio.CancelledError if how == "cancelled" else BudgetSpent):
            await working[0]
    assert ("DELETE", "/kernels/mine", None) in server.asked


async def test_a_kernel_that_does_not_compile_was_a_task_all_the_same() -> None:
    async def wrong(method: str, path: str, body: Any) -> tuple[int, Any]:
        return 422, {"code": "compile_error", "detail": "no", "status": 422, "title": "x"}

    server, spent = Server(wrong), meter(tasks=2)
    async with RunClient(server, spent, Gate()) as client:
        for _ in range(2):
            with pytest.raises(CompileError):
                await client.post("/kernels", {"name": "x"})
        with pytest.raises(BudgetSpent, match="2 tasks"):
            await client.post("/kernels", {"name": "x"})
    assert (len(server.asked), spent.spent.tasks) == (2, 2)


async def test_what_was_only_refused_was_no_task() -> None:
    spent = meter(tasks=1)
    async with RunClient(Server(refused), spent, Gate()) as client:
        for _ in range(3):
            with pytest.raises(OpenRuntimeError):
                await client.post("/tasks", {"operation": "sum", "parameters": {}})
    assert spent.spent.tasks == 0


CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tasks", {"operation": "large", "parameters": CHAT}),
        ("/tasks", {"operation": "large", "parameters": {"prompt": "hi"}}),
        ("/tasks", {"operation": "large", "parameters": {"input": "hi"}}),
        ("/tasks/batch", {"tasks": [{"operation": "large", "parameters": CHAT}]}),
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"model": "large", "prompt": "hi"}),
        ("/v1/embeddings", {"model": "large", "input": ["hi"]}),
    ],
)
async def test_a_tool_asks_no_model_when_no_tokens_are_left(path: str, body: dict[str, Any]) -> None:
    server, spent = Server(fine), meter(tokens=1000)
    async with RunClient(server, spent, Gate(), One()) as client:  # type: ignore[arg-type]
        spent.tokens(Tokens(500, 499))
        with pytest.raises(BudgetSpent, match="1000 tokens"):
            await client.post(path, body)
    assert server.asked == []
    assert spent.spent.tasks == 0


@pytest.mark.parametrize(
    ("path", "given", "most"),
    [
        ("/tasks", {"operation": "large", "parameters": CHAT | {"max_tokens": 5000}}, {"max_tokens": 1000}),
        ("/tasks", {"operation": "large", "parameters": CHAT | {"max_tokens": 7}}, {"max_tokens": 7}),
        ("/tasks", {"operation": "large", "parameters": CHAT | {"max_tokens": "many"}}, {"max_tokens": "many"}),
        ("/tasks", {"operation": "large", "parameters": CHAT}, {"max_tokens": 1000}),
        ("/tasks", {"operation": "small", "parameters": CHAT}, {"max_tokens": 100}),
        ("/tasks", {"operation": "large", "parameters": {"input": "hi"}}, {}),
        ("/tasks", {"operation": "sum", "parameters": {"x": [1]}}, {}),
        ("/tasks", {"operation": "large", "parameters": {"x": [1]}}, {}),
        ("/v1/chat/completions", CHAT | {"max_completion_tokens": 10**6}, {"max_completion_tokens": 1000}),
        ("/v1/completions", {"model": "small", "prompt": "hi"}, {"max_tokens": 100}),
    ],
)
async def test_a_tools_model_may_answer_with_what_is_left_at_most(path: str, given: dict[str, Any], most: dict[str, Any]) -> None:
    server, spent = Server(fine), meter(tokens=1000)
    async with RunClient(server, spent, Gate(), One()) as client:  # type: ignore[arg-type]
        await client.post(path, given)
    body = server.asked[0][2]
    fields: Mapping[str, Any] = body if path.startswith("/v1/") else body["parameters"]
    told = {name: fields[name] for name in ("max_tokens", "max_completion_tokens") if name in fields}
    assert told.keys() == most.keys()
    for name, value in most.items():
        assert told[name] == value or (value >= 100 and value - 40 <= told[name] < value), "what the prompt takes is not left"


async def test_tools_that_ask_models_at_the_same_time_share_what_is_left() -> None:
    spent = meter(tokens=1000)
    going = asyncio.Event()

    async def slow(method: str, path: str, body: Any) -> tuple[int, Any]:
        going.set()
        await asyncio.sleep(0.05)
        return 200, {"usage": {"prompt_tokens": 5, "completion_tokens": 10}}

    server = Server(slow)
    async with RunClient(server, spent, Gate(), One()) as client:  # type: ignore[arg-type]
        first = asyncio.create_task(client.post("/v1/completions", {"model": "large", "prompt": "hi"}))
        await asyncio.wait_for(going.wait(), 5.0)
        with pytest.raises(BudgetSpent, match="1000 tokens"):
            await client.post("/v1/completions", {"model": "large", "prompt": "hi"})
        spent.over = None
        await first
    assert spent.spent.tokens == Tokens(5, 10)
    assert spent.tokens_left == 985


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_time_passes_while_a_person_is_asked_as_long_as_anything_else_goes_on() -> None:
    clock = Clock()
    spent = Meter(Budget(), Spent(), clock)
    spent.start()

    def passes(seconds: float) -> float:
        before = spent.seconds_left
        clock.now += seconds
        return before - spent.seconds_left

    asked, over = asyncio.Event(), asyncio.Event()

    async def asks() -> None:
        with spent.strand(), spent.strand(), spent.paused():  # a tool, its request
            asked.set()
            await over.wait()

    waiting = asyncio.create_task(asks())
    await asked.wait()
    assert passes(3.0) == 0.0, "only a person is waited for"
    second = asyncio.create_task(asks())
    await asyncio.sleep(0)
    assert passes(3.0) == 0.0
    with spent.strand():
        assert passes(3.0) == 3.0, "another tool works"
        with spent.strand():
            assert passes(3.0) == 3.0, "and its request"
    with spent.strand():  # the role's work: two of its tools ask
        more = [asyncio.create_task(asks()) for _ in range(2)]
        await asyncio.sleep(0)
        assert passes(3.0) == 0.0
        with spent.strand():
            assert passes(3.0) == 3.0
        over.set()
        await asyncio.gather(waiting, second, *more)
        assert passes(3.0) == 3.0
    assert passes(3.0) == 3.0, "the model is asked"
    assert (spent._strands, spent._waiting) == (0, 0)


def role(**given: Any) -> Role:
    return Role(
        name="tester", summary="For tests.", workflows=(WorkflowType.SYSTEM_ANALYSIS,), prompt="", **({"scopes": frozenset({"tasks:read"})} | given)
    )


async def test_a_tool_beside_one_that_asks_a_person_is_cut_off_in_time(agents: Agents, with_role: Callable[[Role], None]) -> None:
    async def slow(context: Context) -> None:
        """Slow."""
        await asyncio.sleep(30)

    async def ask(context: Context) -> Any:
        """Asks."""
        return await context.client.put("/devices/cpu:0/state", {"state": "ready"})

    with_role(role(tools=(slow, ask), asks=frozenset({"devices:write"})))
    agents.script(lambda messages: [("ask", {}), ("slow", {})])
    run = await agents.ask("system_analysis", parameters={"budget": {"seconds": 0.5}}, wait=10)
    assert run["unfinished"].startswith("the budget of 0.5 seconds is spent"), run
    assert 0.5 <= run["spent"]["seconds"] < 3


async def test_waiting_for_a_place_after_an_approval_costs_no_time(
    agents: Agents, with_role: Callable[[Role], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(context: Context) -> None:
        if context.request.prompt == "ask":
            await context.client.put("/devices/cpu:0/state", {"state": "ready"})
        else:
            await asyncio.sleep(1.0)

    with_role(role(work=work, asks=frozenset({"devices:write"})))
    monkeypatch.setattr(agents.runtime.agents, "_places", asyncio.Semaphore(1))
    first = await agents.ask("system_analysis", "ask", wait=None, parameters={"budget": {"seconds": 0.6}})
    entry = await agents.approval(first["task_id"])
    second = await agents.ask("system_analysis", "hold the place", wait=None)
    while (await agents.get(f"/ai/tasks/{second['task_id']}"))["status"] != "running":
        await asyncio.sleep(0.01)
    assert (await agents.decide(first["task_id"], entry["id"], True)).status_code == 200
    run = await agents.ended(first["task_id"])
    assert (run["status"], run["unfinished"]) == ("completed", None)
    assert run["spent"]["seconds"] < 0.6
    await agents.ended(second["task_id"])


async def test_what_a_role_does_by_itself_is_recorded_too(agents: Agents, with_role: Callable[[Role], None]) -> None:
    async def work(context: Context) -> None:
        await Bench(context.client).number("sum", x=[1, 2])
        await context.call(run_operation, operation="sum", parameters={"x": [3, 4]})

    with_role(role(work=work, scopes=frozenset({"tasks:read", "tasks:write"})))
    run = await agents.ask("system_analysis")
    own, tool = run["calls"]
    assert (own["tool"], own["by"], own["outcome"], own["tasks"]) == ("work", "role", "ok", 1)
    assert own["requests"][0]["path"] == "/tasks"
    assert own["device_seconds"] > 0
    assert (tool["tool"], tool["by"], tool["tasks"]) == ("run_operation", "role", 1)
    assert (run["spent"]["tasks"], run["spent"]["calls"]) == (2, 1), "its own work is no tool"


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"operation": "sum", "arrays": 5}, "arrays"),
        ({"operation": "sum", "parameters": [1]}, "parameters"),
        ({"kernel": "x", "sizes": "abc"}, "sizes"),
        ({"kernel": "x", "baseline": 5}, "baseline"),
        ({"operation": "sum", "device": []}, "device"),
    ],
)
async def test_the_optimizer_names_what_it_cannot_use(agents: Agents, parameters: dict[str, Any], field: str) -> None:
    run = await agents.ask("compute_optimization", "faster", parameters=parameters)
    assert (run["status"], run["code"]) == ("failed", "invalid_parameter"), run
    assert f"`parameters.{field}` must be a" in run["error"]
