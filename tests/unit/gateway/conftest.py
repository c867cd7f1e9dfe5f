"""The gateway over real sockets, before a task manager small enough to read: `double`, `split`, `fail`, `slow`."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
import uvloop

from openruntime.ai.agents.manager import AIAgentManager
from openruntime.contracts import nested
from openruntime.contracts.errors import InvalidParameter, NotFound, NotReady, QueueFull, UnknownOperation, error_class
from openruntime.contracts.events import AnyEvent, Gap
from openruntime.contracts.models import TaskRequest, TaskStatus
from openruntime.contracts.payload import Array, Spec
from openruntime.contracts.records import ANY, LOCAL, Call, Estimate, Failure, Filter, Life, Principal, Task
from openruntime.gateway.app import create_gateway
from openruntime.gateway.dependencies import Limits, Services
from openruntime.gateway.http_protocol import protocol_class
from openruntime.security.access import Access
from openruntime.security.tokens import TokenIssuer
from openruntime.stores.memory import MemoryStore
from tests.unit.gateway.small_models import SmallModels


class SmallTasks:
    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.kept: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.release = asyncio.Event()

    def _run(self, request: TaskRequest, arrays: Any, promised: bool) -> Task:
        if request.operation == "unknown":
            raise UnknownOperation("there is no operation 'unknown'", field="operation")
        if request.operation == "full":
            raise QueueFull("the queue is full", retry_after=2.5)
        if request.operation == "defect":
            raise ZeroDivisionError("secret")
        call = Call(request.operation, 1, request.parameters, {"output": Spec("float64", ())}, Estimate())
        task_id = f"00000000-0000-7000-8000-{len(self.tasks):012}"
        task = Task(task_id, call, "local", "any", request.priority, time.time(), 0.0, tags=tuple(request.tags), kept=promised)
        self.tasks[task.id] = task
        if request.operation == "slow":
            return task
        if request.operation == "fail":
            task.life = Life(TaskStatus.FAILED, 1)
            task.failure = Failure("operation_failed", "the matrix is singular")
            return task
        found = {**request.parameters, **arrays}
        if "x" not in found:
            raise InvalidParameter("`x` is missing", field="x")
        x = found["x"] if isinstance(found["x"], Array) else nested.to_array(found["x"], "x")
        task.outputs = {"output": x} if request.operation == "double" else {"first": x, "second": x}
        task.life = Life(TaskStatus.COMPLETED, 1)
        task.started = task.finished = time.time()
        return task

    async def submit(
        self,
        request: TaskRequest,
        arrays: Any = (),
        *,
        principal: Principal = LOCAL,
        promised: bool = True,
        idempotency: str | None = None,
        cache: str = "",
        traceparent: str | None = None,
    ) -> Task:
        self.calls.append(
            {
                "request": request, "arrays": dict(arrays), "idempotency": idempotency, "cache": cache, "promised": promised,
                "traceparent": traceparent,
            }
        )  # fmt: skip
        return self._run(request, dict(arrays), promised)

    async def submit_many(
        self, requests: Sequence[Any], *, principal: Principal = LOCAL, promised: bool = True, idempotency: str | None = None, cache: str = "",
        traceparent: str | None = None,
    ) -> list[Task | Exception]:  # fmt: skip
        self.calls.append({"idempotency": idempotency, "cache": cache})
        found: list[Task | Exception] = []
        for request, arrays in requests:
            try:
                found.append(self._run(request, arrays, promised))
            except Exception as error:
                found.append(error)
        return found

    async def keep(self, task: Task) -> None:
        self.kept.append(task.id)

    async def wait(self, task: Task, seconds: float) -> bool:
        if task.life.status.ended:
            return True
        try:
            await asyncio.wait_for(self.release.wait(), seconds)
        except TimeoutError:
            return task.life.status.ended
        task.life = Life(TaskStatus.COMPLETED, 1)
        task.outputs = {"output": Array("int64", (), (7).to_bytes(8, "little"))}
        return True

    async def status(self, task_id: str, *, principal: Principal = LOCAL) -> Task:
        if task_id not in self.tasks:
            raise NotFound(f"there is no task {task_id!r}")
        return self.tasks[task_id]

    async def result(self, task_id: str, *, principal: Principal = LOCAL) -> Task:
        task = await self.status(task_id)
        if not task.life.status.ended:
            raise NotReady(f"task {task_id} is {task.life.status.value}")
        if task.failure:
            raise error_class(task.failure.code, task=True)(task.failure.message)
        return task

    async def cancel(self, task_id: str, *, principal: Principal = LOCAL) -> Task:
        task = await self.status(task_id)
        if not task.life.status.ended:
            task.life = Life(TaskStatus.CANCELLED, task.life.attempt)
            task.failure = Failure("cancelled", "cancelled")
        return task

    async def list(
        self, filter: Filter = ANY, *, principal: Principal = LOCAL, limit: int = 50, after: str | None = None
    ) -> tuple[Sequence[Task], str | None]:
        self.calls.append(msgspec.structs.asdict(filter))
        found = sorted((t for t in self.tasks.values() if after is None or t.id < after), key=lambda t: t.id, reverse=True)
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    async def explain(self, task_id: str, *, principal: Principal = LOCAL) -> dict[str, Any]:
        return {"task_id": (await self.status(task_id)).id, "reason": "the only device"}

    async def trace(self, task_id: str, *, principal: Principal = LOCAL) -> Any:
        return [{"name": (await self.status(task_id)).id, "ph": "X", "ts": 0, "dur": 1}]


class SmallTensors:
    def __init__(self) -> None:
        self.kept: dict[str, Array] = {}

    async def put(self, array: Array, *, principal: Principal = LOCAL, ttl: float | None = None) -> dict[str, Any]:
        tensor_id = f"a{len(self.kept):06}"
        self.kept[tensor_id] = Array(array.dtype, array.shape, bytes(array.view))
        return {"id": tensor_id, "dtype": array.dtype, "shape": array.shape, "nbytes": array.nbytes, "created_at": None, "expires_at": None}

    async def get(self, tensor_id: str, *, principal: Principal = LOCAL) -> Array:
        if tensor_id not in self.kept:
            raise NotFound(f"there is no tensor {tensor_id!r}")
        return self.kept[tensor_id]

    async def delete(self, tensor_id: str, *, principal: Principal = LOCAL) -> None:
        await self.get(tensor_id)
        del self.kept[tensor_id]

    async def list(self, *, principal: Principal = LOCAL, after: str = "", limit: int = 100) -> tuple[Sequence[dict[str, Any]], str | None]:
        return [{"id": key, "dtype": a.dtype, "shape": a.shape, "nbytes": a.nbytes} for key, a in self.kept.items()], None

    async def resolve(self, reference: Any, *, principal: Principal = LOCAL) -> Array | Task:
        return await self.get(reference.tensor)


class SmallDevices:
    state = "ready"

    def achieved(self, task: Task) -> dict[str, Any]:
        return {"flops": 1.0, "bytes": 2.0, "gflops": None, "gbytes": None, "fraction": None, "bound": None, "reason": "nothing is measured here"}

    def list(self) -> list[dict[str, Any]]:
        return [self.get("cpu:0")]

    def get(self, device_id: str) -> dict[str, Any]:
        if device_id != "cpu:0":
            raise NotFound(f"there is no device {device_id!r}; there is cpu:0")
        return {
            "id": "cpu:0", "name": "CPU", "type": "cpu", "capabilities": ["double"], "memory_total": 2, "memory_available": 1, "status": self.state,
            "backends": ["numpy"], "slots": 1, "busy": 0, "queued": 0, "utilization": None,
        }  # fmt: skip

    def set_state(self, device_id: str, state: str) -> dict[str, Any]:
        self.get(device_id)
        self.state = state
        return self.get(device_id)

    def lane(self, preference: str | None, call: Call) -> str:
        return "any"

    def places(self, lane: str, operation: str) -> Sequence[tuple[str, str]]:
        return [("cpu:0", "numpy")] if operation == "double" else []

    def backends(self) -> Sequence[dict[str, Any]]:
        return [
            {"name": "numpy", "status": "ready", "devices": ["cpu:0"], "reason": None, "remedy": None, "unsupported": {}, "lacks": {}},
            {"name": "odd", "status": "failed", "devices": [], "reason": "no chip", "remedy": "mend it", "unsupported": {}, "lacks": {}},
        ]

    async def found(self) -> None:
        pass


class SmallCatalogue:
    def of(self, tenant: str) -> "SmallCatalogue":
        return self

    def names(self) -> list[str]:
        return ["double", "split"]

    def describe(self, name: str) -> dict[str, Any]:
        if name not in self.names():
            raise UnknownOperation(f"there is no operation {name!r}", field="operation")
        return {"name": name, "parameters": {"type": "object"}}

    def bind(self, name: str, parameters: Any, before: Call | None = None) -> Call:
        raise NotImplementedError

    def first_array(self, name: str) -> str:
        self.describe(name)
        return "x"


class SmallKernels:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}

    async def add(self, document: Any, *, principal: Principal = LOCAL, replace: bool = True) -> dict[str, Any]:
        self.kept[document["name"]] = document
        return dict(document)

    def list(self, *, principal: Principal = LOCAL) -> list[dict[str, Any]]:
        return list(self.kept.values())

    def get(self, name: str, *, principal: Principal = LOCAL) -> dict[str, Any]:
        if name not in self.kept:
            raise NotFound(f"there is no kernel {name!r}", field="name")
        return self.kept[name]

    async def remove(self, name: str, *, principal: Principal = LOCAL) -> None:
        self.get(name)
        del self.kept[name]


class SmallTrials:
    """Every trial is a task that doubles."""

    def __init__(self, tasks: "SmallTasks", kernels: SmallKernels) -> None:
        self.tasks, self.kernels = tasks, kernels
        self.begun: list[tuple[str, str, dict[str, Any]]] = []

    async def begin(self, kind: str, name: str, options: Any, run: Any, *, principal: Principal = LOCAL) -> Task:
        self.kernels.get(name)
        self.begun.append((kind, name, {**options, **run}))
        return await self.tasks.submit(TaskRequest(operation="double", parameters={"x": [1.0]}, **run), principal=principal)

    async def report(self, kind: str, name: str, task_id: str | None = None, *, principal: Principal = LOCAL) -> dict[str, Any]:
        self.kernels.get(name)
        if not self.begun:
            raise NotFound(f"{name} has not been tried yet", field="name")
        return {"ok": True, "task_id": task_id}


class SmallEvents:
    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.fresh = asyncio.Event()

    def publish(self, event: AnyEvent) -> None:
        event.seq = len(self.events) + 1
        self.events.append(event)
        self.fresh.set()
        self.fresh = asyncio.Event()

    def last(self) -> int:
        return len(self.events)

    async def read(self, *, after: int | None, limit: int = 10_000) -> AsyncIterator[Sequence[AnyEvent]]:
        at = self.last() if after is None else after
        while True:
            if at < len(self.events):
                batch = self.events[at:]
                at = len(self.events)
                yield batch if len(batch) <= limit else [Gap(time=time.time(), seq=batch[-limit].seq, missed=len(batch) - limit), *batch[-limit:]]
            else:
                await self.fresh.wait()


class SmallHistory:
    def view(self, names: Any = (), seconds: float | None = None) -> dict[str, Any]:
        return {"times": [0.0, 15.0], "every": 15.0, "series": {name: [None, seconds] for name in names}}


class SmallMetrics:
    def text(self) -> str:
        return "# TYPE openruntime_tasks_total counter\nopenruntime_tasks_total 1\n"

    def snapshot(self) -> dict[str, Any]:
        return {"openruntime_tasks_total": 1}


@dataclasses.dataclass
class Gateway:
    url: str
    tasks: SmallTasks
    tensors: SmallTensors
    events: SmallEvents
    unready: list[str]
    models: SmallModels
    client: httpx.AsyncClient
    app: Any
    server: uvicorn.Server

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:  # the test runner's own stay
        pass


Start = Callable[..., Awaitable[Gateway]]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that serves users: it raises where asyncio's only warns."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """`await start(body_bytes=..., root_path=..., own_protocol=True)`: a gateway with these limits, served by uvicorn."""
    running: list[tuple[_Server, asyncio.Task[None], httpx.AsyncClient]] = []

    async def begin(*, root_path: str = "", own_protocol: bool = False, keep_alive: float = 5, **limits: Any) -> Gateway:
        tasks, tensors, events, kernels, unready = SmallTasks(), SmallTensors(), SmallEvents(), SmallKernels(), []
        access, models = Access(TokenIssuer(lambda: b"secret")), SmallModels(tasks)
        services = Services(
            tasks=tasks, tensors=tensors, devices=SmallDevices(), catalogue=SmallCatalogue(), kernels=kernels, trials=SmallTrials(tasks, kernels),
            models=models, work=models, streams=models, events=events, metrics=SmallMetrics(), history=SmallHistory(),
            ready=lambda: unready[0] if unready else None, allocate=lambda n: memoryview(bytearray(n)), access=access,
            agents=AIAgentManager(access.tokens, MemoryStore().shelf), limits=Limits(**limits), version="1.2.3",
        )  # fmt: skip
        app = create_gateway(services)
        http: Any = "httptools"
        if own_protocol:
            http = protocol_class(services.allocate, limit=services.limits.body_bytes, body_timeout=services.limits.body_timeout, gateway=app)
        config = uvicorn.Config(
            app, port=0, log_config=None, access_log=False, lifespan="off", http=http, ws="websockets-sansio", root_path=root_path,
            timeout_keep_alive=keep_alive,  # type: ignore[arg-type]  # uvicorn asks for whole seconds and takes parts
        )  # fmt: skip
        server = _Server(config)
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.005)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        client = httpx.AsyncClient(base_url=url, trust_env=False, timeout=10)
        running.append((server, serving, client))
        return Gateway(url, tasks, tensors, events, unready, models, client, app, server)

    yield begin
    for server, serving, client in running:
        await client.aclose()
        server.should_exit = True
        server.force_exit = True
        await serving


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    return await start()


def check_problem(answer: httpx.Response, status: int, code: str, *, field: str | None = None) -> dict[str, Any]:
    """The problem document, after checking what every refusal must have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    found: dict[str, Any] = answer.json()
    assert found["code"] == code, found
    assert found["request_id"] == answer.headers["x-request-id"]
    assert found["detail"]
    assert "Traceback" not in answer.text
    if field is not None:
        assert found.get("field") == field, found
    return found


@pytest.fixture
def problem() -> Callable[..., dict[str, Any]]:
    return check_problem
