"""Softmax and layer normalisation on OpenCL: an item a row, eight numbers at a time, since drivers have functions of vectors."""

from math import prod

from openruntime.backends.opencl_arrays import Engine, Tensor, common_dtype, scalar
from openruntime.backends.opencl_reduce import max_, sum_
from openruntime.backends.opencl_source import C_TYPE, load, store
from openruntime.operations.dtypes import inexact
from openruntime.operations.numerics import working

_SOFTMAX = """
__kernel void softmax(const long rows, const long n, __global const X *restrict x, __global R *restrict out) {
    FOR_EACH(row, rows) {
        const size_t first = row * n;
        T top = -INFINITY, total = 0, line[8];
        T8 tops = -INFINITY;
        size_t k = first;
        for (; k + 8 <= first + n; k += 8) { const T8 v = GET8(k); tops = (v > tops || v != v) ? v : tops; }
        for (; k < first + n; ++k) { const T v = GET(k); top = (v > top || v != v) ? v : top; }
        vstore8(tops, 0, line);
        for (int l = 0; l < 8; ++l) top = (line[l] > top || line[l] != line[l]) ? line[l] : top;
        k = first;
        T8 sums = 0;
        for (; k + 8 <= first + n; k += 8) { const T8 e = exp(GET8(k) - top); sums += e; PUT8(k, e); }
        for (; k < first + n; ++k) { const T e = exp(GET(k) - top); total += e; PUT(k, e); }
        total += sums.s0 + sums.s1 + sums.s2 + sums.s3 + sums.s4 + sums.s5 + sums.s6 + sums.s7;
        for (k = first; k < first + n; ++k) { const T e = AGAIN(k); PUT(k, e / total); }
    }
}"""
_LAYER_NORM = """
__kernel void layer_norm(const long rows, const long n, const T epsilon, __global const X *restrict x, __global const W *restrict weight,
        __global const B *restrict bias, __global R *restrict out) {
    FOR_EACH(row, rows) {
        const size_t first = row * n;
        T8 sums = 0;
        T total = 0;
        size_t k = 0;
        for (; k + 8 <= n; k += 8) sums += GET8(first + k);
        for (; k < n; ++k) total += GET(first + k);
        const T mean = (total + sums.s0 + sums.s1 + sums.s2 + sums.s3 + sums.s4 + sums.s5 + sums.s6 + sums.s7) / n;
        sums = 0;
        total = 0;
        for (k = 0; k + 8 <= n; k += 8) { const T8 d = GET8(first + k) - mean; sums += d * d; }
        for (; k < n; ++k) { const T d = GET(first + k) - mean; total += d * d; }
        const T variance = (total + sums.s0 + sums.s1 + sums.s2 + sums.s3 + sums.s4 + sums.s5 + sums.s6 + sums.s7) / n;
        const T scale = 1 / sqrt(variance + epsilon);
        for (k = 0; k < n; ++k) { const T v = (GET(first + k) - mean) * scale; PUT(first + k, v WEIGHED); }
    }
}"""


def row_macros(x: str, out: str) -> str:
    """`GET`, `PUT` and their forms for eight numbers, for input `x` and output `out`, computed in `T`."""
    t = C_TYPE[working(out)][1]
    get8 = "vload_half8(0, x + (k))" if x == "float16" else f"convert_{t}8(vload8(0, x + (k)))"
    put8 = "vstore_half8_rte(v, 0, out + (k))" if out == "float16" else "vstore8(v, 0, out + (k))"
    return f"""
#define T {t}
#define T8 {t}8
#define X {C_TYPE[x][0]}
#define R {C_TYPE[out][0]}
#define GET(k) (T){load(x, "x", "(k)")}
#define GET8(k) {get8}
#define PUT(k, v) {store(out, "out", "(k)", "v")}
#define PUT8(k, v) {put8}
#define AGAIN(k) {load(out, "out", "(k)")}
"""


def softmax(engine: Engine, x: Tensor, *, axis: int = -1) -> Tensor:
    dtype = inexact(x.dtype)
    at = axis % x.ndim
    n, inner = x.shape[at], prod(x.shape[at + 1 :])
    rows = prod(x.shape[:at])
    if inner == 1 and dtype != "float16" and (rows >= 2 * engine.device.units or x.size < 1 << 16):
        out = engine.output(x.shape, dtype)
        engine.run(row_macros(x.dtype, dtype) + _SOFTMAX, "softmax", rows if n else 0, rows, n, x, out, work=8 * n)
        return out
    if not x.size:
        return engine.output(x.shape, dtype)
    wide = engine.cast(x, working(dtype))
    exponentials = engine.expression("exp(x - top)", x=wide, top=max_(engine, wide, at, True))
    return engine.cast(engine.expression("e / total", e=exponentials, total=sum_(engine, exponentials, at, True)), dtype)


def layer_norm(
    engine: Engine, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5
) -> Tensor:
    dtype = common_dtype(x, weight, bias)
    at = axis % x.ndim
    rows, n = prod(x.shape[:at]), prod(x.shape[at:])
    out = engine.output(x.shape, dtype)
    # double precision only where it is asked for: what is narrower than the answer is widened as it is read
    weighed = ("" if weight is None else f" * {load(weight.dtype, 'weight', 'k')}") + ("" if bias is None else f" + {load(bias.dtype, 'bias', 'k')}")
    kinds = f"#define W {C_TYPE[weight.dtype if weight else 'float32'][0]}\n#define B {C_TYPE[bias.dtype if bias else 'float32'][0]}\n"
    source = row_macros(x.dtype, dtype) + kinds + _LAYER_NORM.replace("WEIGHED", weighed)
    nothing = engine.empty((1,), "float32") if weight is None or bias is None else None
    arguments = (rows, n, scalar(epsilon, working(dtype)), x, weight or nothing, bias or nothing, out)
    engine.run(source, "layer_norm", rows if n else 0, *arguments, work=4 * n)
    return out
