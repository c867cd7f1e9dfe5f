"""Reductions and statistics. `axis`: one axis, several, or null for all numbers.

NaN is never skipped: a sum, mean, extreme or quantile of NaN is NaN. No numbers sum to 0 and have the mean NaN; extremes and
quantiles of none are refused.
"""

from collections.abc import Mapping
from math import log2, prod
from typing import Annotated, Any

from msgspec import Meta

from openruntime.contracts.errors import OperationFailed
from openruntime.operations.definition import Array, Estimate, InvalidParameter, Namespace, Number, Spec, operation
from openruntime.operations.dtypes import KIND, cast, inexact, name_of, need
from openruntime.operations.shapes import axes_of, axis_of, reduced, replaced, some
from openruntime.operations.stacking import along

Axis = int | tuple[int, ...] | None
Bins = Annotated[int, Meta(ge=1, le=100_000_000)]


def _summed(dtype: str) -> str:
    """Sums of small integers are kept in 64 bits."""
    kind = KIND[dtype][0]
    return "uint64" if kind == "u" else "int64" if kind in "bi" else dtype


def _reduce(name: str, dtype: Any, *, kinds: str = "biufc", empty: bool = True, wanted: str = "numbers") -> Any:
    def check(x: Spec, axis: Axis, keepdims: bool, **_: Any) -> Spec:
        need(x, "x", name, kinds, wanted)
        axes = axes_of(name, "axis", axis, x.shape)
        if not empty:
            some(name, "x", x, axes)
        return Spec(dtype(x.dtype), reduced(x.shape, axes, keepdims=keepdims))

    return check


def _passes(flops: float) -> Any:
    """So many operations for each number read."""
    return lambda x, **_: Estimate(flops * x.size)


def _count(x: Array, axis: Axis) -> int:
    axes = range(x.ndim) if axis is None else [one % x.ndim for one in ((axis,) if isinstance(axis, int) else axis)]
    return prod(x.shape[one] for one in axes)


@operation(check=_reduce("sum", _summed), estimate=_passes(1), batch=along())
def sum_(x: Array, axis: Axis = None, keepdims: bool = False, *, xp: Namespace) -> Array:
    """The sum along `axis`. NaN gives NaN, no numbers give 0.

    Booleans and integers are summed in 64 bits and wrap around beyond; other dtypes keep theirs.
    """
    return xp.sum(cast(xp, x, _summed(name_of(x))), axis=axis, keepdims=keepdims)


@operation(check=_reduce("mean", inexact), estimate=_passes(1), batch=along())
def mean(x: Array, axis: Axis = None, keepdims: bool = False, *, xp: Namespace) -> Array:
    """The arithmetic mean along `axis`. Booleans and integers give float64. NaN gives NaN, and so do no numbers."""
    x = cast(xp, x, inexact(name_of(x)))
    if not _count(x, axis):
        return xp.sum(x, axis=axis, keepdims=keepdims) * float("nan")
    return xp.mean(x, axis=axis, keepdims=keepdims)


Correction = Annotated[float, Meta(ge=0)]


def _deviation(function: str, x: Array, axis: Axis, correction: float, keepdims: bool, xp: Namespace) -> Array:
    x = cast(xp, x, inexact(name_of(x)))
    if _count(x, axis) <= correction:
        return xp.sum(x, axis=axis, keepdims=keepdims) * float("nan")
    return getattr(xp, function)(x, axis=axis, correction=correction, keepdims=keepdims)


@operation(check=_reduce("std", inexact, kinds="biuf", wanted="real numbers"), estimate=_passes(4), batch=along())
def std(x: Array, axis: Axis = None, correction: Correction = 0.0, keepdims: bool = False, *, xp: Namespace) -> Array:
    """The standard deviation along `axis`: the root of `var`, with the same parameters. NaN gives NaN."""
    return _deviation("std", x, axis, correction, keepdims, xp)


@operation(check=_reduce("var", inexact, kinds="biuf", wanted="real numbers"), estimate=_passes(4), batch=along())
def var(x: Array, axis: Axis = None, correction: Correction = 0.0, keepdims: bool = False, *, xp: Namespace) -> Array:
    """The mean squared distance from the mean along `axis`, divided by n - `correction` (1: the unbiased estimate of a sample).

    Computed in two passes. Booleans and integers give float64. NaN gives NaN, and so does an n not above `correction`.
    """
    return _deviation("var", x, axis, correction, keepdims, xp)


