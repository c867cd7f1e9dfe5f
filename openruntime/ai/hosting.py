"""The models that are loaded: opened at first use, shared by all who ask, closed when idle or when memory is short."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from openruntime.contracts.ai import ModelSpec, TextModel
from openruntime.contracts.errors import InvalidParameter, OpenRuntimeError, OutOfMemory
from openruntime.contracts.records import LOCAL
from openruntime.contracts.registry import MODELS, Registry
from openruntime.models.gguf import read_header
from openruntime.models.weights import GGUF, SERVED

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between looks at who has been idle, and how much memory is taken
RESERVE = 0.05  # of the machine's memory that a model is not loaded into
OVERHEAD = 1.2  # memory a loaded model takes, over the size of its weights; that of its requests' contexts comes besides


class Host:
    """One version of a model. `users` now; `requests` in all; `used` is monotonic seconds."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.state = "closed"
        self.reason: str | None = None  # why it could not be opened
        self.adapter: TextModel | None = None
        self.users = 0
        self.requests = 0
        self.tenant: str | None = None  # whose the last request since it was opened was
        self.took = 0  # bytes, when it was used last
        self.used = time.monotonic()
        self.opening: asyncio.Task[None] | None = None
        self.closing: asyncio.Task[None] | None = None

    @property
    def local(self) -> bool:
        return local(self.spec)

    @property
    def died(self) -> bool:
        """Whether it had a process of its own, which is gone."""
        return self.local and getattr(self.adapter, "pid", 0) is None

    def bytes(self) -> int:
        return self.adapter.resident() if self.adapter is not None else 0

    def needs(self) -> int:
        """Bytes that it will take: by what it took before, else by its size and what its file says of a context's. Reads the file."""
        spec = self.spec
        if self.took or not self.local:
            return self.took
        contexts = 0
        if spec.source.lower().endswith(GGUF):
            with contextlib.suppress(OSError, InvalidParameter):  # its adapter says what is wrong with it
                context = int(spec.options.get("context") or spec.context_length or SERVED)
                contexts = read_header(Path(spec.source)).context_bytes(context) * max(1, spec.parallel)
        return int(spec.size * OVERHEAD) + contexts

    def describe(self) -> dict[str, Any]:
        """`bytes` of main memory; what an engine that was built for a GPU takes there, no engine says in a way that could be told apart."""
        return {
            "model": self.spec.id, "adapter": self.spec.adapter, "state": self.state, "pid": getattr(self.adapter, "pid", None),
            "bytes": self.bytes(), "gpu_bytes": None, "requests": self.users, "requests_total": self.requests, "reason": self.reason,
        }  # fmt: skip


