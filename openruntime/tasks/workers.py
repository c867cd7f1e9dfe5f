"""Keeps the slots' workers alive: the warm ones from the start, more when tasks wait, fewer when idle, new ones for the dead."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from openruntime.contracts.errors import OpenRuntimeError
from openruntime.contracts.events import DeviceChanged, WorkerDied
from openruntime.contracts.interfaces import EventSink
from openruntime.contracts.records import Task
from openruntime.devices.host import private_memory
from openruntime.runtimes.process import Answer
from openruntime.tasks.slots import Slot, SlotState

log = logging.getLogger(__name__)

GROW_EVERY = 0.01  # seconds between looks at what should be started: a look costs as much as several tiny tasks
GROW_AFTER = 0.05  # seconds a task waits before another worker is started for it
LOOK = 1.0  # seconds between looks at how much memory workers have
RETRY_START = (0.1, 0.5, 2.0, 10.0, 30.0)  # seconds between tries of a worker that does not start


class Workers:
    """`idle`: seconds; `growth`: bytes that an idle worker may have gained.

    `wanted(slot)` is the task waiting longest for such a slot, `pays(slot)` whether its worker is worth starting without one;
    `on_start(device, backend, seconds)` hears how long a start took, `on_lost(slot, tasks, reason)` gets what a dead worker held.
    """

    def __init__(
        self, slots: Sequence[Slot], events: EventSink, *, idle: float, growth: int, wanted: Callable[[Slot], Task | None],
        pays: Callable[[Slot], bool], on_start: Callable[[str, str, float], None], wake: Callable[[], None],
        on_answer: Callable[[Slot, Answer], None], on_progress: Callable[[Slot, int, float, str | None], None],
        on_lost: Callable[[Slot, Sequence[Task], str], None],
    ) -> None:  # fmt: skip
        self.slots = slots
        self._events = events
        self._idle = idle
        self._growth = growth
        self._wanted = wanted
        self._pays = pays
        self._on_start = on_start
        self._wake = wake
        self._on_answer = on_answer
        self._on_progress = on_progress
        self._on_lost = on_lost
        self._grow_timer: asyncio.TimerHandle | None = None
        self._grown = 0.0  # monotonic, of the last look at what should be started
        self._look_timer: asyncio.TimerHandle | None = None
        self._stopping = False

    def start(self) -> None:
        """Ask for one warm worker on each device's first backend."""
        for slot in self.slots:
            if slot.warm:
                self._start(slot)
        self._look_timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def ready(self) -> bool:
        return any(slot.state is SlotState.READY for slot in self.slots)

    def describe(self, device: str) -> list[dict[str, Any]]:
        """One mapping a slot of the device, for its detail page."""
        return [slot.describe() for slot in self.slots if slot.device.id == device]

    async def stop(self) -> None:
        """End them all."""
        self._stopping = True
        for timer in (self._grow_timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        await asyncio.gather(*(self._stop_slot(slot) for slot in self.slots))

    async def _stop_slot(self, slot: Slot) -> None:
        for timer in (slot.overstay, slot.shrink):
            if timer is not None:
                timer.cancel()
        if slot.starting is not None:
            slot.starting.cancel()
            await asyncio.gather(slot.starting, return_exceptions=True)
        if slot.worker is not None:
            await slot.worker.stop()

    def _start(self, slot: Slot) -> None:
        slot.state = SlotState.STARTING
        slot.starting = asyncio.get_running_loop().create_task(self._bring_up(slot))

    async def _bring_up(self, slot: Slot) -> None:
        try:
            slot.worker = await slot.runtime.start_worker(
                slot.device,
                slot.backend,
                on_answer=lambda answer: self._on_answer(slot, answer),
                on_progress=lambda job, progress, message: self._on_progress(slot, job, progress, message),
                on_death=lambda reason: self._died(slot, reason),
            )
        except (OpenRuntimeError, OSError) as error:
            delay = RETRY_START[min(slot.failures, len(RETRY_START) - 1)]
            slot.failures += 1
            first, *rest = str(error).splitlines()
            slot.state, slot.reason = SlotState.FAILED, " ".join([first, *rest[-1:]])[:500]  # of a traceback, what it ends with
            log.error("a %s worker of %s did not start (try %d): %s", slot.backend, slot.device.id, slot.failures, error)
            if not any(other.state is SlotState.READY and other.device.id == slot.device.id for other in self.slots):
                self._events.publish(DeviceChanged(time=time.time(), device=slot.device.id, status="failed", reason=slot.reason))
            asyncio.get_running_loop().call_later(delay, self._start_again, slot)
            return
        slot.failures, slot.reason = 0, None
        slot.met.clear()
        slot.baseline, slot.swollen = private_memory(slot.worker.pid or 0), False
        slot.state = SlotState.READY
        seconds, pid = slot.worker.start_seconds, slot.worker.pid
        self._on_start(slot.device.id, slot.backend, seconds)
        log.info("%s worker %d of %s is ready after %.2f s", slot.backend, slot.index, slot.device.id, seconds, extra={"pid": pid})
        self._events.publish(DeviceChanged(time=time.time(), device=slot.device.id, status="ready"))
        self.became_idle(slot)
        self._wake()

    def _start_again(self, slot: Slot) -> None:
        if self._stopping or slot.state is not SlotState.FAILED:
            return
        slot.state = SlotState.COLD
        if slot.warm or self._wanted(slot) is not None:
            self._start(slot)

    def _died(self, slot: Slot, reason: str) -> None:
        if slot.state is SlotState.STARTING:
            return  # its start raises, or it was retired
        slot.worker = None
        slot.restarts += 1
        slot.state = SlotState.COLD
        tasks = slot.clear()
        if self._stopping:
            return  # what it held stays accepted in the store, and runs after the next start
        held = tasks[0].id if tasks else None
        log.warning(
            "the %s worker of %s is gone: %s", slot.backend, slot.device.id, reason, extra={"task_id": held, "waiting": max(0, len(tasks) - 1)}
        )
        self._events.publish(WorkerDied(time=time.time(), device=slot.device.id, backend=slot.backend, reason=reason[:500]))
        if slot.warm or tasks or self._wanted(slot) is not None:
            self._start(slot)
        self._on_lost(slot, tasks, reason)

    def grow(self, accepts: Callable[[str], bool]) -> None:
        """Start a cold slot's worker when a task has waited for a while and every warm one is busy or drives it worse, or when it pays."""
        now, later = time.monotonic(), float("inf")  # not the clock, which may be set back
        if now - self._grown < GROW_EVERY:
            self._grow_later(GROW_EVERY)
            return
        self._grown = now
        asked: list[Slot] = []  # the first cold slot of each driver: one starts at a time
        for slot in self.slots:
            if slot.state is not SlotState.COLD or self._stopping or not accepts(slot.device.id) or any(map(slot.twin_of, asked)):
                continue
            task = self._wanted(slot)
            if any(other.state is SlotState.STARTING and slot.twin_of(other) for other in self.slots):
                continue
            if task is None:
                if self._pays(slot):
                    asked.append(slot)
                    self._start(slot)
                continue
            asked.append(slot)
            remaining = GROW_AFTER - (now - task.arrived)
            if not 0 < remaining <= GROW_AFTER:
                self._start(slot)
            else:
                later = min(later, remaining)
        if asked and later < GROW_AFTER:
            self._grow_later(later)

    def _grow_later(self, seconds: float) -> None:
        if self._grow_timer is None and not self._stopping:
            self._grow_timer = asyncio.get_running_loop().call_later(seconds + 0.001, self._grow_again)

    def _grow_again(self) -> None:
        self._grow_timer = None
        self._wake()

    def became_idle(self, slot: Slot) -> None:
        """A slot has nothing to do now: a worker beyond the warm ones ends when that lasts."""
        slot.idle_since = time.monotonic()
        if slot.swollen:
            self._judge(slot)
        if not slot.warm and slot.shrink is None:
            slot.shrink = asyncio.get_running_loop().call_later(self._idle, self._shrink, slot)

    def _shrink(self, slot: Slot) -> None:
        slot.shrink = None
        if slot.worker is None or slot.running() is not None or slot.state is not SlotState.READY or self._stopping:
            return
        remaining = self._idle - (time.monotonic() - slot.idle_since)
        if remaining > 0:
            slot.shrink = asyncio.get_running_loop().call_later(remaining, self._shrink, slot)
            return
        slot.state = SlotState.STARTING  # nothing is sent to it, and its end is no death
        slot.starting = asyncio.get_running_loop().create_task(self._retire(slot))

    async def _retire(self, slot: Slot) -> None:
        if slot.worker is not None:
            await slot.worker.stop()
        slot.worker, slot.state = None, SlotState.COLD
        if slot.warm and not self._stopping:
            self._start(slot)
        if (left := slot.clear()) and not self._stopping:
            self._on_lost(slot, left, "it was ended")
        self._wake()

    def _look(self) -> None:
        """See how much memory each worker has. What a task holds while it runs is no leak, so a swollen worker is judged when it is idle."""
        self._look_timer = asyncio.get_running_loop().call_later(LOOK, self._look)
        for slot in self.slots:
            if slot.state is SlotState.READY and not slot.swollen and self._gained(slot) > self._growth:
                slot.swollen = True
                if slot.running() is None:
                    self._judge(slot)

    def _gained(self, slot: Slot) -> int:
        return private_memory(slot.worker.pid or 0) - slot.baseline if slot.worker is not None else 0

    def _judge(self, slot: Slot) -> None:
        """An idle worker is replaced if it has kept what it took."""
        slot.swollen = False
        gained = self._gained(slot)
        if gained <= self._growth:
            self._wake()
            return
        log.warning("the %s worker of %s has kept %d bytes more than it started with: it is replaced", slot.backend, slot.device.id, gained)
        slot.restarts += 1
        slot.state = SlotState.STARTING  # nothing is sent to it, and its end is no death
        slot.starting = asyncio.get_running_loop().create_task(self._retire(slot))
