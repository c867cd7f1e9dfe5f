"""The API's edge: what a client sends and reads as JSON. Records used inside stand in `records.py`."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from openruntime.contracts.status import TaskStatus as TaskStatus

Priority = Annotated[int, Field(ge=1, le=10, strict=True)]
Tag = Annotated[str, Field(min_length=1, max_length=100)]


class WorkflowType(StrEnum):
    CODE_GENERATION = "code_generation"
    SYSTEM_ANALYSIS = "system_analysis"
    COMPUTE_OPTIMIZATION = "compute_optimization"
    DEBUGGING = "debugging"
    MODEL_INFERENCE = "model_inference"


class DeviceInfo(BaseModel):
    """One piece of physical silicon. Memory in bytes; `utilization` is 0 to 1, null where it cannot be read."""

    id: str
    name: str
    type: str
    capabilities: list[str]
    memory_total: int
    memory_available: int
    status: str
    backends: list[str] = []
    slots: int = 1
    busy: int = 0
    queued: int = 0
    utilization: float | None = None


class TaskRequest(BaseModel):
    """A request to run an operation. Arrays in `parameters` are nested lists, `{"tensor": id}` or `{"task": id}`.

    So are the items of a list of arrays; they may also come each by its own name, as `arrays.0`, `arrays.1`, some of them as bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    operation: Annotated[str, Field(min_length=1, max_length=200)]
    parameters: dict[str, Any] = Field(default_factory=dict)
    device_preference: Annotated[str, Field(max_length=200)] | None = Field(
        None, description="A device (`cuda:0`), a kind (`gpu`), a backend (`torch`) or both (`cpu:0/torch`); binding. Absent or `auto`: open."
    )
    priority: Priority = Field(5, description="1 to 10; 10 runs first.")
    timeout: Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)] | None = Field(
        None, description="Seconds from submission to the end, queueing included; a task that can no longer make it is not started."
    )
    max_retries: Annotated[int, Field(ge=0, le=100, strict=True)] = Field(0, description="How often the operation's own failure is tried again.")
    # a factory: pydantic makes a deep copy of a mutable default, which costs 2 µs
    tags: Annotated[list[Tag], Field(max_length=50)] = Field(default_factory=list)
    cancel_on_disconnect: bool = Field(False, description="Cancel the task when the client that waits for it goes away.")


class Achieved(BaseModel):
    """How well a result used its device: FLOPs and bytes that its call is estimated to need, the rates in 1e9/s of computing it, and the
    fraction of what the roofline allows there (`bound` says by what: arithmetic or memory). Null with the reason where it is not known."""

    flops: float | None = None
    bytes: float | None = None
    gflops: float | None = None
    gbytes: float | None = None
    fraction: float | None = None
    bound: str | None = None
    reason: str | None = None


class TaskResponse(BaseModel):
    """What is known of a task. Times are RFC 3339 UTC; durations are seconds."""

    task_id: str
    status: TaskStatus
    result: dict[str, Any] | None = None
    error: str | None = None
    execution_time: float | None = None
    device_used: str | None = None
    code: str | None = None
    operation: str = ""
    backend: str | None = None
    priority: int = 5
    tags: list[str] = []
    attempt: int = 0
    progress: float | None = None
    message: str | None = None
    cached: bool = False
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    achieved: Achieved | None = None


class Problem(BaseModel):
    """RFC 9457 problem details; `code` is a stable word, `field` the offending part of the request.

    Of a `compile_error` also the compiler's `log`, and `lines` of the source that it names: `{"line", "column", "severity", "message"}`."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    field: str | None = None
    request_id: str | None = None
    log: str | None = None
    lines: list[dict[str, Any]] | None = None


class ModelInfo(BaseModel):
    """A model that can be served."""

    id: str
    name: str
    version: str = ""
    provider: str = ""
    context_length: int | None = None
    size: int | None = None
    license: str | None = None


class AIRequest(BaseModel):
    """A prompt for an agent, and the workflow that chooses which."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workflow: WorkflowType
    prompt: Annotated[str, Field(min_length=1, max_length=1_000_000)]
    parameters: dict[str, Any] | None = Field(
        None, description="`model`, `session` (to continue), `budget` (tokens, seconds, device_seconds, tasks), `seed`, and the agent's own."
    )
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = Field(2000, description="Of one answer of the model.")
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.7