def _extreme(function: str, x: Array, axis: Axis, keepdims: bool, xp: Namespace) -> Array:
    if name_of(x) == "bool":  # the standard has no extremes of booleans
        return cast(xp, getattr(xp, function)(cast(xp, x, "uint8"), axis=axis, keepdims=keepdims), "bool")
    return getattr(xp, function)(x, axis=axis, keepdims=keepdims)


@operation(check=_reduce("min", str, kinds="biuf", empty=False, wanted="real numbers"), estimate=_passes(1), batch=along())
def min_(x: Array, axis: Axis = None, keepdims: bool = False, *, xp: Namespace) -> Array:
    """The smallest number along `axis`. NaN gives NaN."""
    return _extreme("min", x, axis, keepdims, xp)


@operation(check=_reduce("max", str, kinds="biuf", empty=False, wanted="real numbers"), estimate=_passes(1), batch=along())
def max_(x: Array, axis: Axis = None, keepdims: bool = False, *, xp: Namespace) -> Array:
    """The largest number along `axis`. NaN gives NaN."""
    return _extreme("max", x, axis, keepdims, xp)


def _place(name: str) -> Any:
    return _reduce(name, lambda _: "int64", kinds="biuf", empty=False, wanted="real numbers")


def _position(function: str, x: Array, axis: int | None, keepdims: bool, xp: Namespace) -> Array:
    x = cast(xp, x, "uint8") if name_of(x) == "bool" else x
    found = getattr(xp, function)(x, axis=axis, keepdims=keepdims)
    return cast(xp, found, "int64")


@operation(check=_place("argmin"), estimate=_passes(1), batch=along())
def argmin(x: Array, axis: int | None = None, keepdims: bool = False, *, xp: Namespace) -> Array:
    """Where the smallest number along `axis` stands first, as int64; with `axis` null in `x` flattened. NaN counts as the smallest."""
    return _position("argmin", x, axis, keepdims, xp)


@operation(check=_place("argmax"), estimate=_passes(1), batch=along())
def argmax(x: Array, axis: int | None = None, keepdims: bool = False, *, xp: Namespace) -> Array:
    """Where the largest number along `axis` stands first, as int64; with `axis` null in `x` flattened. NaN counts as the largest."""
    return _position("argmax", x, axis, keepdims, xp)


def _quantile(x: Spec, q: Any, axis: Axis, keepdims: bool) -> Spec:
    need(x, "x", "quantile", "biuf", "real numbers")
    axes = axes_of("quantile", "axis", axis, x.shape)
    some("quantile", "x", x, axes)
    first: tuple[int, ...] = ()
    if isinstance(q, Spec):
        need(q, "q", "quantile", "iuf", "numbers between 0 and 1")
        if len(q.shape) > 1:
            raise InvalidParameter(f"`q` of quantile must be a number or a list of numbers, and has shape {list(q.shape)}", field="q")
        first = q.shape
    elif not 0 <= q <= 1:
        raise InvalidParameter(f"`q` of quantile must be between 0 and 1, and is {q}", field="q")
    return Spec(inexact(x.dtype), (*first, *reduced(x.shape, axes, keepdims=keepdims)))


def _quantiles(x: Spec, q: Any, **options: Any) -> Mapping[str, Any] | None:
    return None if isinstance(q, Spec) else along()(x=x, **options)  # several shares make a first axis of their own


