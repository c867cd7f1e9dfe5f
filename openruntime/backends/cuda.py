"""CuPy on NVIDIA's GPUs.

Memory comes from CuPy's pool, bounded and trimmed. Host memory that the gateway shares is pinned once, so that copies run at the speed of the
bus, beside the computation. Time on the device is measured by its own events.
Sources: CuPy's user guide (memory management, streams and events); CUDA Runtime API, error handling and memory management.
"""

import ctypes
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import prod
from typing import Any, ClassVar

import array_api_compat.cupy as xp
import cupy
import cupyx
import numpy as np
from cupy.cuda import runtime

from openruntime.backends.array_backend import ArrayBackend, Memory, Native
from openruntime.contracts.errors import NoSuchDevice, OpenRuntimeError, OperationFailed, OutOfMemory, Unavailable, WorkerCrashed
from openruntime.contracts.payload import ITEMSIZE, Array
from openruntime.contracts.records import Probe, Result
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.operations.definition import Operation
from openruntime.operations.formula import program, signature

Host = np.ndarray[Any, Any]

STREAMED = 64 << 20  # bytes of a formula's arrays from which it is computed in parts, while others travel
PART = 8 << 20  # bytes of an array that travel together
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation, CUDA_ERROR_OUT_OF_MEMORY
# after these no call of the process succeeds any more (CUDA Runtime API, cudaError): ECC error, lost device, illegal address, time-out of a
# launch, assertion, hardware stack error, illegal instruction, misaligned address, invalid address space, invalid program counter, failed launch
_FATAL = frozenset({46, 214, 700, 702, 710, 714, 715, 716, 717, 718, 719})
_UNSOLVED = {
    **dict.fromkeys(("solve", "inv"), "the matrix is singular, so it has no inverse; lstsq finds a least-squares solution"),
    "cholesky": "the matrix is not positive definite",
}


