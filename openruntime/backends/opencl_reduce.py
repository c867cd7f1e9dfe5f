"""Reductions, norms, running sums and what is computed line by line, on OpenCL.

An array is seen as (outer, n, inner) and reduced over n. An item takes a stretch of n, with several accumulators side by side, which become
vector instructions on a processor and keep the rounding of long sums small; what the stretches give is reduced again.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from math import inf, prod
from typing import Any, NamedTuple

from openruntime.backends.opencl_arrays import Engine, Tensor, scalar
from openruntime.backends.opencl_source import C_TYPE, load, store
from openruntime.operations.dtypes import KIND, inexact, real
from openruntime.operations.shapes import reduced, replaced

Axis = int | tuple[int, ...] | None
_STRETCH = 16_384  # elements that are worth an item of their own on a processor


class Fold(NamedTuple):
    """C expressions: `first` the accumulator before the first element, `mapped` of the element `v` (and `m`, its line's mean), `joined` of the
    accumulators `a` and `b`. `vectors`: they mean the same of vectors."""

    first: str
    mapped: str
    joined: str
    vectors: bool = True


_SUM = Fold("0", "v", "a + b")
_MAX, _MIN = Fold("LEAST", "v", "(b > a || b != b) ? b : a"), Fold("MOST", "v", "(b < a || b != b) ? b : a")
_SQUARES = Fold("0", "(v - m) * (v - m)", "a + b")
_ALL = Fold("1", "isfinite(v) != 0", "a & b", vectors=False)


@lru_cache(maxsize=512)
def _folding(fold: Fold, given: str, kept: str, wide: str, finish: str, width: int) -> str:
    """`given`, `kept`, `wide`: dtypes of the input, of what is written, of the accumulators. `finish`: of the accumulator `a`. `width`: columns
    that an item takes, 0 where there is one column."""
    a, v = C_TYPE[wide][1], C_TYPE[given][1]
    bits, kind = KIND[wide][1], KIND[wide][0]
    least = "-INFINITY" if kind in "fc" else "0" if kind in "bu" else f"(({a})1 << {bits - 1})"
    most = "INFINITY" if kind in "fc" else "1" if kind == "b" else f"({a})~(({a})1 << {bits - 1})" if kind == "i" else f"({a})~({a})0"
    first = fold.first.replace("LEAST", least).replace("MOST", most)
    means = "m" in re.findall(r"\b\w+\b", fold.mapped)
    vectors = fold.vectors and "c" not in (kind, KIND[given][0]) and width % 16 == 0
    of_vectors = f"""
{a}16 elements({a}16 v, {a}16 m) {{ return {fold.mapped}; }}
{a}16 joined16({a}16 a, {a}16 b) {{ return {fold.joined}; }}
#define ELEMENTS(k, m) elements({"vload_half16(0, x + (k))" if given == "float16" else f"convert_{a}16(vload16(0, x + (k)))"}, m)
"""
    body = (_COLUMNS if width else _LINES).replace("FAST", (_FAST_COLUMNS if width else _FAST_LINES) if vectors else "if (0) {}")
    return f"""
{a} element({v} v, {a} m) {{ return ({a})({fold.mapped}); }}
{a} join({a} a, {a} b) {{ return {fold.joined}; }}
#define ELEMENT(k, m) element({load(given, "x", "(k)")}, m)
#define FIRST ({a})({first})
#define A {a}
#define A16 {a}16
#define WIDTH {width}
#define COUNT (({C_TYPE[real(wide)][1]})count)
#define MEAN {"mean[o * inner + j]" if means else f"({a})0"}
#define MEANS(l) {"vload16(0, mean + o * inner + j + (l))" if means else f"({a}16)0"}
{of_vectors if vectors else ""}
__kernel void fold(const long items, const long n, const long inner, const long stretch, const long stretches, const long count,
        const {C_TYPE[real(wide)][1]} parameter, __global const {C_TYPE[given][0]} *restrict x,
        {f"__global const {C_TYPE[wide][0]} *restrict mean, " if means else ""}__global {C_TYPE[kept][0]} *restrict out) {{
    FOR_EACH(item, items) {{
        {body.replace("STORE", store(kept, "out", "to", f"(({C_TYPE[kept][1]})({finish}))"))}
    }}
}}"""


_LINES = """
        const size_t o = item / stretches, c = item % stretches, j = 0, to = item;
        const size_t begin = o * n + c * stretch, end = o * n + min((size_t)n, (c + 1) * stretch);
        const A m = MEAN;
        size_t k = begin;
        A a = FIRST;
        FAST
        for (; k < end; ++k) a = join(a, ELEMENT(k, m));
        STORE
"""
_FAST_LINES = """if (k + 32 <= end) {
            A16 left = FIRST, right = FIRST;
            for (; k + 32 <= end; k += 32) { left = joined16(left, ELEMENTS(k, m)); right = joined16(right, ELEMENTS(k + 16, m)); }
            A lane[16];
            vstore16(joined16(left, right), 0, lane);
            for (int half_ = 8; half_; half_ /= 2) for (int l = 0; l < half_; ++l) lane[l] = join(lane[l], lane[l + half_]);
            a = lane[0];
        }"""
_COLUMNS = """
        const size_t blocks = (inner + WIDTH - 1) / WIDTH, block = item % blocks, c = item / blocks % stretches, o = item / blocks / stretches;
        const size_t first = block * WIDTH, width = min((size_t)WIDTH, (size_t)inner - first);
        const size_t begin = c * stretch, end = min((size_t)n, (c + 1) * stretch);
        A lane[WIDTH];
        FAST
        else {
            for (size_t l = 0; l < width; ++l) lane[l] = FIRST;
            for (size_t r = begin; r < end; ++r)
                for (size_t l = 0; l < width; ++l) { const size_t j = first + l; lane[l] = join(lane[l], ELEMENT((o * n + r) * inner + j, MEAN)); }
        }
        for (size_t l = 0; l < width; ++l) {
            const size_t to = (o * stretches + c) * inner + first + l;
            const A a = lane[l];
            STORE
        }
"""
_FAST_COLUMNS = """if (width == WIDTH) {
            for (size_t l = 0; l < WIDTH; l += 64) {
                const size_t j = first + l;
                A16 p = FIRST, q = FIRST, s = FIRST, t = FIRST;
                for (size_t r = begin; r < end; ++r) {
                    const size_t at = (o * n + r) * inner + j;
                    p = joined16(p, ELEMENTS(at, MEANS(0)));
                    q = joined16(q, ELEMENTS(at + 16, MEANS(16)));
                    s = joined16(s, ELEMENTS(at + 32, MEANS(32)));
                    t = joined16(t, ELEMENTS(at + 48, MEANS(48)));
                }
                vstore16(p, 0, lane + l); vstore16(q, 1, lane + l); vstore16(s, 2, lane + l); vstore16(t, 3, lane + l);
            }
        }"""


def _width(engine: Engine) -> int:
    return 64 if engine.device.processor else 1


def _plan(engine: Engine, outer: int, n: int, inner: int) -> tuple[int, int]:
    """Length and number of the stretches that n is cut into: as many as keep the device busy, none too short."""
    at_once = outer * -(-inner // _width(engine))
    wanted = 4 * engine.device.units if engine.device.processor else 1024 * engine.device.units
    least = max(1, (_STRETCH if engine.device.processor else 64) // min(inner, _width(engine)))
    stretches = max(1, min(-(-wanted // max(1, at_once)), n // least))
    stretch = -(-n // stretches)
    return max(1, stretch), max(1, -(-n // max(1, stretch)))


def fold(
    engine: Engine, x: Tensor, lines: tuple[int, int, int], how: Fold, dtype: str, wide: str, finish: str = "a",
    *, mean: Tensor | None = None, parameter: float = 0.0, shape: Sequence[int] = (),
) -> Tensor:  # fmt: skip
    """(outer, n, inner) to (outer, inner), in `shape`. `finish` may use `COUNT`, which is n, and `parameter`."""
    outer, n, inner = lines
    if n == 0 or not outer * inner:
        empty = {"a / COUNT": float("nan")}.get(finish, 1.0 if how is _ALL else 0.0)
        return engine.filled(shape, dtype, empty)
    count = n
    while True:
        stretch, stretches = _plan(engine, outer, n, inner)
        if stretches == 1:
            out = engine.output(shape, dtype)
            _fold_once(engine, x, (outer, n, inner), n, how, out, wide, finish, count, mean, parameter)
            return out
        x = stretched(engine, x, (outer, n, inner), stretch, how, wide, mean)
        n, how, mean = stretches, Fold(how.first, "v", how.joined), None


def stretched(engine: Engine, x: Tensor, lines: tuple[int, int, int], stretch: int, how: Fold, wide: str, mean: Tensor | None = None) -> Tensor:
    """(outer, n, inner) to (outer, stretches, inner): each stretch of n folded by itself."""
    outer, n, inner = lines
    out = engine.empty((outer, -(-n // stretch), inner), wide)
    _fold_once(engine, x, lines, stretch, how, out, wide, "a", n, mean, 0.0)
    return out


def _fold_once(
    engine: Engine, x: Tensor, lines: tuple[int, int, int], stretch: int, how: Fold, out: Tensor, wide: str, finish: str, count: int,
    mean: Tensor | None, parameter: float,
) -> None:  # fmt: skip
    (outer, n, inner), width, stretches = lines, _width(engine), -(-lines[1] // stretch)
    source = _folding(how, x.dtype, out.dtype, wide, finish, width if inner > 1 else 0)
    items = outer * stretches * (-(-inner // width) if inner > 1 else 1)
    number = scalar(parameter, real(wide))
    more = [mean] if mean is not None else []
    engine.run(source, "fold", items, items, n, inner, stretch, stretches, count, number, x, *more, out, work=stretch * min(inner, width))


def axes_of(x: Tensor, axis: Axis) -> list[int]:
    given = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return [one % x.ndim for one in given]


def _reduced(engine: Engine, x: Tensor, axis: Axis, keepdims: bool, how: Fold, dtype: str, wide: str, finish: str = "a", **more: Any) -> Tensor:
    axes = axes_of(x, axis)
    shape = reduced(x.shape, axes, keepdims=keepdims)
    found, *lines = engine.lines(x, axes)
    return fold(engine, found, (lines[0], lines[1], lines[2]), how, dtype, wide, finish, shape=shape, **more)


def sum_(engine: Engine, x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    kind = KIND[x.dtype][0]
    dtype = "uint64" if kind == "u" else "int64" if kind in "bi" else x.dtype
    return _reduced(engine, x, axis, keepdims, _SUM, dtype, _wide(dtype))


def _wide(dtype: str) -> str:
    return "float32" if dtype == "float16" else dtype


def mean(engine: Engine, x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    dtype = inexact(x.dtype)
    return _reduced(engine, x, axis, keepdims, _SUM, dtype, _wide(dtype), "a / COUNT")


def var(engine: Engine, x: Tensor, axis: Axis = None, correction: float = 0.0, keepdims: bool = False, *, root: bool = False) -> Tensor:
    dtype = inexact(x.dtype)
    wide = _wide(dtype)
    axes = axes_of(x, axis)
    shape = reduced(x.shape, axes, keepdims=keepdims)
    x, outer, n, inner = engine.lines(x, axes)
    if n <= correction:
        return engine.filled(shape, dtype, float("nan"))
    centre = fold(engine, x, (outer, n, inner), _SUM, wide, wide, "a / COUNT", shape=(outer, inner))
    finish = "a / (COUNT - parameter)"
    return fold(
        engine, x, (outer, n, inner), _SQUARES, dtype, wide, f"sqrt({finish})" if root else finish, mean=centre, parameter=correction, shape=shape
    )


def std(engine: Engine, x: Tensor, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    return var(engine, x, axis, correction, keepdims, root=True)


def max_(engine: Engine, x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return _reduced(engine, x, axis, keepdims, _MAX, x.dtype, _wide(x.dtype))


def min_(engine: Engine, x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return _reduced(engine, x, axis, keepdims, _MIN, x.dtype, _wide(x.dtype))


@lru_cache(maxsize=64)
def _placing(dtype: str) -> str:
    """The first stretch that holds the extreme is looked through for it."""
    work = C_TYPE[dtype][1]
    return f"""
int same({work} a, {work} b) {{ return a == b || (a != a && b != b); }}
__kernel void place(const long items, const long n, const long inner, const long stretch, const long stretches,
        __global const {C_TYPE[dtype][0]} *restrict x, __global const {C_TYPE[_wide(dtype)][0]} *restrict parts,
        __global const {C_TYPE[_wide(dtype)][0]} *restrict best, __global long *restrict out) {{
    FOR_EACH(item, items) {{
        const size_t o = item / inner, j = item % inner;
        size_t c = 0;
        while (!same(parts[(o * stretches + c) * inner + j], best[item])) ++c;
        size_t k = c * stretch;
        while (!same({load(dtype, "x", "(o * n + k) * inner + j")}, best[item])) ++k;
        out[item] = k;
    }}
}}"""


def _position(engine: Engine, x: Tensor, axis: int | None, keepdims: bool, how: Fold) -> Tensor:
    axes = axes_of(x, axis)
    shape = reduced(x.shape, axes, keepdims=keepdims)
    x, outer, n, inner = engine.lines(x, axes)
    wide, out = _wide(x.dtype), engine.output(shape, "int64")
    if not outer * inner:
        return out
    stretch = min(n, 4096)
    stretches = -(-n // stretch)
    parts = stretched(engine, x, (outer, n, inner), stretch, how, wide)
    best = fold(engine, parts, (outer, stretches, inner), how, wide, wide, shape=(outer, inner))
    engine.run(_placing(x.dtype), "place", outer * inner, outer * inner, n, inner, stretch, stretches, x, parts, best, out, work=stretch)
    return out


def argmax(engine: Engine, x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    return _position(engine, x, axis, keepdims, _MAX)


def argmin(engine: Engine, x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    return _position(engine, x, axis, keepdims, _MIN)


def all_finite(engine: Engine, x: Tensor) -> bool:
    return bool(engine.read(fold(engine, x, (1, x.size, 1), _ALL, "int32", "int32"))) if x.size else True


def vector_norm(engine: Engine, x: Tensor, axis: Axis, order: float, keepdims: bool) -> Tensor:
    dtype = real(inexact(x.dtype))
    wide = _wide(dtype)
    x = engine.cast(x, inexact(x.dtype))
    size = "hypot(v.x, v.y)" if KIND[x.dtype][0] == "c" else "fabs(v)"
    square = "v.x * v.x + v.y * v.y" if KIND[x.dtype][0] == "c" else "v * v"
    if order == 2:
        how, finish = Fold("0", square, "a + b"), "sqrt(a)"
    elif order in (inf, -inf):
        how, finish = (_MAX if order > 0 else _MIN)._replace(mapped=size), "a"
    elif order in (0, 1):
        how, finish = Fold("0", size if order else f"{size} != 0", "a + b", bool(order)), "a"
    else:
        how, finish = Fold("0", f"pow({size}, ({C_TYPE[wide][1]})({order!r}))", "a + b", False), f"pow(a, ({C_TYPE[wide][1]})({1 / order!r}))"
    return _reduced(engine, x, axis, keepdims, how, dtype, wide, finish)


_RUNNING = """
// One item a line where there are many of them, or a stretch of the only one, to which is added what stands before it.
__kernel void running(const long items, const long n, const long inner, const long stretch, const long stretches, const long initial,
        __global const X *restrict x, __global const A *restrict before, __global R *restrict out) {
    FOR_EACH(item, items) {
        const size_t j = item % inner, c = item / inner % stretches, o = item / inner / stretches;
        A total = stretches > 1 ? before[(o * (stretches + 1) + c) * inner + j] : 0;
        const size_t in = o * n * inner + j, to = (o * (n + initial)) * inner + j;
        if (initial && c == 0) PUT(to, total);
        for (size_t k = c * stretch; k < min((size_t)n, (c + 1) * stretch); ++k) {
            total += GET(in + k * inner);
            ROUND
            PUT(to + (k + initial) * inner, total);
        }
    }
}"""


@lru_cache(maxsize=64)
def _running(given: str, dtype: str) -> str:
    kinds = {"X": C_TYPE[given][0], "A": C_TYPE[dtype][1], "R": C_TYPE[dtype][0]}
    macros = "".join(f"#define {name} {text}\n" for name, text in kinds.items())
    get = f"#define GET(k) {load(given, 'x', '(k)')}\n#define PUT(k, v) {store(dtype, 'out', '(k)', '(v)')}\n"
    # a running sum of halves is rounded at each step, since each is an answer
    half = (
        "#define ROUND vstore_half_rte(total, 0, (half *)&bits); total = vload_half(0, (half *)&bits);\n" if dtype == "float16" else "#define ROUND\n"
    )
    text = _RUNNING.replace("        A total", "        ushort bits;\n        A total") if dtype == "float16" else _RUNNING
    return macros + get + half + text


def cumulative_sum(engine: Engine, x: Tensor, axis: int | None = None, include_initial: bool = False) -> Tensor:
    kind = KIND[x.dtype][0]
    dtype = "uint64" if kind == "u" else "int64" if kind in "bi" else x.dtype
    at = (axis or 0) % x.ndim
    outer, n, inner = prod(x.shape[:at]), x.shape[at], prod(x.shape[at + 1 :])
    out = engine.output(replaced(x.shape, at, n + include_initial), dtype)
    stretches = 1
    if outer * inner < 2 * engine.device.units and n >= 2 * _STRETCH and dtype != "float16":
        stretches = min(8 * engine.device.units if engine.device.processor else 4096, n // (_STRETCH // 4))
    stretch = -(-n // stretches)
    before = engine.empty((1,), dtype)
    if stretches > 1:
        stretches = -(-n // stretch)
        sums = stretched(engine, x, (outer, n, inner), stretch, _SUM, dtype)
        before = engine.empty((outer, stretches + 1, inner), dtype)
        engine.run(_running(dtype, dtype), "running", outer * inner, outer * inner, stretches, inner, stretches, 1, 1, sums, before, before)
    items = outer * stretches * inner
    engine.run(_running(x.dtype, dtype), "running", items, items, n, inner, stretch, stretches, int(include_initial), x, before, out, work=stretch)
    return out
