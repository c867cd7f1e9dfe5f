"""Sorting on OpenCL: a stable radix sort of keys whose order as unsigned integers is that of the numbers, and what follows from it.

Source: Satish, Harris and Garland, Designing efficient sorting algorithms for manycore GPUs, 2009, with a stretch of the keys an item.
"""

from functools import lru_cache
from math import inf, prod
from typing import Any

import numpy as np

from openruntime.backends.opencl_arrays import Engine, Tensor, scalar
from openruntime.backends.opencl_reduce import axes_of, cumulative_sum, max_, min_, sum_
from openruntime.backends.opencl_source import C_TYPE, load, store
from openruntime.contracts.errors import OperationFailed
from openruntime.contracts.payload import ITEMSIZE
from openruntime.operations.dtypes import KIND, inexact
from openruntime.operations.shapes import reduced

_SELECTED = 64  # best numbers that are worth keeping in a list while reading, rather than sorting everything
_SORTING = """
__kernel void counted(const long items, const long n, const long stretch, const long stretches, const int shift,
        __global const K *restrict keys, __global uint *restrict counts) {
    FOR_EACH(item, items) {
        const size_t row = item / stretches, c = item % stretches;
        uint found[256];
        for (int d = 0; d < 256; ++d) found[d] = 0;
        for (size_t k = row * n + c * stretch; k < row * n + min((size_t)n, (c + 1) * stretch); ++k) ++found[(keys[k] >> shift) & 255];
        for (int d = 0; d < 256; ++d) counts[(row * 256 + d) * stretches + c] = found[d];
    }
}
__kernel void placed(const long rows, const long stretches, __global uint *restrict counts) {
    FOR_EACH(row, rows) {
        uint total = 0;
        for (size_t k = row * 256 * stretches; k < (row + 1) * 256 * stretches; ++k) {
            const uint found = counts[k];
            counts[k] = total;
            total += found;
        }
    }
}
__kernel void moved(const long items, const long n, const long stretch, const long stretches, const int shift,
        __global const K *restrict keys, __global const uint *restrict counts, __global K *restrict sorted MORE) {
    FOR_EACH(item, items) {
        const size_t row = item / stretches, c = item % stretches, first = row * n;
        uint to[256];
        for (int d = 0; d < 256; ++d) to[d] = counts[(row * 256 + d) * stretches + c];
        for (size_t k = first + c * stretch; k < first + min((size_t)n, (c + 1) * stretch); ++k) {
            const K key = keys[k];
            const uint place = to[(key >> shift) & 255]++;
            sorted[first + place] = key;
            MOVE
        }
    }
}"""
_SELECTING = """
__kernel void selected(const long items, const long n, const long stretch, const long stretches, const long k,
        __global const K *restrict keys, __global K *restrict best, __global uint *restrict places) {
    FOR_EACH(item, items) {
        const size_t row = item / stretches, c = item % stretches, first = row * n, list = item * k;
        long held = 0;
        for (size_t i = c * stretch; i < min((size_t)n, (c + 1) * stretch); ++i) {
            const K key = keys[first + i];
            if (held == k && key >= best[list + k - 1]) continue;
            long at = held < k ? held++ : k - 1;
            for (; at > 0 && best[list + at - 1] > key; --at) { best[list + at] = best[list + at - 1]; places[list + at] = places[list + at - 1]; }
            best[list + at] = key;
            places[list + at] = i;
        }
        for (; held < k; ++held) { best[list + held] = (K)-1; places[list + held] = n - 1; }
    }
}"""


def _bits(dtype: str) -> int:
    return 8 * ITEMSIZE[dtype]


def _key_type(dtype: str) -> str:
    return "uint64" if _bits(dtype) == 64 else "uint32"


@lru_cache(maxsize=64)
def _keyed(dtype: str, exact: bool) -> str:
    """Kernels `keys` and `values`, one the reverse of the other. `exact`: -0 and 0 keep apart, as they must to come back."""
    bits, kind = _bits(dtype), KIND[dtype][0]
    key = C_TYPE[_key_type(dtype)][1]
    one = f"({key})1"
    pointer = C_TYPE[dtype][0]
    if kind == "f":
        pointer = {16: "ushort", 32: "uint", 64: "ulong"}[bits]
        sign, least_nan = f"({one} << {bits - 1})", {16: "0x7C00", 32: "0x7F800000u", 64: "0x7FF0000000000000ul"}[bits]
        zero = "" if exact else f"if (b == {sign}) b = 0;"
        to = f"{key} b = x[i]; {zero} const {key} found = (b & ~{sign}) > {least_nan} ? {mask(bits)} : b & {sign} ? ~b & {mask(bits)} : b | {sign};"
        back = f"k & {sign} ? k & ~{sign} : ~k & {mask(bits)}"
    elif kind == "i":
        to = f"const {key} found = (({key})(u{pointer})x[i]) ^ ({one} << {bits - 1});"
        back = f"k ^ ({one} << {bits - 1})"
    else:
        to, back = f"const {key} found = x[i];", "k"
    return f"""
__kernel void keys(const long n, const {key} turned, __global const {pointer} *restrict x, __global {key} *restrict out) {{
    FOR_EACH(i, n) {{ {to} out[i] = (found ^ turned) & {mask(bits)}; }}
}}
__kernel void values(const long n, const {key} turned, __global const {key} *restrict keys, __global {pointer} *restrict out) {{
    FOR_EACH(i, n) {{ const {key} k = (keys[i] ^ turned) & {mask(bits)}; out[i] = ({pointer})({back}); }}
}}"""


