"""The CPU as a device: `cpu:0`, driven by NumPy."""

import psutil

from openruntime.contracts.models import DeviceInfo
from openruntime.runtimes.manager import RuntimeManager, architecture, usable_cores


class CPURuntimeManager(RuntimeManager):
    """Keeps workers for `cpu:0`. Defaults measured in `docs/explanation/performance.md`: two slots, all cores each.

    One worker is warm before the server is ready; the second starts when a long task holds the first.
    """

    platform = "cpu"

    def devices(self) -> list[DeviceInfo]:
        memory = psutil.virtual_memory()
        slots = self._slots or min(2, usable_cores())
        return [
            DeviceInfo(
                id="cpu:0", name=architecture(), type="cpu", capabilities=[], memory_total=memory.total, memory_available=memory.available,
                status="ready", backends=["numpy"], slots=slots,
            )
        ]  # fmt: skip

    def threads(self, slots: int) -> int:
        return self._threads or usable_cores()
