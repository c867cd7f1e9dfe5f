"""Formulas against the same formulas in NumPy."""

from typing import Any

import numpy as np

from openruntime.testing.cases import Case

_random = np.random.default_rng(7)
_NUMERIC = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64", "complex64", "complex128")
_DTYPES = ("bool", *_NUMERIC)
_SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -2.5, 1e300])


def _array(dtype: str, shape: tuple[int, ...] = (3, 4)) -> Any:
    if dtype == "bool":
        return _random.random(shape) < 0.5
    if np.dtype(dtype).kind == "c":
        return (_random.uniform(-1, 1, shape) + 1j * _random.uniform(-1, 1, shape)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        return _random.uniform(0.1, 0.9, shape).astype(dtype)
    return _random.integers(1, 9, shape).astype(dtype)


def _case(formula: str, expected: Any, **arrays: Any) -> Case:
    return Case("expression", {"formula": formula, **arrays}, lambda formula, **given: np.asarray(expected(**given)))


def _refused(formula: str, field: str = "formula", **arrays: Any) -> Case:
    return Case("expression", {"formula": formula, **(arrays or {"x": _array("float64")})}, refused=field)


_UNARY = {
    "acos": np.arccos, "acosh": np.arccosh, "asin": np.arcsin, "asinh": np.arcsinh, "atan": np.arctan, "atanh": np.arctanh, "cos": np.cos,
    "cosh": np.cosh, "exp": np.exp, "expm1": np.expm1, "log": np.log, "log10": np.log10, "log1p": np.log1p, "log2": np.log2, "sin": np.sin,
    "sinh": np.sinh, "sqrt": np.sqrt, "tan": np.tan, "tanh": np.tanh, "abs": np.abs, "negative": np.negative, "positive": np.positive,
    "square": np.square, "sign": np.sign, "reciprocal": np.reciprocal, "ceil": np.ceil, "floor": np.floor, "trunc": np.trunc, "round": np.round,
    "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite, "signbit": np.signbit,
}  # fmt: skip
_PARTS = {"real": np.real, "imag": np.imag, "conj": np.conj}
_BINARY = {
    "atan2": np.arctan2, "copysign": np.copysign, "hypot": np.hypot, "logaddexp": np.logaddexp, "nextafter": np.nextafter, "maximum": np.maximum,
    "minimum": np.minimum,
}  # fmt: skip
_OPERATORS = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "//": np.floor_divide, "%": np.remainder, "**": np.power, "<": np.less,
    "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "==": np.equal, "!=": np.not_equal,
}  # fmt: skip
_BITS = {"&": np.bitwise_and, "|": np.bitwise_or, "^": np.bitwise_xor, "<<": np.left_shift, ">>": np.right_shift}

