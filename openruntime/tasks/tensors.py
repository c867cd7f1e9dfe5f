"""Arrays that stay on the server under an id, so that they travel once; and what references in a request stand for."""

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from uuid_utils import uuid7

from openruntime.contracts.errors import DependencyFailed, Expired, InvalidParameter, NotFound
from openruntime.contracts.interfaces import Store
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.payload import Array, Reference
from openruntime.contracts.records import LOCAL, Principal, Task

NAMESPACE = "tensor"
_OURS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch  # a UUIDv7: it begins with its birth


class TensorRegistry:
    """Implements `Tensors`. `ttl` seconds and `max_bytes` bound what is kept; the least recently used go first."""

    def __init__(self, store: Store, status: Callable[..., Awaitable[Task]], *, ttl: float = 86_400.0, max_bytes: int = 8 << 30) -> None:
        self._shelf = store.shelf
        self._status = status
        self._ttl = ttl
        self._max_bytes = max_bytes

    async def put(self, array: Array, *, principal: Principal = LOCAL, ttl: float | None = None) -> dict[str, Any]:
        now, lifetime = time.time(), ttl or self._ttl
        tensor_id = str(uuid7())
        record = {
            "id": tensor_id, "dtype": array.dtype, "shape": list(array.shape), "nbytes": array.nbytes,
            "created_at": _rfc3339(now), "expires_at": _rfc3339(now + lifetime),
        }  # fmt: skip
        meta = msgspec.msgpack.encode([principal.tenant, record])
        await self._shelf.put(NAMESPACE, tensor_id, meta, {"tensor": array}, ttl=lifetime, tenant=principal.tenant)
        await self._shelf.trim(NAMESPACE, max_bytes=self._max_bytes)
        return record

    async def get(self, tensor_id: str, *, principal: Principal = LOCAL) -> Array:
        found = await self._shelf.get(NAMESPACE, tensor_id)
        if found is None or msgspec.msgpack.decode(found[0])[0] != principal.tenant:
            raise self._absent(tensor_id)
        return found[1]["tensor"]

    def _absent(self, tensor_id: str) -> NotFound | Expired:
        """Why there is no such tensor. Nothing is remembered of those that were: an id tells when it was made."""
        if _OURS(tensor_id):
            age = time.time() - int(tensor_id[:8] + tensor_id[9:13], 16) / 1000
            if age > self._ttl:
                return Expired(
                    f"tensor {tensor_id} has expired, if it was ever there: its id is {age:.0f} s old, and a tensor is kept for {self._ttl:g} s"
                    " unless its `ttl` says otherwise; send it again"
                )
        return NotFound(
            f"there is no tensor {tensor_id[:80]!r}; it was never there, was deleted, made room for newer ones,"
            f" or was kept for less than the usual {self._ttl:g} s"
        )

    async def delete(self, tensor_id: str, *, principal: Principal = LOCAL) -> None:
        await self.get(tensor_id, principal=principal)
        await self._shelf.delete(NAMESPACE, tensor_id)

    async def list(self, *, principal: Principal = LOCAL, after: str = "", limit: int = 100) -> tuple[Sequence[dict[str, Any]], str | None]:
        items = await self._shelf.items(NAMESPACE, tenant=principal.tenant, after=after, limit=limit)
        records = [msgspec.msgpack.decode(meta)[1] for _key, meta in items]
        return records, items[-1][0] if len(items) == limit else None

    async def resolve(self, reference: Reference, *, principal: Principal = LOCAL) -> Array | Task:
        if reference.tensor is not None:
            return await self.get(reference.tensor, principal=principal)
        task: Task = await self._status(reference.task, principal=principal)
        if not task.status.ended:
            return task
        return output_of(task, reference)


def output_of(task: Task, reference: Reference) -> Array:
    """The output an ended task gives for a reference. Raises `DependencyFailed`, `Expired`, `InvalidParameter`."""
    if task.status is not TaskStatus.COMPLETED:
        why = task.failure.message if task.failure else "it gave no result"
        raise DependencyFailed(f"task {task.id}, whose result was to be used, {task.status.value}: {why}")
    if task.outputs is None:
        raise Expired(f"the result of task {task.id} has expired")
    if reference.output is None and len(task.outputs) == 1:
        return next(iter(task.outputs.values()))
    if reference.output is None:
        raise InvalidParameter(f"task {task.id} has several outputs; name one as `output`: {', '.join(task.outputs)}", field="output")
    if reference.output not in task.outputs:
        raise InvalidParameter(f"task {task.id} has no output {reference.output!r}; it has {', '.join(task.outputs)}", field="output")
    return task.outputs[reference.output]


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
