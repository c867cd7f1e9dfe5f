"""Products of matrices on OpenCL, and what is made of them: linear layers, convolutions of images, attention.

The right matrix is packed into panels of sixteen columns first (and cast, transposed, or gathered from images on the way); an item multiplies
a few rows by a panel, in registers. Source: Goto and van de Geijn, Anatomy of high-performance matrix multiplication, 2008.
"""

from functools import lru_cache
from math import prod, sqrt
from typing import Any, NamedTuple

import numpy as np

from openruntime.backends.opencl_arrays import Engine, Tensor, common_dtype, contiguous, scalar
from openruntime.backends.opencl_source import C_TYPE, load, store
from openruntime.operations.dtypes import KIND, promote
from openruntime.operations.numerics import BLOCK, blocks, working

_PANEL = 16
_ROWS = 8
_FEW = 4  # columns up to which each answer is a dot product of its own


class Gather(NamedTuple):
    """Where element (k, j) of the right matrix stands, in C: `start` what holds for all of a panel's row, `element` one of it, `after` what
    leads to the next j. `parameters`: further arguments; `values`: what they are given."""

    element: str
    start: str = ""
    after: str = ""
    parameters: str = ""
    values: tuple[Any, ...] = ()


PLAIN = "b[offset + batch * stride + k * width + j]"
TRANSPOSED = "b[offset + batch * stride + j * width + k]"


def _work(dtype: str) -> str:
    """The C type to multiply in: integers wrap around in the unsigned one."""
    kind, bits = KIND[dtype]
    return ("ulong" if bits == 64 else "uint") if kind in "iu" else C_TYPE[dtype][1]


def _read(dtype: str, at: str) -> str:
    pointer, index = at.split("[", 1)
    return load(dtype, pointer, index.rsplit("]", 1)[0])


@lru_cache(maxsize=256)
def _packing(given: str, dtype: str, element: str, start: str, after: str, parameters: str) -> str:
    t = _work(dtype)
    return f"""
__kernel void pack(const long items, const long batches, const long depth, const long columns, const long panels, const long offset,
        const long stride, const long width, __global const {C_TYPE[given][0]} *restrict b{parameters}, __global {t} *restrict out) {{
    FOR_EACH(item, items) {{
        const size_t batch = item / (panels * depth), panel = item / depth % panels, k = item % depth;
        {start}
        for (size_t l = 0; l < {_PANEL}; ++l) {{
            const size_t j = panel * {_PANEL} + l;
            out[item * {_PANEL} + l] = j < (size_t)columns ? ({t}){element} : 0;
            {after}
        }}
    }}
}}"""


def _added(dtype: str, sums: str, left: str) -> str:
    t = _work(dtype)
    return f"{sums} = fma(({t}16)({t}){left}, right, {sums});" if KIND[dtype][0] == "f" else f"{sums} += ({t}){left} * right;"


