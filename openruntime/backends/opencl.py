"""PyOpenCL: any device with an OpenCL driver, the processor through PoCL among them.

Kernels are generated or written here, one plain kernel where NumPy makes several passes (docs/decisions/opencl-kernels.md). What no kernel of
ours would do well is `unsupported`, so that it goes to a backend that does.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyopencl as cl

from openruntime.backends import (
    opencl_fourier,
    opencl_images,
    opencl_joining,
    opencl_learning,
    opencl_linalg,
    opencl_random,
    opencl_reduce,
    opencl_rows,
    opencl_simulation,
    opencl_sort,
)
from openruntime.backends.array_backend import ArrayBackend, Memory, Native
from openruntime.backends.kernel_cache import cache_folder
from openruntime.backends.opencl_arrays import Engine
from openruntime.backends.opencl_device import OpenCLDevice, broken, cards, find, free_memory_of, pci_of, processors, translated, uuid_of
from openruntime.backends.opencl_memory import Tensor
from openruntime.contracts.errors import OpenRuntimeError
from openruntime.contracts.records import Probe, Result
from openruntime.operations.catalogue import BUILTIN, OperationCatalogue
from openruntime.operations.definition import Operation

_FACTORISES = "no OpenCL library factorises matrices, and what a plain kernel makes of it loses to LAPACK"
_NO_DOUBLE = "this device computes in single precision only; send float32"


def _expression(engine: Engine, formula: str, **arrays: Any) -> Tensor:
    return engine.expression(formula, **arrays)


class OpenCLBackend(ArrayBackend):
    """Native kernels take the engine and the operation's parameters by name."""

    name = "opencl"
    native: ClassVar[Mapping[str, Native]] = {
        "expression": _expression,
        **{name: getattr(opencl_reduce, name) for name in ("mean", "std", "var", "argmin", "argmax", "cumulative_sum")},
        **{name: getattr(opencl_reduce, f"{name}_") for name in ("sum", "min", "max")},
        **{name: getattr(opencl_sort, name) for name in ("sort", "argsort", "top_k", "unique", "quantile", "histogram")},
        **{name: getattr(opencl_joining, name) for name in ("concat", "stack")},
        **{name: getattr(opencl_random, name) for name in ("uniform", "normal", "integers", "monte_carlo_pi")},
        **{name: getattr(opencl_linalg, name) for name in ("matmul", "linear", "conv2d", "attention")},
        **{name: getattr(opencl_rows, name) for name in ("softmax", "layer_norm")},
        **opencl_fourier.TRANSFORMS,
        "convolve": opencl_fourier.convolve,
        **{name: getattr(opencl_learning, name) for name in ("kmeans", "knn")},
        **{name: getattr(opencl_images, name) for name in ("gaussian_blur", "sharpen", "resize", "sobel")},
        **{name: getattr(opencl_simulation, name) for name in ("heat2d", "nbody", "black_scholes")},
    }
    lacks: ClassVar[Mapping[str, str]] = ArrayBackend.lacks

    def __init__(
        self, *, device: str = "cpu:0", threads: int = 1, index: int = 0, memory: int = 0, catalogue: OperationCatalogue | None = None
    ) -> None:
        super().__init__(device=device, threads=threads, catalogue=catalogue)
        self.engine = Engine(OpenCLDevice(find(device, index), cache=cache_folder(), memory=memory))
        plugin = "it is a plugin's, written for libraries with an Array API namespace, and OpenCL has none"
        reasons = {
            "einsum": "a plain kernel for any subscripts would be slower by far than matmul on other backends",
            "norm": "the norms of matrices that need their singular values are not among OpenCL's kernels, and an operation is offered whole",
        }
        unsupported = {
            name: reasons.get(name, _FACTORISES if name in BUILTIN else plugin) for name in self.catalogue.names() if name not in self.native
        }
        if not self.engine.device.has_double:
            self.lacks = {**self.lacks, "float64": _NO_DOUBLE, "complex128": _NO_DOUBLE}  # type: ignore[misc]
            unsupported |= dict.fromkeys(("quantile", "histogram"), "this device has no double precision, in which places are found")
        self.unsupported = unsupported  # type: ignore[misc]  # it depends on the device, and on what is installed

    @classmethod
    def probe(cls) -> Sequence[Probe]:
        found = [cls._probe(device, "cpu", 0) for device in processors()[:1]]
        found += [cls._probe(device, "opencl", i) for i, device in enumerate(cards())]
        return found + [Probe(cls.name, "opencl", failure=f"an OpenCL driver cannot be loaded: {why}") for why in broken()]

    @classmethod
    def _probe(cls, device: cl.Device, platform: str, index: int) -> Probe:
        unified = platform == "cpu" or bool(device.host_unified_memory)
        return Probe(
            cls.name,
            platform,
            index,
            device.name.strip(),
            int(device.global_mem_size),
            free_memory_of(device),
            uuid_of(device),
            pci_of(device),
            unified,
        )

    async def execute(self, operation: str, params: dict[str, Any]) -> Result:
        engine = self.engine
        try:
            result = await super().execute(operation, params)
            return Result(result.outputs, max(0.0, result.seconds - engine.compile), engine.transfer, engine.compile)
        finally:
            engine.end()

    def trim(self) -> None:
        """Give back what the pool holds unused."""
        self.engine.device.trim()

    def _arguments(self, operation: Operation, params: Mapping[str, Any], memory: Memory) -> dict[str, Any]:
        given = {name: value for name, value in params.items() if name not in ("allocate", "steps")}
        self.engine.begin(memory, self.catalogue.bind(operation.name, given).outputs.values())
        return super()._arguments(operation, params, memory)

    def _run(self, operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        found = self.native[operation.name](self.engine, **arguments)
        return found if isinstance(found, dict) else {"output": found}

    def from_host(self, array: "np.ndarray[Any, Any]") -> Tensor:
        return self.engine.from_host(array)

    def to_host(self, array: Tensor) -> "np.ndarray[Any, Any]":
        return self.engine.to_host(array)

    def synchronise(self) -> None:
        self.engine.device.queue.finish()

    def translate(self, operation: str, error: Exception) -> OpenRuntimeError | None:
        if isinstance(error, cl.Error):
            return translated(error, operation, self.device)
        return super().translate(operation, error)
