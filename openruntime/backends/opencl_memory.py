"""Arrays in an OpenCL device's memory: how they come there, and where the outputs of a call are put."""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod
from time import perf_counter
from typing import Any

import numpy as np
import pyopencl as cl

from openruntime.backends.array_backend import Memory
from openruntime.backends.opencl_device import OpenCLDevice
from openruntime.contracts.payload import Spec
from openruntime.operations.dtypes import name_of

Kind = tuple[str, tuple[int, ...]]


class Place:
    """Memory of the host that an output of the current call goes to. Whoever holds it last gives it back, so that a value on the way may use it:
    kernels run in order."""

    def __init__(self, host: "np.ndarray[Any, Any]", free: list["np.ndarray[Any, Any]"]) -> None:
        self.host = host
        self._free = free

    def __del__(self) -> None:
        self._free.append(self.host)


class Tensor:
    """A C-contiguous array on the device. `host`: the memory behind it, where that is the host's; `place`: what keeps it, for an output."""

    __slots__ = ("buffer", "dtype", "host", "place", "shape")

    def __init__(
        self, buffer: Any, dtype: str, shape: tuple[int, ...], host: "np.ndarray[Any, Any] | None" = None, place: Place | None = None
    ) -> None:
        self.buffer = buffer
        self.dtype = dtype
        self.shape = shape
        self.host = host
        self.place = place

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def reshaped(self, *shape: int) -> "Tensor":
        """The same memory in another shape of as many elements."""
        return Tensor(self.buffer, self.dtype, shape, None if self.host is None else self.host.reshape(shape), self.place)


class Arrays:
    """A device's arrays. `compile` and `transfer` count the seconds of the current call."""

    def __init__(self, device: OpenCLDevice) -> None:
        self.device = device
        self.compile = 0.0
        self.transfer = 0.0
        self._memory = Memory(None, 0)
        self._wanted: Counter[Kind] = Counter()
        self._free: dict[Kind, list[np.ndarray[Any, Any]]] = {}

    def begin(self, memory: Memory, outputs: Iterable[Spec]) -> None:
        """A call that will answer with `outputs`, in `memory`."""
        self.compile = self.transfer = 0.0
        self._memory = memory
        self._wanted = Counter((spec.dtype, spec.shape) for spec in outputs if spec.exact)
        self._free = {}

    def end(self) -> None:
        """The caller's memory is the caller's again."""
        self.begin(Memory(None, 0), ())

    def from_host(self, array: "np.ndarray[Any, Any]") -> Tensor:
        """Without a copy where the device can work in the host's memory."""
        dtype = name_of(array)
        buffer = self.device.wrap(array)
        return Tensor(buffer, dtype, array.shape, array) if buffer is not None else self._sent(array, dtype)

    def _sent(self, array: "np.ndarray[Any, Any]", dtype: str) -> Tensor:
        started = perf_counter()
        found = self.empty(array.shape, dtype)
        if array.size:
            cl.enqueue_copy(self.device.queue, found.buffer, np.ascontiguousarray(array), is_blocking=True)
        self.transfer += perf_counter() - started
        return found

    def to_host(self, tensor: Tensor) -> "np.ndarray[Any, Any]":
        """The array, in memory of the caller's where it is an output."""
        if tensor.host is not None:
            if tensor.size:  # by the standard the host sees what a device wrote once it is mapped
                mapped, _ = cl.enqueue_map_buffer(self.device.queue, tensor.buffer, cl.map_flags.READ, 0, (tensor.host.nbytes,), np.dtype("u1"))
                mapped.base.release()
            return tensor.host
        started = perf_counter()
        found = self._place(tensor.shape, tensor.dtype)
        if found is None:
            found = self._memory.empty(tensor.shape, tensor.dtype)
        if tensor.size:
            cl.enqueue_copy(self.device.queue, found, tensor.buffer, is_blocking=True)
        self.transfer += perf_counter() - started
        return found

    def read(self, tensor: Tensor) -> "np.ndarray[Any, Any]":
        """A few numbers, to decide by."""
        found = np.empty(tensor.shape, tensor.dtype)
        if tensor.size:
            cl.enqueue_copy(self.device.queue, found, tensor.buffer, is_blocking=True)
        return found

    def empty(self, shape: Sequence[int], dtype: str) -> Tensor:
        """Memory of the device, of any content."""
        shape = tuple(shape)
        return Tensor(self.device.allocate(prod(shape) * np.dtype(dtype).itemsize), dtype, shape)

    def output(self, shape: Sequence[int], dtype: str) -> Tensor:
        """As `empty`; in the memory that the caller wants it in, where it is like an output of the call and the device can work there."""
        shape = tuple(shape)
        host = self._place(shape, dtype) if self.device.unified else None
        if host is None:
            return self.empty(shape, dtype)
        place = Place(host, self._free[dtype, shape])
        buffer = self.device.wrap(host, writable=True)
        return self.empty(shape, dtype) if buffer is None else Tensor(buffer, dtype, shape, host, place)

    def _place(self, shape: tuple[int, ...], dtype: str) -> "np.ndarray[Any, Any] | None":
        free = self._free.setdefault((dtype, shape), [])
        if not free and self._wanted[dtype, shape] > 0:
            self._wanted[dtype, shape] -= 1
            free.append(self._memory.empty(shape, dtype))
        return free.pop() if free else None

    def filled(self, shape: Sequence[int], dtype: str, value: float = 0) -> Tensor:
        found = self.output(shape, dtype)
        if found.size:
            cl.enqueue_fill_buffer(self.device.queue, found.buffer, np.array(value, dtype), 0, found.size * np.dtype(dtype).itemsize)
        return found

    def constant(self, values: Any, dtype: str) -> Tensor:
        """A few numbers known to the host, such as weights."""
        return self._sent(np.array(values, dtype), dtype)  # copied: kernels may run when these are gone
