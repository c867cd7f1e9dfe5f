"""The only place that wires the parts together."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openruntime.ai.agents.manager import AIAgentManager
from openruntime.ai.backend import kept
from openruntime.ai.work import ModelTasks
from openruntime.contracts.ai import REQUIRES
from openruntime.contracts.errors import InvalidParameter, OpenRuntimeError, nearest
from openruntime.contracts.events import AnyEvent, TaskQueued
from openruntime.contracts.interfaces import Store
from openruntime.contracts.records import Call, Task
from openruntime.contracts.registry import BACKENDS, BLOBS, STORES
from openruntime.core.config import Settings
from openruntime.core.learning import Learning
from openruntime.core.models import compare, open_backend, share
from openruntime.core.repository import open_repository
from openruntime.devices.allocator import DeviceAllocator
from openruntime.devices.gpu import merge
from openruntime.devices.host import Host
from openruntime.devices.manager import ANY, DeviceManager
from openruntime.gateway.dependencies import Limits, Services
from openruntime.kernels.catalogue import KernelCatalogue
from openruntime.kernels.registry import KernelRegistry
from openruntime.kernels.registry import workers as kernel_workers
from openruntime.kernels.trials import KernelTrials
from openruntime.models.catalogue import ModelCatalogue, lasts
from openruntime.models.repository import ModelRepository
from openruntime.monitoring.exporters import EventExporter, export_forever, open_exporters
from openruntime.monitoring.gauges import watch_devices, watch_models, watch_process
from openruntime.monitoring.history import History
from openruntime.monitoring.metrics import Metrics
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.runtimes.cpu import CPURuntimeManager
from openruntime.runtimes.gpu import GPURuntimeManager
from openruntime.runtimes.manager import RuntimeManager
from openruntime.runtimes.mlx import MLXRuntimeManager
from openruntime.runtimes.remembered import RememberedReports
from openruntime.runtimes.shared_memory import SlabPool
from openruntime.security.access import Access
from openruntime.security.tokens import TokenIssuer, secret
from openruntime.stores.blobs import CountedBlobs, FileBlobs
from openruntime.stores.memory import MemoryStore
from openruntime.stores.sqlite import SqliteStore
from openruntime.tasks.cache import ResultCache
from openruntime.tasks.events import EventBus, finished
from openruntime.tasks.executor import TaskExecutor
from openruntime.tasks.hearing import Hearing
from openruntime.tasks.io import IoExecutor
from openruntime.tasks.manager import TaskManager
from openruntime.tasks.outcomes import Outcomes
from openruntime.tasks.queue import TaskQueue
from openruntime.tasks.shared_events import SharedEvents
from openruntime.tasks.streams import TaskStreams
from openruntime.tasks.tensors import TensorRegistry

log = logging.getLogger(__name__)

FIRST_WORKER = 10.0  # seconds that asking the backends waits for it at most
HOUSEKEEPING = 60.0  # seconds between rounds of pruning


class Runtime:
    """All parts of one server. `start` before use, `stop` after; `services` is what the gateway needs."""

    def __init__(self, settings: Settings, models: ModelRepository | None = None) -> None:
        self.settings = settings
        self.pool = SlabPool()
        self.operations = OperationCatalogue()
        self.store = open_store(settings)
        peers = self.store.peers
        self.events = EventBus(self._replay) if peers is None else SharedEvents(peers, self._replay)
        host = Host()
        machine = host.usage().memory_total
        self.worker_memory = machine * 9 // 10 if settings.worker_memory is None else int(settings.worker_memory)
        self._backends = optional_backends(settings)
        shared: dict[str, Any] = {
            "threads": settings.threads, "memory": self.worker_memory, "batch": settings.batch, "batch_bytes": int(settings.batch_bytes),
        }  # fmt: skip
        self.runtimes: list[RuntimeManager] = [
            CPURuntimeManager(self.pool, slots=settings.slots, **shared),
            *(manager(self.pool, merge=merge, share_of=self._share_of, **shared) for manager in (GPURuntimeManager, MLXRuntimeManager)),
        ]
        for runtime in self.runtimes:
            runtime.environment = {
                "OPENRUNTIME_CACHE_DIR": str(settings.cache_dir), "OPENRUNTIME_KERNEL_CACHE_BYTES": str(int(settings.kernel_cache_bytes)),
            }  # fmt: skip
        self.queue = TaskQueue(self.store, step=settings.ageing_step)
        self.devices = DeviceManager(
            self.runtimes, self.events, registered=self._backends, depths=self.queue.depths,
            workers=lambda device: self.executor.workers.describe(device), models=lambda device: self.model_backend.describe(device), host=host,
        )  # fmt: skip
        self.kernels = KernelRegistry(self.store.shelf, self.devices, self.operations)
        self.trials = KernelTrials(self.kernels, self.store.shelf)
        self.models = models or open_repository(settings, self.operations.names)
        self.model_backend = open_backend(
            settings, self.models, machine=machine, available=lambda: host.usage().memory_available, accepts=self.devices.accepts
        )
        self.catalogue = ModelCatalogue(KernelCatalogue(self.operations, self.kernels.kernels), self.models)
        self.pool.limit = self.devices.memory_total() // 2
        kept_by_user = settings.cache_dir if settings.store == "memory" and settings.calibrate else None
        slots = self.runtimes[0].devices()[0].slots
        self.learning = Learning(self.store, self.devices.roofline, kept_by_user, slots=slots, threads=self.runtimes[0].threads(slots))
        self.cost = self.learning.cost
        self.cache = ResultCache(
            self.store, enabled=settings.cache, ttl=settings.cache_ttl, max_bytes=settings.cache_bytes, kept=kept, lasts=partial(lasts, self.models)
        )
        self.outcomes = Outcomes(self.queue, self.store, self.events, on_end=self._ended, wake=self.wake)
        self.executor = TaskExecutor(
            self.queue, self.store, self.devices, self.runtimes, DeviceAllocator(settings.strategy), self.cost, self.events, self.pool,
            self.outcomes, outstanding=settings.outstanding, worker_idle=settings.worker_idle,
            worker_growth=settings.worker_growth,
        )  # fmt: skip
        self.streams = TaskStreams(self.events, shared=peers is not None)
        self.io = IoExecutor(
            self.queue, self.store, self.events, self.outcomes, self.model_backend, self.streams, lanes=self.devices.io_lanes,
            total=settings.model_requests,
        )  # fmt: skip
        memory = min(machine, self.worker_memory or machine)
        self.tasks = TaskManager(
            self.catalogue, self.devices, self.queue, self.store, self.cache, self.events, predict=self._predict,
            predictions=self.executor.predictions, memory=lambda: memory, wake=self.wake,
            watch_deadline=self.outcomes.watch_deadline, interrupt=self.outcomes.interrupt, refuse=self.outcomes.refuse,
        )  # fmt: skip
        self.streams.tasks = self.tasks
        self.work = ModelTasks(self.models, self.tasks, self.devices.accepts if peers is None else lambda device: True)
        self.tensors = TensorRegistry(self.store, self.tasks.status, ttl=settings.tensor_ttl, max_bytes=settings.tensor_bytes)
        self.tasks.use_tensors(self.tensors)
        self.kernels.use(self.tasks)
        self.trials.use(self.tasks)
        self.metrics = Metrics(flush=self.events.flush)
        self.history = History(self.metrics, time.time)
        self.events.observe(self.metrics.observe)
        self.devices.on_ready = self.wake
        if peers is not None and isinstance(self.events, SharedEvents):
            peers.listen(Hearing(self._heard, self.queue, self.outcomes, self.tasks, self.events, self.streams))
        self._watch()
        self.access = Access(TokenIssuer(partial(secret, None if settings.store == "memory" else settings.data_dir)))
        self.agents = AIAgentManager(
            self.access.tokens, self.store.shelf, models=self.models, work=self.work, streams=self.streams, parallel=settings.agents,
            shared=peers is not None,
        )  # fmt: skip
        self._exporters = open_exporters(settings.exporters)  # a wrong name is an error at once
        self._background: list[asyncio.Task[None]] = []
        self._drained = 0.0
        self._first = self.executor.slots[0]

    def _share_of(self, total: int) -> int:
        """Of a card's memory, what one worker may take. Bytes."""
        return share(self.settings.device_memory, total)

    def wake(self) -> None:
        """There may be work."""
        self.executor.wake()
        if self.devices.io_lanes:  # a lone task comes here too, and must not pay for models that nobody asked
            self.io.wake()

    def _heard(self) -> None:
        """There may be work, of another server too."""
        self.devices.serve(self.queue.depths())
        self.wake()

    def _ended(self, task: Task) -> None:
        self.trials.ended(task)
        self.tasks.ended(task)

    def _predict(self, call: Call) -> float:
        first = self._first.device.id, self._first.backend
        if call.requires.startswith(REQUIRES):
            return self.model_backend.predict(call)
        if call.requires:
            first = next(iter(self.devices.places(ANY, call.requires)), first)
        return self.cost.predict(call, *first)

    def _watch(self) -> None:
        """Figures that are read when somebody asks for metrics."""
        metrics, slots = self.metrics, self.executor.slots
        watch_devices(metrics, self.devices)
        watch_models(metrics, self.model_backend)
        watch_process(metrics)
        metrics.gauge("openruntime_queue_depth", "Tasks that wait, by lane.", self.queue.depths, "lane")
        metrics.counter("openruntime_cache_hits_total", "Tasks answered from the result cache.", lambda: float(self.cache.hits))
        metrics.counter("openruntime_cache_misses_total", "Lookups in the result cache that found nothing.", lambda: float(self.cache.misses))
        metrics.counter("openruntime_tasks_batched_total", "Tasks that ran as one with others alike.", lambda: float(self.executor.batched))
        kernels = self.kernels
        metrics.counter("openruntime_kernel_cache_hits_total", "Kernels registered whose compiled form was on disk.", lambda: float(kernels.hits))
        metrics.counter("openruntime_kernel_cache_misses_total", "Kernels registered that had to be compiled.", lambda: float(kernels.misses))
        metrics.counter("openruntime_events_dropped_total", "Events that slow readers missed.", lambda: float(self.events.dropped))
        metrics.gauge("openruntime_shared_memory_bytes", "Shared memory in use.", lambda: float(self.pool.leased_bytes))
        metrics.gauge("openruntime_workers", "Workers that are up.", lambda: float(sum(slot.worker is not None for slot in slots)))

    def services(self, *, hosts: frozenset[str] | None = None) -> Services:
        """What the gateway needs. `hosts`: the names this server may be addressed by; None for any."""
        settings = self.settings
        limits = Limits(
            body_bytes=settings.body_limit, body_timeout=settings.body_timeout, longest_wait=settings.longest_wait,
            inline_elements=settings.inline_elements, websocket_queue=settings.websocket_queue, cors=settings.cors, hosts=hosts,
        )  # fmt: skip
        return Services(
            tasks=self.tasks, tensors=self.tensors, devices=self.devices, catalogue=self.catalogue, kernels=self.kernels, trials=self.trials,
            models=self.models, work=self.work, streams=self.streams, events=self.events, metrics=self.metrics, history=self.history,
            access=self.access, agents=self.agents,
            ready=self.not_ready, allocate=self.pool.allocate, limits=limits, version=version("openruntime"),
        )  # fmt: skip

    def not_ready(self) -> str | None:
        """Why no task can be taken now; None when one can."""
        if self.tasks.draining:
            return "shutting down"
        if not self.executor.workers.ready():
            return "no worker is up yet"
        if self.store.peers is not None and self.store.peers.trouble is not None:
            return self.store.peers.trouble
        draining = all(not self.devices.accepts(slot.device.id) for slot in self.executor.slots)
        return "every device is draining" if draining else None

    async def start(self) -> None:
        """Own the store, take up what waited there, start the warm worker."""
        self.io.start()
        self.executor.start()  # the worker comes up while the store is read
        self.operations.broken()  # the log says now which plugins cannot be used
        recovered = await self.store.open()
        self.devices.serve({task.lane for task in recovered})
        await self.learning.load()
        await self.kernels.load()
        await self.tasks.recover(recovered)
        if recovered:
            log.info("%d tasks were waiting and are taken up", len(recovered))
        start = asyncio.get_running_loop().create_task
        self._background = [
            start(self._find_backends(), name="backends"),
            start(self._keep_house(), name="housekeeping"),
            start(self._find_models(), name="models"),
            start(
                export_forever(self.metrics.snapshot, [*self._exporters, self.history, EventExporter(self.events)], self.settings.export_every),
                name="exporters",
            ),
        ]
        if self.store.peers is not None:
            self._background.append(start(self.kernels.follow(), name="kernels"))
            self._background.append(start(compare(self.model_backend, self.store.peers, self._heard), name="offered models"))

    async def ready(self, timeout: float = 60.0) -> None:
        """Wait until a worker can take tasks."""
        end = time.monotonic() + timeout
        while (reason := self.not_ready()) is not None:
            if time.monotonic() > end:
                raise TimeoutError(f"not ready after {timeout:g} s: {reason}")
            await asyncio.sleep(0.005)

    def drain(self, grace: float) -> None:
        """Accept nothing new from now on; what runs has `grace` seconds from now to end."""
        self.tasks.draining = True
        self._drained = time.monotonic() + grace

    async def stop(self) -> None:
        """Finish what runs within the grace, leave the rest in the store, end the workers."""
        if not self.tasks.draining:
            self.drain(self.settings.shutdown_grace)
        await self.agents.close()
        grace = self._drained - time.monotonic()
        await asyncio.gather(self.executor.drain(grace), self.io.drain(grace))
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.tasks.close()
        await self.io.stop()
        await self.executor.stop()
        await self.model_backend.close()
        await self.learning.save()
        await self.store.close()
        self.pool.close()

    async def _find_backends(self) -> None:
        """Take up every backend but NumPy: as it is remembered, else asked what it drives once the first worker is up."""
        names = self._backends
        remembered = RememberedReports(self.settings.cache_dir)
        reports = remembered.known(names)
        if unknown := [name for name in names if name not in {report.backend for report in reports}]:
            with contextlib.suppress(TimeoutError):
                await self.ready(FIRST_WORKER)
            reports += await remembered.learn(unknown)
            reports.sort(key=lambda report: names.index(report.backend))
        for report in reports:
            if report.failure is not None and report.extra is None:
                log.warning("%s", report.failure)
        self.devices.adopt([*reports, *kernel_workers(reports)])
        self.executor.add_slots()
        self.executor.wake()
        if self.settings.calibrate:
            await self.learning.calibrate(self.catalogue, self.runtimes, self.pool, lambda device: self.executor.calm(device) and not self.io.running)

    async def _find_models(self) -> None:
        """Read which models are here before somebody waits for it; what starts the server goes first."""
        with contextlib.suppress(TimeoutError):
            await self.ready(FIRST_WORKER)
        await asyncio.to_thread(self.models.list)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            self.pool.trim(32 << 20)
            try:
                await self.store.prune(time.time())
            except OpenRuntimeError as error:
                log.warning("housekeeping: %s", error)
            await self.learning.save()

    async def _replay(self, since: float, limit: int) -> list[AnyEvent] | None:
        """Events of before this start, made from the records; None where there are more than `limit`."""
        events: list[AnyEvent] = []
        cursor: str | None = None
        while True:
            tasks, cursor = await self.store.list(after=cursor, limit=500)
            for task in tasks:
                if task.created > since:
                    events.append(TaskQueued(task.created, 0, task.id, task.call.operation, task.tenant, task.priority))
                if task.status.ended and (task.finished or 0.0) > since:
                    events.append(finished(task))
            if len(events) > limit:
                return None
            if cursor is None or (tasks and tasks[-1].created < since - 86_400.0):
                return sorted(events, key=lambda event: event.time)


