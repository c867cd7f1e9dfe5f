"""Sorting and what follows from it. NaN counts as larger than any number: last when rising, first when falling."""

from math import log2
from typing import Annotated, Any

from msgspec import Meta

from openruntime.operations.definition import Array, Estimate, InvalidParameter, Namespace, Spec, operation
from openruntime.operations.dtypes import cast, name_of, need
from openruntime.operations.shapes import axis_of, replaced
from openruntime.operations.stacking import along


def _cost(x: Spec, **_: Any) -> Estimate:
    return Estimate(x.size * log2(x.size + 1.0), memory=2 * x.nbytes + 16 * x.size)


def _indirect_cost(x: Spec, **_: Any) -> Estimate:
    """A comparison through an index costs that of several numbers side by side."""
    cost = _cost(x)
    return Estimate(8 * cost.flops, memory=cost.memory)


def _axis(name: str, x: Spec, axis: int) -> int:
    need(x, "x", name, "biuf", "real numbers, which have an order")
    return axis_of(name, "axis", axis, x.shape)


def _sort(x: Spec, axis: int, descending: bool) -> Spec:
    _axis("sort", x, axis)
    return x


def _argsort(x: Spec, axis: int, descending: bool) -> Spec:
    _axis("argsort", x, axis)
    return Spec("int64", x.shape)


def _ordered(x: Array, xp: Namespace) -> Array:
    return cast(xp, x, "uint8") if name_of(x) == "bool" else x  # the standard has no order of booleans


@operation(check=_sort, estimate=_cost, batch=along())
def sort(x: Array, axis: int = -1, descending: bool = False, *, xp: Namespace) -> Array:
    """`x` sorted along `axis`. Shape and dtype of `x`. NaN stands last, with `descending` first."""
    return cast(xp, xp.sort(_ordered(x, xp), axis=axis, descending=descending, stable=False), name_of(x))


@operation(check=_argsort, estimate=_indirect_cost, batch=along())
def argsort(x: Array, axis: int = -1, descending: bool = False, *, xp: Namespace) -> Array:
    """The int64 indices that sort `x` along `axis`; equal numbers keep their order, in both directions. NaN as in `sort`."""
    return cast(xp, xp.argsort(_ordered(x, xp), axis=axis, descending=descending, stable=True), "int64")


def _top_k(x: Spec, k: int, axis: int, largest: bool) -> dict[str, Spec]:
    at = _axis("top_k", x, axis)
    if k > x.shape[at]:
        raise InvalidParameter(f"`k` of top_k is {k}, and `x` of shape {list(x.shape)} has {x.shape[at]} elements along axis {axis}", field="k")
    shape = replaced(x.shape, at, k)
    return {"values": Spec(x.dtype, shape), "indices": Spec("int64", shape)}


@operation(check=_top_k, estimate=_cost, outputs=("values", "indices"), batch=along())
def top_k(x: Array, k: Annotated[int, Meta(ge=0)], axis: int = -1, largest: bool = True, *, xp: Namespace) -> dict[str, Array]:
    """The `k` largest (or smallest) numbers along `axis`, best first: `values`, and their int64 `indices`; the earlier of equals first.

    NaN counts as larger than any number.
    """
    axis %= x.ndim
    order = xp.argsort(_ordered(x, xp), axis=axis, descending=largest, stable=True)
    order = order[tuple(slice(k) if i == axis else slice(None) for i in range(x.ndim))]
    return {"values": xp.take_along_axis(x, order, axis=axis), "indices": cast(xp, order, "int64")}


def _unique(x: Spec) -> dict[str, Spec]:
    need(x, "x", "unique", "biuf", "real numbers, which have an order")
    return {"values": Spec(x.dtype, (x.size,), exact=False), "counts": Spec("int64", (x.size,), exact=False)}


@operation(check=_unique, estimate=_cost, outputs=("values", "counts"))
def unique(x: Array, *, xp: Namespace) -> dict[str, Array]:
    """The distinct numbers of `x`, rising, as `values`, and how often each occurs as int64 `counts`.

    NaN is equal to none, so that each stands alone, at the end.
    """
    values, counts = xp.unique_counts(_ordered(x, xp))
    order = xp.argsort(values, stable=True)  # the standard promises no order
    return {"values": cast(xp, xp.take(values, order), name_of(x)), "counts": cast(xp, xp.take(counts, order), "int64")}
