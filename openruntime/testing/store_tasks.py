"""Tasks for tests of stores, and what lifecycle and executor do with them."""

import os
from time import time
from typing import Any

import msgspec
from uuid_utils import uuid7

from openruntime.contracts.models import TaskStatus
from openruntime.contracts.payload import Array, Spec
from openruntime.contracts.records import Call, Estimate, Failure, Program, Task


def new_task(
    *, parameters: dict[str, Any] | None = None, lane: str = "any", priority: int = 5, operation: str = "expression", program: bytes = b"",
    **fields: Any,
) -> Task:  # fmt: skip
    """A queued task as the task manager makes one."""
    given = {"x": new_array(16)} if parameters is None else parameters
    call = Call(
        operation, 1, given, {"output": Spec("uint8", (16,))}, Estimate(1.0, 32.0, 32), program=Program("opencl", program) if program else None
    )
    now = time()
    fields = {"tenant": "local", "created": now, "rank": now - 30.0 * priority, **fields}
    return Task(str(uuid7()), call, lane=lane, priority=priority, **fields)


def new_array(size: int) -> Array:
    """`size` random bytes."""
    return Array("uint8", (size,), os.urandom(size))


def run(task: Task) -> int:
    """What the lifecycle does with a claimed task; its attempt."""
    task.life = msgspec.structs.replace(task.life, status=TaskStatus.RUNNING, attempt=task.life.attempt + 1)
    return task.life.attempt


def end(task: Task, status: TaskStatus = TaskStatus.COMPLETED, *, size: int = 16, at: float | None = None) -> Task:
    """What the executor records when a task ends."""
    task.life = msgspec.structs.replace(task.life, status=status)
    task.finished = time() if at is None else at
    task.device, task.backend, task.seconds = "cpu:0", "numpy", 0.25
    if status is TaskStatus.COMPLETED:
        task.outputs = {"output": new_array(size)}
    else:
        task.failure = Failure("operation_failed", "a singular matrix")
    return task


def same(left: Any, right: Any) -> bool:
    """Equality that looks at the bytes of arrays."""
    if isinstance(left, Array) and isinstance(right, Array):
        return (left.dtype, left.shape) == (right.dtype, right.shape) and bytes(left.view) == bytes(right.view)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)
