"""Fourier transforms and convolution on OpenCL.

Lengths with no prime above 13 by Stockham's self-sorting passes, others as a convolution (Bluestein, 1970). Source: Govindaraju et al., High
performance discrete Fourier transforms on graphics processors, 2008.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from math import prod, sqrt
from typing import Any

from openruntime.backends.opencl_arrays import Engine, Tensor, contiguous, scalar
from openruntime.backends.opencl_source import C_TYPE, load, store
from openruntime.operations.dtypes import complex_of, inexact, is_complex, promote, real
from openruntime.operations.fourier import DIRECT, _smooth, kept
from openruntime.operations.numerics import working
from openruntime.operations.shapes import replaced

_RADICES = (4, 2, 3, 5, 7, 11, 13)
_ROOTS_KEPT = 16
_STRETCH = 512

_COMMON = """
#define TIMES(a, b) (V)((a).x * (b).x - (a).y * (b).y, (a).x * (b).y + (a).y * (b).x)
"""
# an item has a stretch of neighbouring k, whose numbers lie side by side
_PASS = """
__kernel void pass(const long items, const long n, const long span, const long stretch, const T sign, __global const V *restrict x,
        __global const V *restrict roots, __global V *restrict out) {
    const size_t per = n / RADIX, step = per / span, stretches = (span + stretch - 1) / stretch;
    FOR_EACH(item, items) {
        const size_t row = item / (stretches * step), block = item / stretches % step, begin = item % stretches * stretch;
        __global const V *from = x + row * n + block * span;
        for (size_t k = begin; k < min((size_t)span, begin + stretch); ++k) {
            V v[RADIX];
            v[0] = from[k];
            for (int r = 1; r < RADIX; ++r) {
                V w = roots[k * r * step];
                w.y *= sign;
                const V u = from[k + r * per];
                v[r] = TIMES(u, w);
            }
            __global V *to = out + row * n + block * span * RADIX + k;
            BUTTERFLY
        }
    }
}"""
_BUTTERFLIES = {
    2: "to[0] = v[0] + v[1]; to[span] = v[0] - v[1];",
    4: """const V a = v[0] + v[2], b = v[0] - v[2], c = v[1] + v[3], d = v[1] - v[3], e = (V)(d.y * sign, -d.x * sign);
        to[0] = a + c; to[span] = b + e; to[2 * span] = a - c; to[3 * span] = b - e;""",
}
_ANY_BUTTERFLY = """for (int q = 0; q < RADIX; ++q) {
            V sum = v[0];
            for (int r = 1; r < RADIX; ++r) { V w = roots[(q * r) % RADIX * per]; w.y *= sign; sum += TIMES(v[r], w); }
            to[q * span] = sum;
        }"""
_ROOTS = """
__kernel void roots(const long n, const long whole, const long chirp, __global V *restrict out) {
    FOR_EACH(i, n) {
        const ulong k = chirp ? (ulong)i * i % (2 * whole) : i;  // exp(-pi i k^2 / n), or exp(-2 pi i k / n)
        const D angle = (D)(chirp ? k : 2 * k) / whole;
        out[i] = (V)((T)cospi(angle), (T)-sinpi(angle));
    }
}"""
_BLUESTEIN = """
// x times the chirp, padded with zeros; the chirp's conjugate wrapped around; the product of two spectra; the answer
__kernel void chirped(const long items, const long n, const long m, const T sign, __global const V *restrict x, __global const V *restrict chirp,
        __global V *restrict out) {
    FOR_EACH(i, items) {
        const size_t j = i % m;
        V w = chirp[min(j, (size_t)n - 1)];
        w.y *= sign;
        const V u = x[i / m * n + min(j, (size_t)n - 1)];
        out[i] = j < (size_t)n ? TIMES(u, w) : (V)(0, 0);
    }
}
__kernel void wrapped(const long m, const long n, const T sign, __global const V *restrict chirp, __global V *restrict out) {
    FOR_EACH(j, m) {
        const size_t k = j < (size_t)n ? j : m - j;
        const V w = chirp[min(k, (size_t)n - 1)];
        out[j] = k < (size_t)n ? (V)(w.x, -w.y * sign) : (V)(0, 0);
    }
}
__kernel void unchirped(const long items, const long n, const long m, const T sign, const T scale, __global const V *restrict x,
        __global const V *restrict chirp, __global V *restrict out) {
    FOR_EACH(i, items) {
        V w = chirp[i % n];
        w.y *= sign;
        const V u = x[i / n * m + i % n];
        out[i] = TIMES(u, w) * scale;
    }
}"""
_SPECTRA = """
__kernel void product(const long n, const long each, __global V *restrict a, __global const V *restrict b) {
    FOR_EACH(i, n) { const V u = a[i], v = b[i % each]; a[i] = TIMES(u, v); }
}"""
_HERMITIAN = """
// the whole spectrum of real numbers from its first half
__kernel void hermitian(const long items, const long n, const long given, __global const V *restrict x, __global V *restrict out) {
    FOR_EACH(i, items) {
        const size_t k = i % n, at = 2 * k <= (size_t)n ? k : n - k;
        const V u = at < (size_t)given ? x[i / n * given + at] : (V)(0, 0);
        out[i] = (V)(u.x, k == 0 || 2 * k == (size_t)n ? 0 : at == k ? u.y : -u.y);
    }
}
__kernel void parted(const long items, const T scale, __global const V *restrict x, __global T *restrict out) {
    FOR_EACH(i, items) out[i] = x[i].x * scale;
}
__kernel void scaled(const long items, const T scale, __global V *restrict x) {
    FOR_EACH(i, items) x[i] *= scale;
}"""


@lru_cache(maxsize=64)
def _source(dtype: str, text: str, radix: int = 0, double: bool = True) -> str:
    component = C_TYPE[real(dtype)][1]
    butterfly = _BUTTERFLIES.get(radix, _ANY_BUTTERFLY)
    kinds = f"#define T {component}\n#define V {component}2\n#define D {'double' if double else 'float'}\n"
    return kinds + _COMMON + text.replace("BUTTERFLY", butterfly).replace("RADIX", str(radix))


def _factors(n: int) -> list[int] | None:
    """Radices whose product is n; None where a prime is too large."""
    found = []
    for radix in _RADICES:
        while n % radix == 0:
            found.append(radix)
            n //= radix
    return found if n == 1 else None


class Transforms:
    """Tables of roots of unity, kept from one transform to the next."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tables: dict[tuple[int, str, bool], Tensor] = {}

    def roots(self, n: int, dtype: str, *, chirp: bool = False) -> Tensor:
        key = n, dtype, chirp
        if key not in self._tables:
            if len(self._tables) >= _ROOTS_KEPT:
                self._tables.pop(next(iter(self._tables)))
            table = self._engine.empty((n,), dtype)
            source = _source(dtype, _ROOTS, double=self._engine.device.has_double)
            self._engine.run(source, "roots", n, n, n, int(chirp), table, work=50)
            self._tables[key] = table
        return self._tables[key]

    def transform(self, x: Tensor, inverse: bool) -> Tensor:
        """The unscaled transform of each row of (rows, n), which is written over."""
        engine, (rows, n), dtype = self._engine, x.shape, x.dtype
        sign = scalar(-1 if inverse else 1, real(dtype))
        factors = _factors(n)
        if factors is None:
            return self._bluestein(x, sign)
        roots, span = self.roots(n, dtype), 1
        spare = engine.empty(x.shape, dtype)
        for radix in factors:
            stretch = min(span, _STRETCH)
            items = rows * (n // radix // span) * -(-span // stretch)
            engine.run(_source(dtype, _PASS, radix), "pass", items, items, n, span, stretch, sign, x, roots, spare, work=8 * radix * stretch)
            x, spare, span = spare, x, span * radix
        return x

    def _bluestein(self, x: Tensor, sign: Any) -> Tensor:
        engine, (rows, n), dtype = self._engine, x.shape, x.dtype
        m = _smooth(2 * n - 1)
        chirp, source = self.roots(n, dtype, chirp=True), _source(dtype, _BLUESTEIN)
        signal, filter_, out = engine.empty((rows, m), dtype), engine.empty((1, m), dtype), engine.empty((rows, n), dtype)
        engine.run(source, "chirped", rows * m, rows * m, n, m, sign, x, chirp, signal)
        engine.run(source, "wrapped", m, m, n, sign, chirp, filter_)
        spectrum = self.transform(signal, False)
        engine.run(_source(dtype, _SPECTRA), "product", rows * m, rows * m, m, spectrum, self.transform(filter_, False))
        found = self.transform(spectrum, True)
        engine.run(source, "unchirped", rows * n, rows * n, n, m, sign, scalar(1 / m, real(dtype)), found, chirp, out)
        return out


def _transforms(engine: Engine) -> Transforms:
    return engine.kept("transforms", Transforms)


def _lines(engine: Engine, x: Tensor, n: int, axis: int, dtype: str) -> Tensor:
    """(rows, n) with `axis` last, cut or padded with zeros, in `dtype`: one copy."""
    at = axis % x.ndim
    order = [*(i for i in range(x.ndim) if i != at), at]
    strides = contiguous(x.shape)
    length = min(n, x.shape[at])
    rows = x.size // x.shape[at]
    found = engine.empty((rows, n), dtype) if length == n else engine.filled((rows, n), dtype)
    shape = [*(x.shape[i] for i in order[:-1]), length]
    into = [*(stride * n for stride in contiguous(shape[:-1])), 1]
    engine.copy(x, found, shape, [strides[i] for i in order], into)
    return found


def _restored(engine: Engine, lines: Tensor, shape: Sequence[int], axis: int, n: int) -> Tensor:
    """The first `n` of each row, in `shape` whose `axis` they are."""
    at = axis % len(shape)
    if at == len(shape) - 1 and lines.shape[1] == n:
        return lines.reshaped(*shape)
    others = [extent for i, extent in enumerate(shape) if i != at]
    steps = [stride * lines.shape[1] for stride in contiguous(others)]
    return engine.rearranged(lines, shape, [*steps[:at], 1, *steps[at:]])


def _scale(norm: str, n: int, inverse: bool) -> float:
    return 1 / sqrt(n) if norm == "ortho" else 1 / n if (norm == "backward") == inverse else 1.0


def _scaled(engine: Engine, x: Tensor, scale: float) -> Tensor:
    if scale != 1:
        engine.run(_source(x.dtype, _HERMITIAN), "scaled", x.size, x.size, scalar(scale, real(x.dtype)), x)
    return x


def _along(engine: Engine, x: Tensor, n: int, axis: int, inverse: bool, scale: float, keep: int | None = None) -> Tensor:
    shape = replaced(x.shape, axis % x.ndim, keep or n)
    dtype = complex_of(x.dtype)
    if not prod(shape):
        return engine.output(shape, dtype)
    lines = _transforms(engine).transform(_lines(engine, x, n, axis, dtype), inverse)
    return _restored(engine, _scaled(engine, lines, scale), shape, axis, keep or n)


def _line(engine: Engine, x: Tensor, n: int | None = None, axis: int = -1, norm: str = "backward", *, inverse: bool) -> Tensor:
    n = n or x.shape[axis]
    return _along(engine, x, n, axis, inverse, _scale(norm, n, inverse))


def rfft(engine: Engine, x: Tensor, n: int | None = None, axis: int = -1, norm: str = "backward") -> Tensor:
    n = n or x.shape[axis]
    return _along(engine, x, n, axis, False, _scale(norm, n, False), n // 2 + 1)


def irfft(engine: Engine, x: Tensor, n: int | None = None, axis: int = -1, norm: str = "backward") -> Tensor:
    n = n or 2 * (x.shape[axis] - 1)
    at, dtype = axis % x.ndim, complex_of(x.dtype)
    shape = replaced(x.shape, at, n)
    if not prod(shape):
        return engine.output(shape, real(dtype))
    given = _lines(engine, x, min(x.shape[at], n // 2 + 1), axis, dtype)
    whole = engine.empty((given.shape[0], n), dtype)
    engine.run(_source(dtype, _HERMITIAN), "hermitian", whole.size, whole.size, n, given.shape[1], given, whole)
    found, out = _transforms(engine).transform(whole, True), engine.output(whole.shape, real(dtype))
    engine.run(_source(dtype, _HERMITIAN), "parted", out.size, out.size, scalar(_scale(norm, n, True), real(dtype)), found, out)
    return _restored(engine, out, shape, axis, n)


def _plane(engine: Engine, x: Tensor, shape: Any = None, axes: Any = (-2, -1), norm: str = "backward", *, inverse: bool) -> Tensor:
    for axis, n in zip(axes, shape or [x.shape[axis] for axis in axes], strict=True):
        x = _along(engine, x, n, axis, inverse, _scale(norm, n, inverse))
    return x


TRANSFORMS: dict[str, Any] = {
    "fft": partial(_line, inverse=False), "ifft": partial(_line, inverse=True), "rfft": rfft, "irfft": irfft,
    "fft2": partial(_plane, inverse=False), "ifft2": partial(_plane, inverse=True),
}  # fmt: skip


@lru_cache(maxsize=64)
def _summing(a: str, b: str, dtype: str, rank: int) -> str:
    """Each answer is the sum of its products; the smaller array has few elements."""
    work = working(dtype)
    t = C_TYPE[work][1]
    if is_complex(dtype):
        given = [f"convert_{t}({x}[{i}])" if is_complex(d) else f"({t})({load(d, x, i)}, 0)" for x, i, d in (("a", "at", a), ("b", "j", b))]
        add = "total += (A)(u.x * v.x - u.y * v.y, u.x * v.y + u.y * v.x);"
    else:
        given, add = [f"(A){load(a, 'a', 'at')}", f"(A){load(b, 'b', 'j')}"], "total += u * v;"
    numbers = [f"const long {name}{d}" for name in ("n", "m", "w", "s") for d in range(rank)]
    split = "".join(f"const long o{d} = rest % n{d} + s{d}; rest /= n{d}; " for d in range(rank - 1, -1, -1))
    inner = "".join(f"const long q{d} = o{d} - (long)(tap % w{d}); tap /= w{d}; " for d in range(rank - 1, -1, -1))
    inside = " && ".join(f"q{d} >= 0 && q{d} < m{d}" for d in range(rank))
    at = "0"
    for d in range(rank):
        at = f"({at}) * m{d} + q{d}"
    return f"""
#define A {t}
__kernel void convolve(const long n, const long taps, {", ".join(numbers)}, __global const {C_TYPE[a][0]} *restrict a,
        __global const {C_TYPE[b][0]} *restrict b, __global {C_TYPE[dtype][0]} *restrict out) {{
    FOR_EACH(i, n) {{
        size_t rest = i;
        {split}
        A total = 0;
        for (size_t j = 0; j < (size_t)taps; ++j) {{
            size_t tap = j;
            {inner}
            if ({inside}) {{ const size_t at = {at}; const A u = {given[0]}, v = {given[1]}; {add} }}
        }}
        {store(dtype, "out", "i", "total")}
    }}
}}"""


def convolve(engine: Engine, a: Tensor, b: Tensor, mode: str = "full") -> Tensor:
    dtype = inexact(promote(a.dtype, b.dtype))
    parts = [kept(m, n, mode) for m, n in zip(a.shape, b.shape, strict=True)]
    shape, starts = [length for _, length in parts], [start for start, _ in parts]
    if min(a.size, b.size) <= DIRECT:
        if a.size < b.size:
            a, b = b, a
        out = engine.output(shape, dtype)
        where = (*shape, *a.shape, *b.shape, *starts)
        engine.run(_summing(a.dtype, b.dtype, dtype, a.ndim), "convolve", out.size, out.size, b.size, *where, a, b, out, work=4 * b.size)
        return out
    full = [m + n - 1 for m, n in zip(a.shape, b.shape, strict=True)]
    lengths = [_smooth(n) for n in full]
    work = complex_of(promote(dtype, "float32"))
    spectra = []
    for x in (a, b):
        spectrum = x
        for axis, n in enumerate(lengths):
            spectrum = _along(engine, spectrum if spectrum is not x else engine.cast(x, work), n, axis, False, 1.0)
        spectra.append(spectrum)
    size = spectra[0].size
    engine.run(_source(work, _SPECTRA), "product", size, size, size, *spectra)
    found = spectra[0]
    for axis, n in enumerate(lengths):
        found = _along(engine, found, n, axis, True, 1 / n)
    if not is_complex(dtype):
        halves = engine.empty(found.shape, real(work))
        engine.run(_source(work, _HERMITIAN), "parted", size, size, scalar(1.0, real(work)), found, halves)
        found = halves
    strides = contiguous(found.shape)
    offset = sum(start * stride for start, stride in zip(starts, strides, strict=True))
    return engine.cast(engine.rearranged(found, shape, strides, offset), dtype)
