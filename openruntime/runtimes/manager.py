"""Finds the devices of one platform and starts their workers. One subclass a platform."""

import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable

from openruntime.contracts.models import DeviceInfo
from openruntime.runtimes.process import Answer, WorkerProcess
from openruntime.runtimes.shared_memory import SlabPool


class RuntimeManager(ABC):
    """Devices of one platform: what drives them, how many slots they have, how a worker on them starts."""

    def __init__(self, pool: SlabPool, *, slots: int | None = None, threads: int | None = None) -> None:
        self.pool = pool
        self._slots = slots
        self._threads = threads
        self._capabilities: dict[tuple[str, str], list[str]] = {}

    @abstractmethod
    def devices(self) -> list[DeviceInfo]:
        """The devices found, with memory, backends and slots. Cheap: asked once at start."""

    @property
    def backends(self) -> dict[str, list[str]]:
        return {device.id: device.backends for device in self.devices()}

    def capabilities(self, device: str, backend: str) -> list[str]:
        """The operations a backend runs on a device: known since its first worker said so."""
        return self._capabilities.get((device, backend), [])

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
    ) -> WorkerProcess:
        """A worker that can take jobs. Raises `Unavailable` with its last words when it does not come up."""
        worker = WorkerProcess(
            device.id, backend, pool=self.pool, threads=self.threads(device.slots), on_answer=on_answer, on_progress=on_progress, on_death=on_death
        )
        await worker.start()
        self._capabilities[device.id, backend] = worker.capabilities
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
