"""What registering a kernel answers when compiling it does not simply succeed; workers that go with backends."""

import asyncio
from typing import Any

import pytest

from openruntime.contracts.errors import CompileError, Unavailable
from openruntime.contracts.kernel_reading import read
from openruntime.contracts.models import TaskRequest, TaskStatus
from openruntime.contracts.records import LOCAL, Abilities, Failure, Life, Principal, Probe, Task
from openruntime.kernels import registry
from openruntime.kernels.catalogue import KernelCatalogue, compilation
from openruntime.kernels.registry import KernelRegistry, workers
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.runtimes.probe import Report
from openruntime.stores.memory import MemoryStore

KERNEL = {
    "name": "fill", "language": "opencl", "source": "__kernel void fill(__global float *y) {}", "inputs": [],
    "outputs": [{"name": "y", "dtype": "float32", "shape": [3]}], "grid": [3],
}  # fmt: skip


class Queue:
    """Tasks that end as told, or never."""

    def __init__(self, failure: Failure | None = None, started: float | None = None) -> None:
        self.failure, self.started, self.cancelled = failure, started, False

    async def submit(self, request: TaskRequest, **_: Any) -> Task:
        task = Task("t", compilation(request.parameters), "local", "opencl-kernels", 9, 0.0, 0.0)
        if self.failure is not None:
            task.life, task.failure, task.started = Life(TaskStatus.FAILED), self.failure, self.started
        return task

    async def wait(self, task: Task, seconds: float) -> bool:
        await asyncio.sleep(0.001)
        return task.status.ended

    async def cancel(self, task_id: str, *, principal: Principal = LOCAL) -> None:
        self.cancelled = True


class Devices:
    def __init__(self, *states: str) -> None:
        self.workers = [{"backend": "opencl-kernels", "state": state, "reason": "the driver is broken"} for state in states]

    async def found(self) -> None:
        return

    def list(self) -> list[dict[str, Any]]:
        return [{"id": "cpu:0"}]

    def get(self, device_id: str) -> dict[str, Any]:
        return {"workers": [{"backend": "numpy", "state": "ready"}, *self.workers]}


def made(tasks: Queue, devices: Devices) -> KernelRegistry:
    found = KernelRegistry(MemoryStore().shelf, devices, OperationCatalogue())  # type: ignore[arg-type]
    found.use(tasks)  # type: ignore[arg-type]
    return found


async def test_workers_that_do_not_start_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "LOOK", 0.01)
    tasks = Queue()
    with pytest.raises(Unavailable, match="starts: the driver is broken"):
        await made(tasks, Devices("failed", "failed")).add(KERNEL)
    assert tasks.cancelled


@pytest.mark.parametrize("states", [(), ("failed", "cold"), ("ready",)])
async def test_one_that_may_come_is_waited_for_until_nobody_asks_any_more(states: tuple[str, ...]) -> None:
    tasks = Queue()
    adding = asyncio.create_task(made(tasks, Devices(*states)).add(KERNEL))
    await asyncio.sleep(0.05)
    assert not adding.done()
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert tasks.cancelled


@pytest.mark.parametrize(
    ("failure", "started", "error", "said"),
    [
        (Failure("timeout", "its `timeout` of 60 s was over before it started"), None, Unavailable, "every kernel worker is busy"),
        (Failure("timeout", "its `timeout` of 60 s was over while it ran"), 1.0, CompileError, "`source` of fill cannot be compiled: its `timeout`"),
        (Failure("worker_crashed", "the worker died 2 times"), 1.0, CompileError, "`source` of fill cannot be compiled: the worker died"),
    ],
)
async def test_compilations_that_fail(failure: Failure, started: float | None, error: type[Exception], said: str) -> None:
    kernels = made(Queue(failure, started), Devices("ready"))
    with pytest.raises(error, match=said):
        await kernels.add(KERNEL)
    assert kernels.list() == []
    assert (kernels.hits, kernels.misses) == (0, 0)


def test_kernel_workers_go_with_the_backends_that_work() -> None:
    able = Abilities(frozenset({"matmul"}))
    found = workers(
        [
            Report("opencl", [Probe("opencl", "cpu"), Probe("opencl", "cuda", 1)], {"cpu": able, "cuda": able}),
            Report("metal", [Probe("metal", "metal")], {"metal": able}),
            Report("cuda", failure="cupy is not installed", extra="cuda"),
            Report("webgpu", nothing="no driver"),
        ]
    )
    assert [(report.backend, [(probe.platform, probe.index) for probe in report.probes]) for report in found] == [
        ("opencl-kernels", [("cpu", 0), ("cuda", 1)]), ("metal-kernels", [("metal", 0)]), ("wgsl-kernels", [("metal", 0)]),
    ]  # fmt: skip
    assert {probe.backend for probe in found[0].probes} == {"opencl-kernels"}
    assert found[0].abilities["cuda"].operations == {"kernel:opencl"}


def test_a_tenant_sees_its_own_kernels_only() -> None:
    kernels = {"a": {"fill": registry.Kernel(read(KERNEL), 1, "a", 0.0)}}
    catalogue = KernelCatalogue(OperationCatalogue(), kernels)
    assert "fill" in catalogue.of("a").names()
    assert "fill" not in catalogue.of("b").names()
    assert catalogue.of("a").bind("fill", {}).outputs["y"].shape == (3,)
    assert catalogue.of("a").bind("sum", {"x": [1]}).operation == "sum"
    with pytest.raises(Exception, match="there is no operation 'fill'"):
        catalogue.of("b").bind("fill", {})
    with pytest.raises(Exception, match="did you mean fill"):
        catalogue.of("a").describe("fil")