def optional_backends(settings: Settings) -> list[str]:
    """The libraries that may drive devices beside NumPy. Raises `InvalidParameter` for one that is not registered."""
    known = [name for name in BACKENDS.names() if name != "numpy"]
    wanted = known if settings.backends is None else [name for name in settings.backends if name != "numpy"]
    unknown = next((name for name in wanted if name not in known), None)
    if unknown is not None:
        raise InvalidParameter(f"`backends`: there is no backend {unknown!r}{nearest(unknown, known)}", field="backends")
    return wanted


def open_store(settings: Settings) -> Store:
    """The store that the settings name; nothing is read or written yet."""
    bounds: dict[str, Any] = {
        "queue_bound": settings.queue_bound, "queue_bytes": settings.queue_bytes, "history": settings.history_count,
        "history_age": settings.history_age, "history_bytes": settings.history_bytes, "result_ttl": settings.result_ttl,
        "inline_bytes": settings.inline_bytes,
    }  # fmt: skip
    if settings.store == "memory":
        return MemoryStore(**bounds)
    if settings.store == "sqlite":
        return SqliteStore(Path(settings.data_dir), **bounds)
    store: Store = STORES.load("redis")(settings.store, open_blobs(settings), **bounds)
    return store


def open_blobs(settings: Settings) -> CountedBlobs:
    """Where servers on one Redis keep large arrays. A folder goes without fsspec, which fsyncs nothing."""
    place = settings.blobs
    if place is not None and "://" in place and not place.startswith("file://"):
        shared: CountedBlobs = BLOBS.load("shared")(place)
        return shared
    return FileBlobs(settings.data_dir / "blobs" if place is None else Path(place.removeprefix("file://")).expanduser())


@asynccontextmanager
async def running(settings: Settings, models: ModelRepository | None = None) -> AsyncIterator[Runtime]:
    """A runtime from start to stop; its first worker is up inside. `models`, if not those of its repository."""
    runtime = Runtime(settings, models)
    await runtime.start()
    try:
        await runtime.ready()
        yield runtime
    finally:
        await runtime.stop()


@asynccontextmanager
async def embedded(data_dir: Path | None = None) -> AsyncIterator[Any]:
    """The ASGI app of a runtime inside this process; in memory unless given a data directory."""
    from openruntime.gateway.app import create_gateway

    flags: dict[str, object] = {"store": "memory"} if data_dir is None else {"store": "sqlite", "data_dir": str(data_dir)}
    async with running(Settings.load(flags)) as runtime:
        gateway = create_gateway(runtime.services())
        try:
            yield gateway
        finally:
            await gateway.close()
