"""Kernels that cheat or err, each with the findings it must be rejected for: verification has to report at least one of them.

What they claim to compute stands in their reference; most would pass a check on one friendly input.
"""

from typing import Any, NamedTuple

from tests.kernels.making import kernel


class Cheat(NamedTuple):
    what: str
    kernel: dict[str, Any]
    findings: frozenset[str]
    data: frozenset[str]  # the kinds of data of which at least one must show it; empty: any


def _cheat(what: str, findings: str, *args: Any, data: str = "", **options: Any) -> Cheat:
    return Cheat(what, kernel(*args, **options), frozenset(findings.split()), frozenset(data.split()))


X, Y = "x: float32[n]", "y: float32[n]"
SWAPPED = {"operation": "einsum", "parameters": {"subscripts": "ij->ji", "a": {"input": "x"}}}
ROWS = {"inputs": "x: float32[m, n]", "scalars": "m: int32; n: int32"}

# fmt: off
CHEATS = [
    _cheat("does nothing", "unwritten", """
kernel void nothing(global const float *x, global float *y, int n) { }
""", X, Y, reference="2*x"),
    _cheat("adds to what stood in the output", "wrong", """
kernel void stale(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n) y[i] += 2.0f * x[i];
}""", X, Y, reference="2*x"),
    _cheat("trusts an output that looks computed", "unwritten wrong", """
kernel void lazy(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n && isnan(y[i])) y[i] = 2.0f * x[i];
}""", X, Y, reference="2*x"),
    _cheat("answers a constant", "wrong", """
kernel void constant_answer(global const float *x, global float *y, int m, int n) {
    int i = get_global_id(0);
    if (i < m * n) y[i] = 1.0f / n;
}""", outputs="y: float32[m, n]", grid="m*n", reference={"operation": "softmax"}, **ROWS),
    _cheat("works in its input", "input_changed", """
kernel void in_place(global float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n) { x[i] = 2.0f * x[i]; y[i] = x[i]; }
}""", X, Y, reference="2*x"),
    _cheat("reads its neighbours over both ends", "wrong nondeterministic out_of_bounds", """
kernel void past_the_end(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n) y[i] = (x[i] + x[i + 1]) - x[i + 1];
}""", X, Y, reference="x*1"),
    _cheat("reads one element too many, and uses it for nothing", "out_of_bounds", """
kernel void peeks(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n) { float next = x[i + 1]; y[i] = next > 1e38f ? 2.0f * x[i] + 0.0f : 2.0f * x[i]; if (next == 12345.678f) y[i] = x[i] + x[i]; }
}""", X, Y, reference="2*x"),
    _cheat("computes in half precision", "wrong", """
kernel void halved(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    ushort narrow;
    if (i < n) { vstore_half(x[i], 0, (half *)&narrow); y[i] = 2.0f * vload_half(0, (half *)&narrow); }
}""", X, Y, reference="2*x"),
    _cheat("adds doubles up in a float", "wrong", """
kernel void single_sum(global const double *x, global double *y, int m, int n) {
    int row = get_global_id(0);
    float sum = 0;
    if (row >= m) return;
    for (int i = 0; i < n; i++) sum += x[row * n + i];
    y[row] = sum;
}""", "x: float64[m, n]", "y: float64[m]", scalars="m: int32; n: int32", grid="m", reference={"operation": "sum", "parameters": {"axis": 1}}),
    _cheat("adds floats up in a half", "wrong", """
kernel void half_sum(global const float *x, global float *y, int m, int n) {
    int row = get_global_id(0);
    ushort sum = 0;
    if (row >= m) return;
    for (int i = 0; i < n; i++) vstore_half(vload_half(0, (half *)&sum) + x[row * n + i], 0, (half *)&sum);
    y[row] = vload_half(0, (half *)&sum);
}""", outputs="y: float32[m]", grid="m", reference={"operation": "sum", "parameters": {"axis": 1}}, **ROWS),
    _cheat("counts without atomics", "wrong nondeterministic", """
kernel void racing(global const uchar *x, global int *counts, int n) {
    int i = get_global_id(0), stride = get_global_size(0);
    for (int bin = i; bin < 256; bin += stride) counts[bin] = 0;
    for (; i < n; i += stride) counts[x[i]]++;
}""", "x: uint8[n]", "counts: int32[256]", grid="max(n, 1)", reference={"operation": "histogram", "parameters": {"bins": 256, "range": [0, 256]}}),
    _cheat("knows one shape", "wrong unwritten guard out_of_bounds crashed", """
kernel void one_shape(global const float *x, global float *y, int m, int n) {
    int i = get_global_id(0), j = get_global_id(1);
    if (i < m && j < n) y[j * 64 + i] = x[i * 64 + j];
}""", outputs="y: float32[n, m]", grid=("m", "n"), reference=SWAPPED, **ROWS),
    _cheat("swaps the strides of a transpose", "wrong unwritten guard out_of_bounds", """
kernel void stride(global const float *x, global float *y, int m, int n) {
    int i = get_global_id(0), j = get_global_id(1);
    if (i < m && j < n) y[j * n + i] = x[i * n + j];
}""", outputs="y: float32[n, m]", grid=("m", "n"), reference=SWAPPED, **ROWS),
    _cheat("returns early", "unwritten", """
kernel void early(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i >= 200) return;
    if (i < n) y[i] = 2.0f * x[i];
}""", X, Y, reference="2*x"),
    _cheat("writes behind the end of its output", "guard out_of_bounds", """
kernel void behind(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n) y[i] = 2.0f * x[i];
    if (i == 0) y[n] = 0.0f;
}""", X, Y, reference="2*x"),
    _cheat("writes before the start of its output", "guard out_of_bounds", """
kernel void before(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n) y[i] = 2.0f * x[i];
    if (i == 0) y[-1] = 0.0f;
}""", X, Y, reference="2*x"),
    _cheat("does not look where a rounded-up grid ends", "guard out_of_bounds", """
kernel void rounded_up(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    y[i] = 3.0f;
}""", X, Y, local=(64,), reference="x*0 + 3", domain={"x": {"finite": True}}),
    _cheat("leaves the last element out", "wrong", """
kernel void last(global const float *x, global float *y, int m, int n) {
    int row = get_global_id(0);
    float sum = 0;
    if (row >= m) return;
    for (int i = 0; i < n - 1; i++) sum += x[row * n + i];
    y[row] = sum;
}""", outputs="y: float32[m]", grid="m", reference={"operation": "sum", "parameters": {"axis": 1}}, **ROWS),
    _cheat("counts on from the run before", "wrong", """
kernel void counts_on(global const uchar *x, global int *counts, int n) {
    int i = get_global_id(0);
    if (i < n) atomic_inc(counts + x[i]);
}""", "x: uint8[n]", "counts: int32[256]", grid="max(n, 1)", reference={"operation": "histogram", "parameters": {"bins": 256, "range": [0, 256]}}),
    _cheat("swallows NaN", "wrong", """
kernel void no_nan(global const float *x, global float *y, int m, int n) {
    int row = get_global_id(0);
    if (row >= m) return;
    float best = -INFINITY;
    for (int i = 0; i < n; i++) best = fmax(best, x[row * n + i]);
    y[row] = best;
}""", outputs="y: float32[m]", grid="m", reference={"operation": "max", "parameters": {"axis": 1}}, data="special", **ROWS),
    _cheat("takes negative zero for zero", "wrong", """
kernel void signless_zero(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n) y[i] = x[i] == 0.0f ? INFINITY : 1.0f / x[i];
}""", X, Y, reference="1/x", data="special zeros"),
    _cheat("overflows for large numbers", "wrong", """
kernel void unshifted(global const float *x, global float *y, int m, int n) {
    int row = get_global_id(0);
    float sum = 0;
    if (row >= m) return;
    for (int i = 0; i < n; i++) sum += exp(x[row * n + i]);
    for (int i = 0; i < n; i++) y[row * n + i] = exp(x[row * n + i]) / sum;
}""", outputs="y: float32[m, n]", grid="m", reference={"operation": "softmax"}, data="wide special", **ROWS),
]
