"""JAX: XLA on processors, GPUs and TPUs. Whatever can be traced is compiled as a whole (docs/decisions/jax-compiles-when-it-pays.md)."""

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import msgspec
import numpy as np

from openruntime.backends import jax_parts as parts
from openruntime.backends.array_backend import ArrayBackend, Native
from openruntime.backends.jax_namespace import CONDITIONS, bound, jax, prune, total_memory, xp
from openruntime.contracts.errors import OpenRuntimeError, OperationFailed, OutOfMemory, UnsupportedOnDevice
from openruntime.contracts.records import Probe
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.operations.definition import Operation

log = logging.getLogger(__name__)

_PROGRAMS = 256  # kept compiled


class Program(msgspec.Struct, frozen=True):
    """A compiled call: `run(arrays)` gives its outputs and, for each of `sentences`, whether it holds."""

    run: Callable[[Any], tuple[Any, Sequence[Any]]]
    sentences: tuple[str, ...]


class JaxBackend(ArrayBackend):
    """Each call is traced with its arrays' shapes and its other parameters as constants, and compiled once; `compile` says how long that took.

    What cannot be traced, because what it does depends on values, and what reports steps, runs one primitive after the other.
    """

    name = "jax"
    xp = xp
    lacks: ClassVar[Mapping[str, str]] = {}
    batches = (4, 16, 64)
    native: ClassVar[Mapping[str, Native]] = {
        "uniform": parts.uniform, "normal": parts.normal, "integers": parts.integers, "unique": parts.unique, "histogram": parts.histogram,
        "kmeans": parts.kmeans,
    }  # fmt: skip
    compiled_in_parts: ClassVar[frozenset[str]] = frozenset({"unique", "histogram", "kmeans"})
    stepwise: ClassVar[Mapping[str, Native]] = {"heat2d": parts.heat2d, "nbody": parts.nbody, "monte_carlo_pi": parts.monte_carlo_pi}

    def __init__(
        self, *, device: str = "cpu:0", threads: int = 1, index: int = 0, memory: int = 0, catalogue: OperationCatalogue | None = None
    ) -> None:
        super().__init__(device=device, threads=threads, index=index, memory=memory, catalogue=catalogue)
        kind = device.partition(":")[0]
        bound(kind, index, memory)
        self._device = _devices(kind, threads)[index]
        if (kept := jax.config.jax_compilation_cache_dir) is not None:
            prune(Path(kept))
        self._programs: OrderedDict[tuple[Any, ...], Program | None] = OrderedDict()
        self.separate_memory = kind != "cpu"

    @classmethod
    def probe(cls) -> Sequence[Probe]:
        found = [Probe(cls.name, "cpu")]
        for device in jax.local_devices():
            if device.platform != "cpu":
                kind = _kind(device)
                found.append(_probed(cls.name, kind, sum(probe.platform == kind for probe in found), device))
        return [*found, *_broken(cls.name, {probe.platform for probe in found})]

    def trim(self) -> None:
        """Forget the compiled programs, and what they hold on the device."""
        self._programs.clear()
        jax.clear_caches()

    def _run(self, operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        function = self.native.get(operation.name, operation.function)
        with jax.default_device(self._device):
            if operation.name in self.stepwise:
                found = self.stepwise[operation.name](partial(self._call, operation.name), **arguments)
            elif "steps" in operation.takes or operation.name in self.compiled_in_parts:
                found = self._untraced(operation.name, function, arguments)
            else:
                found = self._call(operation.name, function, **arguments)
            jax.block_until_ready(found)
        if isinstance(found, dict):  # a program gives them sorted by name
            return {name: found[name] for name in operation.outputs} if found.keys() == set(operation.outputs) else found
        return {"output": found}

    def _call(self, name: str, function: Native, /, **arguments: Any) -> Any:
        """The function compiled for these arrays, or as it is where it cannot be traced. Raises `OperationFailed`."""
        arrays = _arrays(arguments)
        constants = {key: value for key, value in arguments.items() if key not in arrays}
        program = self._program(function, arrays, constants)
        if program is None:
            return self._untraced(name, function, arguments)
        found, holds = program.run(arrays)
        for sentence, one in zip(program.sentences, holds, strict=True):
            if one and sentence:
                raise OperationFailed(f"{name} failed: {sentence}")
            if one:
                return self._untraced(name, function, arguments)
        return found

    def _untraced(self, name: str, function: Native, arguments: dict[str, Any]) -> Any:
        CONDITIONS.taken()
        before = _compiling.seconds
        found = function(**arguments)
        self.compiling += _compiling.seconds - before
        for sentence, holds in CONDITIONS.taken():
            if holds:
                raise OperationFailed(f"{name} failed: {sentence}")
        return found

    def _program(self, function: Native, arrays: dict[str, Any], constants: dict[str, Any]) -> Program | None:
        """Compiled now or before; None where it cannot be traced."""
        call = (function, *((name, type(value), repr(value)) for name, value in constants.items() if name != "xp"))
        if call in self._programs:
            return None
        key = (*call, *((name, _signature(value)) for name, value in arrays.items()))
        found = self._programs.get(key)
        if found is not None:
            self._programs.move_to_end(key)
            return found
        began = perf_counter()
        CONDITIONS.taken()
        try:
            found = _compiled(function, arrays, constants)
        except Exception as error:  # it runs untraced, and fails there if it has to
            log.debug("%s is not compiled as a whole: %s", function, error)
            key = call
        self._programs[key] = found
        if len(self._programs) > _PROGRAMS:
            self._programs.popitem(last=False)
        self.compiling += perf_counter() - began
        return found

    def from_host(self, array: "np.ndarray[Any, Any]") -> Any:
        return jax.device_put(array, self._device).block_until_ready()

    def translate(self, operation: str, error: Exception) -> OpenRuntimeError | None:
        told = str(error)
        if isinstance(error, jax.errors.JaxRuntimeError):
            if "RESOURCE_EXHAUSTED" in told or "out of memory" in told.lower():
                return OutOfMemory(f"{operation} ran out of memory on {self.device}: {told.partition(chr(10))[0]}")
            if "UNIMPLEMENTED" in told:
                return UnsupportedOnDevice(f"{operation} does not run so on {self.device}/{self.name}: {told.partition(chr(10))[0]}")
        return super().translate(operation, error)


class _Compiling:
    """Seconds that JAX has spent compiling single primitives in this process, as it tells itself."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, seconds: float, **_: Any) -> None:
        if event in ("/jax/core/compile/backend_compile_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration"):
            self.seconds += seconds


_compiling = _Compiling()


def _compiled(function: Native, arrays: dict[str, Any], constants: dict[str, Any]) -> Program:
    sentences: list[str] = []

    def whole(given: dict[str, Any]) -> Any:
        found = function(**given, **constants)
        conditions = CONDITIONS.taken()
        sentences[:] = [sentence for sentence, _ in conditions]
        return found, [holds for _, holds in conditions]

    run = jax.jit(whole).lower(arrays).compile()
    return Program(run, tuple(sentences))


def _arrays(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a program takes; the others are part of it."""
    found = {}
    for name, value in arguments.items():
        if isinstance(value[0] if isinstance(value, list) else value, jax.Array):
            found[name] = value
        elif isinstance(value, np.int64) or (name == "seed" and type(value) is int):  # numbers that change from call to call
            found[name] = np.int64(value)
    return found


def _signature(value: Any) -> Any:
    return tuple(map(_signature, value)) if isinstance(value, list) else (value.shape, str(value.dtype))


def _devices(kind: str, threads: int) -> Sequence[Any]:
    """JAX's devices of a platform. The first call of a process decides on the platforms and, for processors, on the threads."""
    jax.config.update("jax_platforms", kind if kind == "cpu" else f"{kind},cpu")  # others would take their devices' memory
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = str(threads)  # XLA asks nothing else but the affinity mask
    try:
        return list(jax.local_devices(backend=kind))
    finally:
        if before is None:
            del os.environ["NPROC"]
        else:
            os.environ["NPROC"] = before


def _broken(backend: str, working: set[str]) -> Iterator[Probe]:
    """What is there, and what JAX has a plugin for that does not come up: JAX goes on without it."""
    plugins = " ".join(point.name for point in entry_points(group="jax_plugins"))
    for kind in ("cuda", "rocm"):
        if kind not in working and kind in plugins and total_memory(kind, 0):
            try:
                jax.local_devices(backend=kind)
            except RuntimeError as error:
                yield Probe(backend, kind, failure=f"JAX cannot use the {kind} devices here: {' '.join(str(error).split())}")


def _kind(device: Any) -> str:
    if device.platform != "gpu":
        return str(device.platform)
    return "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"


def _probed(backend: str, kind: str, index: int, device: Any) -> Probe:
    """JAX tells neither the UUID nor the bus, and its numbers of the hardware may be missing or shared: a card is known by its name and its place."""
    memory = device.memory_stats() or {}
    total = total_memory(kind, index) or memory.get("bytes_limit", 0)
    return Probe(backend, kind, index, name=device.device_kind, memory_total=total, memory_available=total - memory.get("bytes_in_use", 0))
