"""PyTorch on the processor, NVIDIA (CUDA), AMD (ROCm), Intel (XPU) and Apple (Metal) GPUs.

A routine of its own stands in for a generic operation only where it was measured to be faster (docs/decisions/torch-natives.md).
"""

import contextlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # documented, and left out of its stub
from torch.nn import functional

from openruntime.backends.array_backend import ArrayBackend, Memory, Native
from openruntime.backends.torch_expression import expression
from openruntime.backends.torch_namespace import SIGNED, carried, xp
from openruntime.contracts.errors import OpenRuntimeError, OperationFailed, OutOfMemory, UnsupportedOnDevice
from openruntime.contracts.payload import Array
from openruntime.contracts.records import Probe
from openruntime.operations import neural, random, sorting
from openruntime.operations.definition import Operation
from openruntime.operations.dtypes import cast, name_of
from openruntime.operations.numerics import common

_KINDS = {"cpu": "cpu", "cuda": "cuda", "rocm": "cuda", "xpu": "xpu", "metal": "mps"}  # platform -> what PyTorch calls it
_LIBRARIES: dict[str, Any] = {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.mps}
_FAILURES = {
    "input matrix is singular": "the matrix is singular, so it has no inverse; lstsq finds a least-squares solution",
    "not positive-definite": "the matrix is not positive definite",
    "failed to converge": "the values did not converge; does the input hold NaN or infinity?",
}
_NO_MEMORY = ("DefaultCPUAllocator: ", "MPS backend out of memory", "out of memory")
_CHUNK, _DEVICE_CHUNK = 1 << 16, 1 << 21  # blocks of random numbers made at a time: by a thread, by a GPU
_NO_DOUBLES = "the device has no double precision; send float32"
_NO_CARD = ("not compiled with", "Found no NVIDIA driver", "No CUDA GPUs", "No HIP GPUs", "No XPU devices", "no CUDA-capable device")
_NO_FACTORS = "PyTorch does not factorise matrices on Metal"


def _softmax(x: torch.Tensor, axis: int = -1, *, empty: Callable[..., torch.Tensor]) -> torch.Tensor:
    dtype, (x,) = common(xp, x)
    if name_of(x) != dtype or x.device.type != "cpu":
        return cast(xp, torch.softmax(x, axis), dtype)  # type: ignore[no-any-return]
    return torch.softmax(x, axis, out=empty(tuple(x.shape), dtype))


def _layer_norm(
    x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5
) -> torch.Tensor:
    dtype, (x, weight, bias) = common(xp, x, weight, bias)
    if x.numel():
        x = functional.layer_norm(x, x.shape[axis % x.ndim :], weight, bias, epsilon)
    return cast(xp, x, dtype)  # type: ignore[no-any-return]


def _conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
    if not x.numel():
        return neural.conv2d(x, weight, bias, **options, xp=xp)  # type: ignore[no-any-return]
    dtype, (x, weight, bias) = common(xp, x, weight, bias)
    return cast(xp, functional.conv2d(x, weight, bias, **options), dtype)  # type: ignore[no-any-return]


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None, *, causal: bool = False, scale: float | None = None
) -> torch.Tensor:
    """PyTorch's own where it works through the scores in blocks; it takes a mask or `causal`, not both."""
    if (mask is not None and causal) or q.shape[-1] != v.shape[-1] or 0 in (q.numel(), k.numel()):
        return neural.attention(q, k, v, mask, causal=causal, scale=scale, xp=xp)  # type: ignore[no-any-return]
    dtype, (q, k, v) = common(xp, q, k, v)
    batch = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])

    def four(x: torch.Tensor) -> torch.Tensor:
        return x.expand(*batch, *x.shape[-2:]).reshape(-1, 1, *x.shape[-2:])

    if mask is not None:
        mask = mask.reshape((1,) * (2 - mask.ndim) + mask.shape)
        mask = four(mask if mask.dtype == torch.bool else mask.to(q.dtype))
    found = functional.scaled_dot_product_attention(four(q), four(k), four(v), mask, is_causal=causal, scale=scale)
    return cast(xp, found.reshape(*batch, *found.shape[-2:]), dtype)  # type: ignore[no-any-return]


def _cumulative_sum(x: torch.Tensor, axis: int | None = None, include_initial: bool = False, *, empty: Callable[..., torch.Tensor]) -> torch.Tensor:
    kind = name_of(x)
    dtype = "uint64" if kind.startswith("u") else "int64" if kind == "bool" or kind.startswith("int") else kind
    x, axis = carried(x), 0 if axis is None else axis % x.ndim
    shape = [n + (include_initial and i == axis) for i, n in enumerate(x.shape)]
    out = found = empty(tuple(shape), dtype)
    if dtype == "uint64":
        found = found.view(torch.int64)
    if include_initial:
        found.narrow(axis, 0, 1).zero_()
        found = found.narrow(axis, 1, shape[axis] - 1)
    torch.cumsum(x, axis, dtype=found.dtype, out=found)
    return out


