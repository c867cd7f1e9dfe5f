"""Where a task runs: asks the allocator with what the slots, the devices and the cost model say now; learns from what came of it."""

import time
from collections.abc import Sequence
from itertools import islice
from math import exp

from openruntime.contracts.payload import Array
from openruntime.contracts.records import Call, Task
from openruntime.devices.allocator import Candidate, Decision, DeviceAllocator
from openruntime.devices.cost_model import CostModel
from openruntime.devices.manager import DeviceManager
from openruntime.runtimes.process import Answer
from openruntime.tasks.queue import TaskQueue
from openruntime.tasks.slots import TINY, Slot, SlotState

SKIP = 50e-6  # seconds: a task predicted shorter is cheaper to run than to compare
FRESH = 1e-3  # seconds that a decision about a waiting task stays good
TRIED = 2  # samples after which a candidate needs no trying
TRIES = 3  # of one kind of call on one backend: what cannot be learned is not tried for ever
LEARNING = 0.05  # of the time computed that trying may cost
ADVANCE = 0.5  # seconds that it may cost before anything was computed
REPEATS = 128  # of a kind of call, expected when it comes for the first time (fewer leave what is compiled unused); later as often again as it came
REMEMBERED = 4096  # shapes
LASTING = 60.0  # seconds after which a gain that was missed counts for a third

