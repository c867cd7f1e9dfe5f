"""WebGPU through wgpu: WGSL kernels on Vulkan, on Direct3D, and, under the name `metal`, on Apple's Metal.

Why this is the Metal layer: docs/decisions/metal-layer.md.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import prod
from tempfile import gettempdir
from typing import Any, ClassVar

import numpy as np
import wgpu
from wgpu.backends.wgpu_native.extras import set_instance_extras

from openruntime.backends import wgsl
from openruntime.backends.array_backend import ArrayBackend, Memory
from openruntime.backends.webgpu_device import Kernels, Tensor
from openruntime.contracts.errors import NoSuchDevice, OpenRuntimeError, OperationFailed, OutOfMemory, UnsupportedOnDevice, WorkerCrashed
from openruntime.contracts.records import Probe, Result
from openruntime.operations import dtypes
from openruntime.operations.catalogue import BUILTIN, OperationCatalogue
from openruntime.operations.definition import Operation
from openruntime.operations.formula import program, signature

Host = np.ndarray[Any, Any]
Axis = int | tuple[int, ...] | None

_PLATFORMS = {"Metal": "metal", "Vulkan": "vulkan", "D3D12": "vulkan"}  # what a GPU is called here, by the interface that shows it
_OPERATIONS = ("expression", "matmul", "linear", "conv2d", "softmax", "layer_norm", "attention", "sum", "mean", "var", "std", "min", "max")
_WIDE = "WGSL has no 64-bit numbers; send float32"
_NARROW = "WGSL has no numbers of fewer than 32 bits that every device reads; send float32 or int32"
_REASONS = {
    **dict.fromkeys(("argmin", "argmax", "argsort", "histogram", "knn", "kmeans", "top_k"), "its answer holds int64, which WGSL lacks"),
    **dict.fromkeys(("fft", "ifft", "rfft", "irfft", "fft2", "ifft2"), "it works on complex numbers, which WGSL lacks"),
    **dict.fromkeys(("uniform", "normal", "integers", "monte_carlo_pi"), "its random numbers are made of 64-bit integers, which WGSL lacks"),
}
_NO_KERNEL = "no WGSL kernel has been written for it"


class WebgpuBackend(ArrayBackend):
    """Generated WGSL for formulas, products, reductions and layers, in float32, int32, uint32 and booleans; the rest runs elsewhere."""

    name = "webgpu"
    shown_by = frozenset({"Vulkan", "D3D12"})  # Metal's are `metal`'s
    xp = None  # no namespace of arrays: every operation has its own kernels
    unsupported: ClassVar[Mapping[str, str]] = {name: _REASONS.get(name, _NO_KERNEL) for name in sorted(BUILTIN - set(_OPERATIONS))}
    lacks: ClassVar[Mapping[str, str]] = {
        **ArrayBackend.lacks,
        **dict.fromkeys(("float64", "int64", "uint64"), _WIDE),
        **dict.fromkeys(("complex64", "complex128"), "WGSL has no complex numbers"),
        **dict.fromkeys(("float16", "int8", "uint8", "int16", "uint16"), _NARROW),
    }

    @classmethod
    def probe(cls) -> Sequence[Probe]:
        found = []
        for index, adapter in enumerate(_adapters(cls.shown_by)):
            info = adapter.info
            software = info["adapter_type"] == "CPU"  # such as Mesa's llvmpipe: it computes on the processor, and is no device of its own
            unified = info["adapter_type"] == "IntegratedGPU"
            platform = "cpu" if software else _PLATFORMS[info["backend_type"]]
            found.append(Probe(cls.name, platform, 0 if software else index, info["device"], unified=unified))
        if not found:
            raise NoSuchDevice(f"no driver shows a device through {' or '.join(sorted(cls.shown_by))}")
        return found

    def __init__(
        self, *, device: str = "cpu:0", threads: int = 1, index: int = 0, memory: int = 0, catalogue: OperationCatalogue | None = None
    ) -> None:
        super().__init__(device=device, threads=threads, index=index, memory=memory, catalogue=catalogue)
        adapters = _adapters(self.shown_by)
        if device.startswith("cpu:"):
            adapters = [adapter for adapter in adapters if adapter.info["adapter_type"] == "CPU"]
        if index >= len(adapters):
            raise NoSuchDevice(f"{self.name} does not show the device {device}")
        self.kernels = Kernels(adapters[index], memory)

    def get_capabilities(self) -> list[str]:
        return list(_OPERATIONS)

    async def execute(self, operation: str, params: dict[str, Any]) -> Result:
        if operation not in self.unsupported and operation not in _OPERATIONS:
            self.catalogue.get(operation)  # one that nobody knows is told so
            raise UnsupportedOnDevice(f"{operation} does not run on {self.device}/{self.name}: {_NO_KERNEL}")
        self.kernels.begin()
        result = await super().execute(operation, params)
        moved, compiled = self.kernels.moving, self.kernels.compiling
        return Result(result.outputs, max(0.0, result.seconds - moved - compiled), moved, compiled)

    def trim(self) -> None:
        self.kernels.trim()

    def from_host(self, array: Host) -> Host:
        return array  # goes to the device in the shape that its kernel wants

    def to_host(self, array: Host) -> Host:
        return array

    def _arguments(self, operation: Operation, params: Mapping[str, Any], memory: Memory) -> dict[str, Any]:
        arguments = super()._arguments(operation, params, memory)
        declared = self.catalogue.bind(operation.name, {name: value for name, value in params.items() if name not in ("allocate", "steps")}).outputs
        for dtype in (spec.dtype for spec in declared.values()):
            if dtype in self.lacks:
                where = f"{self.device}/{self.name}"
                raise UnsupportedOnDevice(f"{operation.name} gives {dtype} here, which does not run on {where}: {self.lacks[dtype]}")
        return arguments

    def _run(self, operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        arguments.pop("xp", None)
        run: Callable[..., Host] = getattr(self, f"_{operation.name}")
        try:
            return {"output": run(**arguments)}
        finally:
            self.kernels.end()

    def translate(self, operation: str, error: Exception) -> OpenRuntimeError | None:
        said = f"{operation} on {self.device}/{self.name}: {str(error).strip()[:500]}"
        if isinstance(error, wgpu.GPUOutOfMemoryError) or (isinstance(error, wgpu.GPUError) and "memory" in str(error).lower()):
            return OutOfMemory(said)
        if isinstance(error, wgpu.GPUInternalError) or "lost" in str(error).lower():
            return WorkerCrashed(said)
        if isinstance(error, wgpu.GPUError):
            return OperationFailed(said)
        return super().translate(operation, error)

    # -- operations: parameters as the operation declares them, arrays of NumPy in and out --------------------------------------

    def _expression(self, formula: str, **arrays: Any) -> Host:
        found = program(formula, signature(arrays))
        dtype = found.dtype
        wgsl.register(dtype)
        given: list[Host] = [arrays[name] for name in found.inputs]
        if len(given) > self.kernels.most_inputs:
            raise UnsupportedOnDevice(
                f"a formula of {len(given)} arrays does not run on {self.device}/{self.name}; it takes {self.kernels.most_inputs}"
            )
        shape = np.broadcast_shapes(*(array.shape for array in given))
        if not prod(shape):
            return np.empty(shape, dtype)
        ranks = [-1 if array.shape == shape else 0 if array.size == 1 else len(shape) for array in given]
        kept = shape if any(rank > 0 for rank in ranks) else ()
        sizes = [prod(shape), *kept]
        for array, rank in zip(given, ranks, strict=True):
            if rank > 0:
                flat = np.broadcast_to(np.arange(array.size, dtype=np.uint32).reshape(array.shape) if array.ndim else array, shape)
                sizes += [step // 4 for step in flat.strides]
        lines, value = wgsl.formula(found)
        source = wgsl.elementwise([dtypes.name_of(array) for array in given], dtype, ranks, len(kept), lines, value)
        tensors = [self.kernels.upload(array) for array in given]
        return self.kernels.download(self.kernels.each(source, prod(shape), sizes, tensors, dtype)).reshape(shape)

    def _matmul(self, a: Host, b: Host) -> Host:
        dtype = dtypes.promote(dtypes.name_of(a), dtypes.name_of(b))
        stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        shape = (*stack, *a.shape[-2:-1], *(b.shape[-1:] if b.ndim > 1 else ()))
        left, right = (a[None, :] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)
        return self.kernels.download(self._product(left, right, dtype)).reshape(shape)

    def _product(self, a: Host, b: Host, dtype: str, *, transposed: bool = False) -> Tensor:
        stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        (m, k), n = a.shape[-2:], b.shape[-2 if transposed else -1]
        firsts = np.stack([np.broadcast_to(_firsts(x), stack).reshape(-1) for x in (a, b)], axis=-1)
        left, right = (self.kernels.upload(x.astype(dtype, copy=False)) for x in (a, b))
        return self.kernels.product(left, right, (prod(stack), m, n, k), firsts, dtype, transposed=transposed)

    def _linear(self, x: Host, weight: Host, bias: Host | None = None) -> Host:
        shape = (*x.shape[:-1], weight.shape[0])
        made = self._product(x.reshape(prod(x.shape[:-1]), x.shape[-1]), weight, "float32", transposed=True)
        if bias is not None and made.size:
            made = self.kernels.map(["f32", "f32"], "a[i] + b[col]", made.size, weight.shape[0], [made, self.kernels.upload(bias)])
        return self.kernels.download(made).reshape(shape)

    def _conv2d(self, x: Host, weight: Host, bias: Host | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Host:
        pairs = [(value, value) if isinstance(value, int) else tuple(value) for value in (stride, padding, dilation)]
        images, channels, *area = x.shape
        outputs, inputs, *kernel = weight.shape
        sides = [(a + 2 * p - d * (k - 1) - 1) // s + 1 for a, k, s, p, d in zip(area, kernel, *pairs, strict=True)]
        shape = (images, outputs, *sides)
        if not prod(shape):
            return np.empty(shape, "float32")
        sizes = [prod(shape), channels, *area, outputs, inputs, *kernel, *sides, *(one for pair in pairs for one in pair), outputs // groups]
        offset = np.zeros(outputs, "float32") if bias is None else bias
        tensors = [self.kernels.upload(array) for array in (x, weight, offset)]
        return self.kernels.download(self.kernels.each(wgsl.convolution(), prod(shape), sizes, tensors, "float32")).reshape(shape)

    def _softmax(self, x: Host, axis: int = -1) -> Host:
        if not x.size:
            return np.empty(x.shape, "float32")
        lines = np.moveaxis(x, axis, -1)
        found = self.kernels.download(self._softened(self.kernels.upload(lines), lines.shape[-1]))
        return np.moveaxis(found.reshape(lines.shape), -1, axis)

    def _softened(self, x: Tensor, length: int, *, nothing: bool = False) -> Tensor:
        """The softmax of lines; `nothing`: a line of nothing but -inf gives zeros, and no NaN."""
        top = self.kernels.reduce([x], "f32", "max", "a[i]", x.size // length, length)
        shifted = "exp_(a[i] - b[row])"
        if nothing:
            shifted = f"select({shifted}, 0.0, is_inf(b[row]) && is_neg(b[row]))"
        e = self.kernels.map(["f32", "f32"], shifted, x.size, length, [x, top])
        total = self.kernels.reduce([e], "f32", "sum", "a[i]", x.size // length, length)
        divided = "a[i] / select(b[row], 1.0, b[row] == 0.0)" if nothing else "a[i] / b[row]"
        return self.kernels.map(["f32", "f32"], divided, x.size, length, [e, total])

    def _layer_norm(self, x: Host, weight: Host | None = None, bias: Host | None = None, axis: int = -1, epsilon: float = 1e-5) -> Host:
        if not x.size:
            return np.empty(x.shape, "float32")
        length = prod(x.shape[axis % x.ndim :])
        count, rows = x.size, x.size // length
        given = self.kernels.upload(x)
        mean = self._divided(self.kernels.reduce([given], "f32", "sum", "a[i]", rows, length), rows, length)
        centred = self.kernels.map(["f32", "f32"], "a[i] - b[row]", count, length, [given, mean])
        spread = self._divided(self.kernels.reduce([centred], "f32", "sum", "a[i] * a[i]", rows, length), rows, length)
        made = self.kernels.map(["f32", "f32"], f"a[i] / sqrt(b[row] + {wgsl.literal(epsilon, 'float32')})", count, length, [centred, spread])
        for array, value in ((weight, "a[i] * b[col]"), (bias, "a[i] + b[col]")):
            if array is not None:
                made = self.kernels.map(["f32", "f32"], value, count, length, [made, self.kernels.upload(array)])
        return self.kernels.download(made).reshape(x.shape)

    def _divided(self, x: Tensor, rows: int, by: float) -> Tensor:
        return self.kernels.map(["f32"], f"a[i] / {wgsl.literal(by, 'float32')}", rows, 1, [x])

    def _attention(self, q: Host, k: Host, v: Host, mask: Host | None = None, causal: bool = False, scale: float | None = None) -> Host:
        batch = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
        (n, d), (m, e) = q.shape[-2:], v.shape[-2:]
        if not prod((*batch, n, m, e)):
            return np.zeros((*batch, n, e), "float32")
        q, k, v = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (q, k, v))
        scores = self._product(q, k, "float32", transposed=True)
        scaled = f"a[i] * {wgsl.literal(d**-0.5 if scale is None and d else 1.0 if scale is None else scale, 'float32')}"
        scores = self.kernels.map(["f32"], scaled, scores.size, m, [scores])
        if mask is not None:
            added = np.where(mask, np.float32(0), np.float32(-np.inf)) if mask.dtype == bool else mask
            shown = self.kernels.upload(np.broadcast_to(added, (*batch, n, m)))
            value = "select(a[i] + b[i], -inf(), is_inf(b[i]) && is_neg(b[i]))"
            scores = self.kernels.map(["f32", "f32"], value, scores.size, m, [scores, shown])
        if causal:
            scores = self.kernels.map(["f32"], f"select(a[i], -inf(), col > row % {n}u)", scores.size, m, [scores])
        weights = self.kernels.shaped(self._softened(scores, m, nothing=True), (*batch, n, m))
        values = self.kernels.upload(v)
        firsts = np.stack([np.arange(prod(batch)) * n * m, np.arange(prod(batch)) * m * e], axis=-1)
        made = self.kernels.product(weights, values, (prod(batch), n, e, m), firsts, "float32", transposed=False)
        return self.kernels.download(made).reshape(*batch, n, e)

    def _reduced(self, x: Host, how: str, axis: Axis, keepdims: bool, value: str = "a[i]", *more: Host) -> Host:
        """The lines along `axis`, each to one number; `more` have one number a line."""
        if x.dtype == bool:
            return self._reduced(x.astype(np.uint32), how, axis, keepdims).astype(bool)
        axes = _axes(x.ndim, axis)
        lines = np.transpose(x, [*(one for one in range(x.ndim) if one not in axes), *axes])
        length = prod(x.shape[one] for one in axes)
        rows = prod(x.shape[one] for one in range(x.ndim) if one not in axes)
        shape = tuple(1 if one in axes else size for one, size in enumerate(x.shape) if keepdims or one not in axes)
        kind = wgsl.TYPES[dtypes.name_of(x)]
        if not rows or not length:
            return np.zeros(shape, x.dtype)
        tensors = [self.kernels.upload(array) for array in (lines, *more)]
        return self.kernels.download(self.kernels.reduce(tensors, kind, how, value, rows, length)).reshape(shape)

    def _sum(self, x: Host, axis: Axis = None, keepdims: bool = False) -> Host:
        return self._reduced(x, "sum", axis, keepdims)

    def _min(self, x: Host, axis: Axis = None, keepdims: bool = False) -> Host:
        return self._reduced(x, "min", axis, keepdims)

    def _max(self, x: Host, axis: Axis = None, keepdims: bool = False) -> Host:
        return self._reduced(x, "max", axis, keepdims)

    def _mean(self, x: Host, axis: Axis = None, keepdims: bool = False) -> Host:
        with np.errstate(all="ignore"):
            return self._reduced(x, "sum", axis, keepdims) / np.float32(_count(x, axis))

    def _var(self, x: Host, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Host:
        count = _count(x, axis)
        with np.errstate(all="ignore"):
            mean = self._mean(x, axis)
            squares = self._reduced(x, "sum", axis, keepdims, "(a[i] - b[row]) * (a[i] - b[row])", mean)
            return squares / np.float32(max(0.0, count - correction))

    def _std(self, x: Host, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Host:
        return np.sqrt(self._var(x, axis, correction, keepdims))


class MetalBackend(WebgpuBackend):
    """The same kernels on Apple's GPUs: wgpu translates WGSL to Metal's own language."""

    name = "metal"
    shown_by = frozenset({"Metal"})


@lru_cache(maxsize=2)
def _adapters(shown_by: frozenset[str]) -> list[Any]:
    """The devices that these interfaces show, GPUs first; each once, by the first interface."""
    os.environ.setdefault("XDG_RUNTIME_DIR", gettempdir())  # else Mesa complains once a thread, though no window is opened
    set_instance_extras(backends=["Vulkan", "Metal", "DX12"])  # OpenGL would be looked for through windows that are not there
    found = [adapter for adapter in wgpu.gpu.enumerate_adapters_sync() if adapter.info["backend_type"] in shown_by]
    return sorted(found, key=lambda adapter: adapter.info["adapter_type"] == "CPU")


def _firsts(x: Host) -> Any:
    """Where each matrix of a stack begins, in elements."""
    return np.arange(prod(x.shape[:-2])).reshape(x.shape[:-2]) * prod(x.shape[-2:])


def _axes(rank: int, axis: Axis) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(rank))
    return tuple(one % rank for one in ((axis,) if isinstance(axis, int) else axis))


def _count(x: Host, axis: Axis) -> int:
    return prod(x.shape[one] for one in _axes(x.ndim, axis))
