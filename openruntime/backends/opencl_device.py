"""An OpenCL device: found, identified, its programs built through a cache on disk, its memory pooled, its errors in words."""

import ctypes
import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pyopencl as cl
from pyopencl.tools import ImmediateAllocator, MemoryPool

from openruntime.backends.kernel_cache import keep, kept
from openruntime.contracts.errors import CompileError, NoSuchDevice, OpenRuntimeError, OperationFailed, OutOfMemory, WorkerCrashed

# Platforms that drive the processor, the preferred first; of two versions of one, the newer.
_PROCESSOR_PLATFORMS = ("portable computing language", "intel", "apple")
_UUID_KHR, _PCI_BUS_INFO_KHR = 0x106A, 0x410F  # cl_khr_device_uuid, cl_khr_pci_bus_info
_BUS_NV, _SLOT_NV, _DOMAIN_NV = 0x4008, 0x4009, 0x400A  # cl_nv_device_attribute_query
_FREE_MEMORY_AMD = 0x4039  # cl_amd_device_attribute_query: KiB
_SAVED = re.compile(r"\(source saved as (.*)\)")
_TEMPORARY = re.compile(r"(?:\S*/tempfile_\w+\.cl|<kernel>|<source>):(?=\d)")  # as PoCL, NVIDIA and Clang name what they compile
_NOT_SAID = ("Build on <", "(options: ", "(source saved as ")
_ALIGNMENT = 16  # bytes: the widest vector type that our kernels load is double2
_LOST = frozenset({"DEVICE_NOT_AVAILABLE", "INVALID_COMMAND_QUEUE"})  # what drivers say once a kernel has broken the context
_EXHAUSTED = frozenset({"MEM_OBJECT_ALLOCATION_FAILURE", "OUT_OF_RESOURCES", "OUT_OF_HOST_MEMORY", "INVALID_BUFFER_SIZE"})


class Built(NamedTuple):
    """A program ready to use. `seconds` it took; `cached`: it came from the disk; `log`: what the compiler said."""

    program: cl.Program
    seconds: float
    cached: bool
    log: str


def processors() -> list[cl.Device]:
    """Devices that are the processor, the best driver first: they are one piece of silicon, however many platforms see it."""

    def preference(device: cl.Device) -> tuple[int, list[int]]:
        vendor = device.platform.name.casefold()
        rank = next((i for i, name in enumerate(_PROCESSOR_PLATFORMS) if name in vendor), len(_PROCESSOR_PLATFORMS))
        return rank, [-int(part) for part in re.findall(r"\d+", device.platform.version)]

    return sorted((device for device in _all() if device.type & cl.device_type.CPU), key=preference)


def cards() -> list[cl.Device]:
    """GPUs and accelerators, in the drivers' order."""
    return [device for device in _all() if not device.type & cl.device_type.CPU]


def _all() -> list[cl.Device]:
    try:
        platforms = cl.get_platforms()
    except cl.Error:  # the loader is there, and knows no driver
        return []
    found = []
    for platform in platforms:
        with suppress(cl.Error):  # a driver that lists no device of its own
            found += [device for device in platform.get_devices() if device.available and device.compiler_available]
    return found


def broken() -> Iterator[str]:
    """Of each driver that is registered here and cannot be loaded, why: the loader leaves it out without a word."""
    for registered in sorted(Path(os.environ.get("OCL_ICD_VENDORS", "/etc/OpenCL/vendors")).glob("*.icd")):
        try:
            ctypes.CDLL(registered.read_text(errors="replace").strip())
        except OSError as error:
            yield f"{error}; install it again, or remove {registered}"


def find(name: str, index: int = 0) -> cl.Device:
    """The device behind `cpu:0`, `opencl:1`, `cuda:0`: the processor, or the card of that `index`. Raises `NoSuchDevice`."""
    found = processors()[:1] if name.startswith("cpu") else cards()
    if index >= len(found):
        there = ", ".join(device.name for device in [*processors()[:1], *cards()]) or "nothing"
        raise NoSuchDevice(f"no OpenCL driver drives {name}; they drive {there}")
    return found[index]


def uuid_of(device: cl.Device) -> str | None:
    raw = _raw(device, _UUID_KHR, 16) if "cl_khr_device_uuid" in device.extensions else None
    return raw.hex() if raw and any(raw) else None


def pci_of(device: cl.Device) -> str | None:
    """The bus id as `domain:bus:device.function`."""
    if "cl_khr_pci_bus_info" in device.extensions:
        raw = _raw(device, _PCI_BUS_INFO_KHR, 16)
        if raw:
            domain, bus, slot, function = np.frombuffer(raw, "u4")
            return f"{domain:04x}:{bus:02x}:{slot:02x}.{function}"
    elif "cl_nv_device_attribute_query" in device.extensions:
        bus_nv, slot_nv, domain_nv = (_raw(device, code, 4) for code in (_BUS_NV, _SLOT_NV, _DOMAIN_NV))
        if bus_nv and slot_nv:
            at = int.from_bytes(slot_nv, "little")  # device in the upper bits, function in the lowest three
            domain = int.from_bytes(domain_nv or b"", "little")
            return f"{domain:04x}:{int.from_bytes(bus_nv, 'little'):02x}:{at >> 3:02x}.{at & 7}"
    return None


def free_memory_of(device: cl.Device) -> int:
    """Bytes; all that it has where the driver does not tell."""
    raw = _raw(device, _FREE_MEMORY_AMD, 8) if "cl_amd_device_attribute_query" in device.extensions else None
    return int.from_bytes(raw, "little") << 10 if raw else int(device.global_mem_size)


