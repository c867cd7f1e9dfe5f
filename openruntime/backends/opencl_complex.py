"""Complex arithmetic and functions in OpenCL C, where a complex number is a vector of two.

Branches and inverse functions: Kahan, Branch cuts for complex elementary functions, 1987; division: Smith, Algorithm 116, 1962.
"""

import re
from collections.abc import Iterator

_WORDS = re.compile(r"\bV\b|\bT\b|_S\b")

# function of a formula -> C; {s} is the dtype's suffix
COMPLEX = {
    "add": "({0} + {1})", "subtract": "({0} - {1})", "negative": "-{0}", "conj": "conj_{s}({0})", "real": "{0}.x", "imag": "{0}.y",
    "abs": "hypot({0}.x, {0}.y)", "multiply": "multiply_{s}({0}, {1})", "divide": "divide_{s}({0}, {1})", "square": "multiply_{s}({0}, {0})",
    "reciprocal": "reciprocal_{s}({0})", "equal": "({0}.x == {1}.x && {0}.y == {1}.y)", "not_equal": "({0}.x != {1}.x || {0}.y != {1}.y)",
    "isnan": "(isnan({0}.x) || isnan({0}.y))", "isinf": "(isinf({0}.x) || isinf({0}.y))", "isfinite": "(isfinite({0}.x) && isfinite({0}.y))",
    "round": "rint({0})", "pow": "pow_{s}({0}, {1})",
    **{name: f"{name}_{{s}}({{0}})" for name in (
        "sign", "sqrt", "exp", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan",
        "asinh", "acosh", "atanh")},
}  # fmt: skip

