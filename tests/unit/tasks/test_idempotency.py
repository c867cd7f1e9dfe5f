"""What a key may be used again with."""

import threading
from typing import Any

import pytest

from openruntime.contracts.models import TaskRequest
from openruntime.contracts.payload import Array
from openruntime.tasks import idempotency
from openruntime.tasks.idempotency import ASIDE, fingerprint


def asked(size: int, **fields: Any) -> list[tuple[TaskRequest, dict[str, Array]]]:
    return [(TaskRequest(operation="sum", **fields), {"x": Array("uint8", (size,), bytes(size))})]


@pytest.mark.parametrize("size", [10, ASIDE + 1])
async def test_a_fingerprint_tells_requests_apart(size: int) -> None:
    assert await fingerprint(asked(size)) == await fingerprint(asked(size))
    assert len({await fingerprint(asked(*of)) for of in ((size,), (size + 1,))} | {await fingerprint(asked(size, priority=9))}) == 3


async def test_large_bodies_are_hashed_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed, threads = idempotency._digest, []

    def digest(requests: Any) -> str:
        threads.append(threading.current_thread() is threading.main_thread())
        return hashed(requests)

    monkeypatch.setattr(idempotency, "_digest", digest)
    for size in (ASIDE, ASIDE + 1):
        await fingerprint(asked(size))
    assert threads == [True, False]
