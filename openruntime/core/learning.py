"""What the runtime knows of how fast its devices are: shipped, measured at the first start, learned from every task, kept across restarts."""

import asyncio
import contextlib
import hashlib
import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
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

SHELF = "cost-model"  # namespace
YEAR = 365 * 86_400.0
MONTH = 30 * 86_400.0  # on a shared store: containers come and go there, each under a name of its own
SETTLED = 1.0  # seconds after the start before calibration begins
LIBRARIES = ("openruntime", "numpy", "scipy", "torch", "jaxlib", "mlx", "pyopencl", "wgpu", "cupy-cuda13x", "cupy-cuda12x")  # packages


def setup(slots: int, threads: int) -> str:
    """What run times depend on, beside the machine itself: its processor, how it is used, and the libraries."""
    return f"{cpu_name()} x{usable_cores()}, {slots} slots of {threads} threads, {', '.join(_versions())}"


def _versions() -> Iterator[str]:
    for package in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


class Kept(msgspec.Struct, forbid_unknown_fields=True):
    """As it is written."""

    cost: dict[str, Any]
    ceilings: dict[str, Any]
    calibrated: list[tuple[str, str]]


class Learning:
    """`cost` predicts, `roofline` judges; both hold for a `setup` of a machine, and are kept apart for each: on the store's shelf, or in a file in
    `folder` where that is given. Where several servers share the store, each machine there keeps its own under its name, for cards may differ; one
    that is new begins with another's samples, of the same setup, and is calibrated."""

    def __init__(self, store: Store, roofline: Roofline, folder: Path | None, *, slots: int, threads: int) -> None:
        self.cost = CostModel(shipped())
        self.roofline = roofline
        self._store = store
        self._setup = setup(slots, threads)
        self._key = self._setup if store.peers is None else f"{self._setup}/{platform.node()}"
        self._file = None if folder is None else folder / f"learned-{hashlib.sha256(self._setup.encode()).hexdigest()[:16]}.msgpack"
        self._calibrated: set[tuple[str, str]] = set()

    async def load(self) -> None:
        """Take up what was kept. What cannot be read is said, and learning begins anew."""
        try:
            if (data := await self._read()) is not None:
                found = msgspec.msgpack.decode(data, type=Kept)
                self.cost.load(found.cost)
                self.roofline.load(found.ceilings)
                self._calibrated = set(found.calibrated)
            elif (data := await self._of_another()) is not None:
                self.cost.load(msgspec.msgpack.decode(data, type=Kept).cost)
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
            found = await self._store.shelf.get(SHELF, self._key)
            return None if found is None else found[0]
        return self._file.read_bytes() if self._file.is_file() else None

    async def _of_another(self) -> bytes | None:
        """What a machine of the same setup keeps on a shared store."""
        if self._store.peers is None:
            return None
        like = await self._store.shelf.items(SHELF, after=f"{self._setup}/", limit=1)
        return next((data for key, data in like if key.startswith(f"{self._setup}/")), None)

    async def _write(self, data: bytes) -> None:
        if self._file is None:
            await self._store.shelf.put(SHELF, self._key, data, {}, ttl=YEAR if self._store.peers is None else MONTH, tenant="")
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".draft")
        draft.write_bytes(data)
        draft.replace(self._file)
