"""Users' kernels in OpenCL C."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pyopencl as cl

from openruntime.backends.kernel_backend import KernelBackend, uncompiled
from openruntime.backends.kernel_cache import cache_folder, keep, kept
from openruntime.backends.opencl_device import OpenCLDevice, find, translated
from openruntime.contracts.errors import CompileError
from openruntime.contracts.kernels import Compiled, KernelRunner, KernelSpec, Number

# dtype -> what an argument of it is called in OpenCL C; a vector of it goes as well
_TYPES = {
    "bool": ("char", "uchar"), "int8": ("char",), "uint8": ("uchar",), "int16": ("short",), "uint16": ("ushort",), "int32": ("int",),
    "uint32": ("uint",), "int64": ("long",), "uint64": ("ulong",), "float16": ("half",), "float32": ("float",), "float64": ("double",),
    "complex64": ("float",), "complex128": ("double",),
}  # fmt: skip
_KNOWN = {name for names in _TYPES.values() for name in names}
# Clang writes `file:line:column: severity: message`, PoCL `severity: file:line:column: message`
_SEVERITY = r"(?:fatal )?error|warning"
_COMPLAINT = re.compile(rf"^(?:({_SEVERITY}): )?(?:\S*?:)?(\d+):(?:(\d+):)? *(?:({_SEVERITY}): *)?(.*)$", re.MULTILINE)
_PLACE = re.compile(r"\S+(?=:\d+:\d+:)")
_WIDTH = re.compile(r"(2|3|4|8|16)$")


class OpenCLRunner(KernelRunner):
    """On the processor kernels work in the memory they are given; on a card in copies, guards included."""

    language: ClassVar[str] = "opencl"

    def __init__(self, *, device: str, threads: int, index: int) -> None:
        for variable in ("POCL_CPU_MAX_CU_COUNT", "POCL_MAX_PTHREAD_COUNT"):  # PoCL 5 and later, and before
            os.environ.setdefault(variable, str(threads))
        self._device = OpenCLDevice(find(device, index), cache=cache_folder())
        self.in_place = self._device.processor
        self.identity = self._device.identity

    def compile(self, spec: KernelSpec) -> Compiled:
        try:
            built = self._device.build(spec.source, ("-cl-kernel-arg-info", *spec.options))
        except (CompileError, cl.LogicError) as error:
            raise refusal(spec, str(error)) from None
        return Compiled(spec, self._entry(spec, built.program), cleaned(spec, built.log), built.cached, built.seconds)

    def _entry(self, spec: KernelSpec, program: cl.Program) -> cl.Kernel:
        """The entry point. Raises `CompileError` where it is not there, or takes other arguments than the signature says."""
        names = [name for name in str(program.get_info(cl.program_info.KERNEL_NAMES)).split(";") if name]
        if spec.name not in names:
            there = f"it has {', '.join(names)}" if names else "it has none; a kernel begins with `__kernel void`"
            raise CompileError(f"the source has no kernel called {spec.name!r}; {there}")
        kernel = cl.Kernel(program, spec.name)
        arguments = spec.arguments
        if kernel.num_args != len(arguments):
            told = ", ".join(argument.name for argument in arguments)
            raise CompileError(
                f"{spec.name} takes {kernel.num_args} arguments in the source, and {len(arguments)} by its signature:"
                f" inputs, outputs, scalars ({told})"
            )
        for i, (argument, found) in enumerate(zip(arguments, self._types(spec, kernel), strict=False)):
            wanted, array = _TYPES[argument.dtype], i < len(arguments) - len(spec.scalars)
            base = _WIDTH.sub("", found.rstrip("* ")) if array else found
            if found.endswith("*") is not array or (base in _KNOWN and base not in wanted):
                should = f"{wanted[-1]}{'*' if array else ''}"
                raise CompileError(
                    f"argument {i + 1} of {spec.name} is `{found}` in the source, and `{argument.name}` is {argument.dtype}: `{should}`"
                )
        return kernel

    def _types(self, spec: KernelSpec, kernel: cl.Kernel) -> list[str]:
        """The arguments' types as the source has them. A program from the disk need not know them, so they are kept beside it."""
        key = hashlib.sha256("\0".join((self._device.identity, spec.name, *spec.options, "", spec.source)).encode()).hexdigest()
        path = cache_folder() / f"{key}.types"
        try:
            found = [str(kernel.get_arg_info(i, cl.kernel_arg_info.TYPE_NAME)).strip("\0 ") for i in range(kernel.num_args)]
        except cl.Error:
            return (kept(path) or b"").decode().splitlines()
        keep(path, "\n".join(found).encode())
        return found

    def run(
        self, compiled: Compiled, inputs: Sequence[memoryview], outputs: Sequence[memoryview], scalars: Sequence[Number], grid: Sequence[int],
        local: Sequence[int] = (), *, guard: int = 0,
    ) -> float:  # fmt: skip
        device, kernel, spec = self._device, compiled.built, compiled.spec
        views = [np.frombuffer(view, np.uint8) for view in (*inputs, *outputs)]
        held: list[cl.Buffer] = []
        try:
            buffers = [self._in_place(view, guard, held) if self.in_place else self._copied(view, guard, held) for view in views]
            for i, buffer in enumerate(buffers):
                kernel.set_arg(i, buffer)
            for i, (scalar, value) in enumerate(zip(spec.scalars, scalars, strict=True), len(buffers)):
                kernel.set_arg(i, np.uint8(value) if scalar.dtype == "bool" else np.dtype(scalar.dtype).type(value))
            sizes = [-(-side // group) * group for side, group in zip(grid, local, strict=True)] if local else grid
            event = cl.enqueue_nd_range_kernel(device.queue, kernel, tuple(sizes), tuple(local) or None)
            event.wait()
            first = 0 if self.fetch_inputs else len(inputs)
            self._fetch(views[first:], buffers[first:], held[first:])
            return float(event.profile.end - event.profile.start) * 1e-9
        except cl.Error as error:
            raise translated(error, spec.name, device.device.name) from error
        finally:
            for buffer in held:
                buffer.release()

    def _in_place(self, view: "np.ndarray[Any, Any]", guard: int, held: list[cl.Buffer]) -> cl.Buffer:
        """The memory itself. No buffer is empty, so one of no bytes lies on the guard behind it."""
        inside = view[guard : view.nbytes - guard]
        if not inside.nbytes:
            inside = view[guard:] if guard else np.zeros(1, np.uint8)
        held.append(cl.Buffer(self._device.context, cl.mem_flags.READ_WRITE | cl.mem_flags.USE_HOST_PTR, hostbuf=inside))
        return held[-1]

    def _copied(self, view: "np.ndarray[Any, Any]", guard: int, held: list[cl.Buffer]) -> cl.Buffer:
        whole = view if view.nbytes else np.zeros(1, np.uint8)
        held.append(cl.Buffer(self._device.context, cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR, hostbuf=whole))
        return held[-1].get_sub_region(guard, max(1, whole.nbytes - 2 * guard)) if guard else held[-1]

    def _fetch(self, views: Sequence["np.ndarray[Any, Any]"], buffers: Sequence[cl.Buffer], held: Sequence[cl.Buffer]) -> None:
        queue = self._device.queue
        for view, buffer, whole in zip(views, buffers, held, strict=True):
            if self.in_place:  # mapping is what makes it visible here; on a processor it copies nothing
                mapped: Any = cl.enqueue_map_buffer(queue, buffer, cl.map_flags.READ, 0, (buffer.size,), np.dtype(np.uint8))
                mapped[0].base.release(queue)
            elif view.nbytes:
                cl.enqueue_copy(queue, view, whole)
        queue.finish()


class OpenCLKernels(KernelBackend):
    name = "opencl-kernels"
    runner_class = OpenCLRunner


def cleaned(spec: KernelSpec, log: str) -> str:
    """A build's log without the paths of this machine."""
    return _PLACE.sub(f"{spec.name}.cl", log).strip()


def refusal(spec: KernelSpec, said: str) -> CompileError:
    """What a driver says of a source that does not compile."""
    log = cleaned(spec, said)
    options = "build option" in log.casefold() or "INVALID_BUILD_OPTIONS" in log
    return uncompiled(spec, log, complaints(log), field="options" if options else "source")


def complaints(log: str) -> Iterator[dict[str, Any]]:
    """What Clang, on which most drivers are built, says of single lines."""
    for found in _COMPLAINT.finditer(log):
        before, line, column, after, message = found.groups()
        if severity := before or after:
            yield {"line": int(line), "column": int(column) if column else None, "severity": severity, "message": message.strip()}
