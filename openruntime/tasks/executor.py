"""The execution engine: free slots claim the best tasks of their lanes; outcomes are recorded; workers are kept alive.

One coroutine (`_pump`) does all that awaits, so that a task's way costs no asyncio task of its own.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from openruntime.contracts.errors import OpenRuntimeError, OutOfMemory, StorageFull, TaskCancelled, TaskTimeout, WorkerCrashed
from openruntime.contracts.events import DeviceChanged, TaskFinished, TaskProgressed, TaskStarted, WorkerDied
from openruntime.contracts.interfaces import EventSink, Store
from openruntime.contracts.models import TaskStatus
from openruntime.contracts.records import Failure, Task
from openruntime.devices.allocator import Candidate, DeviceAllocator
from openruntime.devices.cost_model import CostModel
from openruntime.devices.manager import DeviceManager
from openruntime.runtimes.channel import INLINE_BYTES
from openruntime.runtimes.manager import RuntimeManager
from openruntime.runtimes.process import Answer
from openruntime.runtimes.shared_memory import SlabPool
from openruntime.tasks.lifecycle import Event, Instruction, advance
from openruntime.tasks.queue import TaskQueue
from openruntime.tasks.slots import TINY, Slot, SlotState

log = logging.getLogger(__name__)

STOP_GRACE = 0.25  # seconds a running task has to stop by itself before its worker is killed
OVERSTAY = 0.02  # seconds a task may hold up others that were sent to its worker behind it
GROW_AFTER = 0.05  # seconds a task waits before a second worker is started for it
START_COST = 0.5  # seconds a worker takes to start, until one has been seen to
RETRY_START = (0.1, 0.5, 2.0, 10.0, 30.0)  # seconds between tries of a worker that does not start
# what cannot succeed by trying again: the values or the request are wrong
_FINAL = frozenset({"invalid_parameter", "invalid_request", "unknown_operation", "unsupported_on_device"})


class TaskExecutor:
    """Runs what waits in the queue. `on_end(task)` is called once for every task that ends here."""

    def __init__(
        self, queue: TaskQueue, store: Store, devices: DeviceManager, runtimes: Sequence[RuntimeManager], allocator: DeviceAllocator,
        cost: CostModel, events: EventSink, pool: SlabPool, *, on_end: Callable[[Task], None], outstanding: int = 64, worker_idle: float = 60.0,
    ) -> None:  # fmt: skip
        self._queue = queue
        self._store = store
        self._devices = devices
        self._allocator = allocator
        self._cost = cost
        self._events = events
        self._pool = pool
        self._on_end = on_end
        self._outstanding = outstanding
        self._worker_idle = worker_idle
        self.slots = [
            Slot(runtime, device, backend, index, devices.lanes(device.id, backend))
            for runtime in runtimes for device in runtime.devices() for backend in device.backends for index in range(device.slots)
        ]  # fmt: skip
        self._jobs = 0
        self._where: dict[str, Slot] = {}  # task id -> the slot it was sent to
        self._todo: deque[Callable[[], Any]] = deque()  # coroutine functions for the pump, in order
        self._answers: deque[tuple[Slot, Answer]] = deque()
        self._wake = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._pumping: asyncio.Task[None] | None = None
        self._grow_timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._clock = time.time() - time.monotonic()  # workers report monotonic seconds

    # -- life -----------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to work: one warm worker for each device's first backend; returns when those are asked for, not up."""
        self._pumping = asyncio.get_running_loop().create_task(self._pump(), name="executor")
        for slot in self.slots:
            if slot.index == 0 and slot.backend == slot.device.backends[0]:
                self._start(slot)

    def ready(self) -> bool:
        return any(slot.state is SlotState.READY for slot in self.slots)

    def workers(self, device: str) -> list[dict[str, Any]]:
        """One mapping a slot of the device, for its detail page."""
        return [slot.describe() for slot in self.slots if slot.device.id == device]

    def idle(self) -> bool:
        return not any(slot.outstanding for slot in self.slots)

    async def drain(self, grace: float) -> None:
        """Take nothing new; wait up to `grace` seconds for what runs; give the rest back to the queue."""
        self._stopping = True
        end = time.monotonic() + grace
        while not self.idle() and time.monotonic() < end:
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self._stopping = True
        if self._grow_timer is not None:
            self._grow_timer.cancel()
        for timer in self._timers.values():
            timer.cancel()
        await asyncio.gather(*(self._stop_slot(slot) for slot in self.slots))
        if self._pumping is not None:
            self._pumping.cancel()
            await asyncio.gather(self._pumping, return_exceptions=True)

    async def _stop_slot(self, slot: Slot) -> None:
        if slot.starting is not None:
            slot.starting.cancel()
            await asyncio.gather(slot.starting, return_exceptions=True)
        if slot.worker is not None:
            await slot.worker.stop()

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()

    # -- workers --------------------------------------------------------------------------------------------------------------

    def _start(self, slot: Slot) -> None:
        slot.state = SlotState.STARTING
        slot.starting = asyncio.get_running_loop().create_task(self._bring_up(slot))

    async def _bring_up(self, slot: Slot) -> None:
        try:
            slot.worker = await slot.runtime.start_worker(
                slot.device,
                slot.backend,
                on_answer=lambda answer: self._answered(slot, answer),
                on_progress=lambda job, progress, message: self._progressed(slot, job, progress, message),
                on_death=lambda reason: self._died(slot, reason),
            )
        except (OpenRuntimeError, OSError) as error:
            delay = RETRY_START[min(slot.failures, len(RETRY_START) - 1)]
            slot.failures += 1
            slot.state = SlotState.FAILED
            log.error("a %s worker of %s did not start (try %d): %s", slot.backend, slot.device.id, slot.failures, error)
            self._events.publish(DeviceChanged(time=time.time(), device=slot.device.id, status="failed", reason=str(error)[:500]))
            asyncio.get_running_loop().call_later(delay, self._start_again, slot)
            return
        slot.failures = 0
        slot.state = SlotState.READY
        slot.idle_since = time.monotonic()
        log.info("%s worker %d of %s is ready after %.2f s", slot.backend, slot.index, slot.device.id, slot.worker.start_seconds, extra={"pid": slot.worker.pid})
        self._events.publish(DeviceChanged(time=time.time(), device=slot.device.id, status="ready"))
        self.wake()

    def _start_again(self, slot: Slot) -> None:
        if not self._stopping and slot.state is SlotState.FAILED:
            self._start(slot)

    def _died(self, slot: Slot, reason: str) -> None:
        if slot.state is SlotState.STARTING:
            return  # `start_worker` raises, and `_bring_up` tells
        slot.worker = None
        slot.restarts += 1
        slot.state = SlotState.COLD
        tasks = slot.clear()
        if self._stopping:
            return  # what it held stays accepted in the store, and runs after the next start
        log.warning("the %s worker of %s is gone: %s", slot.backend, slot.device.id, reason)
        self._events.publish(WorkerDied(time=time.time(), device=slot.device.id, backend=slot.backend, reason=reason[:500]))
        for task in tasks:
            self._where.pop(task.id, None)
            event = Event.RELEASED if task.status is TaskStatus.QUEUED else Event.DIED
            message = f"the worker running this task died {task.life.deaths + 1} times; {reason}"
            self._todo.append(lambda task=task, event=event, message=message: self._settle(task, event, Failure(WorkerCrashed.code, message)))
        if slot.index == 0 or self._queue.best(slot.lanes) is not None:
            self._start(slot)
        self.wake()

    def _grow(self) -> None:
        """Start a cold slot's worker when a task has waited for a while and every warm one is busy."""
        cold = next((s for s in self.slots if s.state is SlotState.COLD and self._queue.best(s.lanes) is not None), None)
        if cold is None or self._stopping or not self._devices.accepts(cold.device.id):
            return
        best = self._queue.best(cold.lanes)
        assert best is not None
        waited = time.time() - best.created
        if waited >= GROW_AFTER:
            self._start(cold)
        elif self._grow_timer is None or self._grow_timer.when() < asyncio.get_running_loop().time():
            self._grow_timer = asyncio.get_running_loop().call_later(GROW_AFTER - waited + 0.001, self.wake)

    def _shrink(self, slot: Slot) -> None:
        if slot.worker is None or slot.outstanding or slot.state is not SlotState.READY or self._stopping:
            return
        idle = time.monotonic() - slot.idle_since
        if idle < self._worker_idle:
            asyncio.get_running_loop().call_later(self._worker_idle - idle + 0.1, self._shrink, slot)
            return
        slot.state = SlotState.STARTING  # nothing is sent to it, and its end is no death
        worker = slot.worker

        async def retire() -> None:
            await worker.stop()
            slot.worker, slot.state = None, SlotState.COLD
            self.wake()

        slot.starting = asyncio.get_running_loop().create_task(retire())

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
                    for slot in self.slots:
                        await self._fill(slot)
                    self._grow()
            except StorageFull as error:  # nothing can be recorded now: what waits stays, what ran is told again when there is space
                log.error("the store is full: %s", error)
                asyncio.get_running_loop().call_later(1.0, self.wake)
            except Exception:
                log.exception("the executor met a defect; it goes on")

    async def _fill(self, slot: Slot) -> None:
        while (room := slot.room(self._outstanding)) > 0 and self._devices.accepts(slot.device.id):
            best = self._queue.best(slot.lanes)
            if best is None:
                return
            tiny = best.predicted <= TINY
            if not tiny and slot.outstanding:
                return
            claimed = await self._queue.claim(slot.lanes, room if tiny else 1)
            sending: list[Task] = []
            for index, task in enumerate(claimed):
                if (index and task.predicted > TINY) or not self._place(task, slot):
                    await self._settle(task, Event.RELEASED)
                    continue
                sending.append(task)
            if sending:
                await self._send(slot, sending)
            if len(sending) < len(claimed):
                return

    def _place(self, task: Task, here: Slot) -> bool:
        """Whether `task` runs here and now; false leaves it for a slot that is predicted to finish it sooner."""
        rivals = [s for s in self.slots if s is here or (s.state is not SlotState.FAILED and task.lane in s.lanes)]
        if len(rivals) == 1 or (task.predicted <= TINY and not here.outstanding):
            return True
        now = time.monotonic()
        candidates = [
            Candidate(
                device=s.device.id, backend=s.backend, slot=s.index, warm=s.state is SlotState.READY, backlog=s.remaining(now), outstanding=len(s.outstanding),
                capacity=self._outstanding, start_cost=0.0 if s.state is SlotState.READY else START_COST,
                predicted=self._cost.predict(task.call, s.device.id, s.backend), memory_free=s.device.memory_available, memory_needed=task.call.estimate.memory,
            )
            for s in rivals
        ]  # fmt: skip
        decision = self._allocator.decide(candidates)
        task.placement = {"reason": decision.reason, "candidates": decision.explain()}
        chosen = decision.choice
        return chosen is None or (chosen.device, chosen.backend, chosen.slot) == (here.device.id, here.backend, here.index)

    async def _send(self, slot: Slot, tasks: Sequence[Task]) -> None:
        jobs = []
        now = time.monotonic()
        first = not slot.outstanding
        for task in tasks:
            try:
                parameters = await self._store.load(task)
                large = sum(-(-spec.nbytes // 64) * 64 for spec in task.call.outputs.values() if spec.nbytes > INLINE_BYTES)
                out = self._pool.allocate(large) if large else None
            except OpenRuntimeError as error:
                await self.refuse(task, Failure(error.code, error.message))
                continue
            if task.status.ended:
                continue  # cancelled while its inputs were read from disk
            self._jobs += 1
            task.device, task.backend, task.timings.claimed = slot.device.id, slot.backend, now
            slot.add(self._jobs, task)
            self._where[task.id] = slot
            jobs.append((self._jobs, task.call.operation, parameters, out))
        if not jobs:
            return
        if slot.worker is None:  # it died while inputs were read from disk
            for task in slot.clear():
                await self._settle(task, Event.RELEASED)
            return
        slot.worker.run(jobs)
        if first:
            self._head_started(slot, now)
        if len(slot.outstanding) > 1 and slot.overstay is None:
            slot.overstay = asyncio.get_running_loop().call_later(OVERSTAY, self._check_overstay, slot)

    def _check_overstay(self, slot: Slot) -> None:
        """Take back what waits behind a task that runs much longer than predicted: it may run elsewhere, and in its turn."""
        slot.overstay = None
        if len(slot.outstanding) < 2 or slot.worker is None:
            return
        overdue = time.monotonic() - slot.head_since
        if overdue < OVERSTAY:
            slot.overstay = asyncio.get_running_loop().call_later(OVERSTAY - overdue + 0.001, self._check_overstay, slot)
            return
        for job in list(slot.outstanding)[1:]:
            slot.worker.cancel(job)
            task = slot.take(job)
            if task is not None:
                self._where.pop(task.id, None)
                self._todo.append(lambda task=task: self._settle(task, Event.RELEASED))
        self.wake()

    def _head_started(self, slot: Slot, now: float) -> None:
        slot.head_since = now
        task = slot.head()
        if task is None:
            slot.idle_since = now
            if slot.index > 0:
                asyncio.get_running_loop().call_later(self._worker_idle + 0.1, self._shrink, slot)
            return
        task.life, instruction = advance(task.life, Event.STARTED)
        if instruction is Instruction.IGNORE:
            return  # it was cancelled while it waited in the worker
        task.started = now + self._clock
        self._events.publish(
            TaskStarted(task.started, 0, task.id, task.call.operation, task.tenant, slot.device.id, slot.backend, task.life.attempt, task.started - task.created)
        )

    # -- outcomes -------------------------------------------------------------------------------------------------------------

    def _answered(self, slot: Slot, answer: Answer) -> None:
        self._answers.append((slot, answer))
        self._wake.set()

    def _progressed(self, slot: Slot, job: int, progress: float, message: str | None) -> None:
        task = slot.outstanding.get(job)
        if task is not None and task.status is TaskStatus.RUNNING:
            task.progress, task.message = progress, message
            self._events.publish(TaskProgressed(time.time(), 0, task.id, task.call.operation, task.tenant, progress, message))

    async def _settle_answer(self, slot: Slot, answer: Answer) -> None:
        task = slot.take(answer.job)
        if task is None:
            return
        self._where.pop(task.id, None)
        now = time.monotonic()
        self._head_started(slot, now)
        timings = task.timings
        timings.started, timings.finished, timings.received = answer.started, answer.finished, now
        if answer.failure is None:
            self._cost.record(task.call, slot.device.id, slot.backend, answer.finished - answer.started, False)
            if task.status is TaskStatus.QUEUED or task.status is TaskStatus.RUNNING:
                task.outputs, task.seconds, task.progress = answer.outputs, answer.seconds, 1.0
                task.started = answer.started + self._clock
            await self._settle(task, Event.SUCCEEDED)
            return
        code, message = answer.failure
        event = Event.STOPPED if code == TaskCancelled.code else Event.REFUSED if code in _FINAL else Event.FAILED
        if code == OutOfMemory.code:
            message += f" (estimated {task.call.estimate.memory} bytes; {slot.device.memory_available} were available at start)"
        await self._settle(task, event, Failure(code, message))

    async def refuse(self, task: Task, failure: Failure) -> None:
        """Fail a task for a cause that trying again does not change."""
        await self._settle(task, Event.REFUSED, failure)

    async def _settle(self, task: Task, event: Event, failure: Failure | None = None) -> None:
        attempt = task.life.attempt
        task.life, instruction = advance(task.life, event, task.max_retries)
        if instruction is Instruction.REQUEUE:
            task.started = task.device = task.backend = None
            await self._queue.requeue(task)
            self.wake()
        elif instruction is Instruction.FINISH or instruction is Instruction.FINISH_AND_STOP:
            await self._finish(task, attempt, failure)

    async def _finish(self, task: Task, attempt: int, failure: Failure | None) -> None:
        status = task.life.status
        if status is TaskStatus.FAILED:
            task.failure = failure
        elif status is TaskStatus.CANCELLED:
            task.failure, task.outputs = Failure(TaskCancelled.code, "the task was cancelled"), None
        task.finished = time.time()
        timer = self._timers.pop(task.id, None)
        if timer is not None:
            timer.cancel()
        if not await self._store.finish(task, attempt):
            return
        self._on_end(task)
        why = task.failure
        self._events.publish(
            TaskFinished(
                task.finished, 0, task.id, task.call.operation, task.tenant, status.value, task.device, task.backend, task.seconds,
                why.code if why else None, why.message if why else None, task.cached, (task.started or task.finished) - task.created,
            )
        )  # fmt: skip

    # -- stopping one ---------------------------------------------------------------------------------------------------------

    def watch_deadline(self, task: Task) -> None:
        """End the task when its time is over."""
        if task.deadline is not None:
            delay = max(0.0, task.deadline - time.time())
            self._timers[task.id] = asyncio.get_running_loop().call_later(delay, lambda: self._later(task, Event.EXPIRED))

    def _later(self, task: Task, event: Event) -> None:
        self._todo.append(lambda: self.interrupt(task, event))
        self.wake()

    async def interrupt(self, task: Task, event: Event) -> None:
        """Cancel a task (`Event.CANCEL`) or let it run out of time (`Event.EXPIRED`), wherever it is."""
        attempt, slot = task.life.attempt, self._where.get(task.id)
        life, instruction = advance(task.life, event)
        if instruction is Instruction.IGNORE:
            return
        if slot is None and not await self._queue.remove(task) and task.status is not TaskStatus.QUEUED:
            return
        task.life = life
        if slot is not None:
            self._stop_job(slot, task)
        if instruction is not Instruction.STOP:
            where = "while it ran" if slot is not None and task.started else "before it started"
            await self._finish(task, attempt, Failure(TaskTimeout.code, f"its time was over {where}"))

    def _stop_job(self, slot: Slot, task: Task) -> None:
        job = slot.job_of(task)
        worker = slot.worker
        if job is None or worker is None:
            return
        worker.cancel(job)
        if slot.head() is task:
            asyncio.get_running_loop().call_later(STOP_GRACE, lambda: worker.kill("a task it ran was stopped") if job in slot.outstanding else None)

