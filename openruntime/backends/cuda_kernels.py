"""Users' kernels in CUDA C++, compiled by NVRTC through CuPy. The grid counts threads; blocks are 256, 16×16 or 8×8×4 unless `local` says."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, ClassVar, NamedTuple

import cupy
import msgspec
import numpy as np
from cupy.cuda import nvrtc
from cupy.cuda.driver import CUDADriverError
from cupy.cuda.runtime import CUDARuntimeError

from openruntime.backends.kernel_backend import KernelBackend, uncompiled
from openruntime.backends.kernel_cache import cache_folder, keep, kept
from openruntime.contracts.errors import CompileError, NoSuchDevice, OpenRuntimeError, OperationFailed, OutOfMemory, WorkerCrashed
from openruntime.contracts.kernels import Compiled, KernelRunner, KernelSpec, Number

_BLOCKS = {1: (256,), 2: (16, 16), 3: (8, 8, 4)}
_COMPLAINT = re.compile(r"^(?:\S*?)\((\d+)\): *(error|warning)(?: #\S+)?: *(.*)$", re.MULTILINE)
_REFUSED = ("INVALID_VALUE", "INVALID_CONFIGURATION", "LAUNCH_OUT_OF_RESOURCES", "InvalidConfiguration", "InvalidValue", "LaunchOutOfResources")


class Kept(msgspec.Struct, array_like=True):
    """A compiled kernel as it rests on disk; `entry` is its mangled name."""

    entry: str
    log: str
    cubin: bytes


class Built(NamedTuple):
    module: Any
    function: Any


class CudaRunner(KernelRunner):
    """Kernels work on copies in the card's memory, guards included. What breaks the context ends the worker."""

    language: ClassVar[str] = "cuda"

    def __init__(self, *, device: str, threads: int, index: int) -> None:
        if not cupy.cuda.is_available():
            raise NoSuchDevice("no CUDA device here")
        self._device = cupy.cuda.Device(index)
        self._device.use()
        self._cache = cache_folder()
        name = cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()
        versions = (cupy.cuda.runtime.driverGetVersion(), *nvrtc.getVersion())
        self.identity = f"{name}\n{self._device.compute_capability}\n{versions}"

    def compile(self, spec: KernelSpec) -> Compiled:
        started = perf_counter()
        key = hashlib.sha256("\0".join((self.identity, spec.name, *spec.options, "", spec.source)).encode()).hexdigest()
        path = self._cache / f"{key}.cuda"
        if (data := kept(path)) is not None:
            with suppress(msgspec.DecodeError, CUDADriverError):  # a damaged file is compiled again
                found = msgspec.msgpack.decode(data, type=Kept)
                return Compiled(spec, loaded(found), found.log, True, perf_counter() - started)
        found = self._compile(spec)
        keep(path, msgspec.msgpack.encode(found))
        return Compiled(spec, loaded(found), found.log, False, perf_counter() - started)

    def _compile(self, spec: KernelSpec) -> Kept:
        program = nvrtc.createProgram(spec.source, f"{spec.name}.cu", (), ())
        try:
            nvrtc.addNameExpression(program, spec.name)
            options = ("--std=c++17", f"--gpu-architecture=sm_{self._device.compute_capability}", *spec.options)
            try:
                nvrtc.compileProgram(program, options)
            except nvrtc.NVRTCError as error:
                raise refusal(spec, nvrtc.getProgramLog(program) or str(error)) from None
            entry = nvrtc.getLoweredName(program, spec.name)
            return Kept(entry.decode() if isinstance(entry, bytes) else entry, nvrtc.getProgramLog(program).strip(), nvrtc.getCUBIN(program))
        finally:
            nvrtc.destroyProgram(program)

    def run(
        self, compiled: Compiled, inputs: Sequence[memoryview], outputs: Sequence[memoryview], scalars: Sequence[Number], grid: Sequence[int],
        local: Sequence[int] = (), *, guard: int = 0,
    ) -> float:  # fmt: skip
        spec = compiled.spec
        block = tuple(local) or _BLOCKS[len(grid)]
        blocks = tuple(-(-side // size) for side, size in zip(grid, block, strict=True))
        try:
            copies = [cupy.asarray(np.frombuffer(view, np.uint8)) if view.nbytes else cupy.zeros(1, np.uint8) for view in (*inputs, *outputs)]
            numbers = [np.dtype(scalar.dtype).type(value) for scalar, value in zip(spec.scalars, scalars, strict=True)]
            began, ended = cupy.cuda.Event(), cupy.cuda.Event()
            began.record()
            compiled.built.function(blocks, block, (*(copy[guard:] for copy in copies), *numbers))
            ended.record()
            ended.synchronize()
            first = 0 if self.fetch_inputs else len(inputs)
            for view, copy in zip((*inputs, *outputs)[first:], copies[first:], strict=True):
                if view.nbytes:
                    np.frombuffer(view, np.uint8)[:] = copy.get()
            return float(cupy.cuda.get_elapsed_time(began, ended)) * 1e-3
        except (CUDADriverError, CUDARuntimeError, cupy.cuda.memory.OutOfMemoryError) as error:
            raise translated(spec.name, error) from error


class CudaKernels(KernelBackend):
    name = "cuda-kernels"
    runner_class = CudaRunner

    def trim(self) -> None:
        cupy.get_default_memory_pool().free_all_blocks()


def loaded(kept: Kept) -> Built:
    module = cupy.cuda.function.Module()
    module.load(kept.cubin)
    return Built(module, module.get_function(kept.entry))


def refusal(spec: KernelSpec, log: str) -> CompileError:
    """What NVRTC says of a source that does not compile."""
    lines = tuple(complaints(log))
    return uncompiled(spec, log, lines, field="options" if "option" in log and not lines else "source")


def complaints(log: str) -> Iterator[dict[str, Any]]:
    for line, severity, message in _COMPLAINT.findall(log):
        yield {"line": int(line), "column": None, "severity": severity, "message": message.strip()}


def translated(name: str, error: Exception) -> OpenRuntimeError:
    """Errors of a launch are the caller's; any other leaves the context useless."""
    said = f"{name}: {error}"
    if isinstance(error, cupy.cuda.memory.OutOfMemoryError) or "OUT_OF_MEMORY" in said or "MemoryAllocation" in said:
        return OutOfMemory(said)
    return OperationFailed(said) if any(word in said for word in _REFUSED) else WorkerCrashed(said)
