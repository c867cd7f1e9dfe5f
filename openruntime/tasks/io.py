"""The executor of calls that only wait here: claims the lanes of models, as many at a time as each takes, and cancels what is to stop.

Each call is an asyncio task of its own; a compute task never comes here. See `docs/decisions/model-calls-in-the-gateway.md`.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from openruntime.contracts.ai import LANE, REQUIRES, SAY, TENANT, Delta
from openruntime.contracts.errors import Internal, OpenRuntimeError, OperationFailed, StorageFull, TaskFailed, Unavailable, WorkerCrashed
from openruntime.contracts.events import TaskProgressed
from openruntime.contracts.interfaces import EventSink, Store
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Failure, Result, Task, Timings
from openruntime.tasks.ends import about
from openruntime.tasks.lifecycle import Event
from openruntime.tasks.outcomes import Outcomes
from openruntime.tasks.queue import TaskQueue
from openruntime.tasks.slots import STOP_GRACE
from openruntime.tasks.streams import TaskStreams

log = logging.getLogger(__name__)

PAUSE = 0.1  # seconds before trying again what could not be done
TELL = 0.25  # seconds between two words on the event bus about one answer's progress
BACKOFF, LONGEST = 0.5, 30.0  # seconds before a first retry, doubled for each further one, and at most


class Place(NamedTuple):
    """Where the calls of one ability are made, and why there."""

    device: str
    backend: str
    reason: str


class Calls(Protocol):
    """What the calls are made with; `ability` is what `Call.requires` names."""

    async def execute(self, operation: str, params: dict[str, Any]) -> Result:
        """As `ComputeBackend.execute`; `params[SAY]` takes the pieces of the answer as they come, `params[TENANT]` is whose it is.

        Cancelled, it computes no more soon."""

    def seats(self, ability: str) -> int:
        """Calls at the same time; 0 leaves them for others."""

    def place(self, ability: str) -> Place:
        """Raises `ModelNotFound`."""


class Seat:
    """A call under way. Implements `Holder`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.asked = False  # to stop
        self.pieces = 0
        self.told = 0.0  # monotonic: the last word about its progress
        self._call: asyncio.Task[Any] | None = None
        self._overdue: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop(self, task: Task, *, runs: bool) -> None:
        self.asked = True
        if self._call is not None:
            self._call.cancel()
            asyncio.get_running_loop().call_later(STOP_GRACE, self._give_up)

    async def run(self, call: asyncio.Task[Any]) -> bool:
        """Wait for `call` to end; false where it was asked to and did not, and is left to itself."""
        self._call = call
        if self.asked:
            call.cancel()
        try:
            await asyncio.wait((call, self._overdue), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # this server stops; the task is taken up after its next start
            call.cancel()
            await asyncio.wait((call,), timeout=STOP_GRACE)
            raise
        finally:
            self._call = None
        return call.done()

    def _give_up(self) -> None:
        if not self._overdue.done():
            self._overdue.set_result(None)


class IoExecutor:
    """`lanes` are those that tasks were put into, growing; at most `total` calls run at once."""

    def __init__(
        self, queue: TaskQueue, store: Store, events: EventSink, outcomes: Outcomes, calls: Calls, streams: TaskStreams, *,
        lanes: Sequence[str], total: int = 64,
    ) -> None:  # fmt: skip
        self._queue = queue
        self._store = store
        self._events = events
        self._outcomes = outcomes
        self._calls = calls
        self._streams = streams
        self._lanes = lanes
        self._total = total
        self._seats: dict[str, int] = {}  # lane -> taken
        self._serving: dict[str, asyncio.Task[None]] = {}  # by task id
        self._wake = asyncio.Event()
        self._pumping: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def running(self) -> int:
        """Calls that run now."""
        return sum(self._seats.values())

    def start(self) -> None:
        self._pumping = asyncio.get_running_loop().create_task(self._pump(), name="io")

    def wake(self) -> None:
        """There may be work."""
        if self._queue.best(self._lanes) is not None:
            self._wake.set()

    async def drain(self, grace: float) -> None:
        """Take nothing new; wait up to `grace` seconds for what runs; what is left stays in the store."""
        self._stopping = True
        if self._serving and grace > 0:
            await asyncio.wait(list(self._serving.values()), timeout=grace)

    async def stop(self) -> None:
        self._stopping = True
        left = [*self._serving.values(), *filter(None, [self._pumping])]
        for serving in left:
            serving.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    # -- claiming -------------------------------------------------------------------------------------------------------------

    async def _pump(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while not self._stopping and (lanes := self._open()) and self._queue.best(lanes) is not None:
                    claimed = await self._queue.claim(lanes, 1)
                    if not claimed:
                        break
                    for task in claimed:
                        await self._take(task)
            except (StorageFull, Unavailable) as error:
                log.warning("nothing can be claimed now: %s", error)
                asyncio.get_running_loop().call_later(PAUSE, self.wake)
            except Exception:
                log.exception("the executor of models met a defect; it goes on")
                asyncio.get_running_loop().call_later(PAUSE, self.wake)

    def _open(self) -> list[str]:
        """The lanes that have a free seat."""
        if self.running >= self._total:
            return []
        return [lane for lane in self._lanes if self._seats.get(lane, 0) < self._calls.seats(ability(lane))]

    async def _take(self, task: Task) -> None:
        if task.left(time.monotonic()) <= 0:
            await self._outcomes.interrupt(task, Event.EXPIRED)
            return
        self._outcomes.watch_deadline(task)  # it may have been submitted elsewhere
        seat = self._outcomes.where[task.id] = Seat(task)
        self._seats[task.lane] = self._seats.get(task.lane, 0) + 1
        serving = self._serving[task.id] = asyncio.get_running_loop().create_task(self._serve(seat, task.lane), name=f"io {task.id}")
        serving.add_done_callback(lambda ended: self._served(task.id, ended))

    def _served(self, task_id: str, serving: asyncio.Task[None]) -> None:
        self._serving.pop(task_id, None)
        if not serving.cancelled() and (error := serving.exception()) is not None:
            log.error("the store was not told how task %s ended", task_id, exc_info=None if isinstance(error, OpenRuntimeError) else error)
        self.wake()

    # -- one call -------------------------------------------------------------------------------------------------------------

    async def _serve(self, seat: Seat, lane: str) -> None:
        """From the claim to the end."""
        task, end = seat.task, None
        try:
            try:
                end = await self._end(seat)
            except Exception as error:
                end = self._failed(task, error)
            finally:
                self._seats[lane] -= 1
                self.wake()
            if end is not None and end.pause:  # its seat is another's meanwhile
                await seat.run(asyncio.ensure_future(asyncio.sleep(end.pause)))
                if seat.asked:
                    end = End(Event.STOPPED)
        finally:
            self._outcomes.where.pop(task.id, None)
            self._streams.end(task)
        if end is not None:
            await self._outcomes.settle(task, end.event, end.failure)

    async def _end(self, seat: Seat) -> "End | None":
        """Make the call. None where the task ended before it began."""
        task = seat.task
        claimed = time.monotonic()
        task.timings = timings = Timings(min(claimed, task.arrived), claimed)
        try:
            parameters = await self._store.load(task)
            place = self._calls.place(task.call.requires)
        except OpenRuntimeError as error:
            return End(Event.RELEASED, pause=PAUSE) if error.retryable else End(Event.REFUSED, Failure(error.code, error.message))
        if task.status.ended:
            return None  # cancelled while its inputs were read
        task.device, task.backend, task.placement = place.device, place.backend, {"reason": place.reason, "candidates": []}
        timings.started = time.monotonic()
        self._outcomes.begun(task, timings.started)
        say = self._streams.begin(task)

        def heard(delta: Delta) -> None:
            say(delta)
            self._progressed(seat)

        call = asyncio.get_running_loop().create_task(self._calls.execute(task.call.requires, {**parameters, SAY: heard, TENANT: task.tenant}))
        done = await seat.run(call)
        timings.finished = timings.received = time.monotonic()
        if not done:
            log.error("the %s adapter goes on %g s after it was to stop; it is left to itself", task.backend, STOP_GRACE, extra=about(task))
            return End(Event.STOPPED)
        if call.cancelled():
            return End(Event.STOPPED) if seat.asked else self._failed(task, OperationFailed(f"the {task.backend} adapter gave up"))
        defect = call.exception()
        if defect is not None:
            return self._failed(task, defect)
        result = call.result()
        timings.compile = result.compile
        if task.status is TaskStatus.RUNNING:
            task.outputs, task.seconds, task.progress, task.message = result.outputs, result.seconds, 1.0, None
        return End(Event.SUCCEEDED)

    def _failed(self, task: Task, error: BaseException) -> "End":
        if not isinstance(error, OpenRuntimeError):
            log.error("a model's call met a defect", exc_info=error, extra=about(task))
            error = Internal("the call met a defect; the server's log has the cause under this task's id")
        failure = Failure(error.code, error.message)
        if isinstance(error, WorkerCrashed):
            told = f"the process that ran the model died {task.life.deaths + 1} times under this task; {error.message}"
            return End(Event.DIED, Failure(error.code, told))
        if not (isinstance(error, TaskFailed) or error.retryable):
            return End(Event.REFUSED, failure)
        if task.life.failures >= task.max_retries:
            return End(Event.FAILED, failure)
        pause = min(LONGEST, error.retry_after or BACKOFF * 2**task.life.failures)
        task.message = f"tried again in {pause:g} s: {error.message}"
        return End(Event.FAILED, failure, pause)

    def _progressed(self, seat: Seat) -> None:
        seat.pieces += 1
        now = time.monotonic()
        if now - seat.told < TELL:
            return
        seat.told, task = now, seat.task
        most = task.call.parameters.get("max_tokens")
        task.progress, task.message = (min(0.99, seat.pieces / most) if most else 0.0), f"{seat.pieces} pieces of its answer so far"
        self._events.publish(TaskProgressed(time.time(), 0, task.id, task.call.operation, task.tenant, task.progress, task.message))


class End(NamedTuple):
    """What came of a call; `pause`: seconds before that is acted on."""

    event: Event
    failure: Failure | None = None
    pause: float = 0.0


def ability(lane: str) -> str:
    """What the tasks of a lane require."""
    return REQUIRES + lane.removeprefix(LANE)
