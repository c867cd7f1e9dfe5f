"""The short way of a request: from the HTTP protocol to its handler and back, without ASGI's scope, task and messages.

For hot paths on kept connections, whose clients send the same header block again and again: a block is parsed once by httptools on the
ordinary way; the next request that carries it needs no parser. What the gateway must look at more closely goes the ordinary way.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, Protocol

from openruntime.contracts.payload import Buffer
from openruntime.contracts.records import LOCAL, Principal
from openruntime.gateway.exchange import Handler, Request, Response

LONGEST = 2048  # bytes of a header block that is remembered
MOST = 1024  # blocks


class Line(NamedTuple):
    """What a request line asks for."""

    text: bytes
    handler: Handler
    task_id: str = ""
    query: bytes = b""


class Gateway(Protocol):
    """What the protocol needs to answer directly."""

    def plain(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether nothing in these headers but what handlers read asks for anything."""

    def line(self, line: bytes) -> Line | None:
        """What a whole request line asks for, where that is a hot path."""

    async def respond(self, line: Line, request: Request) -> Response | None:
        """What to answer, refusals included; None where nobody is left."""


class Block(NamedTuple):
    headers: dict[bytes, bytes]
    length: int  # bytes of the body


class Blocks:
    """Header blocks by their bytes; remembered when they come a second time, so that those with an id of their own push out nothing."""

    def __init__(self) -> None:
        self._known: dict[bytes, Block] = {}
        self._seen: set[int] = set()
        self.get = self._known.get

    def learn(self, block: bytes, headers: Mapping[bytes, bytes], length: int) -> None:
        number = hash(block)
        if number not in self._seen:
            if len(self._seen) >= 4 * MOST:
                self._seen.clear()
            self._seen.add(number)
        elif len(block) <= LONGEST:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[block] = Block(dict(headers), length)


class Direct(Request):
    """A request on the short way. `answer(response)` is called once on the loop, unless `lost` came before."""

    __slots__ = ("_answer", "_left", "_lost", "_tasks")

    def __init__(
        self,
        request_id: str,
        headers: Mapping[bytes, bytes],
        line: Line,
        body: Buffer,
        answer: Callable[[Response | None], None],
        who: Principal = LOCAL,
    ) -> None:
        super().__init__(request_id, headers, line.query, body, task_id=line.task_id, who=who)
        self._answer = answer
        self._left: asyncio.Future[None] | None = None
        self._lost = False

    async def gone(self) -> None:
        if not self._lost:
            self._left = asyncio.get_running_loop().create_future()
            await self._left

    def lost(self) -> None:
        """The client went away."""
        self._lost = True
        if self._left is not None and not self._left.done():
            self._left.set_result(None)

    def start(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Response | None], tasks: set[asyncio.Task[Any]]) -> None:
        """`tasks`: what the server cancels when its grace is over. Until then it keeps hold of them, which the loop itself does not."""
        self._tasks = tasks
        task = loop.create_task(coroutine)
        tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Response | None]) -> None:
        self._tasks.discard(task)
        self._answer(None if task.cancelled() else task.result())
