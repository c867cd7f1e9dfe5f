"""The plugin surface and the seams between layers, on one screen. Built-in parts and plugins implement the same."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from openruntime.contracts.events import AnyEvent
from openruntime.contracts.payload import Array, Buffer, Reference
from openruntime.contracts.peers import Peers
from openruntime.contracts.records import ANY, Call, Filter, Principal, Probe, Result, Stacking, Task, Usage

if TYPE_CHECKING:
    from openruntime.contracts.models import ModelInfo, TaskRequest  # at run time pydantic would be a quarter of a worker's start


class ComputeBackend(ABC):
    """A library that drives one device. Lives in a worker; runs one call at a time.

    Constructed with `device=` (for example `cpu:0`) and `threads=`; on a device other than the processor also with `index=`, its own number
    for it as its `probe` told, and `memory=`, bytes of the device's memory that it may take (0: no bound). `name` is the backend's name.
    What it cannot do is data, so that it is refused before it is queued: `unsupported` is operation -> reason, `lacks` is dtype -> reason and
    what would be right, or `operation dtype` -> reason (`qr complex64`). `batches`: in which numbers alike calls may come as one, rising, where
    each is compiled anew; any if empty. `execute` raises `OutOfMemory` where memory was short, `WorkerCrashed` where nothing works any more.
    """

    name: str
    unsupported: ClassVar[Mapping[str, str]] = {}
    lacks: ClassVar[Mapping[str, str]] = {}
    batches: ClassVar[Sequence[int]] = ()

    @classmethod
    def probe(cls) -> Sequence[Probe]:
        """The devices of this machine that it can drive: the processor, unless a subclass knows better. Asked in a process of its own."""
        return (Probe(cls.name, "cpu"),)

    @abstractmethod
    async def execute(self, operation: str, params: dict[str, Any]) -> Result:
        """Run `operation`. Arrays come and go as `Array`; `params["steps"]`, if there, is a `Steps`."""

    @abstractmethod
    def get_capabilities(self) -> list[str]:
        """The operations it can run."""

    def trim(self) -> None:  # noqa: B027  # one without a pool has nothing to give back
        """Give back what the library's memory pool holds and nobody uses."""

    def stacking(self, operation: str, parameters: Mapping[str, Any]) -> Stacking | None:
        """How calls with parameters like these may come as one; None where each has to come by itself."""
        return None


class Meter(Protocol):
    """Reads the cards of one platform, without computing on them."""

    def usage(self, uuid: str | None, pci: str | None) -> Usage | None:
        """Memory and load of one card now; None for one that it does not know. Raises `Unavailable`."""


class Steps(Protocol):
    """Handed to operations that work in steps: reports progress, and raises `TaskCancelled` when asked to stop."""

    def __call__(self, done: int, total: int, message: str | None = None) -> None: ...


class AIModelAdapter(ABC):
    @abstractmethod
    async def generate(self, prompt: str, **kwargs: Any) -> str: ...

    @abstractmethod
    def get_model_info(self) -> "ModelInfo": ...


class MetricsExporter(ABC):
    @abstractmethod
    def export_metrics(self, metrics: dict[str, Any]) -> None: ...


class EventSink(Protocol):
    def publish(self, event: AnyEvent) -> None:
        """Hand an event up. Returns at once; never raises."""


class Catalogue(Protocol):
    """Everything that can be called by name: operations, kernels, models, and later pipelines."""

    def of(self, tenant: str) -> "Catalogue":
        """What this tenant can call: everybody's operations, and its own."""

    def names(self) -> Sequence[str]: ...

    def has(self, name: str) -> bool: ...

    def describe(self, name: str) -> dict[str, Any]:
        """`{"name", "family", "version", "summary", "doc", "parameters": JSON Schema, "outputs", "steps", "cacheable"}`.

        Raises `UnknownOperation`."""

    def bind(self, name: str, parameters: Mapping[str, Any], before: Call | None = None) -> Call:
        """Check names, types, shapes and dtypes. Arrays are `Array` (data not looked at); plain JSON elsewhere. What the name meant in a call
        bound `before`, while inputs were still to come, it means again.
        Raises `UnknownOperation`, or `InvalidParameter` naming the parameter."""

    def first_array(self, name: str) -> str:
        """The name of the operation's first array parameter: where an npy body goes. Raises `UnknownOperation`, `InvalidParameter`."""


class BlobStore(ABC):
    """Bytes under their SHA-256. A blob stays while a reference counts it, or for a grace period after it was written."""

    @abstractmethod
    async def write(self, data: Buffer, *, durable: bool) -> str:
        """The digest. `durable`: on disk, fsynced, before this returns. Raises `StorageFull`."""

    @abstractmethod
    async def read(self, digest: str) -> memoryview:
        """Raises `Expired` when it is gone."""


