"""Kernels that do what they say, in the ways that people write them: verification has to accept every one."""

from typing import Any

from benchmarks.kernels import SOURCES, WORKS
from tests.kernels.making import kernel

X, Y, MATRIX = "x: float32[n]", "y: float32[n]", "m: int32; n: int32"
FINITE = {"finite": True}


def naive(name: str) -> dict[str, Any]:
    """One of those that the benchmark tunes against."""
    work = WORKS[name]
    grid, local = work.naive
    source = (SOURCES / "naive" / f"{name}.cl").read_text()
    return kernel(
        source, "; ".join(work.inputs), "; ".join(work.outputs), grid=tuple(grid), local=tuple(local), scalars="; ".join(work.scalars),
        reference=work.reference,
    )  # fmt: skip


# fmt: off
KERNELS = [
    *map(naive, WORKS),
    kernel("""
kernel void gelu(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n) y[i] = 0.5f * x[i] * (1.0f + tanh(0.7978845608f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
}""", X, Y, reference="0.5 * x * (1 + tanh(0.7978845608 * (x + 0.044715 * x*x*x)))", domain={"x": FINITE}),
    kernel("""
kernel void wide_loads(global const float *x, global float *y, int n) {
    int i = 8 * get_global_id(0);
    if (i + 8 <= n) vstore8(sqrt(fabs(vload8(0, x + i))), 0, y + i);
    else for (; i < n; i++) y[i] = sqrt(fabs(x[i]));
}""", X, Y, grid="ceildiv(n, 8)", reference="sqrt(abs(x))"),
    kernel("""
kernel void strided_loop(global const float *x, global float *y, int n) {
    for (int i = get_global_id(0); i < n; i += get_global_size(0)) y[i] = sin(x[i]) + exp(-x[i] * x[i]);
}""", X, Y, grid=("256",), reference="sin(x) + exp(-x*x)"),
    kernel("""
kernel void transpose_tiled(global const float *x, global float *y, int m, int n) {
    local float tile[16][17];
    int i = get_group_id(0) * 16, j = get_group_id(1) * 16, a = get_local_id(0), b = get_local_id(1);
    if (i + b < m && j + a < n) tile[b][a] = x[(i + b) * n + j + a];
    barrier(CLK_LOCAL_MEM_FENCE);
    if (j + b < n && i + a < m) y[(j + b) * m + i + a] = tile[a][b];
}""", "x: float32[m, n]", "y: float32[n, m]", scalars=MATRIX, grid=("m", "n"), local=(16, 16),
           reference={"operation": "einsum", "parameters": {"subscripts": "ij->ji", "a": {"input": "x"}}}),
    kernel("""
kernel void matmul_tiled(global const float *a, global const float *b, global float *c, int m, int k, int n) {
    local float left[8][8], right[8][8];
    int x = get_local_id(0), y = get_local_id(1), j = get_global_id(0), i = get_global_id(1);
    float sum = 0;
    for (int p = 0; p < k; p += 8) {
        left[y][x] = i < m && p + x < k ? a[i * k + p + x] : 0;
        right[y][x] = j < n && p + y < k ? b[(p + y) * n + j] : 0;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int q = 0; q < min(8, k - p); q++) sum = fma(left[y][q], right[q][x], sum);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (i < m && j < n) c[i * n + j] = sum;
}""", "a: float32[m, k]; b: float32[k, n]", "c: float32[m, n]", scalars="m: int32; k: int32; n: int32", grid=("n", "m"), local=(8, 8),
           reference={"operation": "matmul"}),
    kernel("""
kernel void tree_sum(global const double *x, global double *y, int n) {
    local double sums[128];
    int lane = get_local_id(0);
    double sum = 0;
    for (int i = lane; i < n; i += 128) sum += x[i];
    sums[lane] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int rest = 64; rest > 0; rest /= 2) {
        if (lane < rest) sums[lane] += sums[lane + rest];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (lane == 0) y[0] = sums[0];
}""", "x: float64[n]", "y: float64[1]", grid=(128,), local=(128,), reference={"operation": "sum", "parameters": {"keepdims": True}}),
    kernel("""
kernel void scan_local(global const int *x, global long *y, int n) {
    local long sums[64];
    int lane = get_local_id(0);
    long before = 0;
    for (int start = 0; start < n; start += 64) {
        long own = start + lane < n ? x[start + lane] : 0;
        sums[lane] = own;
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int step = 1; step < 64; step *= 2) {
            long other = lane >= step ? sums[lane - step] : 0;
            barrier(CLK_LOCAL_MEM_FENCE);
            sums[lane] += other;
            barrier(CLK_LOCAL_MEM_FENCE);
        }
        if (start + lane < n) y[start + lane] = before + sums[lane];
        before += sums[63];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}""", "x: int32[n]", "y: int64[n]", grid=(64,), local=(64,), reference={"operation": "cumulative_sum"}),
    kernel("""
kernel void first_largest(global const float *x, global long *y, int m, int n) {
    int row = get_global_id(0), best = 0;
    if (row >= m) return;
    for (int i = 1; i < n; i++) {
        float most = x[row * n + best], next = x[row * n + i];
        if (!isnan(most) && (next > most || isnan(next))) best = i;
    }
    y[row] = best;
}""", "x: float32[m, n]", "y: int64[m]", scalars=MATRIX, grid="m", reference={"operation": "argmax", "parameters": {"axis": 1}}),
    kernel("""
kernel void clipped(global const short *x, global uchar *y, int n) {
    int i = get_global_id(0);
    if (i < n) y[i] = x[i] > 10 && x[i] % 2 == 0;
}""", "x: int16[n]", "y: bool[n]", reference="(x > 10) & (x % 2 == 0)"),
    kernel("""
kernel void mixed_bits(global const uint *x, global const uint *y, global uint *z, int n) {
    int i = get_global_id(0);
    if (i < n) z[i] = (x[i] ^ (y[i] << 7)) * 2654435761u + (y[i] >> 3);
}""", "x: uint32[n]; y: uint32[n]", "z: uint32[n]", reference="(x ^ (y << 7)) * 2654435761 + (y >> 3)"),
    kernel("""
kernel void complex_product(global const float2 *x, global const float2 *y, global float2 *z, int n) {
    int i = get_global_id(0);
    if (i < n) z[i] = (float2)(x[i].x * y[i].x - x[i].y * y[i].y, x[i].x * y[i].y + x[i].y * y[i].x);
}""", "x: complex64[n]; y: complex64[n]", "z: complex64[n]", reference="x * y", domain={"x": FINITE, "y": FINITE}),
    kernel("""
kernel void halves(global const half *x, global half *y, int n) {
    int i = get_global_id(0);
    if (i < n) vstore_half(1.0f / (1.0f + exp(-vload_half(i, x))), i, y);
}""", "x: float16[n]", "y: float16[n]", reference="1 / (1 + exp(-x))"),
    kernel("""
kernel void sorted_rows(global const int *x, global int *y, int m, int n) {
    int row = get_global_id(0);
    if (row >= m) return;
    global int *line = y + (long)row * n;
    for (int i = 0; i < n; i++) {
        int value = x[row * n + i], at = i;
        for (; at > 0 && line[at - 1] > value; at--) line[at] = line[at - 1];
        line[at] = value;
    }
}""", "x: int32[m, n]", "y: int32[m, n]", scalars=MATRIX, grid="m", reference={"operation": "sort"}),
    kernel("""
kernel void options(global const float *spot, global const float *strike, global float *call, global float *put, float years, int n) {
    int i = get_global_id(0);
    if (i >= n) return;
    float spread = 0.2f * sqrt(years), d1 = (log(spot[i] / strike[i]) + 0.05f * years) / spread + 0.5f * spread, d2 = d1 - spread;
    float owed = strike[i] * exp(-0.05f * years);
    call[i] = spot[i] * 0.5f * erfc(-d1 * M_SQRT1_2_F) - owed * 0.5f * erfc(-d2 * M_SQRT1_2_F);
    put[i] = owed * 0.5f * erfc(d2 * M_SQRT1_2_F) - spot[i] * 0.5f * erfc(d1 * M_SQRT1_2_F);
}""", "spot: float32[n]; strike: float32[n]", "call: float32[n]; put: float32[n]", scalars="years: float32; n: int32",
           reference={"operation": "black_scholes", "parameters": {"time": {"scalar": "years"}, "rate": 0.05, "volatility": 0.2}},
           domain={"spot": {"low": 50, "high": 150}, "strike": {"low": 50, "high": 150}, "years": {"low": 0.1, "high": 2}}),
]
