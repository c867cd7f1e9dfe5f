"""Where a task runs: asks the allocator with what the slots, the devices and the cost model say now."""

import time
from collections.abc import Sequence

from openruntime.contracts.records import Task
from openruntime.devices.allocator import Candidate, DeviceAllocator
from openruntime.devices.cost_model import CostModel
from openruntime.devices.manager import DeviceManager
from openruntime.tasks.queue import TaskQueue
from openruntime.tasks.slots import TINY, Slot, SlotState, rivals_of

START_COST = 0.5  # seconds a worker takes to start, until one has been seen to


class Placement:
    """Slots claim, so each asks for itself: is the task better off here and now, or left for another?"""

    def __init__(
        self, queue: TaskQueue, slots: Sequence[Slot], devices: DeviceManager, allocator: DeviceAllocator, cost: CostModel, outstanding: int
    ) -> None:
        self._queue = queue
        self._slots = slots
        self._devices = devices
        self._allocator = allocator
        self._cost = cost
        self._outstanding = outstanding
        self._turn = 0

    def best(self, slot: Slot) -> tuple[Task | None, Sequence[str]]:
        """The task that the slot would take first, and the lanes it may claim from: those whose first task is better off elsewhere are left."""
        lanes = slot.lanes
        best = self._queue.best(lanes)
        while best is not None and not slot.primary and not self.here(best, slot):
            lanes = [lane for lane in lanes if lane != best.lane]
            best = self._queue.best(lanes)
        return best, lanes

    def here(self, task: Task, here: Slot) -> bool:
        """Whether `task` runs here and now; false leaves it for a slot that is predicted to finish it sooner."""
        devices = self._devices
        if task.predicted <= TINY:  # cheaper to run than to compare; what may run on a device's first backend runs there
            return here.primary or task.lane not in devices.lanes(here.device.id, here.device.backends[0])
        rivals = rivals_of(task, here, self._slots, devices.takes)
        if len(rivals) < 2:
            return bool(rivals)
        now = time.monotonic()
        candidates = [self._candidate(task, slot, now) for slot in rivals]
        self._turn += 1
        decision = self._allocator.decide(candidates, self._turn)
        task.placement = {"reason": decision.reason, "candidates": decision.explain()}
        chosen = decision.choice
        return chosen is not None and (chosen.device, chosen.backend, chosen.slot) == (here.device.id, here.backend, here.index)

    def too_late(self, task: Task, slot: Slot, alone: bool) -> str:
        """Why a task with a deadline is not worth starting on this slot; empty when it may still make it. `alone`: claimed with no others."""
        left = (task.deadline or 0.0) - time.time()
        if left <= 0:
            return "was over before it started"
        fastest = self._cost.fastest(task.call, slot.device.id, slot.backend)
        if fastest <= left or (alone and self._queue.best(slot.lanes) is None):  # where nobody else waits, trying costs nobody anything
            return ""
        return f"leaves it {left:.3g} s, and the fastest of its kind took {fastest:.3g} s"

    def _candidate(self, task: Task, slot: Slot, now: float) -> Candidate:
        warm = slot.state is SlotState.READY
        predicted = self._cost.predict(task.call, slot.device.id, slot.backend)
        if not (slot.primary or self._cost.measured(task.call.operation, slot.device.id, slot.backend)):
            predicted = max(predicted, task.predicted)  # nothing is known of it: not taken to be faster than the first backend
        return Candidate(
            device=slot.device.id, backend=slot.backend, slot=slot.index, warm=warm, backlog=slot.remaining(now), outstanding=len(slot.outstanding),
            capacity=self._outstanding, start_cost=0.0 if warm else START_COST, predicted=predicted,
            memory_free=self._memory_free(slot), memory_needed=task.call.estimate.memory,
        )  # fmt: skip

    def _memory_free(self, slot: Slot) -> int:
        """Bytes a task may count on: what is free, or everything where nothing of ours runs and waiting would free no more."""
        busy = any(s.outstanding for s in self._slots if s.device.id == slot.device.id)
        return self._devices.memory_available(slot.device.id) if busy else self._devices.memory_total(slot.device.id)