def _raw(device: cl.Device, parameter: int, size: int) -> bytes | None:
    """What the driver answers to a question that PyOpenCL does not know."""
    ask = ctypes.CDLL(cl._cl.__file__).clGetDeviceInfo
    answer, length = ctypes.create_string_buffer(64), ctypes.c_size_t()
    failed = ask(ctypes.c_void_p(device.int_ptr), ctypes.c_uint(parameter), ctypes.c_size_t(64), answer, ctypes.byref(length))
    return answer.raw[:size] if not failed and length.value >= size else None


class OpenCLDevice:
    """A device with a context and an in-order queue whose events tell their times.

    `unified`: it works in the host's memory, so that nothing need be copied. `cache`: the folder of built programs, None for no cache.
    `memory`: bytes that `allocate` may have out at a time, 0 for no bound.
    """

    def __init__(self, device: cl.Device, *, cache: Path | None = None, memory: int = 0) -> None:
        self.device = device
        self.context = cl.Context([device])
        self.queue = cl.CommandQueue(self.context, properties=cl.command_queue_properties.PROFILING_ENABLE)
        self.processor = bool(device.type & cl.device_type.CPU)
        self.unified = self.processor or bool(device.host_unified_memory)
        self.has_double = "cl_khr_fp64" in device.extensions or bool(device.double_fp_config)
        self.units: int = device.max_compute_units
        self._cache = cache
        self._memory = memory

    @cached_property
    def identity(self) -> str:
        """Platform, device and driver: a program built for one is none for another."""
        platform = self.device.platform
        return "\n".join((platform.name, platform.version, self.device.vendor, self.device.name, self.device.version, self.device.driver_version))

    @cached_property
    def _pool(self) -> MemoryPool:
        return MemoryPool(ImmediateAllocator(self.queue))

    def build(self, source: str, options: Sequence[str] = ()) -> Built:
        """Build OpenCL C. Raises `CompileError` with the compiler's log."""
        started = perf_counter()
        key = hashlib.sha256("\0".join((self.identity, *options, "", source)).encode()).hexdigest()
        path = self._cache / f"{key}.opencl" if self._cache else None
        if path is not None and (binary := kept(path)) is not None:
            with suppress(cl.Error), warnings.catch_warnings():  # a damaged file is built again
                warnings.simplefilter("ignore")
                program = cl.Program(self.context, [self.device], [binary]).build()
                return Built(program, perf_counter() - started, True, "")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyOpenCL warns where a compiler says anything at all
                program = cl.Program(self.context, source).build(options=list(options))
        except cl.RuntimeError as error:
            raise CompileError(_log(error)) from None
        log = str(program.get_build_info(self.device, cl.program_build_info.LOG)).strip("\0 \n")
        if path is not None:
            keep(path, program.get_info(cl.program_info.BINARIES)[0])
        return Built(program, perf_counter() - started, False, log)

    def allocate(self, nbytes: int) -> Any:
        """Memory of the device from a pool; it goes back with the last reference. Raises `OutOfMemory`."""
        if self._memory and self._pool.managed_bytes + nbytes > self._memory:
            self.trim()
            if self._pool.active_bytes + nbytes > self._memory:
                raise OutOfMemory(
                    f"{nbytes} bytes more than the {self._pool.active_bytes} in use are beyond the {self._memory} bytes of {self.device.name}"
                    " that are allowed"
                )
        try:
            return self._pool.allocate(max(nbytes, _ALIGNMENT))
        except cl.Error as error:
            raise translated(error, "allocating", self.device.name) from error

    def wrap(self, array: "np.ndarray[Any, Any]", *, writable: bool = False) -> Any:
        """The array's own memory as a buffer, None where the device cannot work in it: it is no unified device, or the memory is not aligned."""
        if not self.unified or not array.nbytes or array.ctypes.data % _ALIGNMENT or not array.flags.c_contiguous:
            return None
        access = cl.mem_flags.READ_WRITE if writable else cl.mem_flags.READ_ONLY
        return cl.Buffer(self.context, access | cl.mem_flags.USE_HOST_PTR, hostbuf=array)

    def trim(self) -> None:
        """Give back what the pool holds unused."""
        self.queue.finish()
        self._pool.free_held()

    @property
    def pooled(self) -> tuple[int, int]:
        """Bytes in use and bytes held by the pool, those in use among them."""
        return self._pool.active_bytes, self._pool.managed_bytes


def translated(error: cl.Error, what: str, device: str) -> OpenRuntimeError:
    """A driver's error as a sentence."""
    status = str(cl.status_code.to_string(error.code, "error %d")) if hasattr(error, "code") else type(error).__name__  # type: ignore[operator]
    if status in _LOST:
        return WorkerCrashed(f"{what} lost {device}: the OpenCL driver says {status}, and computes no more in this process")
    if isinstance(error, cl.MemoryError) or status in _EXHAUSTED:
        return OutOfMemory(f"{what} ran out of memory on {device} ({status})")
    return OperationFailed(f"{what} failed on {device}: the OpenCL driver says {status}")


def _log(error: cl.RuntimeError) -> str:
    """What the compiler said, `kernel.cl:LINE:COLUMN` where it names places."""
    text = str(error)
    saved = _SAVED.search(text)
    if saved:  # PyOpenCL leaves the source of what failed in a file for each failure
        with suppress(OSError):
            os.unlink(saved[1])
    said = text.partition("\n\n")[2] if "\n\n" in text else text
    lines = [_TEMPORARY.sub("kernel.cl:", line) for line in said.splitlines() if not line.startswith(_NOT_SAID)]
    return "\n".join(lines).strip() or text
