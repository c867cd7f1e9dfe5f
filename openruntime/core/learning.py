"""What the runtime knows of how fast its devices are: shipped, measured at the first start, learned from every task, kept across restarts."""

import asyncio
import logging
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from openruntime.contracts.errors import OpenRuntimeError
from openruntime.contracts.interfaces import Catalogue, Store
from openruntime.devices.calibration import Calibrator
from openruntime.devices.cost_model import CostModel
from openruntime.devices.host import cpu_name
from openruntime.devices.profile import shipped
from openruntime.devices.roofline import Roofline
from openruntime.runtimes.manager import RuntimeManager, usable_cores
from openruntime.runtimes.shared_memory import SlabPool

log = logging.getLogger(__name__)

SHELF = "cost-model"  # namespace; the key is the machine, because several may share a store
YEAR = 365 * 86_400.0
SETTLED = 1.0  # seconds after the start before calibration begins


class Kept(msgspec.Struct, forbid_unknown_fields=True):
    """As it is written."""

    cost: dict[str, Any]
    ceilings: dict[str, Any]
    calibrated: list[tuple[str, str]]


class Learning:
    """`cost` predicts, `roofline` judges; both go with the machine. Kept on the store's shelf, or in the user's cache where the store is memory."""

    def __init__(self, store: Store, roofline: Roofline, file: Path | None) -> None:
        self.cost = CostModel(shipped())
        self.roofline = roofline
        self._store = store
        self._file = file
        self._machine = f"{platform.node()}/{cpu_name()} x{usable_cores()}"
        self._calibrated: set[tuple[str, str]] = set()

    async def load(self) -> None:
        """Take up what was kept. What cannot be read is said, and learning begins anew."""
        try:
            data = await self._read()
            if data is None:
                return
            found = msgspec.msgpack.decode(data, type=Kept)
            self.cost.load(found.cost)
            self.roofline.load(found.ceilings)
            self._calibrated = set(found.calibrated)
        except (ValueError, msgspec.DecodeError, OSError) as error:
            log.warning("what was learned of run times cannot be read (%s); learning begins anew", error)

    async def save(self) -> None:
        """Keep it; says so where it cannot."""
        data = msgspec.msgpack.encode(Kept(self.cost.dump(), self.roofline.dump(), sorted(self._calibrated)))
        try:
            await self._write(data)
        except (OpenRuntimeError, OSError) as error:
            log.warning("what was learned of run times is not kept: %s", error)

    async def calibrate(self, catalogue: Catalogue, runtimes: Sequence[RuntimeManager], pool: SlabPool, calm: Callable[[str], bool]) -> None:
        """Measure the backends that were not measured on this machine before."""
        await asyncio.sleep(SETTLED)
        calibrator = Calibrator(catalogue, runtimes, self.cost, self.roofline, pool, calm)
        calibrator.done = self._calibrated
        if await calibrator.run():
            await self.save()

    async def _read(self) -> bytes | None:
        if self._file is None:
            found = await self._store.shelf.get(SHELF, self._machine)
            return None if found is None else found[0]
        return self._file.read_bytes() if self._file.is_file() else None

    async def _write(self, data: bytes) -> None:
        if self._file is None:
            await self._store.shelf.put(SHELF, self._machine, data, {}, ttl=YEAR, tenant="")
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".draft")
        draft.write_bytes(data)
        draft.replace(self._file)
