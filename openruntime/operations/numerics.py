"""What numerical operations share: the dtype to compute in, constants beside an array, blocks of bounded memory."""

from collections.abc import Iterator, Sequence
from typing import Any

from array_api_compat import device

from openruntime.contracts.errors import OperationFailed
from openruntime.contracts.payload import ITEMSIZE, Spec
from openruntime.operations import dtypes
from openruntime.operations.definition import InvalidParameter

BLOCK = 1 << 22  # elements of a temporary that an operation works through in blocks


def real(operation: str, **arrays: Spec | None) -> str:
    """The dtype of the answer: the arrays' common floating dtype, float64 where all hold integers. Refuses complex arrays."""
    common = ""
    for field, spec in arrays.items():
        if spec is not None:
            dtypes.need(spec, field, operation, "biuf", "real numbers")
            common = dtypes.promote(common, spec.dtype) if common else spec.dtype
    return dtypes.inexact(common)


def working(name: str) -> str:
    """The dtype to compute in: half precisions are computed in float32 and rounded once."""
    name = dtypes.inexact(name)
    return "float32" if ITEMSIZE[name] == 2 else name


def common(xp: Any, *arrays: Any) -> tuple[str, list[Any]]:
    """What `real` says of these arrays (None among them is kept), and the arrays in the dtype to compute in."""
    found = ""
    for array in arrays:
        if array is not None:
            found = dtypes.promote(found, dtypes.name_of(array)) if found else dtypes.name_of(array)
    found = dtypes.inexact(found) if found else "float64"
    return found, [array if array is None else dtypes.cast(xp, array, working(found)) for array in arrays]


def constant(xp: Any, values: Any, like: Any, dtype: Any = None) -> Any:
    """Plain numbers as an array on the device of `like`, in its dtype unless told."""
    return xp.asarray(values, dtype=dtype or like.dtype, device=device(like))


def need_rank(spec: Spec, field: str, operation: str, shape: str) -> None:
    """Raises `InvalidParameter` unless the array has as many axes as `shape`, as in "(n, d)", names."""
    if len(spec.shape) != shape.count(",") + (not shape.endswith(",)")):
        raise InvalidParameter(f"`{field}` of {operation} must be {shape}, and has shape {list(spec.shape)}", field=field)


def need_finite(xp: Any, array: Any, field: str, operation: str) -> None:
    """Raises `OperationFailed` where a value is NaN or infinite."""
    if not bool(xp.all(xp.isfinite(array))):
        raise OperationFailed(f"{operation} needs finite numbers: `{field}` holds NaN or infinity", field=field)


def blocks(rows: int, width: int, elements: int | None = None) -> Iterator[slice]:
    """Slices over `rows`, each of so many rows of `width` elements that a block stays near `elements` (`BLOCK`); an empty one for no rows."""
    step = max(1, (elements or BLOCK) // max(1, width))
    for start in range(0, max(1, rows), step):
        yield slice(start, min(rows, start + step))


def joined(xp: Any, parts: Sequence[Any], *, axis: int = 0) -> Any:
    """The parts one after the other along `axis`."""
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=axis)