class Shelf(ABC):
    """Small values under (namespace, key), with arrays beside them; each expires. For cached results and kept tensors."""

    @abstractmethod
    async def put(
        self, namespace: str, key: str, meta: bytes, arrays: Mapping[str, Array], *, ttl: float, tenant: str, instead: bytes | None = None
    ) -> bool:
        """Kept for `ttl` seconds. Arrays over the inline limit go to blobs, fsynced before this returns. Raises `StorageFull`.

        `instead`: only in the place of an entry that still has this `meta`. False where that was not there any more."""

    @abstractmethod
    async def get(self, namespace: str, key: str) -> tuple[bytes, dict[str, Array]] | None:
        """Bytes of the arrays loaded. None when absent or expired."""

    @abstractmethod
    async def delete(self, namespace: str, key: str) -> bool: ...

    @abstractmethod
    async def items(self, namespace: str, *, tenant: str | None = None, after: str = "", limit: int = 100) -> list[tuple[str, bytes]]: ...

    @abstractmethod
    async def trim(self, namespace: str, *, max_bytes: int) -> int:
        """Drop expired entries, then the least recently used until `max_bytes` hold. The number dropped."""


class Store(ABC):
    """The task records and the queue they wait in. What returns from `submit(promised=True)` survives kill -9.

    One process owns an embedded store; its `Task` objects are the live ones, so callers hand the same object back. A store with `peers` is
    shared by several processes: there that holds for the tasks that this process submitted or holds.
    """

    blobs: BlobStore
    shelf: Shelf
    peers: Peers | None = None

    @abstractmethod
    async def open(self) -> list[Task]:
        """Take ownership, migrate, and put every task that was leased back into the queue. The recovered tasks, oldest first; none where
        the store has `peers`: what a dead process held goes back into the queue when its leases are over.

        Raises `Unavailable` with the way out: owned by another process, a newer schema, corrupt."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def submit(self, tasks: Sequence[Task], *, promised: bool) -> None:
        """Queue them, all or none. `promised`: on disk, inputs included, before this returns; else only in memory.

        A task whose `life` has ended already (a cache hit) is only recorded. A task with `needs` is recorded, not claimable.
        Raises `QueueFull` (bound reached), `StorageFull`, `KeyTaken` (another process was first), `Unavailable`: then it may be queued."""

    @abstractmethod
    async def keep(self, task: Task) -> None:
        """Make a task that was submitted without promise as durable as one with; returns when its state is on disk.

        That it ended, or is being cancelled (`open` answers it so again), is part of its state. Given a copy of a live task that has ended,
        that end is on disk before `finish` makes it known; waits until there is space. (Nothing to do where `finish` is on disk itself.)"""

    @abstractmethod
    async def requeue(self, task: Task) -> None:
        """Back into its lane (after a release, a retry, or when its `needs` are met); its `rank` is kept. Durable lazily."""

    @abstractmethod
    async def claim(self, lanes: Sequence[str], limit: int) -> list[Task]:
        """Take up to `limit` waiting tasks of these lanes, smallest rank first, out of the queue. Inputs are loaded by `load`."""

    @abstractmethod
    async def load(self, task: Task) -> dict[str, Any]:
        """The call's parameters with the bytes of every array at hand (blobs read)."""

    @abstractmethod
    async def finish(self, task: Task, attempt: int) -> bool:
        """Record an ended task (its `life`, `failure`, `outputs`). False, and nothing recorded, when `attempt` is stale.

        Large outputs may lose their bytes soon after, because others want the memory; `get` has them loaded.
        Does not wait for the disk unless the task is `kept` and somebody asks `settled`."""

    @abstractmethod
    async def remove(self, task: Task) -> bool:
        """Take a waiting task out of the queue (it was cancelled or is too late). False when it is no longer waiting."""

    @abstractmethod
    async def get(self, task_id: str) -> Task | None:
        """Live or from history; `outputs` with bytes loaded. A result older than its TTL has `outputs` None."""

    @abstractmethod
    async def find(self, tenant: str, idempotency: str) -> Task | None: ...

    @abstractmethod
    async def list(self, filter: Filter = ANY, *, after: str | None = None, limit: int = 50) -> tuple[list[Task], str | None]:
        """Newest first, without inputs and outputs; and the cursor for the next page, or None."""

    @abstractmethod
    def depths(self) -> dict[str, int]:
        """Waiting tasks by lane."""

    @abstractmethod
    def best(self, lanes: Sequence[str]) -> Task | None:
        """The task that `claim` would take first, as far as this process knows; left where it is."""

    @abstractmethod
    async def prune(self, now: float) -> int:
        """Drop history beyond its age, number and size; blobs nobody counts. The number of records dropped."""


