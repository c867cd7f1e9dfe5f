"""PyTorch's namespace by the Array API standard: array-api-compat's, and in their place what it leaves out or answers otherwise than NumPy.

PyTorch stores unsigned integers of 16 to 64 bits and computes with few of them (pytorch#58734). Here they go through int64: as such, with
the bits of uint64, or in its order.
"""

from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

import array_api_compat.torch as compat
import torch
from array_api_compat.torch import fft

Function = Callable[..., Any]

SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""For dtypes that are only stored: the signed one of the same size."""

_BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
_RADIX = 1 << 15  # PyTorch sorts so many integers, and more, by radix
_SLOW = {  # on a processor that multiplies no such numbers, their product is some 500 times slower than that of float32
    dtype for dtype, name in ((torch.float16, "fp16"), (torch.bfloat16, "bf16"))
    if not getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", lambda: False)()
}  # fmt: skip
_LOWEST = -(1 << 63)
_LIMB = 16  # bits; so many products of two fit float64's 53:
_DEPTH = 1 << 53 - 2 * _LIMB


def carried(x: torch.Tensor) -> torch.Tensor:
    """Unsigned integers as int64 that add and multiply alike, modulo the dtype's size."""
    if x.dtype not in SIGNED:
        return x
    return x.view(torch.int64) if x.dtype == torch.uint64 else x.to(torch.int64)


