"""How fast each backend is on this machine: a few calls of each, once, when nothing else runs.

They scale the shipped profile to this machine and give the device's ceilings. They run in real workers, of their own and at idle priority,
medium sizes first; while a user's task runs or waits none is begun.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from openruntime.contracts.errors import OpenRuntimeError
from openruntime.contracts.interfaces import Catalogue
from openruntime.contracts.kernels import WORKERS
from openruntime.contracts.models import DeviceInfo
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Call
from openruntime.devices.cost_model import CostModel
from openruntime.devices.roofline import Roofline
from openruntime.runtimes.channel import output_bytes
from openruntime.runtimes.manager import RuntimeManager
from openruntime.runtimes.process import Answer, WorkerProcess
from openruntime.runtimes.shared_memory import SlabPool

log = logging.getLogger(__name__)

BUDGET = 5.0  # seconds of computing, all backends together
ROUNDS = 3  # of each call, after the first
LONG = 0.15  # seconds: a call that took longer is not repeated
PATIENCE = 20.0  # seconds that one call may take before its worker is given up
LOOK = 0.05  # seconds between looks whether the device is calm
LIKE: Mapping[str, tuple[str, tuple[int, ...]]] = {  # name -> dtype and shape of uniform numbers
    "square": ("float32", (512, 512)),
    "wide": ("float32", (1024, 1024)),
    "double": ("float64", (1024, 1024)),
    "small": ("float32", (192, 192)),
    "line": ("float32", (1 << 19,)),
    "long": ("float32", (1 << 23,)),
    "images": ("float32", (4, 16, 64, 64)),
    "kernels": ("float32", (16, 16, 3, 3)),
}
Wanted = tuple[str, dict[str, Any]]  # operation, parameters; a string that `LIKE` has stands for that array
CALLS: Sequence[Wanted] = (
    ("matmul", {"a": "square", "b": "square"}),
    ("expression", {"formula": "exp(-x*x) + 2*x", "x": "line"}),
    ("sum", {"x": "wide", "axis": 0}),
    ("softmax", {"x": "wide"}),
    ("conv2d", {"x": "images", "weight": "kernels"}),
    ("expression", {"formula": "a*2.5 + b", "a": "long", "b": "long"}),
    ("matmul", {"a": "wide", "b": "wide"}),
    ("matmul", {"a": "double", "b": "double"}),
    ("svd", {"x": "small"}),
    ("fft", {"x": "line"}),
    ("sort", {"x": "line"}),
)


class Calibrator:
    """`calm(device)` says whether nothing runs there and nothing waits. `done` are the drivers that were calibrated before."""

    def __init__(
        self, catalogue: Catalogue, runtimes: Sequence[RuntimeManager], cost: CostModel, roofline: Roofline, pool: SlabPool,
        calm: Callable[[str], bool],
    ) -> None:  # fmt: skip
        self.done: set[tuple[str, str]] = set()
        self._catalogue = catalogue
        self._runtimes = runtimes
        self._cost = cost
        self._roofline = roofline
        self._pool = pool
        self._calm = calm
        self._arrays: dict[str, Array] = {}

    async def run(self) -> int:
        """Measure every driver that was not measured before; how many there were. What one cannot do is left out."""
        todo = [driver for driver in self._drivers() if (driver[1].id, driver[2]) not in self.done]
        try:
            for runtime, device, backend in todo:
                try:
                    await self._make_arrays()
                    await self._measure(runtime, device, backend, BUDGET / len(todo))
                except (OpenRuntimeError, OSError) as error:  # tried again at the next start
                    log.warning("%s on %s cannot be calibrated: %s", backend, device.id, error)
                    continue
                log.info("%s on %s is calibrated", backend, device.id)
                self.done.add((device.id, backend))
        finally:
            self._arrays.clear()
        return len(todo)

    def _drivers(self) -> Iterator[tuple[RuntimeManager, DeviceInfo, str]]:
        """All but the workers of kernels, NumPy's first."""
        for runtime in self._runtimes:
            for device in runtime.devices():
                for backend in device.backends:
                    if not backend.endswith(WORKERS):
                        yield runtime, device, backend

    async def _measure(self, runtime: RuntimeManager, device: DeviceInfo, backend: str, budget: float) -> None:
        async with _Bench(runtime, device, backend, self._pool) as bench:
            self._cost.started(device.id, backend, bench.start_seconds)
            for operation, wanted in CALLS:
                known = runtime.abilities(device.id, backend)
                call = self._catalogue.bind(operation, {name: self._arrays.get(str(value), value) for name, value in wanted.items()})
                if known is None or operation not in known.operations or call.dtype in known.lacks:
                    continue
                budget -= await self._time(bench, call, device.id, backend)
                if budget < 0:
                    return

    async def _make_arrays(self) -> None:
        """By NumPy: the gateway has no library that makes them, and not every backend has random numbers."""
        if self._arrays:
            return
        async with _Bench(*next(self._drivers()), self._pool) as bench:
            for name, (dtype, shape) in LIKE.items():
                call = self._catalogue.bind("uniform", {"shape": list(shape), "seed": 1, "dtype": dtype})
                self._arrays[name] = (await bench.run(call)).outputs["output"]  # type: ignore[index]  # it did not fail

    async def _time(self, bench: "_Bench", call: Call, device: str, backend: str) -> float:
        """The first call of its kind, then some more, of which the fastest counts: this process had the least in its way then."""
        spent, best = 0.0, None
        for number in range(1 + ROUNDS):
            while not self._calm(device):
                await asyncio.sleep(LOOK)
            try:
                answer = await bench.run(call)
            except OpenRuntimeError as error:
                log.debug("%s on %s: %s", call.operation, backend, error)
                return spent
            took = answer.finished - answer.started
            spent += took
            if number == 0:
                self._cost.record(call, device, backend, took, transfer=answer.transfer, compile=answer.compile, first=True)
                continue
            if self._calm(device) and (best is None or took < best.finished - best.started):
                best = answer
            if took > LONG:
                break
        if best is not None:
            took = best.finished - best.started
            self._cost.record(call, device, backend, took, transfer=best.transfer, compile=best.compile)
            self._roofline.observe(call, device, backend, best.seconds)
        return spent


