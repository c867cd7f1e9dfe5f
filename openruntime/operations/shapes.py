"""What a check needs to know of shapes, without an array library."""

from collections.abc import Iterable, Sequence
from math import prod

from openruntime.contracts.errors import InvalidParameter
from openruntime.contracts.payload import Spec

Shape = tuple[int, ...]


def broadcast(operation: str, shapes: Iterable[tuple[str, Shape]]) -> Shape:
    """NumPy's broadcast of named shapes. Raises `InvalidParameter` naming the first array that does not fit those before it."""
    found: Shape = ()
    seen: list[str] = []
    for name, shape in shapes:
        rank = max(len(found), len(shape))
        left, right = (1,) * (rank - len(found)) + found, (1,) * (rank - len(shape)) + shape
        if any(a != b and a != 1 and b != 1 for a, b in zip(left, right, strict=True)):
            raise InvalidParameter(
                f"`{name}` of {operation} has shape {list(shape)}, which does not broadcast with {list(found)} of {', '.join(seen)}:"
                " counted from the last, dimensions must be equal, or one of them 1",
                field=name,
            )
        found = tuple(b if a == 1 else a for a, b in zip(left, right, strict=True))
        seen.append(f"`{name}`")
    return found


def axis_of(operation: str, field: str, axis: int, shape: Shape, *, of: str = "x") -> int:
    """`axis` counted from the front. Raises `InvalidParameter` when `of`, the array's name, has no such axis."""
    rank = len(shape)
    if not -rank <= axis < rank:
        there = f"has the axes {-rank} to {rank - 1}" if rank else "has no axes, for it is a single number"
        raise InvalidParameter(f"`{field}` of {operation} is {axis}, and `{of}` of shape {list(shape)} {there}", field=field)
    return axis % rank


def axes_of(operation: str, field: str, axis: "int | tuple[int, ...] | None", shape: Shape, *, of: str = "x") -> tuple[int, ...]:
    """All axes for None; raises like `axis_of`, and for an axis named twice."""
    if axis is None:
        return tuple(range(len(shape)))
    found = tuple(axis_of(operation, field, one, shape, of=of) for one in ((axis,) if isinstance(axis, int) else axis))
    if len(set(found)) < len(found):
        raise InvalidParameter(f"`{field}` of {operation} names an axis twice: {list(found)}", field=field)
    return found


def reduced(shape: Shape, axes: Sequence[int], *, keepdims: bool = False) -> Shape:
    """`shape` without `axes`, or with ones in their place."""
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def replaced(shape: Shape, axis: int, length: int) -> Shape:
    """`shape` with `length` along `axis`, an axis counted from the front."""
    return (*shape[:axis], length, *shape[axis + 1 :])


def rank_of(operation: str, field: str, spec: Spec, least: int, most: int | None = None) -> None:
    """Raises `InvalidParameter` unless the array has at least `least` dimensions, and at most `most`."""
    rank = len(spec.shape)
    if rank < least or (most is not None and rank > most):
        wanted = f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
        raise InvalidParameter(f"`{field}` of {operation} must have {wanted} dimensions, and has shape {list(spec.shape)}", field=field)


def some(operation: str, field: str, spec: Spec, axes: Sequence[int]) -> None:
    """Raises `InvalidParameter` when there is nothing to choose from along `axes` (a maximum of no numbers has no value)."""
    if prod(spec.shape[axis] for axis in axes) == 0:
        raise InvalidParameter(f"`{field}` of {operation} has shape {list(spec.shape)}: there are no elements along {list(axes)}", field=field)
