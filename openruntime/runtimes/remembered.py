"""What backends reported, kept on disk: asking eight libraries takes seconds, and the answer changes only with what is installed.

Why so, and what is looked at: docs/decisions/what-backends-reported.md.
"""

import hashlib
import logging
import os
import platform
import site
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

import openruntime.contracts
from openruntime.contracts.registry import BACKENDS
from openruntime.runtimes.probe import Report, discover

log = logging.getLogger(__name__)

STALE = 86_400.0  # seconds: a card may come and go without a trace that is looked at here
# folders where a driver's arrival shows, and files whose text names its version
_DRIVERS = ("/etc/OpenCL/vendors", "/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/dev/dri", "/dev/accel")
_VERSIONS = ("/proc/driver/nvidia/version", "/sys/module/amdgpu/version", "/sys/module/xe/version")
_NODES = ("nvidia", "kfd", "accel", "dxg")  # beginnings of names in /dev
_VARIABLES = (
    "CUDA", "CUPY", "DYLD_", "GPU_", "HIP", "JAX", "LD_", "LIBGL", "MESA", "MLX", "NVIDIA", "OCL_", "ONEAPI", "OPENCL", "POCL", "PYOPENCL",
    "PYTHONPATH", "PYTORCH", "ROCR", "SYCL", "TORCH", "TPU", "VK_", "WGPU", "XLA", "ZE_",
)  # fmt: skip


class _Kept(msgspec.Struct, frozen=True):
    key: str
    asked: float  # seconds since the epoch
    report: Report


class RememberedReports:
    """Reports of the built-in backends in `folder`, good as long as what they depend on looks the same. Failures are asked anew at each start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "backends"
        self._key = surroundings()

    def known(self, names: Iterable[str]) -> list[Report]:
        """Those of `names` that are remembered."""
        return [found for name in names if (found := self._read(name)) is not None]

    async def learn(self, names: Iterable[str]) -> list[Report]:
        """Ask each of `names`, and remember what it says."""
        reports = await discover(names)
        for report in reports:
            if BACKENDS.builtin(report.backend) and (report.failure is None or report.extra is not None):
                self._write(report)
        return reports

    def _read(self, name: str) -> Report | None:
        if not BACKENDS.builtin(name):
            return None
        try:
            kept = msgspec.json.decode(self._file(name).read_bytes(), type=_Kept)
        except (OSError, msgspec.DecodeError):
            return None
        return kept.report if kept.key == self._key and 0 <= time.time() - kept.asked < STALE else None

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}-{self._key[:16]}.json"

    def _write(self, report: Report) -> None:
        path = self._file(report.backend)
        fresh = path.with_suffix(f".{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(msgspec.json.encode(_Kept(self._key, time.time(), report)))
            fresh.replace(path)  # another server may read it now
            for old in self._folder.iterdir():
                if time.time() - old.stat().st_mtime > STALE:
                    old.unlink(missing_ok=True)
        except OSError as error:
            log.info("what backends reported is not kept: %s", error)


def surroundings() -> str:
    """A digest of what a report depends on: Python, what is installed, drivers, variables that libraries read. Takes about a millisecond."""
    return hashlib.sha256("\n".join(_signs()).encode(errors="surrogateescape")).hexdigest()


def _signs() -> Iterator[str]:
    yield f"{sys.version} {sys.prefix} {os.cpu_count()} {' '.join(platform.uname())}"
    packages = [*site.getsitepackages(), site.getusersitepackages(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    yield from map(_stamp, filter(None, packages))  # installing a package touches its folder
    own = Path(openruntime.contracts.__path__[0]).parent
    for folder in ("backends", "contracts", "operations", "runtimes"):  # where they are edited in place
        yield from map(_stamp, _listed(own / folder))
    for place in _DRIVERS:
        yield from map(_stamp, _listed(Path(place)))
    yield from (node.name for node in _listed(Path("/dev")) if node.name.startswith(_NODES))
    for version in _VERSIONS:
        try:
            yield Path(version).read_text(encoding="utf-8", errors="replace")
        except OSError:
            yield ""
    yield from (f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES))


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name != "__pycache__")
    except OSError:
        return []


def _stamp(path: str | Path) -> str:
    try:
        return f"{path} {os.stat(path).st_mtime_ns}"
    except OSError:
        return f"{path} -"