class Hosting:
    """`idle` seconds without a request after which a model is closed; `memory`: bytes that all may take together (0: no bound).

    `available()` are the machine's free bytes, of `total`. `verify(spec)` raises where the weights are not what they should be.
    """

    def __init__(
        self, *, idle: float, memory: int, available: Callable[[], int], total: int, verify: Callable[[ModelSpec], Awaitable[None]] | None = None,
        adapters: Registry = MODELS,
    ) -> None:  # fmt: skip
        self._idle = idle
        self._memory = memory
        self._available = available
        self._total = total
        self._verify = verify
        self._adapters = adapters
        self._hosts: dict[str, Host] = {}
        self._replaced: set[Host] = set()  # other weights have their name now; they close when their last request ends
        self._freed = asyncio.Event()
        self._loading = asyncio.Lock()  # one at a time: what the next needs is judged when this one has what it takes
        self._watching: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.loads = 0
        self.unloads = 0

    def list(self) -> list[Host]:
        return [*self._hosts.values(), *self._replaced]

    def uses(self, spec: ModelSpec) -> bool:
        """Whether a request is answered with it now."""
        host = self._hosts.get(spec.id)
        return host is not None and host.users > 0

    async def enter(self, spec: ModelSpec, tenant: str = LOCAL.tenant) -> tuple[Host, TextModel, float]:
        """The adapter, open, and the seconds that waiting for that took. Each `enter` that returned has its `leave`.

        Raises `OutOfMemory`, `MissingExtra`, and what the adapter's `open` does."""
        host = self._hosts.get(spec.id)
        if host is None or host.spec != spec:  # the repository has other weights under the name now
            if host is not None:
                self._replaced.add(host)
                if not host.users:
                    self._close(host)
            host = self._hosts[spec.id] = Host(spec)
        host.users += 1
        host.requests += 1
        host.used = time.monotonic()
        try:
            waited = 0.0
            if host.state == "ready" and host.died:
                host.state = "closed"  # what killed it may be the lack of memory: it is loaded as for the first time
            if host.state != "ready":
                waited = await self._opened(host)
            assert host.adapter is not None
            host.adapter.mixed |= host.tenant not in (None, tenant)
            host.tenant = tenant
            return host, host.adapter, waited
        except BaseException:
            self.leave(host)
            raise

    def leave(self, host: Host) -> None:
        host.users -= 1
        host.used = time.monotonic()
        host.took = host.bytes() or host.took
        if not host.users:
            self._freed.set()
            if host in self._replaced:
                self._close(host)

    async def close(self) -> None:
        """Close them all."""
        if self._watching is not None:
            self._watching.cancel()
        for host in self.list():
            self._close(host)
        await asyncio.gather(*self._closing, return_exceptions=True)

    # -- opening --------------------------------------------------------------------------------------------------------------

    async def _opened(self, host: Host) -> float:
        began = time.monotonic()
        if host.closing is not None:
            await asyncio.shield(host.closing)
        if host.state != "ready" and (host.opening is None or host.opening.done()):
            host.opening = asyncio.get_running_loop().create_task(self._open(host))
            host.opening.add_done_callback(_seen)
        if host.opening is not None:
            await asyncio.shield(host.opening)  # who goes away leaves it to those who wait too, and to the next
        return time.monotonic() - began

    async def _open(self, host: Host) -> None:
        host.state, host.reason = "loading", None
        began = time.monotonic()
        try:
            if host.adapter is None:
                made = await asyncio.to_thread(self._adapters.load, host.spec.adapter)  # importing it must not hold up the loop
                host.adapter = made(host.spec)
            if host.local:
                await self._load(host, host.adapter)
            else:
                await host.adapter.open()
        except BaseException as error:
            host.state = "failed"
            host.reason = error.message if isinstance(error, OpenRuntimeError) else type(error).__name__
            raise
        host.state, host.used = "ready", time.monotonic()
        host.tenant, host.adapter.mixed = None, False
        if host.local:
            self.loads += 1
            log.info("the model %s is loaded after %.2f s", host.spec.id, time.monotonic() - began)
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="models")

    async def _load(self, host: Host, adapter: TextModel) -> None:
        """When there is memory for it: idle ones are closed for that, those at work are waited for. Raises `OutOfMemory`."""
        if self._verify is not None:
            await self._verify(host.spec)
        needed = await asyncio.to_thread(host.needs)
        if self._memory and needed > self._memory:
            raise OutOfMemory(f"{host.spec.id} needs about {needed} bytes, and models may take {self._memory} together (the setting `model_memory`)")
        while True:
            self._freed.clear()
            async with self._loading:
                while self._short(needed) and (idle := self._to_close(host, needed)) is not None:
                    await asyncio.shield(self._close(idle))
                if not self._short(needed):
                    await adapter.open()
                    return
            if not any(other.bytes() or other.state == "closing" for other in self.list() if other is not host):
                raise OutOfMemory(f"{host.spec.id} needs about {needed} bytes, and the machine has {self._available()} free")
            with contextlib.suppress(TimeoutError):  # meanwhile others may load what there is room for
                await asyncio.wait_for(self._freed.wait(), LOOK)

    def _to_close(self, host: Host, needed: int) -> Host | None:
        """The one used longest ago, unless closing them all would not do for as long as others work."""
        others = [other for other in self.list() if other is not host and other.local]
        idle = sum(other.bytes() for other in others if not other.users)
        useful = not self._short(needed, idle) or not any(other.users for other in others)
        return self._longest_idle(host) if useful else None

    def _over(self, needed: int) -> bool:
        return bool(self._memory) and sum(host.bytes() for host in self.list()) + needed > self._memory

    def _short(self, needed: int, freed: int = 0) -> bool:
        return bool(needed) and (self._over(needed - freed) or self._available() + freed < needed + self._total * RESERVE)

    def _longest_idle(self, other: Host | None = None) -> Host | None:
        idle = [host for host in self.list() if host is not other and host.local and host.state == "ready" and not host.users]
        return min(idle, key=lambda host: host.used, default=None)

    # -- closing --------------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(LOOK, max(0.05, self._idle / 4)))
            now = time.monotonic()
            for host in self.list():
                if host.state == "ready" and not host.users and now - host.used > self._idle:
                    self._close(host)
            if self._over(0) or (self._available() < self._total * RESERVE and any(host.bytes() for host in self.list())):
                idle = self._longest_idle()
                if idle is not None:
                    log.info("memory is short: the model %s is unloaded", idle.spec.id)
                    self._close(idle)

    def _close(self, host: Host) -> asyncio.Task[None]:
        if host.closing is None:
            loaded, host.state = host.state == "ready", "closing"  # from now on nobody enters
            host.closing = asyncio.get_running_loop().create_task(self._closed(host, loaded))
            self._closing.add(host.closing)
            host.closing.add_done_callback(self._closing.discard)
        return host.closing

    async def _closed(self, host: Host, loaded: bool) -> None:
        try:
            if host.opening is not None and not host.opening.done():
                host.opening.cancel()
                await asyncio.gather(host.opening, return_exceptions=True)
            if host.adapter is not None:
                await host.adapter.close()
        except Exception as error:
            log.warning("the model %s could not be closed: %s", host.spec.id, error)
        finally:
            host.state, host.closing = "closed", None
            self._replaced.discard(host)
            if loaded and host.local:
                self.unloads += 1
            self._freed.set()


def local(spec: ModelSpec) -> bool:
    """Whether its weights are on this machine; else it is reached over the network."""
    return bool(spec.source) and "://" not in spec.source


def _seen(opening: asyncio.Task[None]) -> None:
    """Who asked for it may have gone away; its error is told to those who did not."""
    if not opening.cancelled():
        opening.exception()
