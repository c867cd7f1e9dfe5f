"""Slim records used inside: msgspec structs, because a pydantic model costs ten times as much to make."""

from math import inf
from typing import Any

import msgspec

from openruntime.contracts.payload import Array, Spec
from openruntime.contracts.status import TaskStatus


class Principal(msgspec.Struct, frozen=True):
    """Who asks. `id` tells clients apart that have their fair share each; `expires` in seconds since the epoch."""

    id: str = "local"
    tenant: str = "local"
    scopes: frozenset[str] = frozenset({"*"})
    expires: float | None = None


LOCAL = Principal()


class Estimate(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a call is predicted to cost: floating-point operations, bytes moved, peak bytes held.

    Bytes moved are those that must go to and from memory: what a cache holds between two steps is not counted again.
    """

    flops: float = 0.0
    bytes: float = 0.0
    memory: int = 0


class Program(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a worker needs to run a call that is no operation: `source`, an encoded kernel, goes with the task and not into history."""

    requires: str  # what a backend must have among its operations
    source: bytes = b""


class Call(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An operation bound to checked parameters: arrays as `Array`, the rest plain JSON values, defaults left out."""

    operation: str
    version: int
    parameters: dict[str, Any]
    outputs: dict[str, Spec]
    estimate: Estimate
    cacheable: bool = True
    dtype: str = ""  # of the largest array: part of the cost model's key
    elements: int = 0  # of all array inputs and outputs: the size the cost model interpolates over
    others: tuple[str, ...] = ()  # further dtypes among its array inputs and outputs, sorted: a backend may lack one
    program: Program | None = None  # the same object for all its tasks

    @property
    def requires(self) -> str:
        """What a backend must have among its operations to run it, where that is not the operation's own name."""
        return self.program.requires if self.program is not None else ""

    @property
    def ability(self) -> str:
        """What a backend must have among its operations to run it."""
        return self.program.requires if self.program is not None else self.operation

    def forgotten(self) -> "Call":
        """What history keeps of it: neither inputs nor source."""
        return msgspec.structs.replace(self, parameters={}, program=Program(self.program.requires) if self.program is not None else None)


class Probe(msgspec.Struct, frozen=True):
    """A device as one backend sees it: `platform` and the backend's own number for it, `cpu` and 0 for the processor. Bytes.

    `uuid` and `pci` (bus id) as the driver spells them, None where it does not tell. With a `failure`: it is there, or its driver is, and the
    backend cannot use it; why, for a person.
    """

    backend: str
    platform: str
    index: int = 0
    name: str = ""
    memory_total: int = 0
    memory_available: int = 0
    uuid: str | None = None
    pci: str | None = None
    unified: bool = False
    utilization: float | None = None
    failure: str | None = None


class Usage(msgspec.Struct, frozen=True, gc=False):
    """A device's memory in bytes and its load, 0 to 1 (None where nobody tells), at one moment."""

    memory_total: int
    memory_available: int
    utilization: float | None = None


class Abilities(msgspec.Struct, frozen=True):
    """What a backend says of itself: the operations it runs, and why it does not run others or compute with some dtypes."""

    operations: frozenset[str]
    unsupported: dict[str, str] = {}
    lacks: dict[str, str] = {}


class Failure(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Why a task ended without a result: the stable code and the sentence a person reads."""

    code: str
    message: str
    retryable: bool = False


class Timings(msgspec.Struct, gc=False, omit_defaults=True):
    """Seconds on the machine's monotonic clock, which all processes share; 0 where a point was not passed.

    `transfer` and `compile` are how long those took between `started` and `finished`.
    """

    submitted: float = 0.0
    claimed: float = 0.0
    started: float = 0.0  # in the worker
    finished: float = 0.0  # outputs ready to travel
    received: float = 0.0
    transfer: float = 0.0
    compile: float = 0.0
    batch: tuple[int, int] | None = None  # it ran as one with others alike: how many they were, and which of them it was, from 1 on
    short: str | None = None  # where and how it ran out of memory before: it is tried elsewhere once


class Result(msgspec.Struct, frozen=True, gc=False):
    """What `ComputeBackend.execute` returns: named arrays (`output` where there is only one), and where the seconds went.

    `seconds` computing, `transfer` between the host's memory and the device's, `compile` where this call had to.
    """

    outputs: dict[str, Any]
    seconds: float = 0.0
    transfer: float = 0.0
    compile: float = 0.0


class Stacking(msgspec.Struct, frozen=True):
    """How calls that are alike but for their arrays' values become one call.

    `arrays`: the shape in which each of these is stacked; its first axis is multiplied by the number of calls. Arrays that are not named must be
    the same in all. `values`: other parameters that the stacked call has in place of the calls' own. `outputs` and `memory`: of one call.
    """

    arrays: dict[str, tuple[int, ...]]
    values: dict[str, Any]
    outputs: dict[str, Spec]
    memory: int


class Life(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Where a task stands: the state of the pure machine in `tasks/lifecycle.py`, and nothing else."""

    status: TaskStatus = TaskStatus.QUEUED
    attempt: int = 0  # claims so far; fences late results
    failures: int = 0  # of the operation itself
    deaths: int = 0  # workers that died under it


class Task(msgspec.Struct, gc=False, omit_defaults=True):
    """A task's record, shared by store, queue, executor and gateway of one process."""

    id: str
    call: Call
    tenant: str
    lane: str
    priority: int
    created: float  # seconds since the epoch
    rank: float  # arrival minus priority times a step: the smallest runs first, so age raises it
    deadline: float | None = None  # seconds since the epoch
    max_retries: int = 0
    tags: tuple[str, ...] = ()
    life: Life = Life()
    device: str | None = None
    backend: str | None = None
    started: float | None = None
    finished: float | None = None
    failure: Failure | None = None
    outputs: dict[str, Array] | None = None
    seconds: float | None = None
    progress: float | None = None
    message: str | None = None
    cached: bool = False
    announced: bool = False  # its first event is published
    kept: bool = False  # promised to a client: on disk before the client is told
    idempotency: str | None = None  # key, and digest of the request it was used with
    fingerprint: str | None = None
    needs: tuple[str, ...] = ()  # tasks whose outputs stand in the parameters as References
    predicted: float = 0.0
    placement: dict[str, Any] | None = None  # what `explain` shows: `reason` and `candidates`
    arrived: float = 0.0  # monotonic seconds, in this process
    timings: Timings | None = None  # from its first claim on: a hundred bytes that a waiting task need not have
    traceparent: str | None = None  # the checked header of the request that submitted it
    client: str = "local"  # whose fair share it counts on: the principal's id

    @property
    def status(self) -> TaskStatus:
        return self.life.status

    def left(self, now: float) -> float:
        """Seconds until its deadline at the monotonic moment `now`, because the time of day may have been set since it arrived."""
        return inf if self.deadline is None else self.arrived + self.deadline - self.created - now


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks a list shows: those that have all that is given."""

    tenant: str | None = None
    status: str | None = None
    operation: str | None = None
    device: str | None = None
    tag: str | None = None

    def matches(self, task: Task) -> bool:
        return (
            self.tenant in (None, task.tenant)
            and self.status in (None, task.life.status)
            and self.operation in (None, task.call.operation)
            and self.device in (None, task.device)
            and (self.tag is None or self.tag in task.tags)
        )


ANY = Filter()