# name -> (what it calls, text); V the vector, T its component, S the suffix
_HELPERS: dict[str, tuple[tuple[str, ...], str]] = {
    "conj": ((), "V conj_S(V a) { return (V)(a.x, -a.y); }"),
    "multiply": ((), "V multiply_S(V a, V b) { return (V)(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x); }"),
    "divide": ((), """
V divide_S(V a, V b) {
    if (fabs(b.x) >= fabs(b.y)) {
        if (b.x == 0 && b.y == 0) return (V)(a.x / fabs(b.x), a.y / fabs(b.x));
        T r = b.y / b.x, d = 1 / (b.x + b.y * r);
        return (V)((a.x + a.y * r) * d, (a.y - a.x * r) * d);
    }
    T r = b.x / b.y, d = 1 / (b.y + b.x * r);
    return (V)((a.x * r + a.y) * d, (a.y * r - a.x) * d);
}"""),
    "reciprocal": (("divide",), "V reciprocal_S(V a) { return divide_S((V)(1, 0), a); }"),
    "sign": ((), """
V sign_S(V a) {
    T size = hypot(a.x, a.y);
    if (isnan(size)) return (V)(NAN, NAN);
    if (isinf(size)) return isinf(a.x) && isinf(a.y) ? (V)(NAN, NAN) : isinf(a.x) ? (V)(copysign((T)1, a.x), 0) : (V)(0, copysign((T)1, a.y));
    return size == 0 ? (V)(0, 0) : a / size;
}"""),
    "sqrt": ((), """
V sqrt_S(V a) {
    if (a.x == 0 && a.y == 0) return (V)(0, a.y);
    if (isinf(a.y)) return (V)(INFINITY, a.y);
    T t = sqrt((fabs(a.x) + hypot(a.x, a.y)) / 2);
    return a.x >= 0 ? (V)(t, a.y / (2 * t)) : (V)(fabs(a.y) / (2 * t), copysign(t, a.y));
}"""),
    "exp": ((), "V exp_S(V a) { T e = exp(a.x); return a.y == 0 ? (V)(e, a.y) : (V)(e * cos(a.y), e * sin(a.y)); }"),
    "expm1": ((), """
V expm1_S(V a) { T s = sin(a.y / 2); return (V)(expm1(a.x) * cos(a.y) - 2 * s * s, exp(a.x) * sin(a.y)); }"""),
    "log": ((), "V log_S(V a) { return (V)(log(hypot(a.x, a.y)), atan2(a.y, a.x)); }"),
    "log2": (("log",), "V log2_S(V a) { return log_S(a) * (T)1.4426950408889634074; }"),
    "log10": (("log",), "V log10_S(V a) { return log_S(a) * (T)0.43429448190325182765; }"),
    "log1p": ((), "V log1p_S(V a) { T l = hypot(a.x + 1, a.y); return (V)(log(l), atan2(a.y, a.x + 1)); }"),
    "sin": ((), "V sin_S(V a) { return (V)(sin(a.x) * cosh(a.y), cos(a.x) * sinh(a.y)); }"),
    "cos": ((), "V cos_S(V a) { return (V)(cos(a.x) * cosh(a.y), -sin(a.x) * sinh(a.y)); }"),
    "sinh": ((), "V sinh_S(V a) { return (V)(sinh(a.x) * cos(a.y), cosh(a.x) * sin(a.y)); }"),
    "cosh": ((), "V cosh_S(V a) { return (V)(cosh(a.x) * cos(a.y), sinh(a.x) * sin(a.y)); }"),
    "tanh": ((), """
V tanh_S(V a) {
    if (fabs(a.x) > 20) return (V)(copysign((T)1, a.x), copysign((T)0, sin(2 * a.y)));
    T t = tan(a.y), s = sinh(a.x), beta = 1 + t * t, rho = sqrt(1 + s * s), d = 1 + beta * s * s;
    return isinf(t) ? (V)(rho / s, 1 / t) : (V)(beta * rho * s / d, t / d);
}"""),
    "tan": (("tanh",), "V tan_S(V a) { V b = tanh_S((V)(-a.y, a.x)); return (V)(b.y, -b.x); }"),
    "asin": (("sqrt", "multiply", "conj"), """
V asin_S(V a) {
    V below = sqrt_S((V)(1 - a.x, -a.y)), above = sqrt_S((V)(1 + a.x, a.y));
    return (V)(atan(a.x / multiply_S(below, above).x), asinh(multiply_S(conj_S(below), above).y));
}"""),
    "acos": (("sqrt", "multiply", "conj"), """
V acos_S(V a) {
    V below = sqrt_S((V)(1 - a.x, -a.y)), above = sqrt_S((V)(1 + a.x, a.y));
    return (V)(2 * atan(below.x / above.x), asinh(multiply_S(conj_S(above), below).y));
}"""),
    "acosh": (("sqrt", "multiply", "conj"), """
V acosh_S(V a) {
    V below = sqrt_S((V)(a.x - 1, a.y)), above = sqrt_S((V)(a.x + 1, a.y));
    return (V)(asinh(multiply_S(conj_S(below), above).x), 2 * atan(below.y / above.x));
}"""),
    "asinh": (("asin",), "V asinh_S(V a) { V b = asin_S((V)(-a.y, a.x)); return (V)(b.y, -b.x); }"),
    "atanh": ((), """
V atanh_S(V a) {
    T far = (1 + a.x) * (1 + a.x) + a.y * a.y, near = (1 - a.x) * (1 - a.x) + a.y * a.y;
    return (V)(fabs(a.x) < (T)0.5 ? log1p(4 * a.x / near) / 4 : log(far / near) / 4, atan2(2 * a.y, (1 - a.x) * (1 + a.x) - a.y * a.y) / 2);
}"""),
    "atan": (("atanh",), "V atan_S(V a) { V b = atanh_S((V)(-a.y, a.x)); return (V)(b.y, -b.x); }"),
    "pow": (("multiply", "reciprocal", "exp", "log"), """
V pow_S(V a, V b) {
    if (b.x == 0 && b.y == 0) return (V)(1, 0);
    if (a.x == 0 && a.y == 0) return b.x > 0 && b.y == 0 ? (V)(0, 0) : (V)(NAN, NAN);
    if (b.y == 0 && b.x == rint(b.x) && fabs(b.x) < 100) {
        V power = (V)(1, 0), base = a;
        for (int n = (int)fabs(b.x); n; n >>= 1) { if (n & 1) power = multiply_S(power, base); base = multiply_S(base, base); }
        return b.x < 0 ? reciprocal_S(power) : power;
    }
    return exp_S(multiply_S(b, log_S(a)));
}"""),
}  # fmt: skip


def complex_helpers(name: str, dtype: str) -> Iterator[tuple[str, str]]:
    """Names and texts of the functions that `COMPLEX[name]` needs, in an order in which each knows those before it."""
    needs, text = _HELPERS.get("multiply" if name == "square" else name, ((), ""))
    for need in needs:
        yield from complex_helpers(need, dtype)
    if text:
        vector = {"complex64": "float2", "complex128": "double2"}[dtype]
        words = {"V": vector, "T": vector[:-1], "_S": f"_{dtype}"}
        yield f"{name}_{dtype}", _WORDS.sub(lambda found: words[found[0]], text.strip()) + "\n"