def _top_k(x: torch.Tensor, k: int, axis: int = -1, largest: bool = True) -> Any:
    """For one dimension: what is at least as good as the k-th number is sorted."""
    if x.ndim != 1 or not 0 < k < x.shape[0] // 8 or x.dtype in SIGNED or x.dtype == torch.bool:
        return sorting.top_k(x, k, axis, largest, xp=xp)
    limit = torch.topk(x, k, largest=largest, sorted=True).values[-1]
    where = torch.nonzero(~(x < limit if largest else x > limit))[:, 0]  # NaN is worse than nothing among the largest
    best = sorting.top_k(x[where], k, 0, largest, xp=xp)
    return {"values": best["values"], "indices": where[best["indices"]]}


def _drawn(make: Callable[..., torch.Tensor], shape: Any, dtype: str, empty: Callable[..., torch.Tensor], each: int = 1) -> torch.Tensor:
    """`make(start, count)` in chunks whose temporaries stay in a processor's cache, into place; `each` numbers come of a block of four words."""
    out = empty(shape, dtype)
    flat = out.view(-1)
    chunk = each * (_CHUNK * torch.get_num_threads() if out.device.type == "cpu" else _DEVICE_CHUNK)
    for start in range(0, flat.shape[0], chunk):
        count = min(chunk, flat.shape[0] - start)
        flat[start : start + count] = make(start, count)
    return out


def _each(dtype: str) -> int:
    return 2 if dtype == "float64" else 4


def _uniform(shape: Any, seed: int, low: float = 0.0, high: float = 1.0, dtype: str = "float64", *, empty: Callable[..., Any]) -> torch.Tensor:
    return _drawn(partial(random.scaled_uniforms, xp, seed, low, high, dtype), shape, dtype, empty, _each(dtype))


def _normal(shape: Any, seed: int, mean: float = 0.0, std: float = 1.0, dtype: str = "float64", *, empty: Callable[..., Any]) -> torch.Tensor:
    return _drawn(partial(random.scaled_normals, xp, seed, mean, std, dtype), shape, dtype, empty, _each(dtype))


def _integers(shape: Any, seed: int, high: int, low: int = 0, dtype: str = "int64", *, empty: Callable[..., Any]) -> torch.Tensor:
    return _drawn(partial(random.scaled_integers, xp, seed, low, high, dtype), shape, dtype, empty)


