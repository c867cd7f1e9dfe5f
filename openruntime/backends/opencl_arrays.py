"""Arrays in an OpenCL device's memory, and the engine that runs kernels on them."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import prod
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import pyopencl as cl

from openruntime.backends.array_backend import Memory
from openruntime.backends.opencl_device import OpenCLDevice
from openruntime.backends.opencl_source import C_TYPE, PRELUDE, FormulaSource, cast_to, load, store
from openruntime.contracts.errors import OperationFailed
from openruntime.contracts.payload import Spec
from openruntime.operations.dtypes import inexact, name_of, promote
from openruntime.operations.formula import Signature, program, signature

_KEPT = 512  # built kernels
_GROUP = 256  # items that a card runs side by side
Kept = TypeVar("Kept")


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


class Engine:
    """Runs kernels on one device. `compile` and `transfer` count the seconds of the current call."""

    def __init__(self, device: OpenCLDevice) -> None:
        self.device = device
        self.compile = 0.0
        self.transfer = 0.0
        self._memory = Memory(None, 0)
        self._wanted: Counter[Kind] = Counter()
        self._free: dict[Kind, list[np.ndarray[Any, Any]]] = {}
        self._kernels: OrderedDict[tuple[str, str], cl.Kernel] = OrderedDict()
        self._flag: Tensor | None = None
        self._kept: dict[str, Any] = {}
        self._options = ["-w", *(["-D", "PROCESSOR=1"] if device.processor else [])]
        if not device.has_double:
            self._options.append("-cl-single-precision-constant")

    def begin(self, memory: Memory, outputs: Iterable[Spec]) -> None:
        """A call that will answer with `outputs`, in `memory`."""
        self.compile = self.transfer = 0.0
        self._memory = memory
        self._wanted = Counter((spec.dtype, spec.shape) for spec in outputs if spec.exact)
        self._free = {}

    def end(self) -> None:
        """The caller's memory is the caller's again."""
        self.begin(Memory(None, 0), ())

    def kept(self, name: str, make: Callable[["Engine"], Kept]) -> Kept:
        """What an operation keeps from one call to the next, made at its first use."""
        if name not in self._kept:
            self._kept[name] = make(self)
        return self._kept[name]  # type: ignore[no-any-return]

    def run(self, source: str, name: str, items: int, *arguments: Any, work: int = 1) -> Any:
        """Enqueue kernel `name` over `items`, each of about `work` elementary steps; its event. Integers are passed as long, NumPy scalars as are."""
        if not items:
            return None
        kernel = self._kernels.get((source, name))
        fresh = kernel is None
        if kernel is None:
            kernel = self._built(source, name)
        if self.device.processor:
            size, group = max(1, min(items, 4 * self.device.units, items * work >> 12)), 1
        else:
            group = min(_GROUP, self.device.device.max_work_group_size)
            size = min(-(-items // group), 64 * self.device.units) * group
        kernel.set_args(*(self._argument(value) for value in arguments))
        started = perf_counter()
        event = cl.enqueue_nd_range_kernel(self.device.queue, kernel, (size,), (group,))
        if fresh:  # some drivers generate code only now
            event.wait()
            self.compile += max(0.0, perf_counter() - started - 1e-9 * (event.profile.end - event.profile.start))
        return event

    def _built(self, source: str, name: str) -> cl.Kernel:
        built = self.device.build(PRELUDE + source, self._options)
        self.compile += built.seconds
        kernel = self._kernels[source, name] = cl.Kernel(built.program, name)
        if len(self._kernels) > _KEPT:
            self._kernels.popitem(last=False)
        return kernel

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.buffer
        if isinstance(value, int):
            return np.int64(value)
        if isinstance(value, np.generic | cl.LocalMemory):
            return value
        raise TypeError(f"a kernel cannot be given {value!r}: its width is not known")

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

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        if tensor.dtype == dtype:
            return tensor
        found = self.output(tensor.shape, dtype)
        self.run(_cast(tensor.dtype, dtype), "cast", tensor.size, tensor.size, tensor, found)
        return found

    def rearranged(self, tensor: Tensor, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Tensor:
        """Elements picked by strides counted in elements: a transposition, a part, a repetition."""
        found = self.output(shape, tensor.dtype)
        self.copy(tensor, found, shape, strides, offset=offset)
        return found

    def copy(
        self, source: Tensor, target: Tensor, shape: Sequence[int], strides: Sequence[int],
        into: Sequence[int] | None = None, *, offset: int = 0, start: int = 0,
    ) -> Any:  # fmt: skip
        """Strided elements of `source` to strided places of `target`, C-contiguous unless told; casts where the dtypes differ."""
        into = contiguous(shape) if into is None else into
        extents, pairs = _merged(shape, list(zip(strides, into, strict=True)))
        if not prod(extents):
            return None
        rank = len(extents)
        arguments = [prod(extents), *extents, source, offset, *(pair[0] for pair in pairs), target, start, *(pair[1] for pair in pairs)]
        return self.run(_copying(source.dtype, target.dtype, rank), "rearrange", prod(extents), *arguments)

    def permuted(self, tensor: Tensor, axes: Sequence[int]) -> Tensor:
        if list(axes) == list(range(tensor.ndim)):
            return tensor
        strides = contiguous(tensor.shape)
        return self.rearranged(tensor, [tensor.shape[axis] for axis in axes], [strides[axis] for axis in axes])

    def broadcast(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        if tuple(shape) == tensor.shape:
            return tensor
        return self.rearranged(tensor, shape, spread(tensor.shape, shape))

    def lines(self, tensor: Tensor, axes: Sequence[int]) -> tuple[Tensor, int, int, int]:
        """The array as (outer, n, inner), where n runs over `axes`; rearranged only where these do not lie side by side."""
        kept = [i for i in range(tensor.ndim) if i not in axes]
        ordered = sorted(axes)
        if ordered and ordered != list(range(ordered[0], ordered[0] + len(ordered))):
            tensor = self.permuted(tensor, [*kept, *ordered])
            ordered = list(range(len(kept), tensor.ndim))
        first = ordered[0] if ordered else tensor.ndim
        outer, n = prod(tensor.shape[:first]), prod(tensor.shape[axis] for axis in ordered)
        return tensor, outer, n, prod(tensor.shape[first + len(ordered) :])

    def expression(self, formula: str, **arrays: "Tensor | float") -> Tensor:
        """A formula by one generated kernel. Raises `OperationFailed` for an integer to a negative power."""
        names = tuple(name for name, value in arrays.items() if isinstance(value, Tensor))
        tensors = [value for value in arrays.values() if isinstance(value, Tensor)]
        shape = np.broadcast_shapes(*(tensor.shape for tensor in tensors))
        found = program(formula, signature(arrays))
        assert found.inputs == names
        modes = ["f" if tensor.shape == shape or tensor.size == prod(shape) else "s" if tensor.size == 1 else "b" for tensor in tensors]
        strides = [spread(tensor.shape, shape) for tensor in tensors]
        extents, merged = _merged(shape, list(zip(*strides, strict=True))) if "b" in modes else ([], [])
        rank = len(extents)
        rows = "b" in modes and self.device.processor and prod(extents[:-1]) >= 2 * self.device.units
        source = _formula(formula, signature(arrays), tuple(modes), rank, rows, self.device.processor)
        out = self.output(shape, found.dtype)
        count = prod(extents[:-1]) if rows else out.size
        arguments: list[Any] = [count, *extents]
        for i, tensor in enumerate(tensors):
            arguments.append(tensor)
            arguments += [pair[i] for pair in merged] if modes[i] == "b" else []
        arguments += [scalar(constant.value, dtype) for constant, dtype in source.constants]
        arguments.append(out)
        if source.fails:
            self._flag = self._flag or self.empty((1,), "int32")
            cl.enqueue_fill_buffer(self.device.queue, self._flag.buffer, np.zeros(1, "i4"), 0, 4)
            arguments.append(self._flag)
        self.run(source.text, "expression", count, *arguments, work=4 * (extents[-1] if rows else 1))
        if source.fails and self._flag is not None and self.read(self._flag)[0]:
            raise OperationFailed("expression failed: an integer to a negative power is no integer; give one of the two as float64")
        return out


def common_dtype(*tensors: Tensor | None) -> str:
    """The floating dtype that all promote to."""
    found = ""
    for tensor in tensors:
        if tensor is not None:
            found = promote(found, tensor.dtype) if found else tensor.dtype
    return inexact(found)


def scalar(value: Any, dtype: str) -> Any:
    """A Python number as a kernel's argument that is computed with as `dtype`: a NumPy scalar."""
    given = np.array(value).astype(dtype)[()]
    return np.float32(given) if dtype == "float16" else np.uint8(given) if dtype == "bool" else given


