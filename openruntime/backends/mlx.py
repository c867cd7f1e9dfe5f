"""Apple's MLX: Metal on a Mac, the processor on Linux, there with a proper BLAS (docs/decisions/mlx-with-openblas.md)."""

import ctypes
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from openruntime.backends.array_backend import ArrayBackend, Native
from openruntime.backends.failures import SINGULAR
from openruntime.backends.mlx_arrays import BLAS, METAL, mx
from openruntime.backends.mlx_namespace import EAGER, LAZY
from openruntime.contracts.errors import OpenRuntimeError, OperationFailed, OutOfMemory, UnsupportedOnDevice
from openruntime.contracts.records import Probe
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.operations.definition import Operation
from openruntime.operations.dtypes import KIND
from openruntime.operations.expression import expression
from openruntime.operations.formula import program, signature

log = logging.getLogger(__name__)

SLOW_BLAS = "without libopenblas.so.0 matrix products take 30 times as long with MLX; install it (Debian: libopenblas0)"
_UNSUPPORTED = ("not supported", "only support", "NYI", "not implemented")
_REAL_ONLY = "MLX does this with real matrices only"
_LACKS = {
    "complex128": "MLX has no complex128; send complex64",
    "convolve float64": "MLX transforms single precision only; send float32",
    **{f"{operation} complex64": _REAL_ONLY for operation in ("cholesky", "det", "inv", "qr", "solve")},
}


_HAS_BLAS = BLAS is not None or sys.platform != "linux"  # elsewhere MLX brings a good one


def fused(formula: str, **arrays: Any) -> Any:
    """The operation `expression` as one kernel, compiled by MLX once for each formula and dtypes, in memory where the device is Metal's."""
    values = {name: value for name, value in arrays.items() if isinstance(value, mx.array)}
    numbers = {name: value for name, value in arrays.items() if name not in values}
    if any(step.function == "pow" and KIND[step.common][0] == "i" for step in program(formula, signature(arrays)).steps):
        return expression(formula, xp=LAZY, **arrays)  # what it answers depends on values
    return _kernel(formula, tuple(values), tuple(numbers.items()), repr(numbers))(*values.values())


@lru_cache(maxsize=256)
def _kernel(formula: str, names: tuple[str, ...], numbers: tuple[tuple[str, Any], ...], _: str) -> Callable[..., Any]:
    def whole(*values: Any) -> Any:
        return expression(formula, xp=LAZY, **dict(zip(names, values, strict=True)), **dict(numbers))

    found: Callable[..., Any] = mx.compile(whole)
    return found


class MlxBackend(ArrayBackend):
    """MLX builds a graph and computes it when asked; what works in steps computes at once."""

    name = "mlx"
    xp = LAZY
    native: Mapping[str, Native] = {}  # type: ignore[misc]  # Metal compiles formulas
    lacks: Mapping[str, str] = _LACKS  # type: ignore[misc]  # Metal lacks more

    def __init__(
        self, *, device: str = "cpu:0", threads: int = 1, index: int = 0, memory: int = 0, catalogue: OperationCatalogue | None = None
    ) -> None:
        super().__init__(device=device, threads=threads, index=index, memory=memory, catalogue=catalogue)
        if device.startswith("metal:"):
            self.lacks = _LACKS | {"float64": "Metal has no float64; send float32"}
            self.native = {"expression": fused}
            mx.set_default_device(mx.gpu)
        else:
            mx.set_default_device(mx.cpu)
        if memory:
            mx.set_memory_limit(memory)
        if not _HAS_BLAS:
            log.warning(SLOW_BLAS)
        self.set_threads(threads)

    @classmethod
    def probe(cls) -> Sequence[Probe]:
        processor = Probe(cls.name, "cpu", name="" if _HAS_BLAS else SLOW_BLAS)
        if not METAL:
            return (processor,)
        told = mx.device_info(mx.gpu)
        total = int(told["max_recommended_working_set_size"])
        return (
            processor,
            Probe(
                cls.name, "metal", name=str(told["device_name"]), memory_total=total, memory_available=max(0, total - mx.get_active_memory()),
                unified=True,
            ),
        )  # fmt: skip

    def set_threads(self, threads: int) -> None:
        """How many threads BLAS uses from now on."""
        self.threads = threads
        if BLAS is not None:
            BLAS.openblas_set_num_threads(ctypes.c_int(threads))

    def trim(self) -> None:
        mx.clear_cache()

    def _run(self, operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        if "steps" in operation.takes and "xp" in arguments:
            arguments["xp"] = EAGER
        found = super()._run(operation, arguments)
        mx.eval(*(value for value in found.values() if isinstance(value, mx.array)))
        return found

    def from_host(self, array: "np.ndarray[Any, Any]") -> Any:
        return LAZY.asarray(array)

    def to_host(self, array: Any) -> "np.ndarray[Any, Any]":
        return np.array(array, copy=None)

    def translate(self, operation: str, error: Exception) -> OpenRuntimeError | None:
        told = str(error)
        if isinstance(error, RuntimeError) and ("factorization failed" in told or "inversion failed" in told):
            return OperationFailed(f"{operation} failed: {SINGULAR}")
        if isinstance(error, RuntimeError | ValueError) and ("allocate" in told or "memory" in told.lower()):
            return OutOfMemory(f"{operation} ran out of memory on {self.device}: {told}")
        if isinstance(error, RuntimeError | ValueError) and any(
            words in told for words in ("not supported", "only support", "NYI", "not implemented")
        ):
            return UnsupportedOnDevice(f"{operation} does not run so on {self.device}/{self.name}: {told}")
        if isinstance(error, RuntimeError):
            return super().translate(operation, ValueError(told))
        return super().translate(operation, error)
