"""What models say while their tasks run, for those who follow: straight from the call, past the event bus."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec

from openruntime.contracts.ai import ANSWER, Completion, Delta, answer_of
from openruntime.contracts.errors import Unavailable
from openruntime.contracts.events import AnyEvent, TaskSaid
from openruntime.contracts.interfaces import EventSink, Tasks
from openruntime.contracts.records import LOCAL, Principal, Task

GATHER = 0.02  # seconds in which pieces gather before other gateways are told
FOREVER = 1e9  # seconds

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Delta]).decode
_answer = msgspec.json.Decoder(Completion).decode


class _Stream:
    """One task's pieces. `attempt` counts those who made the call; `whole` while no piece is missing."""

    __slots__ = ("attempt", "here", "pieces", "readers", "unsent", "waiting", "whole")

    def __init__(self) -> None:
        self.attempt = 0
        self.here = False  # the call is made in this process
        self.whole = True
        self.pieces: list[Delta] = []
        self.readers = 0
        self.unsent = 0  # pieces that other gateways do not have yet
        self.waiting: list[asyncio.Future[None]] = []

    def restart(self, attempt: int) -> None:
        self.attempt, self.pieces, self.unsent, self.whole = attempt, [], 0, True

    def news(self) -> None:
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        await future


class TaskStreams:
    """Implements `Streams`. `shared` where other gateways may follow what is said here; `tasks` is set by core, which needs this first."""

    tasks: Tasks

    def __init__(self, events: EventSink, *, shared: bool) -> None:
        self._events = events
        self._shared = shared
        self._streams: dict[str, _Stream] = {}

    # -- who makes the call ---------------------------------------------------------------------------------------------------

    def begin(self, task: Task) -> Callable[[Delta], None]:
        """A call begins; what takes its pieces."""
        stream = self._streams.get(task.id) or self._streams.setdefault(task.id, _Stream())
        stream.restart(task.life.attempt)
        stream.here = True

        def say(piece: Delta) -> None:
            stream.pieces.append(piece)
            if stream.waiting:
                stream.news()
            if self._shared and len(stream.pieces) == stream.unsent + 1:
                asyncio.get_running_loop().call_later(GATHER, self._tell, task, stream)

        return say

    def end(self, task: Task) -> None:
        """The call is over."""
        stream = self._streams.get(task.id)
        if stream is None:
            return
        if self._shared:
            self._tell(task, stream)
        stream.here = False
        if not stream.readers:
            del self._streams[task.id]

    def _tell(self, task: Task, stream: _Stream) -> None:
        """Tell other gateways what they do not have yet."""
        pieces = stream.pieces[stream.unsent :]
        if pieces and stream.here:
            said = TaskSaid(time.time(), 0, task.id, task.call.operation, task.tenant, stream.attempt, stream.unsent, _encode(pieces))
            stream.unsent = len(stream.pieces)
            self._events.publish(said)

    def heard(self, events: Sequence[AnyEvent]) -> None:
        """What another gateway's call says of a task that is followed here."""
        for event in events:
            if type(event) is not TaskSaid or (stream := self._streams.get(event.task_id)) is None or stream.here:
                continue
            if event.attempt != stream.attempt:
                stream.restart(event.attempt)
            if event.first == len(stream.pieces) and stream.whole:
                stream.pieces += _decode(event.pieces)
                stream.news()
            else:
                stream.whole = False  # it began before somebody followed here: the rest comes with its end

    # -- who follows ----------------------------------------------------------------------------------------------------------

    async def follow(self, task: Task) -> AsyncIterator[Delta]:
        """As `Streams` has it."""
        stream = self._streams.get(task.id) or self._streams.setdefault(task.id, _Stream())
        stream.readers += 1
        ended = asyncio.ensure_future(self.tasks.wait(task, FOREVER))
        ended.add_done_callback(lambda _: stream.news())
        attempt, said, text = stream.attempt, 0, ""
        calls: dict[int, str] = {}  # of each call of a tool that was begun, its arguments so far
        try:
            while True:
                if stream.attempt != attempt:
                    if said:
                        raise Unavailable(f"the answer broke off, and is begun again: task {task.id} has it when it ends", retry_after=1)
                    attempt = stream.attempt
                if said < len(stream.pieces):
                    piece = stream.pieces[said]
                    said += 1
                    text += piece.text
                    for call in piece.tool_calls:
                        index = call.get("index", len(calls))
                        calls[index] = calls.get(index, "") + (call.get("function", {}).get("arguments") or "")
                    yield piece
                elif ended.done():
                    break
                else:
                    await stream.wait()
            ended.result()
            whole = await self._whole(task)
            last = stream.pieces[said - 1] if said else None
            if last is None or last.finish is None:
                yield rest_of(whole, text, calls)
        finally:
            ended.cancel()
            stream.readers -= 1
            if not stream.readers and not stream.here and self._streams.get(task.id) is stream:
                del self._streams[task.id]

    async def _whole(self, task: Task) -> Completion:
        """The answer of an ended task. Raises what it failed with."""
        outputs = task.outputs
        if outputs is None or ANSWER not in outputs or outputs[ANSWER].data is None:
            who = LOCAL if task.tenant == LOCAL.tenant else Principal(tenant=task.tenant)
            outputs = (await self.tasks.result(task.id, principal=who)).outputs or {}
        return _answer(answer_of(outputs))


def rest_of(whole: Completion, text: str, calls: Mapping[int, str]) -> Delta:
    """What is left to say of an answer of which `text` is said, and the `calls` of tools as far as their arguments go."""
    rest: list[dict[str, Any]] = []
    same = whole.text.startswith(text) and all(index < len(whole.tool_calls) for index in calls)
    for index, call in enumerate(whole.tool_calls if same else ()):
        said, arguments = calls.get(index), call["function"]["arguments"]
        if said is None:
            rest.append({"index": index, **call})
        elif not arguments.startswith(said):
            same = False
        elif arguments != said:
            rest.append({"index": index, "function": {"arguments": arguments[len(said) :]}})
    if not same:
        raise Unavailable("the answer broke off, and was begun again; ask for the task's result", retry_after=0)
    return Delta(whole.text[len(text) :], rest, whole.finish, whole.usage)
