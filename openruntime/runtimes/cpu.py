"""The CPU as a device: `cpu:0`, driven by NumPy and by every plugin that says so."""

from openruntime.contracts.models import DeviceInfo
from openruntime.runtimes.manager import RuntimeManager, architecture, usable_cores


class CPURuntimeManager(RuntimeManager):
    """Keeps workers for `cpu:0`. Defaults measured by `python -m benchmarks.slots` (`docs/explanation/performance.md`): two slots, all cores each.

    One worker is warm before the server is ready; the second starts when a long task holds the first.
    """

    platform = "cpu"

    def devices(self) -> list[DeviceInfo]:
        # memory and name are read live, by the device manager
        slots = self._slots or min(2, usable_cores())
        return [
            DeviceInfo(
                id="cpu:0", name=architecture(), type="cpu", capabilities=[], memory_total=0, memory_available=0,
                status="ready", backends=["numpy", *self._backends.get("cpu:0", ())], slots=slots,
            )
        ]  # fmt: skip

    def threads(self, slots: int) -> int:
        return self._threads or usable_cores()
