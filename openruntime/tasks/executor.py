"""The execution engine: free slots claim the best tasks of their lanes; outcomes are recorded.

One coroutine (`_pump`) does all that awaits, so that a task's way costs no asyncio task of its own.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from openruntime.contracts.errors import OpenRuntimeError, OperationFailed, StorageFull, TaskCancelled, TaskTimeout, Unavailable, WorkerCrashed
from openruntime.contracts.events import TaskProgressed, TaskStarted
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
from openruntime.tasks.ends import Ends, about
from openruntime.tasks.events import announce
from openruntime.tasks.lifecycle import Event, Instruction, advance
from openruntime.tasks.placement import Placement
from openruntime.tasks.queue import TaskQueue
from openruntime.tasks.slots import TINY, Slot, new_slots
from openruntime.tasks.workers import Workers

log = logging.getLogger(__name__)

STOP_GRACE = 0.25  # seconds a running task has to stop by itself before its worker is killed
OVERSTAY = 0.02  # seconds a task may hold up others that were sent to its worker behind it
PAUSE = 0.1  # seconds before trying again what could not be done
# what cannot succeed by trying again: the values or the request are wrong
_FINAL = frozenset({"invalid_parameter", "invalid_request", "unknown_operation", "unsupported_on_device", "compile_error"})


class TaskExecutor:
    """Runs what waits in the queue. `on_end(task)` is called once for every task that ends here."""

    def __init__(
        self, queue: TaskQueue, store: Store, devices: DeviceManager, runtimes: Sequence[RuntimeManager], allocator: DeviceAllocator,
        cost: CostModel, events: EventSink, pool: SlabPool, *, on_end: Callable[[Task], None], outstanding: int = 64, worker_idle: float = 60.0,
        worker_growth: int = 1 << 30,
    ) -> None:  # fmt: skip
        self._queue = queue
        self._store = store
        self._devices = devices
        self._events = events
        self._pool = pool
        self._ends = Ends(store, events, on_end)
        self._outstanding = outstanding
        self._runtimes = runtimes
        self.slots: list[Slot] = []
        self.add_slots()
        self._placement = Placement(queue, self.slots, devices, allocator, cost, outstanding)
        self._jobs = 0
        self.batched = 0  # tasks that ran as one with others
        self._where: dict[str, Slot] = {}  # task id -> the slot it was sent to
        self._todo: deque[Callable[[], Any]] = deque()  # coroutine functions for the pump, in order
        self._answers: deque[tuple[Slot, Answer]] = deque()
        self._wake = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}
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
        self._pumping = asyncio.get_running_loop().create_task(self._pump(), name="executor")
        self.workers.start()

    async def drain(self, grace: float) -> None:
        """Take nothing new; wait up to `grace` seconds for what runs; what is left stays in the store."""
        self._stopping = True
        end = time.monotonic() + grace
        while (self._ends.pending or any(slot.outstanding for slot in self.slots)) and time.monotonic() < end:
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()
        await self.workers.stop()
        self._ends.stop()
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
            sending: list[Task] = []
            released = False
            for index, task in enumerate(claimed):
                if task.deadline is not None and (reason := self._placement.too_late(task, slot, len(claimed) == 1)):
                    await self.interrupt(task, Event.EXPIRED, reason)
                elif (index and task.predicted > TINY) or not self._placement.here(task, slot):
                    await self._settle(task, Event.RELEASED)
                    released = True
                else:
                    sending.append(task)
                    self._placement.claimed(task)
                    if task.deadline is not None and task.id not in self._timers:  # it was submitted elsewhere
                        self.watch_deadline(task)
            if (sending and not await self._send(slot, sending)) or released:
                return

    async def _send(self, slot: Slot, tasks: Sequence[Task]) -> bool:
        """Hand tasks to the slot's worker; whether all went, so that there is a point in claiming more."""
        jobs: list[Outgoing] = []
        alone: list[int] = []
        short = False
        now = time.monotonic()
        first = not slot.outstanding
        for task in tasks:
            try:
                parameters = await self._store.load(task)
                if task.call.program is not None:
                    parameters = {**parameters, PROGRAM: task.call.program.source}
                large = output_bytes(task.call.outputs.values())
                out = self._pool.allocate(large) if large else None
            except OpenRuntimeError as error:
                short = await self._unsendable(task, error) or short
                continue
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
        if slot.worker is None:  # it died while inputs were read from disk
            for task in slot.clear():
                self._where.pop(task.id, None)
                await self._settle(task, Event.RELEASED)
            return False
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
        await self.refuse(task, Failure(error.code, error.message) if isinstance(error, OpenRuntimeError) else Failure(OperationFailed.code, message))
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
            self._begun(slot, task, now)
        elif task is None or task.status is not TaskStatus.RUNNING:  # what runs already began with others
            self._let_go(slot, job)  # cancelled or taken back while it waited in the worker, which may have begun it before it heard of that

    def _begun(self, slot: Slot, task: Task, now: float) -> None:
        task.life, _ = advance(task.life, Event.STARTED)
        task.started = started = _clock(now)
        announce(self._events, task)
        waited = started - task.created
        self._events.publish(
            TaskStarted(started, 0, task.id, task.call.operation, task.tenant, slot.device.id, slot.backend, task.life.attempt, waited)
        )

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
            self._begun(slot, task, time.monotonic())
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
            self._placement.learn(task, slot, answer)
            if task.status is TaskStatus.QUEUED or task.status is TaskStatus.RUNNING:
                task.outputs, task.seconds, task.progress = answer.outputs, answer.seconds, 1.0
                task.started = _clock(answer.started)
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

    async def refuse(self, task: Task, failure: Failure) -> None:
        """Fail a task for a cause that trying again does not change."""
        await self._queue.remove(task)
        await self._settle(task, Event.REFUSED, failure)

    async def _settle(self, task: Task, event: Event, failure: Failure | None = None) -> None:
        attempt = task.life.attempt
        task.life, instruction = advance(task.life, event, task.max_retries)
        if instruction is Instruction.REQUEUE:
            task.started = task.device = task.backend = None
            if failure is not None and event is not Event.RELEASED:
                log.info("task is tried again: %s", failure.message, extra=about(task))
            # what was released waits for something else to happen; waking now would spin
            await self._ends.tell(self._requeue(task, wake=event is not Event.RELEASED), aside=asyncio.current_task() is self._pumping)
        elif instruction is Instruction.FINISH or instruction is Instruction.FINISH_AND_STOP:
            await self._finish(task, attempt, failure)

    async def _finish(self, task: Task, attempt: int, failure: Failure | None) -> None:
        timer = self._timers.pop(task.id, None)
        if timer is not None:
            timer.cancel()
        await self._ends.record(task, attempt, failure, aside=asyncio.current_task() is self._pumping)

    async def _requeue(self, task: Task, *, wake: bool) -> None:
        await self._queue.requeue(task)
        if wake:
            self.wake()

    # -- stopping one ---------------------------------------------------------------------------------------------------------

    def watch_deadline(self, task: Task) -> None:
        """End the task when its time is over."""
        if task.deadline is not None:
            delay = max(0.0, task.deadline - time.time())
            self._timers[task.id] = asyncio.get_running_loop().call_later(delay, lambda: self.later(task, Event.EXPIRED))

    def later(self, task: Task, event: Event) -> None:
        """Interrupt a task when the pump comes to it."""
        self._todo.append(partial(self.interrupt, task, event))
        self.wake()

    async def interrupt(self, task: Task, event: Event, reason: str = "") -> None:
        """Cancel a task (`Event.CANCEL`) or let it run out of time (`Event.EXPIRED`), wherever it is; `reason`, if it is not simply over."""
        slot = self._where.get(task.id)
        if slot is None:
            await self._queue.remove(task)
        attempt = task.life.attempt
        task.life, instruction = advance(task.life, event)
        if instruction is Instruction.IGNORE:
            return
        if slot is not None:
            self._stop_job(slot, task, runs=instruction is not Instruction.FINISH)
        if instruction is not Instruction.STOP:
            given = (task.deadline or 0.0) - task.created
            reason = reason or ("was over while it ran" if slot is not None and task.started else "was over before it started")
            await self._finish(task, attempt, Failure(TaskTimeout.code, f"its `timeout` of {given:g} s {reason}"))

    def _stop_job(self, slot: Slot, task: Task, *, runs: bool) -> None:
        job = slot.job_of(task)
        if job is None or slot.worker is None:
            return
        slot.worker.cancel(job)
        if runs:
            self._let_go(slot, job)

    def _let_go(self, slot: Slot, job: int) -> None:
        """The worker has a moment to end this job by itself, else it is killed."""
        worker = slot.worker
        if worker is not None:
            asyncio.get_running_loop().call_later(STOP_GRACE, lambda: worker.kill("a task it ran was stopped") if slot.holds(job) else None)


def _clock(moment: float) -> float:
    """The time of day of a monotonic moment, as workers report them; by the clock as it is now, because it may have been set."""
    return time.time() - time.monotonic() + moment
