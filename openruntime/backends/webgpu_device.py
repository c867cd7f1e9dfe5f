"""A WebGPU device: its memory in a pool of buffers, its kernels compiled once, and the few shapes of work that every operation is made of."""

from collections.abc import Sequence
from math import prod
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import wgpu

from openruntime.backends import wgsl
from openruntime.contracts.errors import OutOfMemory

Host = np.ndarray[Any, Any]

_LIMITS = (
    "max-buffer-size", "max-storage-buffer-binding-size", "max-storage-buffers-per-shader-stage", "max-compute-workgroup-storage-size",
    "max-compute-invocations-per-workgroup", "max-compute-workgroup-size-x",
)  # fmt: skip
_SMALLEST = 256  # bytes of a buffer
_PARTS = 256  # that a long line is reduced in, where there are few lines
_SHORT = 64  # elements of a line that one thread reduces


class Tensor(NamedTuple):
    """Numbers on the device, in a row."""

    buffer: Any
    size: int
    dtype: str


class Kernels:
    """`memory`: bytes that its buffers may take together, unused ones included; 0 for no bound.

    Between `begin` and `end` buffers are handed out; at the end all come back. `moving` and `compiling` are the seconds of that time that went
    into copies and into compilation.
    """

    def __init__(self, adapter: Any, memory: int) -> None:
        limits = {name: adapter.limits[name] for name in _LIMITS if name in adapter.limits}
        self._device = adapter.request_device_sync(required_limits=limits)
        self._queue = self._device.queue
        self._largest = min(limits["max-buffer-size"], limits["max-storage-buffer-binding-size"])
        self._most_groups = adapter.limits["max-compute-workgroups-per-dimension"]
        self.most_inputs = min(8, limits["max-storage-buffers-per-shader-stage"] - 2)
        self._memory = memory
        self._held = 0  # bytes of all buffers, in use or not
        self._free: dict[int, list[Any]] = {}
        self._used: list[Any] = []
        self._compiled: dict[str, Any] = {}
        self.moving = self.compiling = 0.0

    def begin(self) -> None:
        self.moving = self.compiling = 0.0

    def end(self) -> None:
        for buffer in self._used:
            self._free.setdefault(buffer.size, []).append(buffer)
        self._used.clear()

    def trim(self) -> None:
        """Free the buffers that nobody uses."""
        for buffers in self._free.values():
            for buffer in buffers:
                self._held -= buffer.size
                buffer.destroy()
        self._free.clear()

    def _take(self, nbytes: int) -> Any:
        size = max(_SMALLEST, 1 << (nbytes - 1).bit_length()) if nbytes else _SMALLEST
        if size > self._largest:
            size = -(-nbytes // 4) * 4
        if size > self._largest:
            raise OutOfMemory(f"an array of {nbytes} bytes is larger than the largest buffer of this device, {self._largest} bytes")
        waiting = self._free.get(size)
        if not waiting:
            if self._memory and self._held + size > self._memory:
                self.trim()
            if self._memory and self._held + size > self._memory:
                raise OutOfMemory(f"{size} bytes more than the {self._held} in use would be over the {self._memory} allowed (`device_memory`)")
            usage = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_SRC | wgpu.BufferUsage.COPY_DST
            buffer = self._device.create_buffer(size=size, usage=usage)
            self._held += size
        else:
            buffer = waiting.pop()
        self._used.append(buffer)
        return buffer

    def upload(self, array: Host) -> Tensor:
        """An array as it stands, row by row; booleans become numbers of 32 bits."""
        dtype = array.dtype.name
        if dtype == "bool":
            array = array.astype(np.uint32)
        buffer = self._take(array.nbytes)
        if array.size:
            began = perf_counter()
            self._queue.write_buffer(buffer, 0, np.ascontiguousarray(array))
            self.moving += perf_counter() - began
        return Tensor(buffer, array.size, dtype)

    def download(self, tensor: Tensor) -> Host:
        """Its numbers, once everything before is computed."""
        stored = np.uint32 if tensor.dtype == "bool" else np.dtype(tensor.dtype)
        if not tensor.size:
            return np.empty(0, tensor.dtype)
        self._queue.read_buffer(tensor.buffer, 0, 4)  # waits for the work: on_submitted_work_done_sync raises TypeError in wgpu 0.32
        began = perf_counter()
        found = np.frombuffer(self._queue.read_buffer(tensor.buffer, 0, tensor.size * 4), stored)
        self.moving += perf_counter() - began
        return found.astype(bool) if tensor.dtype == "bool" else found

    def shaped(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        assert prod(shape) == tensor.size
        return tensor

    def _pipeline(self, source: str) -> Any:
        found = self._compiled.get(source)
        if found is None:
            began = perf_counter()
            module = self._device.create_shader_module(code=source)
            found = self._device.create_compute_pipeline(layout="auto", compute={"module": module, "entry_point": "main"})
            self._compiled[source] = found
            self.compiling += perf_counter() - began
        return found

    def _dispatch(self, source: str, groups: tuple[int, int, int], sizes: Sequence[int] | Host, inputs: Sequence[Tensor], out: Tensor) -> Tensor:
        pipeline = self._pipeline(source)
        numbers = np.concatenate([[0], np.asarray(sizes)]).astype(np.uint32)
        about = self._take(numbers.nbytes)
        self._queue.write_buffer(about, 0, numbers)
        buffers = [about, *(tensor.buffer for tensor in inputs), out.buffer]
        entries = [{"binding": i, "resource": {"buffer": buffer, "offset": 0, "size": buffer.size}} for i, buffer in enumerate(buffers)]
        bound = self._device.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=entries)
        encoder = self._device.create_command_encoder()
        work = encoder.begin_compute_pass()
        work.set_pipeline(pipeline)
        work.set_bind_group(0, bound)
        work.dispatch_workgroups(*groups)
        work.end()
        self._queue.submit([encoder.finish()])
        return out

    def _new(self, size: int, dtype: str) -> Tensor:
        return Tensor(self._take(size * 4), size, dtype)

    def _spread(self, groups: int) -> tuple[int, int, int]:
        """So many groups, as no dimension may have more than some thousands."""
        rows = -(-groups // self._most_groups)
        return -(-groups // rows), rows, 1

    def each(self, source: str, count: int, sizes: Sequence[int], inputs: Sequence[Tensor], dtype: str) -> Tensor:
        """A kernel with a thread for each of `count` numbers."""
        return self._dispatch(source, self._spread(-(-count // wgsl.GROUP)), sizes, inputs, self._new(count, dtype))

    def map(self, kinds: Sequence[str], value: str, count: int, length: int, inputs: Sequence[Tensor]) -> Tensor:
        """`wgsl.mapped` over `count` numbers in lines of `length`, in float32."""
        return self.each(wgsl.mapped(kinds, "f32", value), count, [count, length], inputs, "float32")

    def reduce(self, inputs: Sequence[Tensor], kind: str, how: str, value: str, rows: int, length: int) -> Tensor:
        """`wgsl.reduced` of `rows` lines of `length`, in two steps where few lines are long."""
        dtype = inputs[0].dtype
        kinds = [wgsl.TYPES[tensor.dtype] for tensor in inputs]
        parts = min(_PARTS, -(-length // (4 * wgsl.GROUP))) if rows < _PARTS else 1
        size = -(-length // parts)
        wide = size > _SHORT
        groups = rows * parts if wide else -(-rows * parts // wgsl.GROUP)
        source = wgsl.reduced(kinds, kind, how, value, wide=wide)
        made = self._dispatch(source, self._spread(groups), [rows, length, parts, size], inputs, self._new(rows * parts, dtype))
        return made if parts == 1 else self.reduce([made], kind, how, "a[i]", rows, parts)

    def product(self, a: Tensor, b: Tensor, shape: tuple[int, int, int, int], firsts: Host, dtype: str, *, transposed: bool) -> Tensor:
        """`wgsl.product` of a stack; `shape` is its number of products, then m, n and k; `firsts` where each one's matrices begin."""
        count, m, n, k = shape
        out = self._new(count * m * n, dtype)
        groups = -(-n // wgsl.TILE), -(-m // wgsl.TILE)
        if max(groups) > self._most_groups:
            raise OutOfMemory(f"a product of {m} by {n} numbers has more tiles than this device can be given at once")
        for first in range(0, count if m * n else 0, self._most_groups):
            sizes = np.concatenate([[m, n, k, first], firsts.reshape(-1)])
            source = wgsl.product(wgsl.TYPES[dtype], transposed=transposed)
            self._dispatch(source, (*groups, min(count - first, self._most_groups)), sizes, [a, b], out)
        return out