def uncarried(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The reverse of `carried`."""
    return x.view(dtype) if dtype == torch.uint64 and x.dtype == torch.int64 else x.to(dtype)


def _ordered(x: torch.Tensor) -> torch.Tensor:
    """Unsigned integers as int64 in the same order."""
    return carried(x) ^ _LOWEST if x.dtype == torch.uint64 else carried(x)


def _unordered(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return uncarried(x ^ _LOWEST if dtype == torch.uint64 else x, dtype)


def _through(to: Function, back: Function, function: Function) -> Function:
    """`function` of one array, which unsigned integers reach by `to` and leave by `back`."""

    @wraps(function)
    def call(x: Any, /, *args: Any, **options: Any) -> Any:
        return back(function(to(x), *args, **options), x.dtype) if x.dtype in SIGNED else function(x, *args, **options)

    return call


def _moving(function: Function) -> Function:
    """A function that only moves the elements of its first argument, or of several arrays of one dtype."""

    @wraps(function)
    def call(x: Any, /, *args: Any, **options: Any) -> Any:
        dtype = (x[0] if isinstance(x, list | tuple) else x).dtype
        signed = SIGNED.get(dtype)
        if signed is None:
            return function(x, *args, **options)
        seen = [item.view(signed) for item in x] if isinstance(x, list | tuple) else x.view(signed)
        return function(seen, *args, **options).view(dtype)

    return call


def _position(function: Function) -> Function:
    def call(x: torch.Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> torch.Tensor:
        x = _ordered(x)
        if axis is not None:
            return function(x, dim=axis, keepdim=keepdims)  # type: ignore[no-any-return]
        found = function(x.reshape(-1), dim=0)
        return found.reshape((1,) * x.ndim) if keepdims else found  # type: ignore[no-any-return]

    return call


def _sort(x: torch.Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> torch.Tensor:
    if not _by_radix(x):
        return compat.sort(x, axis=axis, descending=descending, stable=stable)
    found = torch.sort(_keys(x, descending)).values
    found = ~found if descending else found
    return _as_key(found).view(x.dtype) if x.dtype in _BITS else found


def _argsort(x: torch.Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> torch.Tensor:
    x = _ordered(x)
    if _by_radix(x):
        return torch.sort(_keys(x + 0.0 if x.dtype in _BITS else x, descending), stable=True).indices  # there is one 0
    return torch.sort(x, dim=axis, descending=descending, stable=stable).indices


def _by_radix(x: torch.Tensor) -> bool:
    """Whether integers of this shape are sorted by radix: on the processor, several times faster than floating numbers by comparison."""
    return x.ndim == 1 and x.shape[0] >= _RADIX and x.device.type == "cpu"


def _keys(x: torch.Tensor, descending: bool) -> torch.Tensor:
    """Integers that rise as the numbers are to be sorted; of floating numbers their bits, NaN beyond infinity."""
    if x.dtype in _BITS:
        x = _as_key(torch.where(torch.isnan(x), float("nan"), x).view(_BITS[x.dtype]))
    return ~x if descending else x


def _as_key(bits: torch.Tensor) -> torch.Tensor:
    """The bits of floating numbers, which have a sign and a magnitude, as integers in their order; and back."""
    return bits ^ (bits >> 8 * bits.itemsize - 1 & torch.iinfo(bits.dtype).max)


def _unique_counts(x: torch.Tensor, /) -> Any:
    """NaN is equal to none, as the standard has it."""
    flat = _sort(_ordered(x.reshape(-1)))
    start = torch.ones_like(flat, dtype=torch.bool)
    start[1:] = flat[1:] != flat[:-1]
    places = torch.nonzero(start)[:, 0]
    counts = torch.diff(places, append=torch.tensor([flat.shape[0]], device=flat.device))
    return compat.UniqueCountsResult(_unordered(flat[places], x.dtype), counts)


def _var(x: torch.Tensor, /, *, correction: float = 0.0, **options: Any) -> torch.Tensor:
    """PyTorch warns where there are no lines to vary along."""
    return compat.var(x, correction=correction, **options) if x.numel() else compat.sum(x, **options)


def _std(x: torch.Tensor, /, **options: Any) -> torch.Tensor:
    """array-api-compat's takes no fraction as `correction`."""
    return torch.sqrt(_var(x, **options))


def _sign(x: torch.Tensor, /) -> torch.Tensor:
    """PyTorch's own is 0 for NaN."""
    if x.dtype.is_complex:
        return compat.sign(x)
    return torch.where(torch.isnan(x), x, torch.sign(x)) if x.dtype.is_floating_point else torch.sign(x)


def _linspace(start: float, stop: float, /, num: int, *, dtype: torch.dtype | None = None, endpoint: bool = True) -> torch.Tensor:
    """NumPy's numbers, to the last bit: PyTorch counts the second half from the end."""
    step = (stop - start) / max(1, num - endpoint)
    found = torch.arange(num, dtype=torch.float64) * step + start
    if endpoint and num > 1:
        found[-1] = stop
    return found.to(dtype or torch.get_default_dtype())


def _searchsorted(x: torch.Tensor, values: torch.Tensor, /, *, side: str = "left") -> torch.Tensor:
    """NaN at the end counts as larger than any number, which PyTorch's binary search gets wrong. `values` must be finite."""
    if x.dtype.is_floating_point:
        x = torch.where(torch.isnan(x), torch.full_like(x, float("inf")), x)
    return torch.searchsorted(x.contiguous(), values.contiguous(), side=side)


def _transform(function: Function) -> Function:
    """PyTorch transforms no empty stacks."""

    @wraps(function)
    def call(x: torch.Tensor, /, **options: Any) -> torch.Tensor:
        if x.numel():
            return function(x, **options)  # type: ignore[no-any-return]
        found = function(x.new_zeros([n or 1 for n in x.shape]), **options)
        return found[tuple(slice(0 if n == 0 else None) for n in x.shape)]  # type: ignore[no-any-return]

    return call


def _matmul(a: torch.Tensor, b: torch.Tensor, /) -> torch.Tensor:
    whole = not (a.dtype.is_floating_point or a.dtype.is_complex)
    return _product(whole_product if whole and a.device.type in ("cuda", "xpu") else torch.matmul, a, b)


def whole_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The matrix product of integers, wrapped around, where the library has none: of parts so small that float64 holds their sums exactly."""
    found = None
    for start in range(0, max(1, a.shape[-1]), _DEPTH):
        left, right = a[..., start : start + _DEPTH], b[..., start : start + _DEPTH, :] if b.ndim > 1 else b[start : start + _DEPTH]
        for i in range(0, 64, _LIMB):
            for j in range(0, 64 - i, _LIMB):
                part = torch.matmul(*((x.to(torch.int64) >> shift & (1 << _LIMB) - 1).double() for x, shift in ((left, i), (right, j))))
                part = part.to(torch.int64) << i + j
                found = part if found is None else found + part
    assert found is not None
    return found.to(a.dtype)


def _einsum(subscripts: str, *operands: torch.Tensor) -> torch.Tensor:
    return _product(lambda *found: torch.einsum(subscripts, *found), *operands)


def _product(function: Function, *operands: torch.Tensor) -> torch.Tensor:
    """A sum of products of arrays of one dtype."""
    dtype = operands[0].dtype
    if dtype in _SLOW and operands[0].device.type == "cpu":
        return function(*(x.float() for x in operands)).to(dtype)  # type: ignore[no-any-return]
    if dtype in SIGNED:
        return uncarried(function(*map(carried, operands)), dtype)
    return function(*operands)  # type: ignore[no-any-return]


_OVER: dict[str, Any] = {
    **{name: _through(carried, uncarried, getattr(compat, name)) for name in ("sum", "cumulative_sum")},
    **{name: _through(_ordered, _unordered, getattr(compat, name)) for name in ("min", "max")},
    "sort": _through(_ordered, _unordered, _sort),
    **{name: _moving(getattr(compat, name)) for name in ("concat", "stack", "take", "take_along_axis")},
    **{name: _position(getattr(torch, name)) for name in ("argmin", "argmax")},
    "argsort": _argsort, "unique_counts": _unique_counts, "var": _var, "std": _std, "sign": _sign, "linspace": _linspace,
    "searchsorted": _searchsorted, "matmul": _matmul, "einsum": _einsum, "fft": ModuleType("array_api_compat.torch.fft"),
}  # fmt: skip
vars(_OVER["fft"]).update(
    vars(fft) | {name: _transform(getattr(fft, name)) for name in ("fft", "ifft", "rfft", "irfft", "fftn", "ifftn", "rfftn", "irfftn")}
)

xp = ModuleType(compat.__name__, compat.__doc__)  # by its name array-api-extra knows what it has before it
vars(xp).update(vars(compat) | _OVER)
