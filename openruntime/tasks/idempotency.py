"""The same key twice is the same task: what makes a client's retry safe."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from openruntime.contracts.errors import Conflict, InvalidRequest
from openruntime.contracts.models import TaskRequest
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Task

LONGEST_KEY = 255
ASIDE = 1 << 20  # bytes: above, hashing would keep the loop from others for longer than a thread costs
_canonical = msgspec.msgpack.Encoder(order="deterministic")


async def fingerprint(requests: Sequence[tuple[TaskRequest, Mapping[str, Array]]]) -> str:
    """A digest of everything that is asked for; a key may only be used again with the same. Large arrays are hashed in a thread."""
    large = sum(array.nbytes for _, arrays in requests for array in arrays.values()) > ASIDE
    return await asyncio.to_thread(_digest, requests) if large else _digest(requests)


def _digest(requests: Sequence[tuple[TaskRequest, Mapping[str, Array]]]) -> str:
    digest = hashlib.sha256()
    for request, arrays in requests:
        digest.update(_canonical.encode(request.model_dump()))
        for name, array in sorted(arrays.items()):
            digest.update(_canonical.encode([name, array.dtype, array.shape]))
            digest.update(array.view)
    return digest.hexdigest()


def member(task_id: str, index: int) -> str:
    """The id of the `index`-th task of the batch that `task_id` is of: only one carries the key, and all are found by it."""
    return f"{task_id[:-4]}{index:04x}"


class InFlight:
    """One submission a key at a time: a retry that overtakes the first waits for it, then finds its task."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, key: tuple[str, str]) -> AsyncIterator[None]:
        if not 0 < len(key[1]) <= LONGEST_KEY:
            raise InvalidRequest(f"Idempotency-Key must have 1 to {LONGEST_KEY} characters, and has {len(key[1])}", field="Idempotency-Key")
        lock, users = self._locks.get(key, (None, 0))
        lock = lock or asyncio.Lock()
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            _, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)

    @staticmethod
    def check(known: Task, fingerprint: str, key: str) -> None:
        """Raises `Conflict` when the key was used for another request."""
        if known.fingerprint != fingerprint:
            raise Conflict(
                f"Idempotency-Key {key!r} was used for another request (task {known.id}); use a new key for a new request", field="Idempotency-Key"
            )
