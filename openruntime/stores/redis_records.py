"""Tasks as the fields of a Redis hash, and back."""

import json
from collections.abc import Sequence
from time import time

import msgspec

from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Life, Task
from openruntime.stores.codec import bare, pack, result_bytes, task_of, unpack
from openruntime.stores.redis import Argument

_encode = msgspec.msgpack.Encoder().encode

_SHARED = tuple(name for name in Task.__struct_fields__ if name != "arrived")  # that is by a clock of this process

FIELDS = ("s", "a", "u", "m", "o", "d")  # what is read of a task; its inputs only where it is to run


class _Standing(msgspec.Struct, array_like=True):
    """What the holder of a running task says of it now and then."""

    status: TaskStatus
    device: str | None
    backend: str | None
    started: float | None
    progress: float | None
    message: str | None


_decode_standing = msgspec.msgpack.Decoder(_Standing).decode


def listed(blobs: Sequence[str]) -> str:
    return json.dumps(blobs) if blobs else ""


def record(task: Task) -> bytes:
    """Without inputs and outputs. Whoever submitted it announces it."""
    copy = bare(task)
    copy.announced = True
    return _encode(copy)


def submission(task: Task) -> tuple[Argument, ...]:
    """What `submit.lua` wants of a task."""
    ended = task.life.status.ended
    inputs, blobs = (b"", []) if ended else pack(task.call.parameters)
    outputs, made = pack(task.outputs) if ended and task.outputs is not None else (b"", [])
    state = "e" if ended else "h" if task.needs else "w"
    key = "" if task.idempotency is None else idempotency(task.tenant, task.idempotency)
    at = (task.finished or time()) if ended else 0.0
    return (
        task.id, state, task.lane, repr(task.rank), repr(task.predicted), record(task), inputs, outputs, listed(made if ended else blobs), key,
        repr(at), result_bytes(task),
    )  # fmt: skip


def idempotency(tenant: str, key: str) -> str:
    return f"{len(tenant)}:{tenant}:{key}"


def standing(task: Task) -> bytes:
    """What others see of a task that runs here; empty before it started, and once it ended, because that counts when it is recorded."""
    if task.life.status not in (TaskStatus.RUNNING, TaskStatus.CANCELLING):
        return b""
    return _encode(_Standing(task.life.status, task.device, task.backend, task.started, task.progress, task.message))


def read(fields: Sequence[bytes | None], result_ttl: float) -> Task | None:
    """A task from `FIELDS`; a result older than `result_ttl` seconds is left out."""
    state, attempt, _, meta, outputs, said = fields
    if meta is None or state is None:
        return None
    task = task_of(meta)
    if state == b"e":
        if outputs is not None and not (task.finished is not None and task.finished + result_ttl < time()):
            task.outputs = unpack(outputs)
        return task
    task.life = msgspec.structs.replace(task.life, status=TaskStatus.QUEUED, attempt=int(attempt or 0))
    if said is not None and state == b"l":
        told = _decode_standing(said)
        task.life = msgspec.structs.replace(task.life, status=told.status)
        task.device, task.backend, task.started, task.progress, task.message = (
            told.device, told.backend, told.started, told.progress, told.message,
        )  # fmt: skip
    return task


def become(task: Task, other: Task) -> None:
    """Take over everything that another process knows better, but inputs that only this one has at hand."""
    parameters = task.call.parameters
    for name in _SHARED:
        setattr(task, name, getattr(other, name))
    if parameters and not other.call.parameters and not other.life.status.ended:
        task.call = msgspec.structs.replace(task.call, parameters=parameters)


def claimed(task: Task, attempt: int) -> Task:
    """As a task stands when it was taken for the `attempt`th time, and the lifecycle has not counted that yet."""
    task.life = Life(TaskStatus.QUEUED, attempt - 1, task.life.failures, task.life.deaths)
    return task
