"""Distances on the Earth, as an operation of OpenRuntime."""

from math import pi
from typing import Annotated

from msgspec import Meta

from openruntime.operations import Array, Estimate, InvalidParameter, Namespace, Spec, operation
from openruntime.operations.stacking import each


def _check(start: Spec, end: Spec, radius: float) -> Spec:
    for field, spec in (("start", start), ("end", end)):
        if spec.dtype not in ("float32", "float64"):
            raise InvalidParameter(f"`{field}` of haversine must be float32 or float64, and is {spec.dtype}", field=field)
        if spec.shape[-1:] != (2,):
            raise InvalidParameter(f"`{field}` of haversine must be (..., 2), latitude and longitude; it is {list(spec.shape)}", field=field)
    if end.shape != start.shape or end.dtype != start.dtype:
        raise InvalidParameter(f"`end` of haversine must be {start.dtype} {list(start.shape)} as `start` is", field="end")
    return Spec(start.dtype, start.shape[:-1])


def _estimate(start: Spec, end: Spec, radius: float) -> Estimate:
    moved = 2.5 * start.nbytes
    return Estimate(flops=60.0 * start.size / 2, bytes=moved, memory=int(3 * moved))


@operation(family="geography", check=_check, estimate=_estimate, batch=each)
def haversine(start: Array, end: Array, *, radius: Annotated[float, Meta(gt=0, le=1e12)] = 6_371_008.8, xp: Namespace) -> Array:
    """Great-circle distance in metres between points on a sphere; shape (...).

    start, end: (..., 2), latitude and longitude in degrees, float32 or float64. radius: metres, the Earth's mean one unless given.
    NaN gives NaN, no points give no distances. Source: Sinnott, Virtues of the haversine, Sky and Telescope 68 (2), 1984.
    """
    start, end = start * (pi / 180), end * (pi / 180)
    half = xp.sin((end - start) / 2) ** 2
    chord = half[..., 0] + xp.cos(start[..., 0]) * xp.cos(end[..., 0]) * half[..., 1]
    return 2 * radius * xp.asin(xp.sqrt(xp.clip(chord, 0, 1)))