class TorchBackend(ArrayBackend):
    """PyTorch on one device. Threads are set for the whole process."""

    name = "torch"
    xp = xp
    native: ClassVar[Mapping[str, Native]] = {
        "expression": expression, "softmax": _softmax, "layer_norm": _layer_norm, "conv2d": _conv2d,
        "attention": _attention, "cumulative_sum": _cumulative_sum, "top_k": _top_k,
        "uniform": _uniform, "normal": _normal, "integers": _integers,
    }  # fmt: skip
    native_outputs = frozenset({"expression", "softmax", "cumulative_sum", "uniform", "normal", "integers"})
    lacks: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def probe(cls) -> Sequence[Probe]:
        found = [Probe(cls.name, "cpu")]
        kind = "rocm" if torch.version.hip else "cuda"
        for library, name in ((torch.cuda, kind), (torch.xpu, "xpu")):
            if library.is_available():
                found += [_card(cls.name, name, library, index) for index in range(library.device_count())]
            elif (why := _broken(library)) is not None:
                found.append(Probe(cls.name, name, failure=f"PyTorch cannot use the {name} devices here: {why}"))
        if torch.backends.mps.is_available():
            total = torch.mps.recommended_max_memory()
            free = max(0, total - torch.mps.driver_allocated_memory())
            found.append(Probe(cls.name, "metal", 0, _apple(), total, free, unified=True))
        return found

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        kind = _KINDS[self.device.partition(":")[0]]
        self._place = torch.device("cpu" if kind == "cpu" else f"{kind}:{self.index}")
        self._library = _LIBRARIES.get(kind)
        self.separate_memory = self._library is not None
        self._claim()
        self.set_threads(self.threads)
        if torch.get_num_interop_threads() != 1:
            torch.set_num_interop_threads(1)  # one operation runs at a time
        if self._place.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # placement does not change numbers
        if not self._doubles():
            self.lacks = {"float64": _NO_DOUBLES, "complex128": _NO_DOUBLES}  # type: ignore[misc]  # a matter of the device
            self.unsupported = {"quantile": _NO_DOUBLES}  # type: ignore[misc]
        if self._place.type == "mps":
            self.unsupported = {**self.unsupported, **dict.fromkeys(("lstsq", "qr", "svd", "eigh", "pca"), _NO_FACTORS)}  # type: ignore[misc]

    def _doubles(self) -> bool:
        """Whether the device computes in double precision: Apple's do not, and not all of Intel's."""
        if self._place.type == "xpu":
            return bool(torch.xpu.get_device_properties(self._place).has_fp64)
        return self._place.type != "mps"

    def _claim(self) -> None:
        """Make the device this process's own, and bound what its pool may hold of the device's memory."""
        if self._library is None:
            return
        if self._place.type == "mps":
            if self.memory:
                self._library.set_per_process_memory_fraction(min(1.0, self.memory / self._library.recommended_max_memory()))
            return
        self._library.set_device(self._place)
        if self.memory:
            total = self._library.get_device_properties(self._place).total_memory
            self._library.set_per_process_memory_fraction(min(1.0, self.memory / total), self._place)

    def set_threads(self, threads: int) -> None:
        """How many threads PyTorch computes with on the processor from now on."""
        self.threads = threads
        torch.set_num_threads(threads)

    def _run(self, operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        # the place is where the operation's own arrays are made
        with torch.inference_mode(), self._place if self._library else contextlib.nullcontext():
            return super()._run(operation, arguments)

    def from_host(self, array: "np.ndarray[Any, Any]") -> torch.Tensor:
        seen = torch.from_numpy(_writable(array))
        return seen if self._library is None else seen.to(self._place)

    def to_host(self, array: torch.Tensor) -> "np.ndarray[Any, Any]":
        found: np.ndarray[Any, Any] = array.detach().resolve_conj().resolve_neg().cpu().numpy()
        return found

    def _output(self, value: torch.Tensor, memory: Memory) -> Array:
        if self._library is None:
            return super()._output(value, memory)
        name = name_of(value)
        own = memory.empty(tuple(value.shape), "uint16" if name == "bfloat16" else name)  # copied once: from the device to where it belongs
        seen = torch.from_numpy(own)
        (seen.view(torch.bfloat16) if name == "bfloat16" else seen).copy_(value)
        return memory.keep(own, name)

    def writable(self, memory: Memory) -> Callable[[tuple[int, ...], str], torch.Tensor]:
        def empty(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
            if self._library is not None:
                return torch.empty(shape, dtype=getattr(torch, dtype), device=self._place)
            found = torch.from_numpy(memory.empty(shape, "uint16" if dtype == "bfloat16" else dtype))
            return found.view(torch.bfloat16) if dtype == "bfloat16" else found

        return empty

    def synchronise(self) -> None:
        if self._library is not None:
            self._library.synchronize()

    def trim(self) -> None:
        if self._library is not None:
            self._library.empty_cache()

    def translate(self, operation: str, error: Exception) -> OpenRuntimeError | None:
        words = str(error)
        if isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and any(part in words for part in _NO_MEMORY)):
            why = words.rpartition("DefaultCPUAllocator: ")[2].partition(". If reserved")[0]
            return OutOfMemory(f"{operation} ran out of memory on {self.device}: {why}")
        if isinstance(error, NotImplementedError) and self._library is not None:
            return UnsupportedOnDevice(f"{operation} does not run on {self.device}/{self.name}: {words.partition('. If you')[0]}")
        known = next((sentence for part, sentence in _FAILURES.items() if part in words), None)
        if isinstance(error, LinAlgError):
            return OperationFailed(f"{operation} failed: {known or words}")
        return super().translate(operation, error)


def _broken(library: Any) -> str | None:
    """Why a part of PyTorch says that nothing is available; None where there is no such part, driver or card."""
    try:
        library.init()
    except (AssertionError, RuntimeError) as error:
        told = " ".join(str(error).split())
        return None if any(words in told for words in _NO_CARD) else told
    return None


def _card(backend: str, kind: str, library: Any, index: int) -> Probe:
    """A GPU as its driver describes it."""
    told = library.get_device_properties(index)
    free = total = told.total_memory
    with contextlib.suppress(RuntimeError):  # not every driver of Intel's tells what is free
        free, total = library.mem_get_info(index)
    uuid = str(told.uuid) if getattr(told, "uuid", None) else None
    pci = None
    if getattr(told, "pci_bus_id", None) is not None and hasattr(told, "pci_device_id"):
        pci = f"{getattr(told, 'pci_domain_id', 0):04x}:{told.pci_bus_id:02x}:{told.pci_device_id:02x}.0"
    unified = bool(getattr(told, "is_integrated", getattr(told, "integrated", False)))
    return Probe(backend, kind, index, told.name, total, free, uuid, pci, unified)


def _apple() -> str:
    """The chip's name, which Metal's other libraries give as well."""
    told = subprocess.run(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=5, check=False)
    return told.stdout.strip()


class _Span:
    """Memory as NumPy's array interface describes it, which keeps its owner."""

    def __init__(self, interface: dict[str, Any], owner: Any) -> None:
        self.__array_interface__ = interface
        self.owner = owner


def _writable(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """The same memory, without the mark that it is read-only: PyTorch has no such arrays, and warns. Unaligned memory is copied."""
    if not array.flags.aligned:
        return array.copy()
    if array.flags.writeable or not array.size:
        return array
    interface = array.__array_interface__
    return np.asarray(_Span({**interface, "data": (interface["data"][0], False)}, array))