@operation(check=_quantile, estimate=lambda x, **_: Estimate(x.size * log2(x.size + 1.0), memory=4 * x.nbytes), batch=_quantiles)
def quantile(x: Array, q: Number, axis: Axis = None, keepdims: bool = False, *, xp: Namespace) -> Array:
    """The value below which the share `q` (0 to 1) of the numbers along `axis` lies, interpolated linearly between neighbours.

    A list `q` adds a first axis. Booleans and integers give float64. Any NaN along `axis` gives NaN. Source: Hyndman and Fan, 1996,
    definition 7. Raises `invalid_parameter` for a number `q` out of range, `operation_failed` for one in a list.
    """
    dtype = inexact(name_of(x))
    x = cast(xp, x, dtype)
    axes = tuple(range(x.ndim)) if axis is None else tuple(one % x.ndim for one in ((axis,) if isinstance(axis, int) else axis))
    kept = [i for i in range(x.ndim) if i not in axes]
    flat = xp.reshape(xp.permute_dims(x, (*kept, *axes)), (*(x.shape[i] for i in kept), -1))
    flat = xp.sort(flat, axis=-1, stable=False)
    count = flat.shape[-1]
    shares = xp.asarray(q, dtype=xp.float64) if isinstance(q, bool | int | float) else cast(xp, q, "float64")
    if not bool(xp.all((shares >= 0) & (shares <= 1))):
        raise OperationFailed("quantile failed: every number of `q` must be between 0 and 1", field="q")
    places = xp.reshape(shares, (-1,)) * (count - 1)
    below = xp.floor(places)
    low = xp.take(flat, xp.astype(below, xp.int64), axis=-1)
    high = xp.take(flat, xp.astype(xp.ceil(places), xp.int64), axis=-1)
    share = cast(xp, places - below, dtype)
    found = xp.where(low == high, low, low + (high - low) * share)  # infinities next to each other have no difference
    found = xp.where(xp.isnan(flat[..., -1:]), flat[..., -1:], found)  # NaN is sorted last
    found = xp.permute_dims(found, (found.ndim - 1, *range(found.ndim - 1)))
    return xp.reshape(found, (*shares.shape, *reduced(x.shape, axes, keepdims=keepdims)))


def _histogram(x: Spec, bins: int, range: tuple[float, float] | None) -> dict[str, Spec]:
    need(x, "x", "histogram", "biuf", "real numbers")
    if range is not None and not -1.7e308 < range[0] <= range[1] < 1.7e308:
        raise InvalidParameter(f"`range` of histogram must be two finite numbers, the smaller first, and is {list(range)}", field="range")
    return {"counts": Spec("int64", (bins,)), "edges": Spec("float64", (bins + 1,))}


@operation(
    check=_histogram,
    estimate=lambda x, bins, range: Estimate(x.size * log2(x.size + 1.0), memory=3 * 8 * x.size + 32 * bins),
    outputs=("counts", "edges"),
)
def histogram(x: Array, bins: Bins = 10, range: tuple[float, float] | None = None, *, xp: Namespace) -> dict[str, Array]:
    """How many numbers of `x` fall into each of `bins` equal intervals of `range`, by default from the smallest to the largest.

    Outputs: `counts` (bins,) int64 and `edges` (bins + 1,) float64. An interval holds its left edge, the last its right one too. Numbers
    outside `range`, NaN among them, are not counted. A range of no width is widened by 0.5 both ways; no numbers have the range 0 to 1.
    Raises `operation_failed` without `range` when `x` holds NaN or infinity.
    """
    values = xp.sort(cast(xp, xp.reshape(x, (-1,)), "float64"), stable=False)
    count = values.shape[0]
    low, high = range or ((float(values[0]), float(values[count - 1])) if count else (0.0, 1.0))
    if not (low > float("-inf") and high < float("inf")):
        raise OperationFailed("histogram failed: `x` holds NaN or infinity; give `range` to leave them out", field="x")
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = xp.linspace(low, high, bins + 1, dtype=xp.float64)
    before = xp.searchsorted(values, edges, side="left")
    until = xp.searchsorted(values, edges[bins:], side="right")
    before = xp.concat([before[:bins], until])
    return {"counts": cast(xp, before[1:] - before[:-1], "int64"), "edges": edges}


def _cumulative(x: Spec, axis: int | None, include_initial: bool) -> Spec:
    if axis is None and len(x.shape) != 1:
        raise InvalidParameter(f"`axis` of cumulative_sum must be given for an array of shape {list(x.shape)}", field="axis")
    at = axis_of("cumulative_sum", "axis", axis or 0, x.shape)
    return Spec(_summed(x.dtype), replaced(x.shape, at, x.shape[at] + include_initial))


@operation(check=_cumulative, estimate=_passes(1), batch=along())
def cumulative_sum(x: Array, axis: int | None = None, include_initial: bool = False, *, xp: Namespace) -> Array:
    """The running sum along `axis`, which may be left out for one dimension; with a 0 before it if `include_initial`. Dtypes as `sum`.

    NaN makes NaN of what follows it.
    """
    return xp.cumulative_sum(cast(xp, x, _summed(name_of(x))), axis=axis, include_initial=include_initial)
