"""NumPy 2's promotion rules as arithmetic on names, so that a check needs no array library and every backend promotes alike.

Source: NEP 50, and the lattice of `numpy.result_type`; tested against it for every pair.
"""

from functools import lru_cache
from typing import Any

from openruntime.contracts.errors import InvalidParameter
from openruntime.contracts.payload import ITEMSIZE, Spec

Weak = bool | int | float | complex
"""A Python scalar: it decides the kind of a result, never its width."""

# name -> (kind, bits of one component); kinds in NumPy's order
KIND: dict[str, tuple[str, int]] = {
    "bool": ("b", 8),
    **{f"{sign}int{bits}": (sign or "i", bits) for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": ("f", bits) for bits in (16, 32, 64)},
    "bfloat16": ("f", 16),
    "complex64": ("c", 32),
    "complex128": ("c", 64),
}
_FLOAT = {8: "float16", 16: "float32", 32: "float64", 64: "float64"}  # the smallest that holds integers of so many bits
_NAME = {kind: name for name, kind in KIND.items() if name != "bfloat16"}
assert KIND.keys() == ITEMSIZE.keys()


def name_of(array: Any) -> str:
    """The standard's name of an array's dtype, whatever library it is of."""
    return _standard(array.dtype.__class__, array.dtype)


@lru_cache(maxsize=64)
def _standard(_: type, dtype: Any) -> str:  # by type first: some libraries' dtypes do not like to be compared with others
    return str(dtype).rpartition(".")[2]


@lru_cache(maxsize=512)
def promote(a: str, b: str) -> str:
    """The dtype of two arrays' result."""
    if a == b or b == "bool":
        return a
    if a == "bool":
        return b
    (kind, bits), (other, wide) = KIND[a], KIND[b]
    if kind in "iu" and other in "iu":
        if kind == other:
            return _NAME[kind, max(bits, wide)]
        signed, unsigned = (bits, wide) if kind == "i" else (wide, bits)
        bits = max(signed, 2 * unsigned)
        return _NAME["i", bits] if bits <= 64 else "float64"
    if kind in "iu" or other in "iu":
        whole, inexact = (a, b) if kind in "iu" else (b, a)
        if inexact == "bfloat16" and KIND[whole][1] == 8:
            return inexact
        return promote(_FLOAT[KIND[whole][1]], inexact)
    if "bfloat16" in (a, b) and bits == wide == 16:
        return "float32"  # neither holds the other
    width = max(bits, wide)
    if "c" in (kind, other):
        return _NAME["c", max(width, 32)]
    return a if bits > wide else b


def promote_weak(a: str, value: Weak) -> str:
    """The dtype of an array and a Python scalar. Raises `OverflowError` for an integer that does not fit."""
    kind, bits = KIND[a]
    if isinstance(value, bool):
        return a
    if isinstance(value, float):
        return a if kind in "fc" else "float64"
    if isinstance(value, complex):
        return complex_of(a)
    if kind == "b":
        a, kind, bits = "int64", "i", 64
    if kind in "iu":
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind == "i" else (0, (1 << bits) - 1)
        if not low <= value <= high:
            raise OverflowError(f"{value} does not fit {a}, which holds {low} to {high}")
    return a


def weak(value: Weak) -> str:
    """The dtype of a Python scalar on its own."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, float | complex):
        return "float64" if isinstance(value, float) else "complex128"
    return "int64" if value < 1 << 63 else "uint64"


def floating(name: str) -> str:
    """What NumPy computes a function such as `sin` in: floats keep their dtype, integers get the float that holds them."""
    kind, bits = KIND[name]
    return name if kind in "fc" else _FLOAT[bits]


def inexact(name: str) -> str:
    """For means, solvers and transforms: floats keep their dtype, booleans and integers become float64."""
    return name if KIND[name][0] in "fc" else "float64"


def real(name: str) -> str:
    """The dtype of one component: that of a complex dtype's absolute value."""
    kind, bits = KIND[name]
    return _NAME["f", bits] if kind == "c" else name


def complex_of(name: str) -> str:
    """The complex dtype whose components hold `name`: complex64 up to single precision, complex128 beyond."""
    return promote(inexact(name), "complex64")


def is_complex(name: str) -> bool:
    return KIND[name][0] == "c"


def is_integer(name: str) -> bool:
    return KIND[name][0] in "iu"


def is_floating(name: str) -> bool:
    """Real or complex."""
    return KIND[name][0] in "fc"


def cast(xp: Any, array: Any, name: str) -> Any:
    """`array` in the dtype called `name`; itself when it has it."""
    return array if name_of(array) == name else xp.astype(array, getattr(xp, name))


def need(spec: Spec, field: str, operation: str, kinds: str, wanted: str) -> None:
    """Raises `InvalidParameter` unless the dtype's kind is one of `kinds` (letters of `biufc`), saying what is `wanted`."""
    if KIND[spec.dtype][0] not in kinds:
        raise InvalidParameter(f"`{field}` of {operation} must hold {wanted}, and is {spec.dtype}", field=field)
