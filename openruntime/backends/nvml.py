"""Memory and load of NVIDIA's cards, read from the driver (NVML): nothing is computed, and no memory of the card is taken."""

from typing import Any

import pynvml

from openruntime.contracts.errors import Unavailable
from openruntime.contracts.records import Usage


class NvmlMeter:
    """Raises `Unavailable` where the driver does not answer."""

    def __init__(self) -> None:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise Unavailable(f"NVIDIA's driver does not tell of its cards: {error}") from error
        self._handles: dict[tuple[str | None, str | None], Any] = {}

    def usage(self, uuid: str | None, pci: str | None) -> Usage | None:
        """By UUID (32 hexadecimal digits) or PCI bus id. Load is the share of the last sample period in which a kernel ran."""
        try:
            handle = self._handles.get((uuid, pci)) or self._find(uuid, pci)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        except pynvml.NVMLError_NotFound:
            return None
        except pynvml.NVMLError as error:
            raise Unavailable(f"NVIDIA's driver does not tell of the card {uuid or pci}: {error}") from error
        self._handles[uuid, pci] = handle
        return Usage(int(memory.total), int(memory.free), _load(handle))

    def _find(self, uuid: str | None, pci: str | None) -> Any:
        if uuid is None:
            return pynvml.nvmlDeviceGetHandleByPciBusId((pci or "").encode())
        spelt = f"{uuid[:8]}-{uuid[8:12]}-{uuid[12:16]}-{uuid[16:20]}-{uuid[20:]}"
        try:
            return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{spelt}".encode())
        except pynvml.NVMLError_NotFound:
            return pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{spelt}".encode())  # a part of a partitioned card


def _load(handle: Any) -> float | None:
    try:
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
    except pynvml.NVMLError:  # parts of a partitioned card have none
        return None