@lru_cache(maxsize=256)
def _multiplying(left: str, dtype: str, bias: str, rows: int) -> str:
    t = _work(dtype)
    added = f" + ({t}){load(bias, 'bias', 'BIAS')}" if bias else ""
    more = f"__global const {C_TYPE[bias][0]} *restrict bias, " if bias else ""
    lines = range(rows)
    sums = " ".join(f"{t}16 s{r} = 0;" for r in lines)
    starts = " ".join(f"const size_t a{r} = a_offset + batch * a_stride + min(i + {r}, (size_t)m - 1) * depth;" for r in lines)
    steps = " ".join(f"{_added(dtype, f's{r}', load(left, 'a', f'a{r} + k'))}" for r in lines)
    saved = " ".join(f"if (i + {r} < (size_t)m) {{ vstore16(s{r}, 0, line); ROW({r}) }}" for r in lines)
    put = store(dtype, "out", "to + i_ * row_stride + j / span * span_stride + j % span", f"({C_TYPE[dtype][1]})(line[l]{added})")
    return f"""
#pragma OPENCL FP_CONTRACT ON
#define ROW(r) for (size_t l = 0; l < {_PANEL} && panel * {_PANEL} + l < (size_t)columns; ++l) {{ \\
        const size_t j = panel * {_PANEL} + l, i_ = i + r; {put} }}
__kernel void multiply(const long items, const long m, const long depth, const long columns, const long panels, const long a_offset,
        const long a_stride, const long b_stride, const long out_offset, const long out_stride, const long row_stride, const long span,
        const long span_stride, __global const {C_TYPE[left][0]} *restrict a, __global const {t} *restrict packed,
        {more}__global {C_TYPE[dtype][0]} *restrict out) {{
    const size_t groups = (m + {rows} - 1) / {rows};
    FOR_EACH(item, items) {{
        const size_t batch = item / (panels * groups), panel = item / groups % panels, i = item % groups * {rows};
        __global const {t} *restrict right_ = packed + batch * b_stride + panel * depth * {_PANEL};
        {starts}
        {sums}
        for (size_t k = 0; k < (size_t)depth; ++k) {{ const {t}16 right = vload16(k, right_); {steps} }}
        {t} line[{_PANEL}];
        const size_t to = out_offset + batch * out_stride;
        {saved}
    }}
}}""".replace("BIAS", "j" if bias != "" else "")


@lru_cache(maxsize=64)
def _dotting(left: str, right: str, dtype: str, element: str, bias: str) -> str:
    """For few columns, and for complex numbers: each answer by itself."""
    t, complex_ = _work(dtype), KIND[dtype][0] == "c"
    to = C_TYPE[dtype][1]
    a, b = load(left, "a", "(a_offset + batch * a_stride + i * depth + k)"), element

    def widened(given: str, value: str) -> str:
        return f"convert_{t}({value})" if KIND[given][0] == "c" else f"({t})({value}, 0)" if complex_ else f"({t}){value}"

    term = f"const {t} u = {widened(left, a)}, v = {widened(right, b)};"
    add = f"total += ({t})(u.x * v.x - u.y * v.y, u.x * v.y + u.y * v.x);" if complex_ else "total += u * v;"
    added = f" + ({t}){load(bias, 'bias', 'j')}" if bias else ""
    more = f"__global const {C_TYPE[bias][0]} *restrict bias, " if bias else ""
    return f"""
__kernel void dot_(const long items, const long m, const long depth, const long columns, const long a_offset, const long a_stride,
        const long offset, const long stride, const long width, const long out_offset, const long out_stride, const long row_stride,
        __global const {C_TYPE[left][0]} *restrict a, __global const {C_TYPE[right][0]} *restrict b, {more}
        __global {C_TYPE[dtype][0]} *restrict out) {{
    FOR_EACH(item, items) {{
        const size_t j = item % columns, i = item / columns % m, batch = item / columns / m;
        {t} total = 0;
        for (size_t k = 0; k < (size_t)depth; ++k) {{ {term} {add} }}
        {store(dtype, "out", "out_offset + batch * out_stride + i * row_stride + j", f"({to})(total{added})")}
    }}
}}"""


class Product(NamedTuple):
    """Extents, and where operands and answers lie: offsets, and strides from matrix to matrix, in elements. Answers of row i and column j are
    `row_stride` apart by rows, and by columns `span_stride` after every `span`."""

    batch: int
    m: int
    depth: int
    columns: int
    a_stride: int
    b_stride: int
    out_stride: int
    a_offset: int = 0
    b_offset: int = 0
    out_offset: int = 0
    row_stride: int = 0
    span: int = 0
    span_stride: int = 0


