"""One Redis for a module of tests, and gateways' stores on it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest

from benchmarks.redis_server import RedisServer, redis_server
from openruntime.stores.blobs import FileBlobs
from openruntime.stores.redis_store import RedisStore
from tests.conformance.redis_gateways import Heard, Opener


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def another(redis: RedisServer, tmp_path: Path) -> AsyncIterator[Opener]:
    """`await another(lease=0.4)`: one more process's store, with what it `heard`."""
    async with AsyncExitStack() as stack:

        async def another(**bounds: Any) -> RedisStore:
            store = RedisStore(redis.url, FileBlobs(tmp_path / "blobs"), prefix=sha1(str(tmp_path).encode()).hexdigest(), **bounds)
            store.heard = Heard()  # type: ignore[attr-defined]
            assert store.peers is not None
            store.peers.listen(store.heard)  # type: ignore[attr-defined]
            await store.open()
            stack.push_async_callback(store.close)
            return store

        yield another
