"""A task's record as the answer a client reads: JSON, safetensors or npy."""

from collections import OrderedDict
from datetime import UTC, datetime
from math import prod
from typing import Any

import msgspec

from openruntime.contracts import nested, npy, safetensors
from openruntime.contracts.ai import ANSWER, REQUIRES, answer_of
from openruntime.contracts.errors import Expired, NotAcceptable, TaskCancelled, TaskFailed, task_failure
from openruntime.contracts.interfaces import Devices, Tasks, Tensors
from openruntime.contracts.models import Achieved, TaskStatus
from openruntime.contracts.payload import Array, Buffer
from openruntime.contracts.records import Principal, Task
from openruntime.gateway.wire import NPY, SAFETENSORS, SPLIT

to_json = msgspec.json.Encoder().encode
SHORT = 50e-6  # seconds
_TOO_SHORT = msgspec.Raw(to_json(Achieved(reason="it took less than 50 µs, which is what calling takes; `explain` has the figures").model_dump()))
_REMEMBERED = 10_000  # results kept as tensors, so that polling does not keep them again


def describe(task: Task, result: dict[str, Any] | None = None, achieved: dict[str, Any] | msgspec.Raw | None = None) -> dict[str, Any]:
    """The fields of `TaskResponse`; as a plain dictionary because the model costs ten times as much to make."""
    failure = task.failure
    return {
        "task_id": task.id,
        "status": task.life.status,
        "result": result,
        "error": failure and failure.message,
        "execution_time": task.seconds,
        "device_used": task.device,
        "code": failure and failure.code,
        "operation": task.call.operation,
        "backend": task.backend,
        "priority": task.priority,
        "tags": task.tags,
        "attempt": task.life.attempt,
        "progress": task.progress,
        "message": task.message,
        "cached": task.cached,
        "created_at": datetime.fromtimestamp(task.created, UTC),
        "started_at": datetime.fromtimestamp(task.started, UTC) if task.started is not None else None,
        "finished_at": datetime.fromtimestamp(task.finished, UTC) if task.finished is not None else None,
        "achieved": achieved,
    }


def failed(task: Task) -> TaskFailed:
    """The error that an ended task without result is answered with."""
    if task.life.status is TaskStatus.CANCELLED:
        return TaskCancelled(task.failure.message if task.failure else f"task {task.id} was cancelled")
    code, message = (task.failure.code, task.failure.message) if task.failure else ("operation_failed", f"task {task.id} failed")
    return task_failure(code, message)


def _speaks(task: Task) -> bool:
    """Whether it is a model's, whose answer is JSON already."""
    return task.call.program is not None and task.call.program.requires.startswith(REQUIRES)


class Results:
    """Renders tasks. `inline`: elements up to which an array is nested lists in JSON; larger ones become tensors."""

    def __init__(self, tasks: Tasks, tensors: Tensors, devices: Devices, inline: int) -> None:
        self._tasks = tasks
        self._devices = devices
        self._tensors = tensors
        self._inline = inline
        self._kept: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()

    async def json(self, task: Task, principal: Principal) -> bytes:
        """A `TaskResponse`, its result included once completed and while it is there."""
        return to_json(await self.fields(task, principal))

    async def fields(self, task: Task, principal: Principal) -> dict[str, Any]:
        outputs = task.outputs
        if outputs is None:
            return describe(task, None, self._achieved(task))
        result: dict[str, Any] = {}
        if _speaks(task):
            whole = outputs if outputs[ANSWER].data is not None else await self.outputs(task, principal)
            return describe(task, {ANSWER: msgspec.Raw(answer_of(whole))}, self._achieved(task))
        for name, array in outputs.items():
            result[name] = nested.from_array(array) if self._fits(array) else await self._tensor(task, name, array, principal)
        return describe(task, result, self._achieved(task))

    async def outputs(self, task: Task, principal: Principal) -> dict[str, Array]:
        """The arrays of an ended task. Raises what it failed with, or `Expired`."""
        if task.life.status is not TaskStatus.COMPLETED:
            raise failed(task)
        found = task.outputs
        if found is None or any(array.data is None for array in found.values()):
            found = (await self._tasks.result(task.id, principal=principal)).outputs
        if found is None:
            raise Expired(f"the result of task {task.id} is no longer kept")
        return found

    async def encoded(self, task: Task, media: str, principal: Principal) -> tuple[bytes, list[Buffer]]:
        """Content type and body of an ended task. Raises what it failed with where arrays were asked for, or `NotAcceptable`."""
        if media in (SAFETENSORS, SPLIT):
            outputs = await self.outputs(task, principal)
            told = {"task": to_json(describe(task, None, self._achieved(task))).decode()}
            if _speaks(task):
                told[safetensors.JSON_OUTPUT] = ANSWER
            return b"application/x-safetensors", safetensors.encode(outputs, told, split=media == SPLIT)
        if media == NPY:
            outputs = await self.outputs(task, principal)
            if len(outputs) != 1:
                raise NotAcceptable(
                    f"npy holds one array, but {task.call.operation} has {len(outputs)} outputs ({', '.join(outputs)}); ask for {SAFETENSORS}",
                    field="Accept",
                )
            return b"application/x-npy", npy.encode(next(iter(outputs.values())))
        return b"application/json", [await self.json(task, principal)]

    def _achieved(self, task: Task) -> dict[str, Any] | msgspec.Raw | None:
        """How well a result used its device; of a short call, which is what the hot path is about, only that it is not worked out."""
        if task.life.status is not TaskStatus.COMPLETED:
            return None
        return _TOO_SHORT if task.seconds is not None and task.seconds < SHORT else self._devices.achieved(task)

    def forget(self, tensor_id: str) -> None:
        """A tensor was deleted: do not hand out its id again."""
        for key in [key for key, found in self._kept.items() if found["tensor"] == tensor_id]:
            del self._kept[key]

    def _fits(self, array: Array) -> bool:
        return prod(n or 1 for n in array.shape) <= self._inline and array.data is not None

    async def _tensor(self, task: Task, name: str, array: Array, principal: Principal) -> dict[str, Any]:
        found = self._kept.get((task.id, name))
        if found is None or (found["expires_at"] or "9") <= datetime.now(UTC).isoformat():
            if array.data is None:
                array = (await self.outputs(task, principal))[name]
            info = await self._tensors.put(array, principal=principal)
            found = {"tensor": info["id"], "dtype": array.dtype, "shape": array.shape, "expires_at": info.get("expires_at")}
            self._kept[task.id, name] = found
            if len(self._kept) > _REMEMBERED:
                self._kept.popitem(last=False)
        return {key: found[key] for key in ("tensor", "dtype", "shape")}
