"""The tools that assistants get: each a model of its arguments and one or two requests to the API."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote

from pydantic import BaseModel, Field

from openruntime.contracts.errors import InvalidRequest, ModelNotFound
from openruntime.contracts.models import TaskRequest, TaskStatus
from openruntime.gateway.kernels import KernelRequest
from openruntime.gateway.mcp_tasks import Caller, Told, followed, run, submit, told

WAIT = 50.0  # seconds: many assistants give a call up after a minute
LONGEST = 3600.0
_TASK = TaskRequest.model_fields

TaskId = Annotated[str, Field(min_length=1, max_length=200, description="The task's id, as run_operation, submit_task or list_tasks told it.")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Preference = Annotated[str | None, Field(max_length=200, description=_TASK["device_preference"].description)]
Priority = Annotated[int, Field(ge=1, le=10, description=_TASK["priority"].description)]


class Nothing(BaseModel, extra="forbid"):
    pass


class DeviceName(BaseModel, extra="forbid"):
    device_id: Name = Field(description="As list_devices tells it.", examples=["cpu:0"])


class Search(BaseModel, extra="forbid"):
    search: str = Field("", max_length=200, description="Only those whose name, family or summary contains this.")


class OperationName(BaseModel, extra="forbid"):
    name: Name = Field(description="The operation's name, as list_operations tells it.", examples=["matmul"])


class Submission(BaseModel, extra="forbid"):
    operation: Name = Field(description="An operation's or a registered kernel's name. describe_operation tells its parameters.", examples=["matmul"])
    parameters: dict[str, Any] = Field(
        {},
        description='By name. An array is nested lists, {"tensor": id}, or {"task": id} for what another task gives or will give '
        '(with "output": name where it has several).',
        examples=[{"a": [[1, 2], [3, 4]], "b": {"task": "TASK_ID"}}],
    )
    device_preference: Preference = None
    priority: Priority = 5
    timeout: float | None = Field(None, gt=0, le=31_536_000, description=_TASK["timeout"].description)


class Run(Submission):
    wait: float = Field(WAIT, ge=0, le=LONGEST, description="Seconds to wait for the end; after them the task goes on, and get_task has its result.")


class Wanted(BaseModel, extra="forbid"):
    task_id: TaskId
    wait: float = Field(0.0, ge=0, le=LONGEST, description="Seconds to wait for the end, if it has not ended.")


class OneTask(BaseModel, extra="forbid"):
    task_id: TaskId


class TaskFilter(BaseModel, extra="forbid"):
    status: Literal["queued", "running", "cancelling", "completed", "failed", "cancelled"] | None = Field(
        None, description="Only those in this state."
    )
    operation: str | None = Field(None, max_length=200, description="Only those of this operation.")
    device: str | None = Field(None, max_length=200, description="Only those that ran on this device.")
    tag: str | None = Field(None, max_length=100, description="Only those that have this tag.")
    limit: int = Field(20, ge=1, le=200, description="Most in the answer.")
    cursor: str | None = Field(None, max_length=500, description="`next` of the page before.")


class KernelName(BaseModel, extra="forbid"):
    name: Name = Field(description="The kernel's name, as list_kernels tells it.")


class Verify(KernelName):
    sizes: list[dict[str, int]] = Field([], description="Sizes to try besides, each a value for every symbol.", examples=[[{"n": 1000000}]])
    seed: int | None = Field(None, description="Of the random inputs: that of a report repeats it. Drawn anew unless given.")
    device_preference: Preference = None
    wait: float = Field(WAIT, ge=0, le=LONGEST, description="Seconds to wait for the verdict; after them get_task tells how it goes.")


class Prompt(BaseModel, extra="forbid"):
    """Either `prompt` or `messages`."""

    prompt: str | None = Field(None, min_length=1, description="Said to the model as a person's message.")
    messages: list[dict[str, Any]] | None = Field(
        None, min_length=1, description="A whole conversation instead, as in OpenAI's API.", examples=[[{"role": "user", "content": "Hello"}]]
    )
    model: str | None = Field(None, max_length=200, description="As list_models tells it; the chat model in use unless given.")
    max_tokens: int = Field(512, ge=1, le=1 << 20, description="The most that it may write.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 for the same answer each time; the model's own unless given.")
    seed: int | None = None
    stop: list[str] = Field([], max_length=16, description="Where it stops writing.")
    priority: Priority = 5
    timeout: float | None = Field(None, gt=0, le=31_536_000, description=_TASK["timeout"].description)
    wait: float = Field(WAIT, ge=0, le=LONGEST, description="Seconds to wait for the answer; after them get_task has it.")


class MetricFilter(BaseModel, extra="forbid"):
    search: str = Field("", max_length=200, description="Only metrics whose name contains this.", examples=["queue"])


class Tool(NamedTuple):
    """`reads`: it changes nothing. `ends`: it takes something away."""

    name: str
    description: str
    arguments: type[BaseModel]
    call: Callable[[Caller, Any], Awaitable[Told]]
    reads: bool = True
    ends: bool = False


async def list_devices(caller: Caller, given: Nothing) -> Told:
    return Told(await caller.connection.json("GET", "/devices"))


async def get_device(caller: Caller, given: DeviceName) -> Told:
    return Told(await caller.connection.json("GET", f"/devices/{quote(given.device_id, safe='')}"))


async def list_operations(caller: Caller, given: Search) -> Told:
    found = (await caller.connection.json("GET", "/operations"))["operations"]
    word = given.search.lower()
    rows = [
        {"name": one["name"], "family": one.get("family"), "summary": one.get("summary"), "parameters": list(one["parameters"]["properties"])}
        for one in found
        if any(word in str(one.get(field) or "").lower() for field in ("name", "family", "summary"))
    ]
    return Told({"operations": rows})


async def describe_operation(caller: Caller, given: OperationName) -> Told:
    return Told(await caller.connection.json("GET", f"/operations/{quote(given.name, safe='')}"))


async def run_operation(caller: Caller, given: Run) -> Told:
    return await run(caller, given.model_dump(exclude={"wait"}, exclude_none=True), given.wait)


async def submit_task(caller: Caller, given: Submission) -> Told:
    return await told(caller, await submit(caller, given.model_dump(exclude_none=True)))


async def get_task(caller: Caller, given: Wanted) -> Told:
    return await told(caller, await followed(caller, given.task_id, given.wait))


async def list_tasks(caller: Caller, given: TaskFilter) -> Told:
    found = await caller.connection.json("GET", "/tasks", query=given.model_dump())
    return Told({"tasks": [(await told(caller, task)).content for task in found["tasks"]], "next": found["next"]})


async def cancel_task(caller: Caller, given: OneTask) -> Told:
    return await told(caller, await caller.connection.json("DELETE", f"/tasks/{quote(given.task_id, safe='')}"))


async def explain_task(caller: Caller, given: OneTask) -> Told:
    return Told(await caller.connection.json("GET", f"/tasks/{quote(given.task_id, safe='')}/explain"))


async def list_kernels(caller: Caller, given: Nothing) -> Told:
    return Told(await caller.connection.json("GET", "/kernels"))


async def get_kernel(caller: Caller, given: KernelName) -> Told:
    return Told(await caller.connection.json("GET", f"/kernels/{quote(given.name, safe='')}"))


async def register_kernel(caller: Caller, given: KernelRequest) -> Told:
    return Told(await caller.connection.json("POST", "/kernels", given.model_dump(exclude_unset=True)))


async def verify_kernel(caller: Caller, given: Verify) -> Told:
    path = f"/kernels/{quote(given.name, safe='')}/verify"
    asked = given.model_dump(exclude={"name", "wait"}, exclude_unset=True, exclude_none=True)
    task = await caller.connection.json("POST", path, asked)
    try:
        task = await followed(caller, task["task_id"], given.wait)
    except asyncio.CancelledError:
        if not caller.leaving():
            await asyncio.shield(asyncio.ensure_future(caller.connection.json("DELETE", f"/tasks/{task['task_id']}")))
        raise
    if task["status"] != TaskStatus.COMPLETED:
        return await told(caller, task, raising=True)
    return Told(await caller.connection.json("GET", path, query={"task_id": task["task_id"]}))


async def list_models(caller: Caller, given: Nothing) -> Told:
    return Told(await caller.connection.json("GET", "/ai/models"))


async def generate(caller: Caller, given: Prompt) -> Told:
    if (given.prompt is None) is (given.messages is None):
        raise InvalidRequest("one of `prompt` and `messages` must be given, and not both", field="prompt")
    asked = given.model_dump(include={"max_tokens", "temperature", "seed", "stop"}, exclude_none=True)
    asked = {name: value for name, value in asked.items() if value != []}
    asked["messages"] = given.messages or [{"role": "user", "content": given.prompt}]
    request = {"operation": given.model or await _usual(caller), "parameters": asked, "priority": given.priority, "timeout": given.timeout}
    return await run(caller, {name: value for name, value in request.items() if value is not None}, given.wait)


async def _usual(caller: Caller) -> str:
    """The chat model in use."""
    found = (await caller.connection.json("GET", "/ai/models"))["models"]
    usual = next((model["id"] for model in found if model["default"] and model["kind"] == "chat"), None)
    if usual is None:
        raise ModelNotFound("no chat model is in use here: `openruntime models add` brings one", field="model")
    return str(usual)


async def get_metrics(caller: Caller, given: MetricFilter) -> Told:
    found: dict[str, Any] = await caller.connection.json("GET", "/metrics")
    return Told({name: value for name, value in found.items() if given.search in name})


TOOLS = (
    Tool("list_devices", "List the devices (processors, GPUs) that can run work here, with memory, load and the libraries that drive each.",
         Nothing, list_devices),
    Tool("get_device", "One device in detail: load, memory, workers and its measured ceilings.", DeviceName, get_device),
    Tool("list_operations", "List the operations that can be run: name, family, one-line summary and names of parameters.", Search, list_operations),
    Tool("describe_operation", "One operation: what it computes, the JSON Schema of its parameters, its outputs, and what runs it.",
         OperationName, describe_operation),
    Tool("run_operation", "Run an operation on arrays and wait for its result. Long outputs are summed up by shape, dtype and statistics, and stay "
         "on the server: pass {\"task\": task_id} on as a parameter of the next operation rather than the numbers. Giving the call up cancels it.",
         Run, run_operation, reads=False),
    Tool("submit_task", "Submit an operation without waiting for it: the answer is its task_id, for get_task and cancel_task.",
         Submission, submit_task, reads=False),
    Tool("get_task", "A task's state, and its result once it completed; with `wait` after waiting for that.", Wanted, get_task),
    Tool("list_tasks", "List tasks, newest first, without their results.", TaskFilter, list_tasks),
    Tool("cancel_task", "Cancel a task; one that has ended stays as it is.", OneTask, cancel_task, reads=False, ends=True),
    Tool("explain_task", "Why a task ran where it ran: the candidates, predicted against actual times, attempts.", OneTask, explain_task),
    Tool("list_kernels", "List the registered kernels of users' own, with signatures and how their verification went.", Nothing, list_kernels),
    Tool("get_kernel", "A registered kernel with its source and what the compiler said.", KernelName, get_kernel),
    Tool("register_kernel", "Compile and register a kernel (OpenCL C, CUDA C++, Metal or WGSL); then run_operation runs it by its name. One of that "
         "name that is there already is replaced. A compile error tells the compiler's log. Give a `reference`, so that verify_kernel can judge it.",
         KernelRequest, register_kernel, reads=False, ends=True),
    Tool("verify_kernel", "Compare a registered kernel with its reference on many sizes, special values and guarded memory; waits for the verdict.",
         Verify, verify_kernel, reads=False),
    Tool("list_models", "List the language and embedding models that can be used here, and which are in use.", Nothing, list_models),
    Tool("generate", "Ask a language model on this server, and wait for its answer. Giving the call up cancels it.", Prompt, generate, reads=False),
    Tool("get_metrics", "The server's metrics: tasks by state, queue depths, memory, latencies.", MetricFilter, get_metrics),
)  # fmt: skip
