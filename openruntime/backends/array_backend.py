"""What all backends with an Array API namespace share: arrays in, the operation, arrays out."""

import logging
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import prod
from time import perf_counter
from typing import Any, ClassVar

import numpy as np

from openruntime.contracts.errors import OpenRuntimeError, OperationFailed, OutOfMemory, UnsupportedOnDevice
from openruntime.contracts.interfaces import ComputeBackend, Steps
from openruntime.contracts.payload import ITEMSIZE, Array
from openruntime.contracts.records import Result, Stacking
from openruntime.operations.catalogue import BUILTIN, OperationCatalogue
from openruntime.operations.definition import Operation
from openruntime.operations.dtypes import name_of

log = logging.getLogger(__name__)

_LITTLE = sys.byteorder == "little"

Allocate = Callable[[int], memoryview]
Native = Callable[..., Any]


class ArrayBackend(ComputeBackend):
    """Runs every operation of the catalogue on `xp`; a subclass names its library and, where measured faster, its own routines.

    `native`: operation -> function taking the operation's parameters by name (`steps` too where it has steps, and `empty`, see
    `writable`, where `native_outputs` lists it). Arrays pass through NumPy on the way, bfloat16, which NumPy has not, as the uint16 of
    its bits: a library that has it leaves it out of `lacks`.
    """

    xp: Any
    native: ClassVar[Mapping[str, Native]] = {}
    native_outputs: ClassVar[frozenset[str]] = frozenset()
    lacks: ClassVar[Mapping[str, str]] = {"bfloat16": "NumPy has no bfloat16; send float32"}
    inline: ClassVar[int] = 65_536  # bytes up to which an output is not worth a buffer of its own
    separate_memory: bool = False  # its device has memory of its own: copies to and from there are timed apart
    compiling: float = 0.0  # seconds that the running call has spent compiling; a subclass that compiles adds to it

    def __init__(
        self, *, device: str = "cpu:0", threads: int = 1, index: int = 0, memory: int = 0, catalogue: OperationCatalogue | None = None
    ) -> None:
        self.device = device
        self.threads = threads
        self.index = index
        self.memory = memory
        self.catalogue = catalogue or OperationCatalogue(tell=log.debug)  # the gateway tells of broken plugins

    def get_capabilities(self) -> list[str]:
        return [name for name in self.catalogue.names() if name not in self.unsupported]

    def stacking(self, operation: str, parameters: Mapping[str, Any]) -> Stacking | None:
        return self.catalogue.get(operation).stacking(parameters)

    async def execute(self, operation: str, params: dict[str, Any]) -> Result:
        """Run `operation`. `params["allocate"]`, if there, gives writable memory of so many bytes for an output over `inline` bytes.

        Raises `UnknownOperation`, `UnsupportedOnDevice`, `OutOfMemory`, `TaskCancelled` (from `steps`), `OperationFailed`.
        """
        if operation in self.unsupported:
            raise UnsupportedOnDevice(f"{operation} does not run on {self.device}/{self.name}: {self.unsupported[operation]}")
        found = self.catalogue.get(operation)
        if self.lacks:
            self._refuse_lacking(operation, params)
        memory = Memory(params.get("allocate"), self.inline)
        try:
            self.compiling = 0.0
            began = perf_counter()
            arguments = self._arguments(found, params, memory)
            if self.separate_memory:
                self.synchronise()
            started = perf_counter()
            outputs = self._run(found, arguments)
            self.synchronise()
            seconds = perf_counter() - started - self.compiling
            if operation not in BUILTIN:  # those are held to what they declare by the suite
                self._need_declared(found, params, outputs)
            computed = perf_counter()
            kept = {name: self._output(value, memory) for name, value in outputs.items()}
            transfer = started - began + perf_counter() - computed if self.separate_memory else 0.0
            return Result(kept, seconds, transfer, self.compiling)
        except OpenRuntimeError:
            raise
        except MemoryError as error:
            raise OutOfMemory(f"{operation} ran out of memory on {self.device}{f': {error}' if str(error) else ''}") from error
        except Exception as error:
            translated = self.translate(operation, error)
            if translated is None:
                raise
            raise translated from error

    def _refuse_lacking(self, operation: str, params: Mapping[str, Any]) -> None:
        for name, value in params.items():
            for item in value if isinstance(value, list) else (value,):
                if isinstance(item, Array) and (reason := self.lacks.get(f"{operation} {item.dtype}")) is not None:
                    raise UnsupportedOnDevice(f"{operation} of {item.dtype} does not run on {self.device}/{self.name}: {reason}", field=name)

    def _arguments(self, operation: Operation, params: Mapping[str, Any], memory: "Memory") -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        for name, value in params.items():
            if isinstance(value, Array):
                arguments[name] = self._input(name, value, memory)
            elif isinstance(value, list) and value and isinstance(value[0], Array):
                arguments[name] = [self._input(name, item, memory) for item in value]
            elif name not in ("allocate", "steps"):
                arguments[name] = tuple(value) if isinstance(value, list) else value
        if operation.name not in self.native:
            if "xp" in operation.takes:
                arguments["xp"] = self.xp
        elif operation.name in self.native_outputs:
            arguments["empty"] = self.writable(memory)
        if "steps" in operation.takes:
            arguments["steps"] = params.get("steps") or _no_steps
        return arguments

    def _input(self, name: str, array: Array, memory: "Memory") -> Any:
        if array.dtype in self.lacks:
            where = f"{self.device}/{self.name}"
            raise UnsupportedOnDevice(f"`{name}` is {array.dtype}, which does not run on {where}: {self.lacks[array.dtype]}", field=name)
        host = host_array(array)
        memory.inputs.append(host)
        found = self.from_host(host)
        return self.reinterpret(found, "bfloat16") if array.dtype == "bfloat16" else found

    def _output(self, value: Any, memory: "Memory") -> Array:
        name = name_of(value)
        return memory.keep(self.to_host(self.reinterpret(value, "uint16") if name == "bfloat16" else value), name)

    def _run(self, operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        function = self.native.get(operation.name, operation.function)
        found = function(**arguments)
        return found if isinstance(found, dict) else {"output": found}

    def _need_declared(self, operation: Operation, params: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Raises `OperationFailed` where a plugin's function did not return what it declares."""
        declared = self.catalogue.bind(operation.name, {name: value for name, value in params.items() if name not in ("allocate", "steps")}).outputs
        names = " and ".join(f"`{name}`" for name in declared)
        for name, value in outputs.items():
            if value is None:
                raise OperationFailed(f"{operation.name} returned nothing{'' if len(outputs) == 1 else f' for `{name}`'}; it declares {names}")
        if outputs.keys() != declared.keys():
            given = "one value" if outputs.keys() == {"output"} else "a dict of " + (" and ".join(f"`{name}`" for name in outputs) or "nothing")
            raise OperationFailed(f"{operation.name} returned {given}; it declares {names}")
        for name, value in outputs.items():
            if not hasattr(value, "dtype") or name_of(value) not in ITEMSIZE:
                what = f"an array of {value.dtype}" if hasattr(value, "dtype") else f"a {type(value).__name__}"
                raise OperationFailed(f"{operation.name} returned {what} for `{name}`, which is no array of numbers; xp.asarray makes one")
            dtype, shape, wanted = name_of(value), tuple(value.shape), declared[name]
            if dtype != wanted.dtype or (wanted.exact and shape != wanted.shape):
                raise OperationFailed(
                    f"{operation.name} returned {dtype} {list(shape)} for `{name}`, which was declared as {wanted.dtype} {list(wanted.shape)};"
                    " its `check` must say what it returns"
                )

    def from_host(self, array: "np.ndarray[Any, Any]") -> Any:
        """A NumPy array (perhaps read-only) as the library's array on the device."""
        return self.xp.asarray(array)

    def to_host(self, array: Any) -> "np.ndarray[Any, Any]":
        """The library's array as a NumPy array."""
        return np.asarray(array)

    def reinterpret(self, array: Any, dtype: str) -> Any:
        """The library's array with its bits read as another dtype of the same size: `bfloat16` as `uint16`, and back."""
        return array.view(getattr(self.xp, dtype))

    def writable(self, memory: "Memory") -> Callable[[tuple[int, ...], str], Any]:
        """What `empty(shape, dtype)` is to the routines of `native_outputs`: an array of the library to compute an output into."""
        return memory.empty

    def synchronise(self) -> None:
        """Wait until the device has done everything it was given."""

    def translate(self, operation: str, error: Exception) -> OpenRuntimeError | None:
        """A library's exception as one of ours, None for a defect; a subclass adds its library's own.

        What is not foreseen by the subclass may be a defect of the operation, so that its traceback goes to the log.
        """
        if not isinstance(error, ValueError | ArithmeticError):
            return None
        log.warning("%s failed", operation, exc_info=error)
        return OperationFailed(f"{operation} failed: {str(error) or type(error).__name__}")


class Memory:
    """Where the outputs of one call are put: memory of the caller's, where it gave an allocator and the output is large."""

    def __init__(self, allocate: Allocate | None, inline: int) -> None:
        self._allocate = allocate
        self._inline = inline
        self._buffers: dict[int, memoryview] = {}
        self.inputs: list[np.ndarray[Any, Any]] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> "np.ndarray[Any, Any]":
        """An array to compute into; an output made here is not copied again."""
        dtype = np.dtype(dtype)
        size = prod(shape) * dtype.itemsize
        if self._allocate is None or size <= self._inline:
            return np.empty(shape, dtype)
        buffer = self._allocate(size)
        array: np.ndarray[Any, Any] = np.frombuffer(buffer, dtype, count=size // dtype.itemsize).reshape(shape)
        self._buffers[_address(array)] = buffer[:size]
        return array

    def keep(self, array: "np.ndarray[Any, Any]", name: str | None = None) -> Array:
        """The array, of the dtype called `name`, as bytes: C-contiguous, little-endian, and no view of an input, whose memory goes its own way."""
        name = name or name_of(array)
        buffer = self._buffers.get(_address(array)) if self._buffers else None
        if buffer is not None and buffer.nbytes == array.nbytes and array.flags.c_contiguous:
            return Array(name, array.shape, buffer)
        if self._allocate is not None and array.nbytes > self._inline:
            own = self.empty(array.shape, _little(name))
            np.copyto(own, array)
            return Array(name, array.shape, self._buffers[_address(own)])
        if not array.flags.c_contiguous or not _LITTLE or any(np.may_share_memory(array, given) for given in self.inputs):
            array = np.array(array, _little(name), order="C")
        return Array(name, array.shape, array.reshape(-1).view(np.uint8).data)


def host_array(array: Array) -> "np.ndarray[Any, Any]":
    """A NumPy view of an array's bytes; bfloat16, which NumPy has not, is the uint16 of its bits."""
    if not array.size:
        return np.empty(array.shape, _little(array.dtype))
    return np.frombuffer(array.view, _little(array.dtype)).reshape(array.shape)


@lru_cache(maxsize=64)
def _little(name: str) -> "np.dtype[Any]":
    return np.dtype("uint16" if name == "bfloat16" else name).newbyteorder("<")


def _address(array: "np.ndarray[Any, Any]") -> int:
    return int(array.__array_interface__["data"][0])


def _no_steps(done: int, total: int, message: str | None = None) -> None:
    """For a caller that gave no `Steps`."""


_: Steps = _no_steps