class Tasks(Protocol):
    """The front door inside the process: what gateway, agents and kernels use. All raise the errors of `errors.py`."""

    async def submit(
        self, request: "TaskRequest", arrays: Mapping[str, Array] = ..., *, principal: Principal = ..., promised: bool = True,
        idempotency: str | None = None, cache: str = "", traceparent: str | None = None,
    ) -> Task:  # fmt: skip
        """Validate, look in the cache, queue. `arrays` are parameters that came as bytes. `promised`: durable before return.

        `cache` is the request's Cache-Control: `no-store` goes past the cache both ways, `no-cache` computes anew and keeps.
        `traceparent` is its W3C trace context, checked."""

    async def submit_many(
        self,
        requests: Sequence[tuple["TaskRequest", Mapping[str, Array]]],
        *,
        principal: Principal = ...,
        promised: bool = True,
        idempotency: str | None = None,
        cache: str = "",
        traceparent: str | None = None,
    ) -> Sequence[Task | Exception]:
        """One outcome for each request, in order; those accepted are made durable together, under one idempotency key."""

    async def keep(self, task: Task) -> None:
        """Promise a task that was submitted without: on disk before return."""

    async def wait(self, task: Task, seconds: float) -> bool:
        """Until the task ends or the time is over; whether it ended."""

    async def status(self, task_id: str, *, principal: Principal = ...) -> Task:
        """Raises `NotFound`."""

    async def result(self, task_id: str, *, principal: Principal = ...) -> Task:
        """A completed task with its outputs. Raises `NotFound`, `NotReady`, `Expired`, or the `TaskFailed` it ended with."""

    async def cancel(self, task_id: str, *, principal: Principal = ...) -> Task:
        """Ask it to stop; an ended task is returned unchanged. Raises `NotFound`."""

    async def list(
        self, filter: Filter = ANY, *, principal: Principal = ..., after: str | None = None, limit: int = 50
    ) -> tuple[Sequence[Task], str | None]:
        """The principal's own, whatever `filter` says of tenants; else as `Store.list`."""

    async def explain(self, task_id: str, *, principal: Principal = ...) -> dict[str, Any]: ...

    async def trace(self, task_id: str, *, principal: Principal = ...) -> Sequence[dict[str, Any]]: ...


class Tensors(Protocol):
    """Arrays that stay on the server under an id."""

    async def put(self, array: Array, *, principal: Principal = ..., ttl: float | None = None) -> dict[str, Any]:
        """`{"id", "dtype", "shape", "nbytes", "created_at", "expires_at"}`."""

    async def get(self, tensor_id: str, *, principal: Principal = ...) -> Array:
        """Raises `Expired` where its usual time to live is over by the age of its id, else `NotFound`."""

    async def delete(self, tensor_id: str, *, principal: Principal = ...) -> None: ...

    async def list(self, *, principal: Principal = ..., after: str = "", limit: int = 100) -> tuple[Sequence[dict[str, Any]], str | None]: ...

    async def resolve(self, reference: Reference, *, principal: Principal = ...) -> Array | Task:
        """The array a reference stands for, or the unfinished task that will make it."""


class Kernels(Protocol):
    """Kernels of the user's own. Each is shown as its `KernelSpec`'s fields, `version`, `signature`, `created_at` and `compiled`."""

    async def add(self, document: Any, *, principal: Principal = ..., replace: bool = True) -> dict[str, Any]:
        """Check, compile and keep one. One of that name is replaced (else `Conflict`), its `version` counted up where they differ.
        Raises `InvalidParameter` naming the field, `CompileError` with the log, `NoSuchDevice` where nothing here runs its language."""

    def list(self, *, principal: Principal = ...) -> Sequence[dict[str, Any]]:
        """Without their sources."""

    def get(self, name: str, *, principal: Principal = ...) -> dict[str, Any]:
        """Raises `NotFound`."""

    async def remove(self, name: str, *, principal: Principal = ...) -> None:
        """Tasks that were submitted before still run. Raises `NotFound`."""


class EventLog(EventSink, Protocol):
    """The event log as its readers see it."""

    def last(self) -> int:
        """The newest `seq`: reading `after` it yields only what is new."""

    def read(self, *, after: int | None, limit: int = 10_000) -> AsyncIterator[Sequence[AnyEvent]]:
        """Batches of events, for ever. Starts with what happened since `after`, or a `Gap` where that is no longer known.

        A reader that is behind by more than `limit` gets a `Gap` in place of what it missed. Never slows the writer."""


class Devices(Protocol):
    """The device manager as gateway and tasks see it."""

    def list(self) -> Iterable[dict[str, Any]]:
        """Each as `DeviceInfo` fields."""

    def get(self, device_id: str) -> dict[str, Any]:
        """`DeviceInfo` fields plus `load`, `workers`, `ceilings`. Raises `NotFound`."""

    def achieved(self, task: Task) -> dict[str, Any]:
        """`{"flops", "bytes", "gflops", "gbytes", "fraction", "bound", "reason"}` of its computing; null with the reason where not known."""

    def set_state(self, device_id: str, state: str) -> dict[str, Any]:
        """`ready` or `draining`. Raises `NotFound`, `InvalidParameter`."""

    def lane(self, preference: str | None, call: Call) -> str:
        """The lane for a binding preference, narrowed to what can run `call`.

        Raises `NoSuchDevice`, `UnsupportedOnDevice`, with what there is; `Unavailable` while it is not known yet."""

    def places(self, lane: str, operation: str) -> Iterable[tuple[str, str]]:
        """The (device, backend) pairs of a lane that run `operation`."""

    def backends(self) -> Iterable[dict[str, Any]]:
        """Each that is registered: `{"name", "status", "devices", "reason", "remedy", "unsupported", "lacks"}`."""

    async def found(self) -> None:
        """Wait, for some seconds at most, until every registered backend was asked which devices it drives."""
