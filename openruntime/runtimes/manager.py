"""Finds the devices of one platform and starts their workers. One subclass a platform."""

import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import msgspec

from openruntime.contracts.models import DeviceInfo
from openruntime.contracts.records import Abilities, Usage
from openruntime.runtimes.probe import Report
from openruntime.runtimes.process import Answer, Share, WorkerOptions, WorkerProcess
from openruntime.runtimes.shared_memory import SlabPool


class RuntimeManager(ABC):
    """Devices of one platform: what drives them, how many slots they have, how a worker on them starts."""

    platform: str
    """What a backend's `Probe` calls these devices: `cpu` for `cpu:0`."""
    environment: Mapping[str, str] = {}
    """Variables that its workers start with."""

    def __init__(
        self, pool: SlabPool, *, slots: int | None = None, threads: int | None = None, memory: int = 0, batch: int = 64, batch_bytes: int = 64 << 20
    ) -> None:
        """`memory`, `batch`, `batch_bytes`: of each worker, as `WorkerOptions` has them."""
        self.pool = pool
        self._options = WorkerOptions(memory=memory, batch=batch, batch_bytes=batch_bytes)
        self._slots = slots
        self._threads = threads
        self._backends: dict[str, list[str]] = {}  # device -> those that were found after the start
        self._abilities: dict[tuple[str, str], Abilities] = {}

    @abstractmethod
    def devices(self) -> list[DeviceInfo]:
        """The devices found, with memory, backends and slots. Cheap: asked at start, and once the backends were asked."""

    def adopt(self, report: Report) -> bool:
        """Take up a backend that drives devices of this platform; whether it does."""
        there = {device.id for device in self.devices()}
        mine = [device for probe in report.probes if probe.platform == self.platform and (device := f"{probe.platform}:{probe.index}") in there]
        for device in mine:
            if report.backend not in self._backends.setdefault(device, []):
                self._backends[device].append(report.backend)
            if self.platform in report.abilities:
                self._abilities[device, report.backend] = report.abilities[self.platform]
        return bool(mine)

    def abilities(self, device: str, backend: str) -> Abilities | None:
        """What a backend on a device said of itself, when it was asked or when its first worker started; None before."""
        return self._abilities.get((device, backend))

    def share(self, device: DeviceInfo, backend: str) -> Share | None:
        """What a worker is told of its device; None for the processor, which every library drives as a whole."""
        return None

    def usage(self, device: DeviceInfo) -> Usage | None:
        """Memory and load now; None for the processor, of which the machine tells."""
        return None

    @abstractmethod
    def threads(self, slots: int) -> int:
        """Compute threads for each of a device's workers."""

    async def start_worker(
        self,
        device: DeviceInfo,
        backend: str,
        *,
        on_answer: Callable[[Answer], None],
        on_progress: Callable[[int, float, str | None], None],
        on_death: Callable[[str], None],
        idle: bool = False,
    ) -> WorkerProcess:
        """A worker that can take jobs; an `idle` one gives way to all others. Raises `Unavailable` with its last words when it does not come up."""
        options = msgspec.structs.replace(
            self._options, threads=self.threads(device.slots), idle=idle, share=self.share(device, backend), environment=self.environment
        )
        worker = WorkerProcess(device.id, backend, options, pool=self.pool, on_answer=on_answer, on_progress=on_progress, on_death=on_death)
        await worker.start()
        if worker.abilities is not None:
            self._abilities[device.id, backend] = worker.abilities
        return worker


def usable_cores() -> int:
    """Cores this process may use: its affinity, and the cgroup's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))


def architecture() -> str:
    return f"{platform.machine()} {platform.system()}"