CASES: list[Case] = [
    _case("2*x + 1", lambda x: 2 * x + 1, x=_array("float32", (1000,))),
    _case("a*x + sin(y)**2", lambda a, x, y: a * x + np.sin(y) ** 2, a=2.5, x=_array("float32", (5, 1)), y=_array("float32", (4,))),
    *(_case(f"{name}(x)", lambda x, f=f: f(x), x=_array("float64")) for name, f in _UNARY.items()),
    *(_case(f"{name}(x)", lambda x, f=f: f(x), x=_SPECIAL) for name, f in _UNARY.items()),
    *(_case(f"{name}(x)", lambda x, f=f: f(x), x=_array(dtype)) for name, f in _PARTS.items() for dtype in ("int32", "float32", "complex64")),
    *(_case(f"{name}(x, y)", lambda x, y, f=f: f(x, y), x=_array("float32"), y=_array("float64", (1, 4))) for name, f in _BINARY.items()),
    *(_case(f"{name}(x, y)", lambda x, y, f=f: f(x, y), x=_SPECIAL, y=_SPECIAL[::-1].copy()) for name, f in _BINARY.items()),
    *(_case(f"x {sign} y", lambda x, y, f=f: f(x, y), x=_array("float32"), y=_array("float32")) for sign, f in _OPERATORS.items()),
    *(_case(f"x {sign} y", lambda x, y, f=f: f(x, y), x=_array("int32"), y=_array("int16")) for sign, f in _OPERATORS.items()),
    *(_case(f"x {sign} 2.5", lambda x, f=f: f(x, 2.5), x=_array("int32")) for sign, f in _OPERATORS.items()),
    *(_case(f"3 {sign} x", lambda x, f=f: f(3, x), x=_array("uint8")) for sign, f in _OPERATORS.items()),
    *(_case(f"x {sign} y", lambda x, y, f=f: f(x, y), x=_array("uint8"), y=_array("uint16")) for sign, f in _BITS.items()),
    *(_case(f"x {sign} y", lambda x, y, f=f: f(x, y), x=_array("bool"), y=_array("bool")) for sign, f in list(_BITS.items())[:3]),
    *(_case(f"x {sign} y", lambda x, y, f=f: f(x, y), x=_array("bool"), y=_array("bool")) for sign, f in (("+", np.add), ("*", np.multiply))),
    *(_case("x*y + x", lambda x, y: x * y + x, x=_array(a), y=_array(b)) for a in _NUMERIC for b in ("int8", "float32", "complex64")),
    *(_case("sin(x) / 2", lambda x: np.sin(x) / 2, x=_array(dtype)) for dtype in _DTYPES),
    *(_case("x*2 - 1", lambda x: x * 2 - 1, x=_array(dtype)) for dtype in _NUMERIC),
    *(_case("~x", lambda x: ~x, x=_array(dtype)) for dtype in ("bool", "int16", "uint32")),
    _case("where(x > 0.5, x, -1)", lambda x: np.where(x > 0.5, x, np.float32(-1)), x=_array("float32")),
    _case("where((x > 0.2) & (x < 0.6), 1, 0.5)", lambda x: np.where((x > 0.2) & (x < 0.6), 1, 0.5), x=_array("float32")),
    _case("clip(x, 2, 5)", lambda x: np.clip(x, 2, 5), x=_array("uint8")),
    _case("clip(x, lo, hi)", lambda x, lo, hi: np.clip(x, lo, hi), x=_array("float64"), lo=0.3, hi=_array("float64", (4,))),
    _case("0.2 < x <= 0.7", lambda x: (x > 0.2) & (x <= 0.7), x=_array("float64")),
    _case("logical_xor(x, y) | logical_not(x)", lambda x, y: np.logical_xor(x, y) | ~x, x=_array("bool"), y=_array("bool")),
    _case("x * 1j + 2", lambda x: x * np.complex64(1j) + 2, x=_array("float32")),
    _case("pi * r**2 + e", lambda r: np.pi * r**2 + np.e, r=_array("float64")),
    _case("2**-1 * x + -3 // 2 % 5", lambda x: 0.5 * x + 3, x=_array("float32")),
    _case("sqrt(2) * x", lambda x: np.float32(np.sqrt(2)) * x, x=_array("float32")),
    _case("x % y", lambda x, y: np.remainder(x, y), x=np.arange(-3, 3), y=np.array([0, 2, -2, 3, 0, -1])),
    _case("x // y", lambda x, y: np.floor_divide(x, y), x=np.arange(-3, 3), y=np.array([0, 2, -2, 3, 0, -1])),
    _case("x / y", lambda x, y: x / y, x=np.array([1.0, -1.0, 0.0]), y=np.zeros(3)),
    _case("x + 1", lambda x: x + np.int8(1), x=np.array([127, -128, 0], "int8")),
    _case("x + y", lambda x, y: x + y, x=_array("float32", (0, 4)), y=_array("float32", (1, 4))),
    _case("x + y", lambda x, y: x + y, x=_array("float64", ()), y=_array("float32", (1,))),
    _case("x", lambda x: x, x=_array("int16")),
    _case("x + y*z", lambda x, y, z: x + y * z, x=_array("float64", (7, 1, 5)), y=_array("float64", (6, 1)), z=_array("float64", (5,))),
    _case("exp(-x) + x*x/3", lambda x: np.exp(-x) + x * x / 3, x=_array("float32", (100_003,))),
    _case("x*y - y", lambda x, y: x * y - y, x=_array("float64", (300, 401)), y=_array("float64", (300, 1))),
    _case("x*y - y", lambda x, y: x * y - y, x=_array("float32", (2, 70_001)), y=_array("float64", (70_001,))),
    _case("a + b", lambda a, b: np.int64(5), a=2, b=3),
    Case("expression", {"formula": "x + a", "x": _array("float32"), "a": "NaN"}, lambda formula, x, a: x * np.float32("nan")),
    Case("expression", {"formula": "x ** y", "x": _array("int64"), "y": -_array("int64")}, fails="negative"),
    _refused("x +"), _refused(""), _refused("x.real"), _refused("x[0]"), _refused("__import__('os')"), _refused("x and x"),
    _refused("sin(x, x)"), _refused("sinn(x)"), _refused("x + y"), _refused("lambda: x"), _refused("~x"), _refused("1 / 0 + x"),
    _refused("2**9999 + x"), _refused("x" * 5000),
    _refused("(" * 150 + "x" + ")" * 150 + "+ x" * 200), _refused("x + 300", x=_array("uint8")), _refused("x ** -1", x=_array("int64")),
    _refused("-x", x=_array("bool")), _refused("where(x, 1, 2)"), _refused("x < y", x=_array("complex64"), y=_array("complex64")),
    _refused("x", "y", x=_array("float64"), y=_array("float64")), _refused("x + y", "y", x=_array("float64", (3,)), y=_array("float64", (4,))),
    _refused("x", "x", x="three"), Case("expression", {"x": _array("float64")}, refused="formula"),
    Case("expression", {"formula": _array("float64"), "x": _array("float64")}, refused="formula"), _refused("xp", "xp", xp=_array("float64")),
]  # fmt: skip