def contiguous(shape: Sequence[int]) -> list[int]:
    """C-contiguous strides in elements."""
    found, step = [], 1
    for extent in reversed(shape):
        found.append(step)
        step *= extent
    return found[::-1]


def spread(shape: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Strides by which a C-contiguous array of `shape` is read as one of the broadcast shape `wanted`."""
    own = [0 if extent == 1 else stride for extent, stride in zip(shape, contiguous(shape), strict=True)]
    return [0] * (len(wanted) - len(shape)) + own


def _merged(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[Sequence[int]]]:
    """Fewer dimensions with the same walk: those of one element are dropped, neighbours joined that one step leads through."""
    extents: list[int] = []
    found: list[Sequence[int]] = []
    for extent, steps in zip(shape, strides, strict=True):
        if extent == 1:
            continue
        if extents and all(before == extent * step for before, step in zip(found[-1], steps, strict=True)):
            extents[-1] *= extent
            found[-1] = steps
        else:
            extents.append(extent)
            found.append(steps)
    return (extents, found) if extents else ([1], [[0] * len(strides[0]) if strides else []])


@lru_cache(maxsize=512)
def _formula(formula: str, types: Signature, modes: tuple[str, ...], rank: int, rows: bool, vectors: bool) -> FormulaSource:
    inputs = [dtype for _, dtype, *more in types if isinstance(dtype, str) and not more]
    return FormulaSource(program(formula, types), inputs, modes, rank, rows=rows, vectors=vectors)


@lru_cache(maxsize=512)
def _cast(given: str, dtype: str) -> str:
    half = "float half_of(float x) { return x; }\n"  # rounded by the store
    return f"""{half}__kernel void cast(const long n, __global const {C_TYPE[given][0]} *restrict x, __global {C_TYPE[dtype][0]} *restrict out) {{
    FOR_EACH(i, n) {{ const {C_TYPE[given][1]} v = {load(given, "x", "i")}; {store(dtype, "out", "i", cast_to(dtype, given, "v"))} }}
}}"""


@lru_cache(maxsize=512)
def _copying(given: str, dtype: str, rank: int) -> str:
    """Casts where the dtypes differ."""
    half = "float half_of(float x) { return x; }\n"
    sizes = ", ".join(f"const long n{d}" for d in range(rank))
    from_strides, to_strides = (", ".join(f"const long {name}{d}" for d in range(rank)) for name in "st")
    body = "size_t rest = i, at = offset, to = start, k;\n"
    for d in range(rank - 1, 0, -1):
        body += f"        k = rest % n{d}; rest /= n{d}; at += k * s{d}; to += k * t{d};\n"
    body += "        at += rest * s0; to += rest * t0;"
    source, target = C_TYPE[given][0], C_TYPE[dtype][0]
    return f"""{half}
__kernel void rearrange(const long n, {sizes}, __global const {source} *restrict x, const long offset, {from_strides},
        __global {target} *restrict out, const long start, {to_strides}) {{
    FOR_EACH(i, n) {{
        {body}
        const {C_TYPE[given][1]} v = {load(given, "x", "at")};
        {store(dtype, "out", "to", cast_to(dtype, given, "v"))}
    }}
}}"""