class _Bench:
    """A worker at idle priority that runs one call at a time."""

    def __init__(self, runtime: RuntimeManager, device: DeviceInfo, backend: str, pool: SlabPool) -> None:
        self._runtime = runtime
        self._device = device
        self._backend = backend
        self._pool = pool
        self._worker: WorkerProcess | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._jobs = 0

    async def __aenter__(self) -> "_Bench":
        self._worker = await self._runtime.start_worker(
            self._device, self._backend, on_answer=self._answered, on_progress=lambda *_: None, on_death=self._died, idle=True
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._worker is not None:
            await self._worker.stop()

    @property
    def start_seconds(self) -> float:
        return self._worker.start_seconds if self._worker is not None else 0.0

    async def run(self, call: Call) -> Answer:
        """Raises `OpenRuntimeError` where the call fails or its worker is gone."""
        worker = self._worker
        assert worker is not None
        self._jobs += 1
        self._waiting = asyncio.get_running_loop().create_future()
        large = output_bytes(call.outputs.values())
        refused = worker.run([(self._jobs, call.operation, call.parameters, self._pool.allocate(large) if large else None)])
        if refused:
            raise OpenRuntimeError(str(refused[0][1]))
        try:
            answer = await asyncio.wait_for(self._waiting, PATIENCE)
        except TimeoutError:
            raise OpenRuntimeError(f"{call.operation} took longer than {PATIENCE:g} s") from None
        if answer.failure is not None:
            raise OpenRuntimeError(answer.failure[1])
        return answer

    def _answered(self, answer: Answer) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    def _died(self, reason: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(OpenRuntimeError(f"its worker is gone: {reason}"))
