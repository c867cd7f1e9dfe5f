"""Results kept on disk under what they were computed from; the same call is answered without touching a device."""

import asyncio
import hashlib
import math
from collections.abc import Callable, Coroutine, Mapping

import msgspec

from openruntime.contracts.interfaces import Store
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Call, Task

NAMESPACE = "result"
HASH_RATE = 1.0e9  # bytes a second, sha256 on one core: what a lookup costs against what it saves
LOOKUP = 1e-3  # seconds: a read of the shelf, and its share of the writes
_canonical = msgspec.msgpack.Encoder(order="deterministic")


def _whole(task: Task) -> Mapping[str, Array]:
    return task.outputs or {}


def _for_ever(task: Task) -> float:
    return math.inf


class ResultCache:
    """Key: tenant, operation and version, program, parameters, digests of the inputs; the lane too where the device was binding.

    `kept(task)`: its outputs as they are to be answered next time. `lasts(task)`: seconds that they hold; kept for `ttl` at most.
    """

    def __init__(
        self, store: Store, *, enabled: bool = True, ttl: float = 86_400.0, max_bytes: int = 1 << 30,
        kept: Callable[[Task], Mapping[str, Array]] = _whole, lasts: Callable[[Task], float] = _for_ever,
    ) -> None:  # fmt: skip
        self._shelf = store.shelf
        self._enabled = enabled
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._unsized = 0  # bytes put since the last trim
        self._kept = kept
        self._lasts = lasts
        self._writing: dict[str, tuple[dict[str, object], dict[str, Array]]] = {}  # on their way to disk, and answering already
        self.hits = 0
        self.misses = 0

    def worth(self, call: Call, predicted: float) -> bool:
        """Whether computing is predicted to take longer than hashing the inputs and looking."""
        if not self._enabled or not call.cacheable or predicted < LOOKUP:
            return False
        inputs = _bytes(call)
        return predicted > LOOKUP + inputs / HASH_RATE

    async def key(self, call: Call, tenant: str, lane: str) -> str:
        """Hashes in a thread where the inputs are large."""
        inputs = _bytes(call)
        return _digest(call, tenant, lane) if inputs < 1 << 16 else await asyncio.to_thread(_digest, call, tenant, lane)

    async def get(self, key: str) -> tuple[dict[str, object], dict[str, Array]] | None:
        """What was kept beside the outputs (`device`, `backend`, `seconds`), and the outputs."""
        writing = self._writing.get(key)
        if writing is not None:
            self.hits += 1
            return writing
        found = await self._shelf.get(NAMESPACE, key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        meta, outputs = found
        return msgspec.msgpack.decode(meta), outputs

    def put(self, key: str, task: Task) -> Coroutine[None, None, None]:
        """Keep a finished task's outputs: at hand from now on, on disk when what is returned was awaited."""
        outputs = dict(self._kept(task))
        self._writing[key] = _meta(task), outputs
        return self._put(key, task, outputs)

    async def _put(self, key: str, task: Task, outputs: dict[str, Array]) -> None:
        size = sum(array.nbytes for array in outputs.values())
        try:
            if not outputs or size > self._max_bytes / 4:
                return
            ttl = min(self._ttl, self._lasts(task))
            await self._shelf.put(NAMESPACE, key, msgspec.msgpack.encode(_meta(task)), outputs, ttl=ttl, tenant=task.tenant)
        finally:
            self._writing.pop(key, None)
        self._unsized += size
        if self._unsized > self._max_bytes / 16:
            self._unsized = 0
            await self._shelf.trim(NAMESPACE, max_bytes=self._max_bytes)


def _bytes(call: Call) -> int:
    """Of the inputs, which are what is hashed."""
    size = 0
    for value in call.parameters.values():
        if type(value) is Array:
            size += value.nbytes
        elif type(value) is list:
            size += sum(item.nbytes for item in value if type(item) is Array)
    return size


def _meta(task: Task) -> dict[str, object]:
    return {"device": task.device, "backend": task.backend, "seconds": task.seconds}


def _digest(call: Call, tenant: str, lane: str) -> str:
    digest = hashlib.sha256()
    scalars = {name: value for name, value in call.parameters.items() if type(value) is not Array}
    source = call.program.source if call.program is not None else b""
    digest.update(_canonical.encode([tenant, call.operation, call.version, "" if lane == "any" else lane]) + source)
    arrays = {}
    for name, value in sorted(call.parameters.items()):
        if type(value) is Array:
            arrays[name] = [value.dtype, value.shape, value.blob or hashlib.sha256(value.view).hexdigest()]
        elif type(value) is list and value and type(value[0]) is Array:
            scalars[name] = [[a.dtype, a.shape, a.blob or hashlib.sha256(a.view).hexdigest()] for a in value]
    digest.update(_canonical.encode([scalars, arrays]))
    return digest.hexdigest()
