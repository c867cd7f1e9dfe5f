"""The execution engine: free slots claim the best tasks of their lanes; outcomes are recorded.

One coroutine (`_pump`) does all that awaits, so that a task's way costs no asyncio task of its own.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from openruntime.contracts.errors import OpenRuntimeError, OperationFailed, StorageFull, TaskCancelled, Unavailable, WorkerCrashed
from openruntime.contracts.events import TaskProgressed
from openruntime.contracts.interfaces import EventSink, Store
from openruntime.contracts.kernels import PROGRAM
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Failure, Task, Timings
from openruntime.devices.allocator import DeviceAllocator
from openruntime.devices.cost_model import CostModel
from openruntime.devices.manager import DeviceManager
from openruntime.runtimes.channel import Outgoing, output_bytes
from openruntime.runtimes.manager import RuntimeManager
from openruntime.runtimes.process import Answer
from openruntime.runtimes.shared_memory import SlabPool
from openruntime.tasks.elsewhere import moved, with_figures
from openruntime.tasks.ends import about
from openruntime.tasks.lifecycle import Event
from openruntime.tasks.outcomes import Outcomes, clock
from openruntime.tasks.placement import Placement
from openruntime.tasks.queue import TaskQueue
from openruntime.tasks.slots import TINY, Slot, SlotState, new_slots
from openruntime.tasks.workers import Workers

log = logging.getLogger(__name__)

OVERSTAY = 0.02  # seconds a task may hold up others that were sent to its worker behind it
PAUSE = 0.1  # seconds before trying again what could not be done
# what cannot succeed by trying again: the values or the request are wrong
_FINAL = frozenset({"invalid_parameter", "invalid_request", "unknown_operation", "unsupported_on_device", "compile_error"})


class TaskExecutor:
    """Runs what waits in the queue for a device; `outcomes` has it do what is to be done in turn with that."""

    def __init__(
        self, queue: TaskQueue, store: Store, devices: DeviceManager, runtimes: Sequence[RuntimeManager], allocator: DeviceAllocator,
        cost: CostModel, events: EventSink, pool: SlabPool, outcomes: Outcomes, *, outstanding: int = 64, worker_idle: float = 60.0,
        worker_growth: int = 1 << 30,
    ) -> None:  # fmt: skip
        self._queue = queue
        self._store = store
        self._devices = devices
        self._events = events
        self._pool = pool
        self._outcomes = outcomes
        self._outstanding = outstanding
        self._runtimes = runtimes
        self.slots: list[Slot] = []
        self.add_slots()
        self._placement = Placement(queue, self.slots, devices, allocator, cost, outstanding)
        self._jobs = 0
        self.batched = 0  # tasks that ran as one with others
        self._where = outcomes.where
        self._todo = outcomes.todo
        self._settle = outcomes.settle
        self._answers: deque[tuple[Slot, Answer]] = deque()
        self._wake = asyncio.Event()
        self._pumping: asyncio.Task[None] | None = None
        self._stopping = False
        self.workers = Workers(
            self.slots, events, idle=worker_idle, growth=worker_growth, wanted=lambda slot: self._placement.best(slot)[0],
            pays=lambda slot: self._placement.pays(slot), on_start=cost.started, wake=self.wake, on_answer=self._answered,
            on_progress=self._progressed, on_lost=self._lost,
        )  # fmt: skip

    def predictions(self, task: Task) -> Sequence[tuple[str, str, float]]:
        """Device, backend and seconds for each that takes such a task, soonest first."""
        return self._placement.predictions(task)

    def calm(self, device: str) -> bool:
        """Whether nothing runs on the device, or waits anywhere."""
        return not self._queue.depths() and not any(slot.outstanding for slot in self.slots if slot.device.id == device)

    def add_slots(self) -> None:
        """Make the slots of every device and backend that has none yet."""
        self.slots += new_slots(self._runtimes, self._devices.lanes, self.slots)

    def start(self) -> None:
        """Begin to work. The warm workers are asked for, not up yet."""
        self._pumping = self._outcomes.serving = asyncio.get_running_loop().create_task(self._pump(), name="executor")
        self.workers.start()

    async def drain(self, grace: float) -> None:
        """Take nothing new; wait up to `grace` seconds for what runs; what is left stays in the store."""
        self._stopping = True
        end = time.monotonic() + grace
        while (self._outcomes.pending or any(slot.outstanding for slot in self.slots)) and time.monotonic() < end:
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self._stopping = True
        self._outcomes.forget_deadlines()
        await self.workers.stop()
        self._outcomes.stop()
        if self._pumping is not None:
            self._pumping.cancel()
            await asyncio.gather(self._pumping, return_exceptions=True)

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()

    # -- the pump -------------------------------------------------------------------------------------------------------------

    async def _pump(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while self._answers:
                    await self._settle_answer(*self._answers.popleft())
                while self._todo:
                    await self._todo.popleft()()
                if not self._stopping:
                    for slot in self._placement.turns():
                        await self._fill(slot)
                    self.workers.grow(self._devices.accepts)
            except StorageFull as error:  # nothing can be recorded now: what waits stays, what ran is told again when there is space
                log.error("the store is full: %s", error)
                asyncio.get_running_loop().call_later(1.0, self.wake)
            except Unavailable as error:
                log.warning("nothing can be claimed now: %s", error)
                asyncio.get_running_loop().call_later(PAUSE, self.wake)
            except Exception:
                log.exception("the executor met a defect; it goes on")
                asyncio.get_running_loop().call_later(PAUSE, self.wake)  # later: a lasting defect must not keep the loop to itself

    async def _fill(self, slot: Slot) -> None:
        while (room := slot.room(self._outstanding)) > 0 and self._devices.accepts(slot.device.id):
            best, lanes = self._placement.best(slot)
            if best is None or self._placement.owes(slot, best):
                return
            tiny = best.predicted <= TINY
            if not tiny and slot.outstanding:
                return
            claimed = await self._queue.claim(lanes, room if tiny else 1)
            try:
                if not await self._take(slot, claimed):
                    return
            except Exception:
                for task in claimed:
                    if task.status is TaskStatus.QUEUED and task.id not in self._where:  # else nobody would have it
                        self._todo.append(partial(self._settle, task, Event.RELEASED))
                raise

    async def _take(self, slot: Slot, claimed: Sequence[Task]) -> bool:
        """Send what is to run there, give back the rest; whether there is a point in claiming more."""
        sending: list[Task] = []
        released = False
        for index, task in enumerate(claimed):
            if task.deadline is not None and (reason := self._placement.too_late(task, slot, len(claimed) == 1)):
                await self._outcomes.interrupt(task, Event.EXPIRED, reason)
            elif (index and task.predicted > TINY) or not self._placement.here(task, slot):
                await self._settle(task, Event.RELEASED)
                released = True
            else:
                sending.append(task)
                self._placement.claimed(task)
                if task.deadline is not None:  # it may have been submitted elsewhere
                    self._outcomes.watch_deadline(task)
        return not ((sending and not await self._send(slot, sending)) or released)

    async def _send(self, slot: Slot, tasks: Sequence[Task]) -> bool:
        """Hand tasks to the slot's worker; whether all went, so that there is a point in claiming more."""
        loaded: list[tuple[Task, dict[str, Any], memoryview | None]] = []
        short = False
        now = time.monotonic()
        for task in tasks:
            try:
                given = await self._store.load(task)
                if task.call.program is not None:
                    given = {**given, PROGRAM: task.call.program.source}
                large = output_bytes(task.call.outputs.values())
                loaded.append((task, given, self._pool.allocate(large) if large else None))
            except Exception as error:
                short = await self._unsendable(task, error) or short
        if slot.worker is None or slot.state is not SlotState.READY:  # it died, or is ended, since inputs were read from disk
            for task, _, _ in loaded:
                await self._settle(task, Event.RELEASED)
            return False
        jobs: list[Outgoing] = []
        alone: list[int] = []
        first = not slot.outstanding
        for task, parameters, out in loaded:
            if task.status.ended:
                continue  # cancelled while its inputs were read from disk
            self._jobs += 1
            task.device, task.backend = slot.device.id, slot.backend
            task.timings = Timings(min(now, task.arrived), now, short=task.timings.short if task.timings is not None else None)
            slot.add(self._jobs, task)
            self._where[task.id] = slot
            jobs.append((self._jobs, task.call.operation, parameters, out))
            if task.life.deaths or task.life.failures:
                alone.append(self._jobs)  # it has failed, maybe for another: now it is to tell by itself
        if not jobs:
            return not short
        for job, cause in slot.worker.run(jobs, alone=alone):
            unsent = slot.take(job)
            if unsent is not None:
                self._where.pop(unsent.id, None)
                short = await self._unsendable(unsent, cause) or short
        if first:
            self._head_started(slot, now)
        if len(slot.outstanding) > 1 and slot.overstay is None:
            self._watch_overstay(slot, OVERSTAY, None)
        return not short

    async def _unsendable(self, task: Task, error: Exception) -> bool:
        """Whether it waits because no shared memory is free now; else it has failed."""
        if isinstance(error, OpenRuntimeError) and error.retryable:
            await self._settle(task, Event.RELEASED)
            asyncio.get_running_loop().call_later(PAUSE, self.wake)
            return True
        known = isinstance(error, OpenRuntimeError)
        log.log(logging.INFO if known else logging.ERROR, "a task could not be sent", exc_info=None if known else error, extra=about(task))
        message = f"its parameters cannot be sent to a worker: {error}"
        failure = Failure(error.code, error.message) if isinstance(error, OpenRuntimeError) else Failure(OperationFailed.code, message)
        await self._outcomes.refuse(task, failure)
        return False

    def _watch_overstay(self, slot: Slot, delay: float, suspect: int | None) -> None:
        slot.overstay = asyncio.get_running_loop().call_later(delay, self._check_overstay, slot, suspect)

    def _check_overstay(self, slot: Slot, suspect: int | None) -> None:
        """Take back what waits behind a task that runs much longer than predicted: it may run elsewhere, and in its turn.

        A task is suspected first and judged at a second look, because a busy loop comes here before it has read the answers.
        """
        slot.overstay = None
        if len(slot.outstanding) < 2 or slot.worker is None:
            return
        head = next(iter(slot.outstanding))
        if head != suspect:
            overdue = time.monotonic() - slot.head_since >= OVERSTAY
            self._watch_overstay(slot, OVERSTAY / 4 if overdue else OVERSTAY, head if overdue else None)
            return
        for job, task in list(slot.outstanding.items())[1:]:
            if task.status is not TaskStatus.RUNNING:  # those run with the head
                slot.worker.cancel(job)
                slot.recall(job)
                self._where.pop(task.id, None)
                self._todo.append(partial(self._settle, task, Event.RELEASED))
        self.wake()

    def _head_started(self, slot: Slot, now: float) -> None:
        slot.head_since = now
        job = slot.running()
        if job is None:
            self.workers.became_idle(slot)
            return
        task = slot.outstanding.get(job)
        if task is not None and task.status is TaskStatus.QUEUED:
            self._outcomes.begun(task, now)
        elif task is None or task.status is not TaskStatus.RUNNING:  # what runs already began with others
            slot.let_go(job)  # cancelled or taken back while it waited in the worker, which may have begun it before it heard of that

    def _lost(self, slot: Slot, tasks: Sequence[Task], reason: str) -> None:
        """A worker died: the task it ran may be tried again; those that only waited in it go back uncounted."""
        for task in tasks:
            self._where.pop(task.id, None)
            event = Event.RELEASED if task.status is TaskStatus.QUEUED else Event.DIED
            message = f"the worker running this task died {task.life.deaths + 1} times; {reason}"
            self._todo.append(partial(self._settle, task, event, Failure(WorkerCrashed.code, message)))
        self.wake()

    # -- outcomes -------------------------------------------------------------------------------------------------------------

    def _answered(self, slot: Slot, answer: Answer) -> None:
        self._answers.append((slot, answer))
        self._wake.set()

    def _progressed(self, slot: Slot, job: int, progress: float, message: str | None) -> None:
        task = slot.outstanding.get(job)
        if task is not None and task.status is TaskStatus.QUEUED:
            self._outcomes.begun(task, time.monotonic())
        elif task is not None and task.status is TaskStatus.RUNNING:
            task.progress, task.message = progress, message
            self._events.publish(TaskProgressed(time.time(), 0, task.id, task.call.operation, task.tenant, progress, message))

    async def _settle_answer(self, slot: Slot, answer: Answer) -> None:
        task = slot.take(answer.job)
        if task is None:
            if answer.job in slot.recalled:
                slot.recalled.discard(answer.job)
                self._head_started(slot, time.monotonic())
            return
        self._where.pop(task.id, None)
        now = time.monotonic()
        self._head_started(slot, now)
        if (timings := task.timings) is not None:
            timings.started, timings.finished, timings.received = answer.started, answer.finished, now
            timings.transfer, timings.compile, timings.batch = answer.transfer, answer.compile, answer.batch
        if answer.failure is None:
            self.batched += answer.batch is not None and answer.batch[0] > 1
            try:
                self._placement.learn(task, slot, answer)
            finally:  # a defect there must not lose the task
                if task.status is TaskStatus.QUEUED or task.status is TaskStatus.RUNNING:
                    task.outputs, task.seconds, task.progress = answer.outputs, answer.seconds, 1.0
                    task.started = clock(answer.started)
                await self._settle(task, Event.SUCCEEDED)
            return
        code, message = answer.failure
        event = Event.STOPPED if code == TaskCancelled.code else Event.REFUSED if code in _FINAL else Event.FAILED
        message = with_figures(self._devices, task, slot, code, message)
        if moved(self._devices, task, slot, code, message):
            await self._settle(task, Event.RELEASED)
            self.wake()
            return
        await self._settle(task, event, Failure(code, message))