Driver = tuple[str, str]  # device, backend


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
        self._quick = allocator.strategy == "predicted_finish"
        self._turn = 0
        self._groups: list[list[Slot]] = []  # the slots of each driver, the home's first
        self._last: tuple[Task, float, Decision] | None = None
        self._kinds: dict[object, int] = {}  # shapes, operations with dtypes: how often each came; the oldest first
        self._tries: dict[tuple[str, str, int, Driver], int] = {}
        self._allowance = ADVANCE
        self._missed: dict[Driver, tuple[float, float]] = {}  # seconds that a backend without a worker would have saved, and when

    # -- deciding -------------------------------------------------------------------------------------------------------------

    def turns(self) -> Sequence[Slot]:
        """The slots that may be sent something, in the order in which they may choose: by the task that each would take, where seats are few."""
        outstanding = self._outstanding  # most slots have no worker, and this is asked twice a task: no call for those
        ready = [slot for slot in self._slots if slot.state is SlotState.READY and slot.room(outstanding) > 0]
        if len(ready) > 1 and any(len(slot.peers) > slot.device.slots for slot in ready):
            ranks = {id(slot): task.rank if (task := self.best(slot)[0]) is not None else float("inf") for slot in ready}
            ready.sort(key=lambda slot: ranks[id(slot)])
        return ready

    def owes(self, slot: Slot, task: Task) -> bool:
        """Whether a slot that is at work has to leave its seat to another backend, for a task that comes before `task`."""
        if len(slot.peers) <= slot.device.slots or not slot.outstanding:
            return False
        idle = [s for s in slot.peers if s.state is SlotState.READY and s.backend != slot.backend and not s.outstanding and not s.recalled]
        return bool(idle) and slot.seats() <= 0 and any((best := self.best(s)[0]) is not None and best.rank < task.rank for s in idle)

    def best(self, slot: Slot) -> tuple[Task | None, Sequence[str]]:
        """The task that the slot would take first, and the lanes it may claim from: those whose first task is better off elsewhere are left."""
        lanes = slot.lanes
        best = self._queue.best(lanes)
        while best is not None and not self.here(best, slot):
            lanes = [lane for lane in lanes if lane != best.lane]
            best = self._queue.best(lanes)
        return best, lanes

    def here(self, task: Task, here: Slot) -> bool:
        """Whether `task` runs here and now; false leaves it for a slot that is predicted to finish it sooner."""
        if len(self._slots) != sum(map(len, self._groups)):
            self._groups = _grouped(self._slots)
        if task.predicted <= TINY:
            first = next((group[0] for group in self._groups if task.lane in group[0].lanes and self._devices.accepts(group[0].device.id)), here)
            if task.predicted <= SKIP or (first.home and self._quick and self._best_at_home(task, first)):
                return here.twin_of(first)
        chosen = self._decide(task, here).choice
        return chosen is not None and (chosen.device, chosen.backend, chosen.slot) == (here.device.id, here.backend, here.index)

    def claimed(self, task: Task) -> None:
        """It runs where `here` said: the decision counts."""
        if self._last is None or self._last[0] is not task:
            return
        decision, self._last = self._last[2], None
        if (chosen := decision.choice) is None:
            return
        task.placement = {"reason": decision.reason, "candidates": decision.rows()}
        task.predicted = chosen.predicted + chosen.first_cost  # what its slot is told to expect
        if decision.price:
            self._allowance -= decision.price
            key = (task.call.operation, task.call.dtype, task.call.elements.bit_length(), (chosen.device, chosen.backend))
            self._tries[key] = self._tries.get(key, 0) + 1
        now = time.monotonic()
        for candidate in decision.candidates:
            if not candidate.warm and (gain := chosen.predicted - candidate.predicted - candidate.first_cost) > 0:
                driver = (candidate.device, candidate.backend)
                self._missed[driver] = (self._gain(driver, now) + gain, now)

    def pays(self, slot: Slot) -> bool:
        """Whether a worker there would have saved more than its start costs: the like may come again."""
        if slot.index or not self._missed:
            return False
        driver = (slot.device.id, slot.backend)
        if self._gain(driver, time.monotonic()) <= self._cost.start(*driver):
            return False
        del self._missed[driver]
        return True

    def _gain(self, driver: Driver, now: float) -> float:
        gain, at = self._missed.get(driver, (0.0, now))
        return gain * exp((at - now) / LASTING)

    def _best_at_home(self, task: Task, home: Slot) -> bool:
        """Whether nothing else is predicted to be better for a small task."""
        here = self._cost.predict(task.call, home.device.id, home.backend)
        for group in islice(self._groups, 1, None):
            other = group[0]
            if task.lane in other.lanes and self._cost.predict(task.call, other.device.id, other.backend) < here:
                operation = task.call.operation
                if self._cost.knows(operation, other.device.id, other.backend) and self._devices.takes(other.device.id, other.backend, task.call):
                    return False
        return True

    def _decide(self, task: Task, here: Slot) -> Decision:
        now = time.monotonic()
        if self._last is not None and self._last[0] is task and now - self._last[1] < FRESH and self._last[2].choice is not None:
            return self._last[2]
        self._turn += 1
        decision = self._allocator.decide(self._candidates(task, here, now), self._turn, self._allowance if self._calm() else 0.0)
        self._last = (task, now, decision)
        if decision.choice is None:
            task.placement = {"reason": decision.reason, "candidates": decision.rows()}
        return decision

    def _calm(self) -> bool:
        """Whether trying something holds up nobody else."""
        return self._allowance > 0 and not any(slot.outstanding for slot in self._slots)

    def _candidates(self, task: Task, here: Slot, now: float) -> list[Candidate]:
        """The best slot of each driver that takes the task."""
        call, shape, home = task.call, signature(task.call), self._groups[0][0]
        at_home = self._cost.predict(call, home.device.id, home.backend)
        found = []
        for group in self._groups:
            first = group[0]
            device, backend = first.device.id, first.backend
            if task.lane not in first.lanes or not self._devices.takes(device, backend, call):
                continue
            start = self._cost.start(device, backend)
            able = [slot for slot in group if slot is here or slot.state is not SlotState.FAILED]
            if not able:
                continue
            wait, cold, _, _, slot = min((_wait(s, now, start), s.state is not SlotState.READY, s is not here, s.index, s) for s in able)
            warm = not cold
            transfer, predicted = self._cost.transfer(call, device, backend), self._cost.predict(call, device, backend)
            known = first is home or self._cost.knows(call.operation, device, backend)
            if not known:
                predicted = max(predicted, at_home)  # nothing is known of it: not taken to be faster than where everything runs
            kind: object = shape if self._cost.compiles(device, backend) else (call.operation, call.dtype)  # what a first call is the first of
            first_call = self._cost.first(call.operation, device, backend) if kind not in slot.met else 0.0
            found.append(
                Candidate(
                    device=device, backend=backend, slot=slot.index, warm=warm, backlog=wait if warm else wait - start,
                    outstanding=len(slot.outstanding), capacity=self._outstanding, start_cost=0.0 if warm else start,
                    predicted=predicted, transfer=transfer, first_cost=first_call / (REPEATS + self._kinds.get(kind, 0)),
                    untried=known and self._untried(call, (device, backend)), hope=self._cost.hope(call, device, backend),
                    memory_free=self._memory_free(slot), memory_needed=call.estimate.memory,
                )
            )  # fmt: skip
        return found

    def _untried(self, call: Call, driver: Driver) -> bool:
        return (
            self._cost.samples(call, *driver) < TRIED and self._tries.get((call.operation, call.dtype, call.elements.bit_length(), driver), 0) < TRIES
        )

    def _memory_free(self, slot: Slot) -> int:
        """Bytes a task may count on: what is free, or everything where nothing of ours runs and waiting would free no more."""
        busy = any(peer.outstanding for peer in slot.peers)
        return self._devices.memory_available(slot.device.id) if busy else self._devices.memory_total(slot.device.id)

    def too_late(self, task: Task, slot: Slot, alone: bool) -> str:
        """Why a task with a deadline is not worth starting on this slot; empty when it may still make it. `alone`: claimed with no others."""
        left = task.left(time.monotonic())
        if left <= 0:
            return "was over before it started"
        fastest = self._cost.fastest(task.call, slot.device.id, slot.backend)
        if fastest <= left or (alone and self._queue.best(slot.lanes) is None):  # where nobody else waits, trying costs nobody anything
            return ""
        return f"leaves it {left:.3g} s, and the fastest of its kind took {fastest:.3g} s"

    # -- learning -------------------------------------------------------------------------------------------------------------

    def learn(self, task: Task, slot: Slot, answer: Answer) -> None:
        """What a completed task took."""
        call, device, backend = task.call, slot.device.id, slot.backend
        seconds = (answer.finished - answer.started) / (answer.batch[0] if answer.batch else 1)
        if task.predicted <= SKIP >= seconds:
            self._cost.record(call, device, backend, seconds, first=slot.first_of(call))
            return
        shape = signature(call)
        for kind in (shape, (call.operation, call.dtype)):
            self._kinds[kind] = self._kinds.pop(kind, 0) + 1
        if len(self._kinds) > REMEMBERED:
            del self._kinds[next(iter(self._kinds))]
        if len(slot.met) > REMEMBERED:
            slot.met.clear()
        slot.met.add(shape)
        self._allowance += LEARNING * seconds
        self._cost.record(
            call, device, backend, seconds, transfer=answer.transfer, compile=answer.compile, first=slot.first_of(call),
            alone=slot.alone(answer.started),
        )  # fmt: skip
        self._devices.roofline.observe(call, device, backend, answer.seconds)

    def predictions(self, task: Task) -> list[tuple[str, str, float]]:
        """Device, backend and seconds predicted now, for each that takes such a task, soonest first."""
        found = [
            (device, backend, self._cost.predict(task.call, device, backend))
            for device, backend in self._devices.places(task.lane, task.call.ability) if self._devices.takes(device, backend, task.call)
        ]  # fmt: skip
        return sorted(found, key=lambda row: row[2])


def signature(call: Call) -> int:
    """Stands for the shapes and options of a call, which is what a backend compiles for; numbers are left out, because they go in as data."""
    parts: list[object] = [call.operation]
    for name, value in call.parameters.items():
        if type(value) is Array:
            parts.append((value.dtype, value.shape))
        elif type(value) is list and value and type(value[0]) is Array:
            parts += [(item.dtype, item.shape) for item in value]
        elif type(value) is str or type(value) is bool or type(value) is list:
            parts.append((name, str(value)))
    return hash(tuple(parts))


def _grouped(slots: Sequence[Slot]) -> list[list[Slot]]:
    groups: dict[Driver, list[Slot]] = {}
    for slot in slots:
        groups.setdefault((slot.device.id, slot.backend), []).append(slot)
    return list(groups.values())


def _wait(slot: Slot, now: float, start: float) -> float:
    """Predicted seconds until the slot could begin: its worker has to start, to end what it runs, or to find a seat."""
    if slot.outstanding:
        return slot.remaining(now)
    seat = 0.0 if slot.seats() > 0 else min((peer.remaining(now) for peer in slot.peers if peer.outstanding), default=0.0)
    return seat if slot.state is SlotState.READY else max(start, seat)
