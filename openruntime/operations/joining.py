"""Several arrays as one."""

from collections.abc import Sequence

from openruntime.operations.definition import Array, Estimate, InvalidParameter, Namespace, Spec, operation
from openruntime.operations.dtypes import cast, name_of, promote
from openruntime.operations.shapes import axis_of


def _dtype(dtypes: Sequence[str]) -> str:
    found = dtypes[0]
    for dtype in dtypes[1:]:
        found = promote(found, dtype)
    return found


def _alike(arrays: Sequence[Array], xp: Namespace) -> list[Array]:
    dtype = _dtype([name_of(array) for array in arrays])
    return [cast(xp, array, dtype) for array in arrays]


def _unlike(operation: str, at: int, spec: Spec, first: Spec, wanted: str) -> InvalidParameter:
    return InvalidParameter(
        f"`arrays.{at}` of {operation} has shape {list(spec.shape)} and `arrays.0` {list(first.shape)}; {wanted}", field=f"arrays.{at}"
    )


def _concat(arrays: list[Spec], axis: int | None) -> Spec:
    dtype, first = _dtype([spec.dtype for spec in arrays]), arrays[0]
    if axis is None:
        return Spec(dtype, (sum(spec.size for spec in arrays),))
    at = axis_of("concat", "axis", axis, first.shape, of="arrays.0")
    for i, spec in enumerate(arrays):
        if len(spec.shape) != len(first.shape) or any(a != b for j, (a, b) in enumerate(zip(spec.shape, first.shape, strict=True)) if j != at):
            raise _unlike("concat", i, spec, first, f"they may differ only along axis {axis}")
    return Spec(dtype, (*first.shape[:at], sum(spec.shape[at] for spec in arrays), *first.shape[at + 1 :]))


@operation(check=_concat, estimate=lambda arrays, axis: Estimate(0.0))
def concat(arrays: list[Array], axis: int | None = 0, *, xp: Namespace) -> Array:
    """The arrays one behind the other along `axis`; with `axis` null each is flattened first. Dtypes promote; other axes must be alike.

    NaN stays where it is.
    """
    return xp.concat(_alike(arrays, xp), axis=axis)


def _stack(arrays: list[Spec], axis: int) -> Spec:
    first = arrays[0]
    for i, spec in enumerate(arrays):
        if spec.shape != first.shape:
            raise _unlike("stack", i, spec, first, "all must have one shape")
    at = axis_of("stack", "axis", axis, (*first.shape, len(arrays)), of="the output")
    return Spec(_dtype([spec.dtype for spec in arrays]), (*first.shape[:at], len(arrays), *first.shape[at:]))


@operation(check=_stack, estimate=lambda arrays, axis: Estimate(0.0))
def stack(arrays: list[Array], axis: int = 0, *, xp: Namespace) -> Array:
    """The arrays beside each other along a new axis, which becomes `axis` of the output. All of one shape; dtypes promote. NaN stays NaN."""
    return xp.stack(_alike(arrays, xp), axis=axis)
