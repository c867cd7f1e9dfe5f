"""GPUs, and what else is neither the processor nor MLX's: one physical card is one device, however many libraries drive it."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from openruntime.contracts.errors import OpenRuntimeError
from openruntime.contracts.interfaces import Meter
from openruntime.contracts.models import DeviceInfo
from openruntime.contracts.records import Abilities, Probe, Usage
from openruntime.contracts.registry import METERS
from openruntime.runtimes.manager import RuntimeManager, usable_cores
from openruntime.runtimes.probe import Report
from openruntime.runtimes.process import Share
from openruntime.runtimes.shared_memory import SlabPool

SAMPLE_AGE = 1.0  # seconds that a figure of a card stays good


class GPU(Protocol):
    """A physical card, as `devices.gpu.GPUDevice` describes it."""

    @property
    def id(self) -> str: ...

    @property
    def uuid(self) -> str | None: ...

    @property
    def pci(self) -> str | None: ...

    @property
    def indices(self) -> Mapping[str, int]:
        """Backend -> that backend's own number for it."""

    def info(self) -> DeviceInfo: ...


class GPURuntimeManager(RuntimeManager):
    """Keeps workers for GPUs. A card that several drivers show is called after the first of CUDA, ROCm, XPU, Metal, OpenCL, Vulkan that does.

    `merge` tells physical cards from what backends saw (`devices.gpu.merge`). `share_of(total)`: of a device's memory, the bytes that one
    worker may take. One slot a card: two libraries computing at once would only slow each other down.
    """

    platform = "gpu"

    def __init__(
        self, pool: SlabPool, *, merge: Callable[[Iterable[Probe]], Sequence[GPU]], share_of: Callable[[int], int] = lambda total: 0,
        threads: int | None = None, memory: int = 0, batch: int = 64, batch_bytes: int = 64 << 20,
    ) -> None:  # fmt: skip
        super().__init__(pool, slots=1, threads=threads, memory=memory, batch=batch, batch_bytes=batch_bytes)
        self._merge = merge
        self._share_of = share_of
        self._reports: dict[str, Report] = {}
        self._gpus: dict[str, GPU] = {}
        self._meters: dict[str, Meter | None] = {}
        self._sampled: dict[str, tuple[float, Usage | None]] = {}

    def lists(self, gpu: GPU) -> bool:
        """Whether a card is this manager's: those that MLX drives are `MLXRuntimeManager`'s."""
        return "mlx" not in gpu.indices

    def devices(self) -> list[DeviceInfo]:
        return [gpu.info() for gpu in self._gpus.values()]

    def adopt(self, report: Report) -> bool:
        self._reports[report.backend] = report
        seen = [probe for known in self._reports.values() for probe in known.probes if probe.platform != "cpu"]
        self._gpus = {gpu.id: gpu for gpu in self._merge(seen) if self.lists(gpu)}
        return any(report.backend in gpu.indices for gpu in self._gpus.values())

    def abilities(self, device: str, backend: str) -> Abilities | None:
        told = super().abilities(device, backend)
        if told is None and (report := self._reports.get(backend)) is not None:
            index = self._gpus[device].indices[backend]
            platforms = [probe.platform for probe in report.probes if probe.platform != "cpu" and probe.index == index]
            told = next((report.abilities[platform] for platform in platforms if platform in report.abilities), None)
        return told

    def threads(self, slots: int) -> int:
        return self._threads or usable_cores()

    def share(self, device: DeviceInfo, backend: str) -> Share:
        return Share(self._gpus[device.id].indices[backend], self._share_of(device.memory_total))

    def usage(self, device: DeviceInfo) -> Usage | None:
        """What the driver says now, at most a second old; None where no meter knows the card: then what was found holds."""
        now = time.monotonic()
        when, usage = self._sampled.get(device.id, (-SAMPLE_AGE, None))
        if now - when >= SAMPLE_AGE:
            usage = self._read(device.id)
            self._sampled[device.id] = now, usage
        return usage

    def _read(self, device: str) -> Usage | None:
        platform, gpu = device.partition(":")[0], self._gpus[device]
        if platform not in METERS.names():
            return None
        try:
            if platform not in self._meters:
                self._meters[platform] = None  # one that cannot be made is not tried again
                self._meters[platform] = METERS.load(platform)()
            meter = self._meters[platform]
            return meter.usage(gpu.uuid, gpu.pci) if meter is not None else None
        except OpenRuntimeError:
            return None