class CudaBackend(ArrayBackend):
    """CuPy, its memory pool bounded by `memory` bytes; `index` is the driver's number of the card."""

    name = "cuda"
    xp = xp
    separate_memory = True
    lacks: ClassVar[Mapping[str, str]] = {**ArrayBackend.lacks}

    @classmethod
    def probe(cls) -> Sequence[Probe]:
        """Every card that the driver shows. Raises `NoSuchDevice` without a driver or a card, `Unavailable` with a driver too old."""
        try:
            count = runtime.getDeviceCount()
        except runtime.CUDARuntimeError as error:
            raise _no_device(error) from error
        return [_card(cls.name, index) for index in range(count)]

    def __init__(
        self, *, device: str = "cuda:0", threads: int = 1, index: int = 0, memory: int = 0, catalogue: OperationCatalogue | None = None
    ) -> None:
        super().__init__(device=device, threads=threads, index=index, memory=memory, catalogue=catalogue)
        self._card = cupy.cuda.Device(index)
        try:
            self._card.use()
            self._computing, self._sending, self._fetching = (cupy.cuda.Stream(non_blocking=True) for _ in range(3))
        except runtime.CUDARuntimeError as error:
            raise _no_device(error) from error
        self._computing.use()
        self._pool = cupy.get_default_memory_pool()
        if memory:
            self._pool.set_limit(size=memory)
        self._pinned: dict[int, int] = {}  # address -> bytes
        self._in_parts = False
        self._elapsed = 0.0
        # beside the class's: this one needs the streams of the instance
        self.native: Mapping[str, Native] = {"expression": self._expression}  # type: ignore[misc]
        self.native_outputs = frozenset({"expression"})  # type: ignore[misc]

    # -- memory ---------------------------------------------------------------------------------------------------------------

    def pin(self, memory: memoryview) -> None:
        """Host memory that stays mapped for a while: copies from and to it need no detour. What cannot be pinned works as it is."""
        address = ctypes.addressof(ctypes.c_ubyte.from_buffer(memory))
        with suppress(runtime.CUDARuntimeError):
            runtime.hostRegister(address, memory.nbytes, 0)
            self._pinned[address] = memory.nbytes

    def unpin(self, memory: memoryview) -> None:
        """Before the memory of `pin` is unmapped."""
        address = ctypes.addressof(ctypes.c_ubyte.from_buffer(memory))
        if self._pinned.pop(address, None) is not None:
            with suppress(runtime.CUDARuntimeError):
                runtime.hostUnregister(address)

    def trim(self) -> None:
        cupy.fft.config.get_plan_cache().clear()  # plans hold work areas of the pool's
        self._pool.free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()

    def from_host(self, array: Host) -> Any:
        if self._in_parts:
            return array
        array = np.ascontiguousarray(array)
        made = cupy.empty(array.shape, array.dtype.newbyteorder("="))
        if array.nbytes:
            made.data.copy_from_host_async(array.ctypes.data, array.nbytes, self._sending)
        return made

    def to_host(self, array: Any) -> Host:
        if isinstance(array, np.ndarray):
            return array
        array = cupy.ascontiguousarray(cupy.asarray(array))
        made = self._outputs.empty(array.shape, array.dtype)
        if array.nbytes:
            array.data.copy_to_host_async(made.ctypes.data, array.nbytes, self._computing)
            self._computing.synchronize()
        return made

    def synchronise(self) -> None:
        self._sending.synchronize()
        self._computing.synchronize()

    # -- work -----------------------------------------------------------------------------------------------------------------

    async def execute(self, operation: str, params: dict[str, Any]) -> Result:
        try:
            result = await super().execute(operation, params)
        except BaseException as error:
            self._settle(operation, error)
            raise
        finally:
            self._outputs = Memory(None, self.inline)  # the caller's memory is held no longer
        return Result(result.outputs, self._elapsed, result.transfer, result.compile)

    def _settle(self, operation: str, error: BaseException) -> None:
        """Wait for what a call had begun that failed: its memory is the next one's, and the caller's again. Raises `WorkerCrashed`."""
        try:
            for stream in (self._sending, self._computing, self._fetching):
                stream.synchronize()
        except runtime.CUDARuntimeError as lost:
            raise WorkerCrashed(f"{operation} on {self.device}/{self.name}: {lost}; what it had begun cannot be waited for") from error

    def _arguments(self, operation: Operation, params: Mapping[str, Any], memory: Memory) -> dict[str, Any]:
        self._outputs = memory
        arrays = [value for value in params.values() if isinstance(value, Array)]
        alike = len({array.shape for array in arrays if array.size != 1}) == 1
        self._in_parts = operation.name == "expression" and alike and sum(array.nbytes for array in arrays) >= STREAMED
        return super()._arguments(operation, params, memory)

    def _run(self, operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        begun, ended = cupy.cuda.Event(), cupy.cuda.Event()
        with cupyx.errstate(linalg="raise"):
            begun.record(self._computing)
            self._computing.wait_event(self._sending.record())
            found = super()._run(operation, arguments)
            ended.record(self._computing)
        ended.synchronize()
        self._elapsed = cupy.cuda.get_elapsed_time(begun, ended) / 1000
        return found

    def _expression(self, formula: str, *, empty: Callable[..., Any], **arrays: Any) -> Any:
        """In one go, or in parts: one is computed while the next one comes and the last one's answer goes."""
        whole = self.catalogue.get("expression").function
        if not self._in_parts:
            return whole(formula, xp=self.xp, **arrays)
        large = {name: array.reshape(-1) for name, array in arrays.items() if isinstance(array, np.ndarray) and array.size != 1}
        small = {name: cupy.asarray(array) if isinstance(array, np.ndarray) else array for name, array in arrays.items() if name not in large}
        shape = next(array.shape for name, array in arrays.items() if name in large)
        dtype = program(formula, signature(arrays)).dtype
        out = empty(shape, dtype)
        flat, count = out.reshape(-1), prod(shape)
        step = PART // max(ITEMSIZE[dtype], *(array.itemsize for array in large.values()))
        rooms = [{name: cupy.empty(step, array.dtype.newbyteorder("=")) for name, array in large.items()} for _ in range(2)]
        freed: list[Any] = [None, None]  # events: a room's arrays were read
        answers: deque[tuple[Any, Any]] = deque()  # each held until the event that it has gone: its memory would be used again
        for number, start in enumerate(range(0, count, step)):
            room, size = rooms[number % 2], min(step, count - start)
            if freed[number % 2] is not None:
                self._sending.wait_event(freed[number % 2])
            for name, array in large.items():
                part = array[start : start + size]
                room[name].data.copy_from_host_async(part.ctypes.data, part.nbytes, self._sending)
            self._computing.wait_event(self._sending.record())
            made = whole(formula, xp=self.xp, **small, **{name: array[:size] for name, array in room.items()})
            made = cupy.ascontiguousarray(cupy.broadcast_to(made, (size,)))
            freed[number % 2] = self._computing.record()
            self._fetching.wait_event(freed[number % 2])
            made.data.copy_to_host_async(flat[start:].ctypes.data, made.nbytes, self._fetching)
            answers.append((made, self._fetching.record()))
            if len(answers) > 2:
                answers.popleft()[1].synchronize()
        self._fetching.synchronize()
        return out

    # -- errors ---------------------------------------------------------------------------------------------------------------

    def translate(self, operation: str, error: Exception) -> OpenRuntimeError | None:
        where = f"{operation} on {self.device}/{self.name}"
        if isinstance(error, ImportError):  # CuPy loads cuBLAS and the others when they are first needed
            return OperationFailed(f"{where}: a library of CUDA's is missing ({error}); install its toolkit, or `pip install 'openruntime[cuda]'`")
        status = getattr(error, "status", None)
        if isinstance(error, runtime.CUDARuntimeError | cupy.cuda.driver.CUDADriverError):
            if status == _OUT_OF_MEMORY:
                return OutOfMemory(f"{where}: {error}")
            if status in _FATAL:
                return WorkerCrashed(f"{where}: {error}; the process has lost its device")
            return OperationFailed(f"{where}: {error}")
        if isinstance(error, np.linalg.LinAlgError):
            return OperationFailed(f"{operation} failed: {_UNSOLVED.get(operation, 'it did not converge; does the input hold NaN or infinity?')}")
        if type(error).__module__.startswith(("cupy_backends", "cupy")) and "ALLOC_FAILED" in str(error):
            return OutOfMemory(f"{where}: {error}")
        return super().translate(operation, error)


def _no_device(error: Exception) -> OpenRuntimeError:
    """Why CUDA finds nothing: no driver, one too old for this CuPy, or no card."""
    driver, wanted = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if not driver:
        return NoSuchDevice("no NVIDIA driver is installed here")
    if driver // 1000 < wanted // 1000:
        has, needs = f"{driver // 1000}.{driver % 1000 // 10}", f"{wanted // 1000}.{wanted % 1000 // 10}"
        return Unavailable(f"NVIDIA's driver is for CUDA {has}, and this CuPy is for {needs}: install a newer driver, or 'openruntime[cuda12]'")
    if getattr(error, "status", None) == 100:  # cudaErrorNoDevice
        return NoSuchDevice("NVIDIA's driver shows no card")
    return Unavailable(f"CUDA cannot be used: {error}")


def _card(backend: str, index: int) -> Probe:
    about = runtime.getDeviceProperties(index)
    with cupy.cuda.Device(index):
        free, total = runtime.memGetInfo()
    return Probe(
        backend, "cuda", index, about["name"].decode(), int(total), int(free), uuid=_uuid(about.get("uuid")),
        pci=runtime.deviceGetPCIBusId(index), unified=bool(about.get("integrated")),
    )  # fmt: skip


def _uuid(found: Any) -> str | None:
    """16 bytes, or a structure of them, or their numbers; None for what was cut off at a zero byte: then the bus id tells the card."""
    found = found.get("bytes") if isinstance(found, Mapping) else found
    raw = bytes(one & 0xFF for one in found or b"")
    return raw.hex() if len(raw) == 16 else None
