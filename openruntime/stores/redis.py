"""The way to Redis: whatever waits goes out as one pipeline, is sent again where that is safe, and errors come back as ours."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from time import monotonic
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as Dropped
from redis.exceptions import TimeoutError as TooSlow

from openruntime.contracts.errors import Internal, OpenRuntimeError, StorageFull, Unavailable

log = logging.getLogger(__name__)

PATIENCE = 2.0  # seconds a call is tried again before its caller hears of the trouble
FOREVER = math.inf
_SLOW = 10.0  # seconds without an answer after which a connection counts as lost
_FLIGHTS = 3  # pipelines under way; more waits gather in the next
_MOST = 256  # calls in one pipeline
_BACKOFF = (0.02, 0.05, 0.1, 0.2, 0.5)

Argument = str | bytes | int | float | memoryview


@cache
def scripts() -> dict[str, tuple[str, str]]:
    """Name -> the script's digest and source: `common.lua` stands behind the first line of each."""
    folder = files(__package__).joinpath("lua")
    common = folder.joinpath("common.lua").read_text()
    found = {}
    for file in folder.iterdir():
        name = file.name.removesuffix(".lua")
        if name != "common" and file.name.endswith(".lua"):
            flags, _, body = file.read_text().partition("\n")
            source = f"{flags}\n{common}{body}"
            found[name] = (sha1(source.encode()).hexdigest(), source)
    return found