def multiply(engine: Engine, a: Tensor, b: Tensor, out: Tensor, p: Product, *, transposed: bool = False, bias: Tensor | None = None) -> None:
    """`a @ b + bias` into `out`; `b` is (columns, depth) where it is `transposed`, else (depth, columns)."""
    width = p.depth if transposed else p.columns
    element = _read(b.dtype, TRANSPOSED if transposed else PLAIN)
    bias_dtype = bias.dtype if bias else ""
    extra = [bias] if bias else []
    if KIND[out.dtype][0] == "c" or p.columns <= _FEW or p.m * p.columns * p.batch < 64:
        source = _dotting(a.dtype, b.dtype, out.dtype, element, bias_dtype)
        items = p.batch * p.m * p.columns
        strides = (p.a_offset, p.a_stride, p.b_offset, p.b_stride, width, p.out_offset, p.out_stride, p.row_stride or p.columns)
        engine.run(source, "dot_", items, items, p.m, p.depth, p.columns, *strides, a, b, *extra, out, work=2 * p.depth)
        return
    gather = Gather(element)
    packed = pack(engine, b, gather, p.batch if p.b_stride else 1, p.depth, p.columns, out.dtype, (p.b_offset, p.b_stride, width))
    multiply_packed(engine, a, packed, out, p, bias)


