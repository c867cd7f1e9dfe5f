"""Slots: the places on a device where one worker can run. A slot knows its worker, what it was sent, and how long that takes."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import StrEnum

from openruntime.contracts.models import DeviceInfo
from openruntime.contracts.records import Call, Task
from openruntime.runtimes.manager import RuntimeManager
from openruntime.runtimes.process import WorkerProcess

WINDOW = 0.005  # seconds of predicted work a worker may hold beyond the job it runs
TINY = 0.001  # seconds: tasks predicted shorter are sent several at once
STOP_GRACE = 0.25  # seconds a running task has to stop by itself before its worker is killed


class SlotState(StrEnum):
    COLD = "cold"
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"  # its worker does not start; tried again later


class Slot:
    """One place for a worker of `backend` on `device`. The first slot of the processor's first backend stays warm; others come and go.

    `peers` are all slots of its device, itself among them: no more than `device.slots` of them run at the same time.
    """

    def __init__(
        self, runtime: RuntimeManager, device: DeviceInfo, backend: str, index: int, lanes: Sequence[str], peers: list["Slot"] | None = None
    ) -> None:
        self.runtime = runtime
        self.device = device
        self.backend = backend
        self.index = index
        self.lanes = lanes
        self.peers = [] if peers is None else peers
        self.peers.append(self)
        self._seats = device.slots
        self.primary = backend == device.backends[0]
        self.home = self.primary and device.type == "cpu"
        self.warm = index == 0 and self.home
        self.state = SlotState.COLD
        self.worker: WorkerProcess | None = None
        self.outstanding: OrderedDict[int, Task] = OrderedDict()  # in the order they run; the first is running
        self.recalled: set[int] = set()  # jobs taken back from its worker, which has not said yet that it left them out
        self.backlog = 0.0  # predicted seconds of all outstanding
        self.met: set[object] = set()  # kinds of calls its present worker has run
        self.head_since = 0.0  # monotonic
        self.idle_since = time.monotonic()
        self.failures = 0  # starts in a row that failed
        self.reason: str | None = None  # why the last one did
        self.restarts = 0
        self.starting: asyncio.Task[None] | None = None
        self.overstay: asyncio.TimerHandle | None = None
        self.shrink: asyncio.TimerHandle | None = None
        self.baseline = 0  # bytes of its worker's own memory when it had just started
        self.swollen = False  # seen with much more; nothing is sent to it before that was looked at again

    def room(self, limit: int) -> int:
        """How many more tiny tasks it may be sent: none while the running one takes longer than predicted, or others have every seat."""
        if self.state is not SlotState.READY or self.recalled or self.swollen:
            return 0
        if not self.outstanding:
            return limit if self.seats() > 0 else 0
        if self.backlog > WINDOW or time.monotonic() - self.head_since > WINDOW:
            return 0
        return limit - len(self.outstanding)

    def seats(self) -> int:
        """How many more workers of its device may run now, whatever their backend: two at once on the same cores slow each other."""
        free = self._seats
        for slot in self.peers:  # a plain loop: the hot path comes here several times a task
            if slot.outstanding or slot.recalled:
                free -= 1
        return free

    def alone(self, since: float) -> bool:
        """Whether no other worker of its device has run, or started, after that moment."""
        return not any(slot is not self and (slot.outstanding or slot.idle_since > since or slot.state is SlotState.STARTING) for slot in self.peers)

    def remaining(self, now: float) -> float:
        """Predicted seconds until it is free. A task past its prediction is taken to need as long again as it has run."""
        if not self.outstanding:
            return 0.0
        elapsed = now - self.head_since
        return self.backlog - elapsed if elapsed < self.backlog else elapsed

    def add(self, job: int, task: Task) -> None:
        self.outstanding[job] = task
        self.backlog += task.predicted

    def take(self, job: int) -> Task | None:
        task = self.outstanding.pop(job, None)
        if task is not None:
            self.backlog = max(0.0, self.backlog - task.predicted) if self.outstanding else 0.0
        return task

    def first_of(self, call: Call) -> bool:
        """Whether its worker has not run this operation on this dtype before: then libraries are imported and caches filled."""
        kind = (call.operation, call.dtype)
        if kind in self.met:
            return False
        self.met.add(kind)
        return True

    def recall(self, job: int) -> Task | None:
        """Take a job back that its worker was told to leave out; should it have begun already, the slot is not free before it ends."""
        self.recalled.add(job)
        return self.take(job)

    def running(self) -> int | None:
        """The job that its worker runs now."""
        head = next(iter(self.outstanding), None)
        return min(self.recalled if head is None else (head, *self.recalled)) if self.recalled else head

    def stop(self, task: Task, *, runs: bool) -> None:
        """As `Holder` has it."""
        job = self._job_of(task)
        if job is None or self.worker is None:
            return
        self.worker.cancel(job)
        if runs:
            self.let_go(job)

    def let_go(self, job: int) -> None:
        """The worker has a moment to end this job by itself, else it is killed."""
        worker = self.worker
        if worker is not None:
            asyncio.get_running_loop().call_later(STOP_GRACE, lambda: worker.kill("a task it ran was stopped") if self._holds(job) else None)

    def _holds(self, job: int) -> bool:
        return job in self.outstanding or job in self.recalled

    def head(self) -> Task | None:
        return next(iter(self.outstanding.values()), None)

    def clear(self) -> list[Task]:
        """Empty it: the tasks it held, the running one first."""
        tasks = list(self.outstanding.values())
        self.outstanding.clear()
        self.recalled.clear()
        self.backlog = 0.0
        return tasks

    def describe(self) -> dict[str, object]:
        """The slot as a device's detail shows it."""
        head = self.head()
        return {
            "backend": self.backend, "state": self.state.value, "pid": self.worker.pid if self.worker else None, "outstanding": len(self.outstanding),
            "backlog": self.backlog, "task": head.id if head else None, "restarts": self.restarts, "reason": self.reason,
        }  # fmt: skip

    def twin_of(self, other: "Slot") -> bool:
        """Whether both are of one backend on one device."""
        return self.backend == other.backend and self.device.id == other.device.id

    def _job_of(self, task: Task) -> int | None:
        return next((job for job, held in self.outstanding.items() if held is task), None)


def new_slots(runtimes: Sequence[RuntimeManager], lanes: Callable[[str, str], Sequence[str]], present: Sequence[Slot]) -> list[Slot]:
    """The slots of every device and backend that has none among those present."""
    have = {(slot.device.id, slot.backend) for slot in present}
    peers = {slot.device.id: slot.peers for slot in present}
    return [
        Slot(runtime, device, backend, index, lanes(device.id, backend), peers.setdefault(device.id, []))
        for runtime in runtimes for device in runtime.devices() for backend in device.backends for index in range(device.slots)
        if (device.id, backend) not in have
    ]  # fmt: skip
