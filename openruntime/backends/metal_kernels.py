"""Users' kernels in the Metal Shading Language, through PyTorch on Apple's GPUs.

Arguments are `[[buffer(0)]]`, `[[buffer(1)]]`, ... in the order of the signature: arrays `device T*`, scalars `constant T&`.
"""

import re
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
import torch

from openruntime.backends.kernel_backend import KernelBackend, uncompiled
from openruntime.contracts.errors import CompileError, NoSuchDevice, OperationFailed, OutOfMemory
from openruntime.contracts.kernels import Compiled, KernelRunner, KernelSpec, Number

_COMPLAINT = re.compile(r"program_source:(\d+):(\d+): *(error|warning): *(.*)")


class MetalRunner(KernelRunner):
    """Kernels work on copies, guards included. Compiled shaders are kept by the driver's own cache, which does not say so."""

    language: ClassVar[str] = "metal"

    def __init__(self, *, device: str, threads: int, index: int) -> None:
        if not torch.backends.mps.is_available():
            raise NoSuchDevice("no Metal device here")

    def compile(self, spec: KernelSpec) -> Compiled:
        started = perf_counter()
        defines = "".join(define(option) for option in spec.options)
        try:
            library = torch.mps.compile_shader(f"{defines}#line 1\n{spec.source}")
        except (RuntimeError, SyntaxError) as error:
            raise uncompiled(spec, str(error), complaints(str(error))) from None
        try:
            kernel = getattr(library, spec.name)
        except (AttributeError, RuntimeError):
            raise CompileError(f"the source has no kernel called {spec.name!r}; one begins with `kernel void {spec.name}(`") from None
        return Compiled(spec, (library, kernel), "", False, perf_counter() - started)

    def run(
        self, compiled: Compiled, inputs: Sequence[memoryview], outputs: Sequence[memoryview], scalars: Sequence[Number], grid: Sequence[int],
        local: Sequence[int] = (), *, guard: int = 0,
    ) -> float:  # fmt: skip
        spec = compiled.spec
        try:
            copies = [torch.from_numpy(np.frombuffer(view, np.uint8).copy()).to("mps") for view in (*inputs, *outputs)]
            numbers = [
                torch.from_numpy(np.array([value], scalar.dtype)).to("mps") for scalar, value in zip(spec.scalars, scalars, strict=True)
            ]  # a number of Python's would be passed as 64 bits
            sizes = [-(-side // size) * size for side, size in zip(grid, local, strict=True)] if local else list(grid)
            torch.mps.synchronize()
            began, ended = torch.mps.Event(enable_timing=True), torch.mps.Event(enable_timing=True)
            began.record()
            compiled.built[1](*(copy[guard:] for copy in copies), *numbers, threads=sizes, group_size=list(local) or None)
            ended.record()
            ended.synchronize()
            first = 0 if self.fetch_inputs else len(inputs)
            for view, copy in zip((*inputs, *outputs)[first:], copies[first:], strict=True):
                np.frombuffer(view, np.uint8)[:] = copy.cpu().numpy()
            return float(began.elapsed_time(ended)) * 1e-3
        except RuntimeError as error:
            said = f"{spec.name}: {str(error)[:500]}"
            raise (OutOfMemory if "out of memory" in said.lower() else OperationFailed)(said) from error


class MetalKernels(KernelBackend):
    name = "metal-kernels"
    runner_class = MetalRunner

    def trim(self) -> None:
        torch.mps.empty_cache()


def define(option: str) -> str:
    """`-DNAME=VALUE` as a line of the source: this compiler takes no options."""
    found = re.fullmatch(r"-D(\w+)(?:=(.*))?", option)
    if found is None:
        raise CompileError(f"`options`: {option!r} is none here; -DNAME=VALUE defines a macro", field="options")
    return f"#define {found[1]} {1 if found[2] is None else found[2]}\n"


def complaints(log: str) -> Iterator[dict[str, Any]]:
    for line, column, severity, message in _COMPLAINT.findall(log):
        yield {"line": int(line), "column": int(column), "severity": severity, "message": message.strip()}