async def stopped(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel them until they have ended: while a connection breaks, redis-py now and then swallows a cancellation."""
    given = list(tasks)
    left = {task for task in given if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.5)
    await asyncio.gather(*given, return_exceptions=True)


class _Call:
    __slots__ = ("answer", "command", "until")

    def __init__(self, command: tuple[Argument, ...], until: float, answer: asyncio.Future[Any]) -> None:
        self.command = command
        self.until = until
        self.answer = answer


class Link:
    """One server, one `prefix` of keys. `me` names this process in scripts."""

    def __init__(self, url: str, prefix: str, me: str) -> None:
        self.prefix = prefix
        self.me = me
        self.where = url.rpartition("@")[2] if "@" in url else url.partition("://")[2]  # without a password
        self._pool = BlockingConnectionPool.from_url(
            url, max_connections=16, timeout=_SLOW, socket_timeout=_SLOW, socket_connect_timeout=_SLOW, retry=Retry(NoBackoff(), 0)
        )
        self._client: Any = Redis(connection_pool=self._pool)
        self._waiting: deque[_Call] = deque()
        self._flights: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._failures = 0  # in a row
        self._closed = False
        self.trouble: str | None = None  # why Redis cannot be used now

    def key(self, name: str) -> str:
        return f"{self.prefix}:{name}"

    async def script(self, name: str, *arguments: Argument, patience: float = PATIENCE) -> Any:
        """What a script of `lua/` answers. Sent again for up to `patience` seconds after a dropped connection, so it must bear coming twice.

        Raises `StorageFull`, `Unavailable`."""
        return await self.command("EVALSHA", scripts()[name][0], 1, self.prefix, self.me, *arguments, patience=patience)

    def command(self, *command: Argument, patience: float = PATIENCE) -> asyncio.Future[Any]:
        """What a command answers; as `script`."""
        if self._closed:
            raise Unavailable(f"the store on {self.where} is closed", retry_after=1.0)
        call = _Call(command, monotonic() + patience, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)
        return call.answer

    async def open(self) -> None:
        """Raises `Unavailable` with the way out where this Redis cannot be used."""
        info = await self._ask("INFO", "server")
        found = str(info.get("redis_version", "0"))
        if int(found.partition(".")[0]) < 7:
            raise Unavailable(f"Redis {found} on {self.where} is too old: it must be 7.0 or newer")
        if info.get("redis_mode") == "cluster":
            raise Unavailable(f"{self.where} is a Redis Cluster, whose parts cannot hold one queue; use a single Redis (with replicas if you like)")
        await self._load()
        try:
            fsync, aof = [await self._client.config_get(name) for name in ("appendfsync", "appendonly")]
        except RedisError as error:
            log.info("Redis does not tell how it is configured (%s): see that it has `appendonly yes` and `appendfsync always`", error)
            return
        if aof.get("appendonly") != "yes" or fsync.get("appendfsync") != "always":
            log.warning(
                "Redis on %s has appendonly %s, appendfsync %s: what was acknowledged can be lost when it ends; set `appendonly yes` and"
                " `appendfsync always`", self.where, aof.get("appendonly"), fsync.get("appendfsync"),
            )  # fmt: skip

    async def close(self) -> None:
        self._closed = True
        await stopped(self._flights)
        for call in self._waiting:
            if not call.answer.done():
                call.answer.set_exception(Unavailable(f"the store on {self.where} is closed", retry_after=1.0))
                call.answer.exception()
        self._waiting.clear()
        await self._client.aclose()
        await self._pool.disconnect()

    async def hear(self, channel: str, joined: Callable[[], None]) -> AsyncIterator[bytes]:
        """What is published on a channel, for ever; `joined` is called after each connect, because what was said before was missed."""
        while True:
            try:
                async with self._client.pubsub() as subscription:
                    await subscription.subscribe(self.key(channel))
                    joined()
                    while True:
                        message = await subscription.get_message(ignore_subscribe_messages=True, timeout=None)
                        if message is not None:
                            yield message["data"]
            except (RedisError, OSError) as error:
                log.debug("news were interrupted: %s", error)
                await asyncio.sleep(0.1)

    async def stream(self, name: str, after: Callable[[], str]) -> AsyncIterator[Sequence[tuple[bytes, dict[bytes, bytes]]]]:
        """The entries of a stream behind `after()`, for ever, as they come."""
        while True:
            try:
                found = await self._client.xread({self.key(name): after()}, count=1000, block=int(_SLOW * 500))
            except (RedisError, OSError) as error:
                log.debug("the stream was interrupted: %s", error)
                await asyncio.sleep(0.1)
                continue
            if found:
                rows = found[0][1] if isinstance(found, list) else next(iter(found.values()))
                if rows and isinstance(rows[0], list):
                    rows = rows[0]
                yield rows

    async def _ask(self, *command: str) -> Any:
        end = monotonic() + 2 * PATIENCE
        while True:
            try:
                return await self._client.execute_command(*command)
            except (Dropped, TooSlow, OSError) as error:
                if isinstance(error, AuthenticationError) or (monotonic() > end and not isinstance(error, BusyLoadingError)):
                    raise Unavailable(f"Redis on {self.where} cannot be used: {error}; start it, or name another with --store") from error
                await asyncio.sleep(0.1)
            except RedisError as error:
                raise Unavailable(f"Redis on {self.where} refuses: {error}") from error

    async def _load(self) -> None:
        for _, source in scripts().values():
            await self._client.script_load(source)

    def _flush(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._flights) < _FLIGHTS:
            batch = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
            flight = asyncio.get_running_loop().create_task(self._send(batch))
            self._flights.add(flight)
            flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        if not flight.cancelled() and (error := flight.exception()) is not None:
            log.error("a defect on the way to Redis", exc_info=error)
        if self._waiting and not self._scheduled and not self._closed:
            self._flush()

    async def _send(self, batch: list[_Call]) -> None:
        try:
            pipeline = self._client.pipeline(transaction=False)
            for call in batch:
                pipeline.execute_command(*call.command)
            answers = await pipeline.execute(raise_on_error=False)
        except asyncio.CancelledError:
            self._waiting.extendleft(reversed(batch))  # closing: each is told
            raise
        except Exception as error:
            answers = [error] * len(batch)
        again: list[_Call] = []
        worst: Exception | None = None
        for call, answer in zip(batch, answers, strict=True):
            if call.answer.done():
                continue
            if not isinstance(answer, Exception):
                call.answer.set_result(answer)
            elif isinstance(answer, NoScriptError) or (_passing(answer) and monotonic() < call.until) or (_full(answer) and call.until == FOREVER):
                again.append(call)
                worst = worst or answer
            else:
                worst = answer if _passing(answer) else worst
                call.answer.set_exception(self._translate(answer))
        await self._recover(again, worst)

    async def _recover(self, again: list[_Call], worst: Exception | None) -> None:
        """After what went wrong for `again`; how Redis is doing."""
        if worst is None:
            if self.trouble is not None:
                log.info("Redis on %s can be used again", self.where)
            self._failures, self.trouble = 0, None
            return
        if isinstance(worst, NoScriptError):  # it was restarted, and scripts are not kept
            try:
                await self._load()
            except (RedisError, OSError) as error:
                worst = error
        if not isinstance(worst, NoScriptError):
            if self.trouble is None:
                log.warning("Redis on %s cannot be used: %s", self.where, worst)
            self.trouble = f"Redis on {self.where} cannot be used: {worst}"
            await self._pool.disconnect(inuse_connections=False)
            self._waiting.extendleft(reversed(again))
            again = []
            await asyncio.sleep(_BACKOFF[min(self._failures, len(_BACKOFF) - 1)])
            self._failures += 1
        self._waiting.extendleft(reversed(again))

    def _translate(self, error: Exception) -> OpenRuntimeError:
        text = str(error)
        if _full(error):
            return StorageFull(f"Redis on {self.where} has no space left ({text}); free some, or raise its `maxmemory`", retry_after=5.0)
        if _passing(error):
            return Unavailable(f"Redis on {self.where} cannot be used now ({text}); try again in a moment", retry_after=1.0)
        if isinstance(error, ResponseError):
            return Internal(f"Redis on {self.where} refuses: {text}")
        return Internal(f"Redis on {self.where}: {type(error).__name__}: {text}")


def _passing(error: Exception) -> bool:
    """Whether it may be over in a moment."""
    if isinstance(error, (Dropped, TooSlow, OSError, ReadOnlyError, BusyLoadingError)):
        return not isinstance(error, AuthenticationError)
    return str(error).startswith(("MASTERDOWN", "READONLY", "LOADING", "BUSY", "NOREPLICAS", "TRYAGAIN"))


def _full(error: Exception) -> bool:
    """Whether Redis refuses what needs memory or disk; other calls go on."""
    return isinstance(error, OutOfMemoryError) or str(error).startswith(("OOM", "MISCONF"))