def pack(engine: Engine, b: Tensor, gather: Gather, batches: int, depth: int, columns: int, dtype: str, where: tuple[int, int, int]) -> Tensor:
    panels = -(-columns // _PANEL)
    items = batches * panels * depth
    packed = engine.empty((batches, panels, depth, _PANEL), {"ulong": "uint64", "uint": "uint32"}.get(_work(dtype), working(dtype)))
    source = _packing(b.dtype, dtype, gather.element, gather.start, gather.after, gather.parameters)
    engine.run(source, "pack", items, items, batches, depth, columns, panels, *where, b, *gather.values, packed, work=_PANEL)
    return packed


def multiply_packed(engine: Engine, a: Tensor, packed: Tensor, out: Tensor, p: Product, bias: Tensor | None = None) -> None:
    rows = min(_ROWS, p.m)
    panels = packed.shape[1]
    items = p.batch * panels * -(-p.m // rows)
    b_stride = panels * p.depth * _PANEL if packed.shape[0] > 1 else 0
    source = _multiplying(a.dtype, out.dtype, bias.dtype if bias else "", rows)
    where = (p.a_offset, p.a_stride, b_stride, p.out_offset, p.out_stride, p.row_stride or p.columns, p.span or max(1, p.columns), p.span_stride)
    extra = [bias] if bias else []
    engine.run(source, "multiply", items, items, p.m, p.depth, p.columns, panels, *where, a, packed, *extra, out, work=4 * rows * p.depth)


def matmul(engine: Engine, a: Tensor, b: Tensor) -> Tensor:
    dtype = promote(a.dtype, b.dtype)
    left = a.reshaped(1, *a.shape) if a.ndim == 1 else a
    right = b.reshaped(*b.shape, 1) if b.ndim == 1 else b
    stack = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    shape = (*stack, *a.shape[-2:-1], *(b.shape[-1:] if b.ndim > 1 else ()))
    out = engine.output(shape, dtype)
    (m, depth), columns, batch = left.shape[-2:], right.shape[-1], prod(stack)
    if not out.size:
        return out
    if not depth:
        return engine.filled(shape, dtype)
    if prod(right.shape[:-2]) == 1 and left.shape[:-2] == stack:
        m, batch = m * batch, 1  # one matrix on the right: a taller one on the left
    left = left if prod(left.shape[:-2]) == 1 else engine.broadcast(left, (*stack, *left.shape[-2:]))
    right = right if prod(right.shape[:-2]) == 1 else engine.broadcast(right, (*stack, *right.shape[-2:]))
    a_stride, b_stride = (m * depth if prod(left.shape[:-2]) > 1 else 0), (depth * columns if prod(right.shape[:-2]) > 1 else 0)
    multiply(engine, left, right, out, Product(batch, m, depth, columns, a_stride, b_stride, m * columns))
    return out


def linear(engine: Engine, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dtype = common_dtype(x, weight, bias)
    outputs, inputs = weight.shape
    out = engine.output((*x.shape[:-1], outputs), dtype)
    rows = prod(x.shape[:-1])
    if inputs and out.size:
        multiply(engine, x, weight, out, Product(1, rows, inputs, outputs, 0, 0, 0), transposed=True, bias=bias)
    elif bias is not None and out.size:
        engine.copy(bias, out, out.shape, [*[0] * (out.ndim - 1), 1])
    elif out.size:
        return engine.filled(out.shape, dtype)
    return out


# k counts channels and taps of the kernel, j positions of all images' outputs
_COLUMN_START = """const long channel = offset + k / taps, ky = k % taps / kernel_x * gap_y - top, kx = k % kernel_x * gap_x - left;
        const size_t position = panel * 16 % area;
        size_t image = first + panel * 16 / area;
        long oy = position / across, ox = position % across;"""
_COLUMN_WITHIN = "oy * down + ky >= 0 && oy * down + ky < height && ox * right + kx >= 0 && ox * right + kx < width"
_COLUMN_PLACE = "(((image * channels + channel) * height + oy * down + ky) * width + ox * right + kx)"
_COLUMN_AFTER = "if (++ox == across) { ox = 0; if (++oy == area / across) { oy = 0; ++image; } }"
_COLUMN_PARAMETERS = (
    ", const long taps, const long kernel_x, const long area, const long across, const long top, const long left, const long down, const long right,"
    " const long gap_y, const long gap_x, const long height, const long channels, const long first"
)


def conv2d(
    engine: Engine, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Tensor:
    dtype = common_dtype(x, weight, bias)
    (down, right), (top, left), (gap_y, gap_x) = (value if not isinstance(value, int) else (value, value) for value in (stride, padding, dilation))
    images, channels, height, width = x.shape
    outputs, inputs, kernel_y, kernel_x = weight.shape
    tall = (height + 2 * top - gap_y * (kernel_y - 1) - 1) // down + 1
    across = (width + 2 * left - gap_x * (kernel_x - 1) - 1) // right + 1
    shape, area, taps = (images, outputs, tall, across), tall * across, kernel_y * kernel_x
    out = engine.output(shape, dtype)
    if not out.size:
        return out
    if not inputs:
        if bias is None:
            return engine.filled(shape, dtype)
        engine.copy(bias, out, shape, (0, 1, 0, 0))
        return out
    element = f"({_COLUMN_WITHIN} ? {load(x.dtype, 'b', _COLUMN_PLACE)} : 0)"
    depth, each = inputs * taps, outputs // groups
    for some in blocks(images, depth * area):
        columns = (some.stop - some.start) * area
        for group in range(groups):
            values = (taps, kernel_x, area, across, top, left, down, right, gap_y, gap_x, height, channels, some.start)
            gather = Gather(element, _COLUMN_START, _COLUMN_AFTER, _COLUMN_PARAMETERS, values)
            packed = pack(engine, x, gather, 1, depth, columns, dtype, (group * inputs, 0, width))
            product = Product(
                1, each, depth, columns, 0, 0, 0, a_offset=group * each * depth, row_stride=area, span=area, span_stride=outputs * area,
                out_offset=(some.start * outputs + group * each) * area,
            )  # fmt: skip
            multiply_packed(engine, weight, packed, out, product)
    if bias is not None:
        engine.run(_biasing(bias.dtype, dtype), "biased", out.size, out.size, area, outputs, bias, out)
    return out


@lru_cache(maxsize=16)
def _biasing(bias: str, dtype: str) -> str:
    value = f"{load(dtype, 'out', 'i')} + ({C_TYPE[dtype][1]}){load(bias, 'bias', '(i / area % outputs)')}"
    return f"""
__kernel void biased(const long n, const long area, const long outputs, __global const {C_TYPE[bias][0]} *restrict bias,
        __global {C_TYPE[dtype][0]} *restrict out) {{
    FOR_EACH(i, n) {{ {store(dtype, "out", "i", value)} }}
}}"""


_WEIGHING = """
__kernel void weighed(const long items, const long rows, const long m, const long first, const long causal, const T scale, const long batch_stride,
        const long row_stride, const long key_stride, __global const M *restrict mask, __global T *restrict scores) {
    FOR_EACH(item, items) {
        const size_t batch = item / rows, row = first + item % rows, until = causal ? min((size_t)m, row + 1) : m;
        __global T *line = scores + item * m;
        T top = -INFINITY;
        T8 sums = 0;
        T total = 0;
        for (size_t j = 0; j < until; ++j) {
            T v = line[j] * scale;
            MASKED
            line[j] = v;
            top = (v > top || v != v) ? v : top;
        }
        if (top == -INFINITY) top = 0;
        size_t j = 0;
        for (; j + 8 <= until; j += 8) { const T8 e = exp(vload8(0, line + j) - top); sums += e; vstore8(e, 0, line + j); }
        for (; j < until; ++j) { const T e = exp(line[j] - top); total += e; line[j] = e; }
        total += sums.s0 + sums.s1 + sums.s2 + sums.s3 + sums.s4 + sums.s5 + sums.s6 + sums.s7;
        if (total == 0) total = 1;
        for (j = 0; j < until; ++j) line[j] /= total;
        for (; j < (size_t)m; ++j) line[j] = 0;
    }
}"""


def attention(
    engine: Engine, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False, scale: float | None = None
) -> Tensor:
    dtype = common_dtype(q, k, v)
    batch = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    (n, d), (m, e), count = q.shape[-2:], v.shape[-2:], prod(batch)
    out = engine.output((*batch, n, e), dtype)
    if 0 in (count, n, m, e):
        return engine.filled(out.shape, dtype) if out.size else out
    wide = working(dtype)
    q, k, v = (engine.broadcast(x, (*batch, *x.shape[-2:])) if prod(x.shape[:-2]) > 1 else x for x in (q, k, v))
    steps = [0 if prod(x.shape[:-2]) == 1 else x.shape[-1] * x.shape[-2] for x in (q, k, v)]
    at = "mask[batch * batch_stride + row * row_stride + j * key_stride]"
    masked, mask_strides = "", (0, 0, 0)
    if mask is not None:
        mask = mask.reshaped(*[1] * (2 - mask.ndim), *mask.shape)
        if prod(mask.shape[:-2]) > 1:
            mask = engine.broadcast(mask, (*batch, *mask.shape[-2:]))
        own = contiguous(mask.shape)
        far = mask.shape[-1] * mask.shape[-2] if prod(mask.shape[:-2]) > 1 else 0
        mask_strides = (far, own[-2] if mask.shape[-2] > 1 else 0, 1 if mask.shape[-1] > 1 else 0)
        masked = f"if (!{at}) v = -INFINITY;" if mask.dtype == "bool" else f"v += (T){_read(mask.dtype, at)};"
    t = C_TYPE[wide][1]
    kind = C_TYPE[mask.dtype][0] if mask else "uchar"
    source = f"#define T {t}\n#define T8 {t}8\n#define M {kind}\n" + _WEIGHING.replace("MASKED", masked)
    factor = scalar(1 / sqrt(max(1, d)) if scale is None else scale, wide)
    for part in blocks(n, count * m, 4 * BLOCK):
        rows = part.stop - part.start
        scores = engine.empty((count, rows, m), wide)
        if d:
            product = Product(count, rows, d, m, steps[0], steps[1], rows * m, a_offset=part.start * d)
            multiply(engine, q, k, scores, product, transposed=True)
        else:
            scores = engine.filled(scores.shape, wide)
        where = (rows, m, part.start, int(causal), factor, *mask_strides, mask or scores, scores)
        engine.run(source, "weighed", count * rows, count * rows, *where, work=8 * m)
        product = Product(count, rows, m, e, rows * m, steps[2], n * e, out_offset=part.start * e, row_stride=e)
        multiply(engine, scores, v, out, product)
    return out