def mask(bits: int) -> str:
    return f"0x{(1 << bits) - 1:X}{'ul' if bits == 64 else 'u'}"


def _keys(engine: Engine, x: Tensor, descending: bool, *, exact: bool) -> tuple[Tensor, Any]:
    """Unsigned keys, and what turned them round."""
    kind = _key_type(x.dtype)
    turned = scalar((1 << 8 * ITEMSIZE[kind]) - 1 if descending else 0, kind)
    keys = engine.empty(x.shape, kind)
    engine.run(_keyed(x.dtype, exact), "keys", x.size, x.size, turned, x, keys)
    return keys, turned


def _ordered(engine: Engine, keys: Tensor, bits: int, *, places: bool) -> tuple[Tensor, Tensor | None]:
    """(rows, n) keys sorted along n, and where each stood."""
    rows, n = keys.shape
    wanted = max(1, engine.device.units * (4 if engine.device.processor else 64) // max(1, rows))
    stretch = max(256, -(-n // wanted))
    stretches = max(1, -(-n // stretch))
    items = rows * stretches
    counts = engine.empty((rows, 256, stretches), "uint32")
    spare = engine.empty(keys.shape, keys.dtype)
    at, spare_at = (engine.empty(keys.shape, "uint32") for _ in range(2)) if places else (None, None)
    kind = f"#define K {C_TYPE[keys.dtype][1]}\n"
    more = ", const int first_pass, __global const uint *restrict at, __global uint *restrict sorted_at" if places else ""
    move = "sorted_at[first + place] = first_pass ? (uint)(k - first) : at[k];" if places else ""
    source = kind + _SORTING.replace("MORE", more).replace("MOVE", move)
    for shift in range(0, bits, 8):
        where = (items, n, stretch, stretches, np.int32(shift), keys, counts)
        engine.run(source, "counted", items, *where, work=2 * stretch)
        engine.run(source, "placed", rows, rows, stretches, counts, work=256 * stretches)
        following = (np.int32(shift == 0), at, spare_at) if places else ()
        engine.run(source, "moved", items, *where, spare, *following, work=4 * stretch)
        keys, spare, at, spare_at = spare, keys, spare_at, at
    return keys, at


def _lined(engine: Engine, x: Tensor, axis: int) -> tuple[Tensor, list[int]]:
    """`axis` last, as (rows, n), and the axes' order that undoes it."""
    at = axis % x.ndim
    order = [*(i for i in range(x.ndim) if i != at), at]
    moved = engine.permuted(x, order)
    n = x.shape[at]
    return moved.reshaped(x.size // n if n else 0, n), [order.index(i) for i in range(x.ndim)]


def _back(engine: Engine, lines: Tensor, x: Tensor, axis: int, order: list[int]) -> Tensor:
    at = axis % x.ndim
    shape = [extent for i, extent in enumerate(x.shape) if i != at] + [lines.shape[1]]
    return engine.permuted(lines.reshaped(*shape), order)


def sort(engine: Engine, x: Tensor, axis: int = -1, descending: bool = False) -> Tensor:
    if not x.size:
        return engine.output(x.shape, x.dtype)
    lines, order = _lined(engine, x, axis)
    return _back(engine, _sorted(engine, lines, descending), x, axis, order)


def _sorted(engine: Engine, lines: Tensor, descending: bool = False) -> Tensor:
    keys, turned = _keys(engine, lines, descending, exact=True)
    keys, _ = _ordered(engine, keys, _bits(lines.dtype), places=False)
    out = engine.output(lines.shape, lines.dtype)
    engine.run(_keyed(lines.dtype, True), "values", out.size, out.size, turned, keys, out)
    return out


def places_of(engine: Engine, lines: Tensor, descending: bool = False) -> Tensor:
    """The uint32 places that sort each row of (rows, n), equal numbers in their order."""
    keys, _ = _keys(engine, lines, descending, exact=False)
    _, places = _ordered(engine, keys, _bits(lines.dtype), places=True)
    assert places is not None
    return places


def argsort(engine: Engine, x: Tensor, axis: int = -1, descending: bool = False) -> Tensor:
    if not x.size:
        return engine.output(x.shape, "int64")
    lines, order = _lined(engine, x, axis)
    return _back(engine, engine.cast(places_of(engine, lines, descending), "int64"), x, axis, order)


@lru_cache(maxsize=64)
def _taking(dtype: str, index: str) -> str:
    value = C_TYPE[dtype][0] if dtype != "float16" else "ushort"
    return f"""
__kernel void taken(const long items, const long k, const long n, const long width, __global const {value} *restrict x,
        __global const {C_TYPE[index][0]} *restrict places, __global {value} *restrict out) {{
    FOR_EACH(i, items) out[i] = x[(i / k) * n + (size_t)places[(i / k) * width + i % k]];
}}"""


def taken(engine: Engine, x: Tensor, places: Tensor, k: int) -> Tensor:
    """The first `k` of the `places` of each row, (rows, width), in (rows, n) `x`: (rows, k)."""
    rows, n = x.shape
    out = engine.output((rows, k), x.dtype)
    engine.run(_taking(x.dtype, places.dtype), "taken", out.size, out.size, k, n, places.shape[1], x, places, out)
    return out


def top_k(engine: Engine, x: Tensor, k: int, axis: int = -1, largest: bool = True) -> dict[str, Tensor]:
    at = axis % x.ndim
    if not k or not x.size:
        shape = (*x.shape[:at], k, *x.shape[at + 1 :])
        return {"values": engine.output(shape, x.dtype), "indices": engine.output(shape, "int64")}
    lines, order = _lined(engine, x, axis)
    places = _selected(engine, lines, k, largest) if k <= _SELECTED and lines.shape[1] >= 64 * k else places_of(engine, lines, largest)
    values = taken(engine, lines, places, k)
    indices = engine.rearranged(places, (lines.shape[0], k), (places.shape[1], 1))
    return {name: _back(engine, found, x, axis, order) for name, found in (("values", values), ("indices", engine.cast(indices, "int64")))}


def _selected(engine: Engine, lines: Tensor, k: int, largest: bool) -> Tensor:
    """The best of each stretch are kept in a list; the best of those are sorted."""
    keys, _ = _keys(engine, lines, largest, exact=False)
    rows, n = lines.shape
    stretches = max(1, min(n // (16 * k), engine.device.units * (4 if engine.device.processor else 64) // rows))
    stretch = -(-n // stretches)
    stretches = -(-n // stretch)
    best, found = engine.empty((rows, stretches * k), keys.dtype), engine.empty((rows, stretches * k), "uint32")
    items = rows * stretches
    source = f"#define K {C_TYPE[keys.dtype][1]}\n{_SELECTING}"
    engine.run(source, "selected", items, items, n, stretch, stretches, k, keys, best, found, work=2 * stretch)
    _, order = _ordered(engine, best, _bits(lines.dtype), places=True)
    assert order is not None
    return taken(engine, found, order, k)


@lru_cache(maxsize=64)
def _distinct(dtype: str) -> str:
    x, v = C_TYPE[dtype][0], C_TYPE[dtype][1]
    return f"""
__kernel void begins(const long n, __global const {x} *restrict x, __global long *restrict out) {{
    FOR_EACH(i, n) {{ const {v} v = {load(dtype, "x", "i")}; out[i] = i == 0 || v != {load(dtype, "x", "(i - 1)")}; }}
}}
__kernel void gathered(const long n, __global const {x} *restrict x, __global const long *restrict ranks, __global {x} *restrict values,
        __global long *restrict starts) {{
    FOR_EACH(i, n) {{
        const long rank = ranks[i] - 1;
        if (i == 0 || ranks[i - 1] <= rank) {{ const {v} v = {load(dtype, "x", "i")}; {store(dtype, "values", "rank", "v")} starts[rank] = i; }}
    }}
}}
__kernel void lengths(const long distinct, const long n, __global const long *restrict starts, __global long *restrict out) {{
    FOR_EACH(i, distinct) out[i] = (i + 1 < (size_t)distinct ? starts[i + 1] : n) - starts[i];
}}"""


def unique(engine: Engine, x: Tensor) -> dict[str, Tensor]:
    n = x.size
    if not n:
        return {"values": engine.output((0,), x.dtype), "counts": engine.output((0,), "int64")}
    ordered = _sorted(engine, x.reshaped(1, n))
    source, flags = _distinct(x.dtype), engine.empty((n,), "int64")
    engine.run(source, "begins", n, n, ordered, flags)
    ranks = cumulative_sum(engine, flags)
    distinct = int(engine.read(max_(engine, ranks)))
    values, starts, counts = engine.output((distinct,), x.dtype), engine.empty((distinct,), "int64"), engine.output((distinct,), "int64")
    engine.run(source, "gathered", n, n, ordered, ranks, values, starts)
    engine.run(source, "lengths", distinct, distinct, n, starts, counts)
    return {"values": values, "counts": counts}


@lru_cache(maxsize=16)
def _interpolating(dtype: str) -> str:
    x, v = C_TYPE[dtype]
    return f"""
__kernel void quantile(const long items, const long rows, const long n, __global const {x} *restrict x, __global const double *restrict q,
        __global {x} *restrict out) {{
    FOR_EACH(i, items) {{
        const size_t row = (i % rows) * n;
        const double place = q[i / rows] * (n - 1);
        const {v} low = {load(dtype, "x", "(row + (size_t)floor(place))")}, high = {load(dtype, "x", "(row + (size_t)ceil(place))")};
        const {v} last = {load(dtype, "x", "(row + n - 1)")};
        const {v} found = isnan(last) ? last : low == high ? low : low + (high - low) * ({v})(place - floor(place));
        {store(dtype, "out", "i", "found")}
    }}
}}"""


def quantile(engine: Engine, x: Tensor, q: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    dtype = inexact(x.dtype)
    x = engine.cast(x, dtype)
    axes = axes_of(x, axis)
    shape = reduced(x.shape, axes, keepdims=keepdims)
    kept = [i for i in range(x.ndim) if i not in axes]
    n, rows = prod(x.shape[i] for i in axes), prod(x.shape[i] for i in kept)
    shares = engine.cast(q, "float64") if isinstance(q, Tensor) else engine.constant(q, "float64")
    if not all(0 <= share <= 1 for share in engine.read(shares).reshape(-1)):
        raise OperationFailed("quantile failed: every number of `q` must be between 0 and 1", field="q")
    out = engine.output((*shares.shape, *shape), dtype)
    lines = _sorted(engine, engine.permuted(x, [*kept, *axes]).reshaped(rows, n))
    engine.run(_interpolating(dtype), "quantile", out.size, out.size, rows, n, lines, shares, out)
    return out


_HISTOGRAM = """
__kernel void edges(const long n, const double low, const double high, __global double *restrict out) {
    FOR_EACH(i, n) out[i] = i + 1 == (size_t)n ? high : i * ((high - low) / (n - 1)) + low;
}
__kernel void binned(const long items, const long n, const long bins, __global const X *restrict x, __global const double *restrict edges,
        __global uint *restrict counts) {
    FOR_EACH(item, items) {
        __global uint *own = counts + item * bins;
        const double low = edges[0], high = edges[bins], scale = bins / (high - low);
        const size_t each = (n + items - 1) / items;
        for (long b = 0; b < bins; ++b) own[b] = 0;
        for (size_t i = item * each; i < min((size_t)n, (item + 1) * each); ++i) {
            const double v = GET(i);
            if (!(v >= low && v <= high)) continue;
            long b = min(bins - 1, max(0l, (long)((v - low) * scale)));
            while (b > 0 && v < edges[b]) --b;
            while (b < bins - 1 && v >= edges[b + 1]) ++b;
            ++own[b];
        }
    }
}"""


def histogram(engine: Engine, x: Tensor, bins: int = 10, range: tuple[float, float] | None = None) -> dict[str, Tensor]:
    n = x.size
    flat = x.reshaped(n)
    low, high = range or ((float(engine.read(min_(engine, flat))), float(engine.read(max_(engine, flat)))) if n else (0.0, 1.0))
    if not (low > -inf and high < inf):
        raise OperationFailed("histogram failed: `x` holds NaN or infinity; give `range` to leave them out", field="x")
    if low == high:
        low, high = low - 0.5, high + 0.5
    source = f"#define X {C_TYPE[x.dtype][0]}\n#define GET(k) {load(x.dtype, 'x', '(k)')}\n{_HISTOGRAM}"
    edges = engine.output((bins + 1,), "float64")
    engine.run(source, "edges", bins + 1, bins + 1, np.float64(low), np.float64(high), edges)
    items = max(1, min(engine.device.units * (4 if engine.device.processor else 256), (1 << 24) // bins, n >> 10))
    counts = engine.empty((items, bins), "uint32")
    engine.run(source, "binned", items, items, n, bins, flat, edges, counts, work=8 * -(-n // items))
    return {"counts": engine.cast(sum_(engine, counts, 0), "int64"), "edges": edges}
