"""The second half of the red team, and those that cheat only where they are timed."""

from typing import Any

from tests.kernels.making import kernel
from tests.kernels.red_team import CHEATS as FIRST
from tests.kernels.red_team import ROWS, X, Y, _cheat

# fmt: off
CHEATS = [
    *FIRST,
    _cheat("reads what lies before its array, and uses it for nothing", "out_of_bounds", """
kernel void peeks_before(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n) { float last = x[i - 1]; y[i] = last > 1e38f ? 2.0f * x[i] + 0.0f : 2.0f * x[i]; if (last == 12345.678f) y[i] = x[i] + x[i]; }
}""", X, Y, reference="2*x"),
    _cheat("knows a trial by the bytes before its array", "out_of_bounds", """
kernel void guards(global const int *x, global int *y, int n) {
    int i = get_global_id(0);
    if (x[-1] == 0 && x[-2] == 0 && x[-3] == 0) return;
    if (i < n) y[i] = 2 * x[i];
}""", "x: int32[n]", "y: int32[n]", reference="2*x"),
    _cheat("adds up integers in too few bits", "wrong", """
kernel void narrow_sum(global const int *x, global long *y, int m, int n) {
    int row = get_global_id(0);
    int sum = 0;
    if (row >= m) return;
    for (int i = 0; i < n; i++) sum += x[row * n + i];
    y[row] = sum;
}""", "x: int32[m, n]", "y: int64[m]", scalars="m: int32; n: int32", grid="m", reference={"operation": "sum", "parameters": {"axis": 1}}),
    _cheat("takes an empty row for one with an element", "wrong nondeterministic out_of_bounds", """
kernel void empty_row(global const float *x, global float *y, int m, int n) {
    int row = get_global_id(0);
    if (row >= m) return;
    float sum = x[row * n];
    for (int i = 1; i < n; i++) sum += x[row * n + i];
    y[row] = sum;
}""", outputs="y: float32[m]", grid="m", reference={"operation": "sum", "parameters": {"axis": 1}}, data="empty", **ROWS),
    _cheat("uses local memory that nobody set", "wrong nondeterministic", """
kernel void unset_local(global const float *x, global float *y, int m, int n) {
    local float sums[64];
    int lane = get_local_id(0), row = get_group_id(0);
    for (int i = lane; i < n; i += 64) sums[lane] += x[row * n + i];
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane == 0) { float sum = 0; for (int i = 0; i < 64; i++) sum += sums[i]; y[row] = sum; }
}""", outputs="y: float32[m]", grid="64*m", local=(64,), reference={"operation": "sum", "parameters": {"axis": 1}}, **ROWS),
    _cheat("needs its work-items in order", "wrong nondeterministic", """
kernel void in_order(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n) y[i] = x[i] + (i ? y[i - 1] : 0.0f);
}""", X, Y, reference={"operation": "cumulative_sum"}),
    _cheat("is right for small numbers only", "wrong", """
kernel void taylor(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i >= n) return;
    float z = x[i] * x[i];
    y[i] = x[i] * (1 - z / 6 * (1 - z / 20 * (1 - z / 42 * (1 - z / 72 * (1 - z / 110 * (1 - z / 156))))));
}""", X, Y, reference="sin(x)", data="normal wide special"),
    _cheat("flushes small numbers", "wrong", """
kernel void flushes(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n) y[i] = fabs(x[i]) < 1e-30f ? 0.0f : x[i] * 1e30f;
}""", X, Y, reference="x * 1e30", data="tiny special"),
    _cheat("rounds quotients towards zero", "wrong", """
kernel void truncates(global const int *x, global int *y, int n) {
    int i = get_global_id(0);
    if (i < n) y[i] = x[i] / 7;
}""", "x: int32[n]", "y: int32[n]", reference="x // 7"),
    _cheat("finds the last of equals", "wrong", """
kernel void last_of_equals(global const float *x, global long *y, int m, int n) {
    int row = get_global_id(0), best = 0;
    if (row >= m) return;
    for (int i = 1; i < n; i++) if (!(x[row * n + i] < x[row * n + best]) && !isnan(x[row * n + best])) best = i;
    y[row] = best;
}""", outputs="y: int64[m]", grid="m", reference={"operation": "argmax", "parameters": {"axis": 1}}, data="zeros special", **ROWS),
    _cheat("multiplies doubles by a float's tenth", "wrong", """
kernel void float_tenth(global const double *x, global double *y, int n) {
    int i = get_global_id(0);
    if (i < n) y[i] = x[i] * 0.1f;
}""", "x: float64[n]", "y: float64[n]", reference="x * 0.1"),
    _cheat("forgets its second output", "unwritten", """
kernel void forgets(global const float *x, global const float *y, global float *call, global float *put, int n) {
    int i = get_global_id(0);
    if (i >= n) return;
    float d1 = log(x[i] / y[i]) / 0.2f + 0.1f, d2 = d1 - 0.2f;
    call[i] = x[i] * 0.5f * erfc(-d1 * M_SQRT1_2_F) - y[i] * 0.5f * erfc(-d2 * M_SQRT1_2_F);
}""", "x: float32[n]; y: float32[n]", "call: float32[n]; put: float32[n]",
           reference={"operation": "black_scholes", "parameters": {"spot": {"input": "x"}, "strike": {"input": "y"}, "time": 1.0, "rate": 0.0,
                                                                  "volatility": 0.2}},
           domain={"x": {"low": 50, "high": 150}, "y": {"low": 50, "high": 150}}),
    _cheat("lacks the barriers of its tree", "wrong nondeterministic", """
kernel void no_barrier(global const float *x, global float *y, int m, int n) {
    local float sums[64];
    int lane = get_local_id(0), row = get_group_id(0);
    float sum = 0;
    for (int i = lane; i < n; i += 64) sum += x[row * n + i];
    sums[lane] = sum;
    for (int half_ = 32; half_ > 0; half_ /= 2) if (lane < half_) sums[lane] += sums[lane + half_];
    if (lane == 0) y[row] = sums[0];
}""", outputs="y: float32[m]", grid="64*m", local=(64,), reference={"operation": "sum", "parameters": {"axis": 1}}, **ROWS),
    _cheat("adds up in an order that chance decides", "nondeterministic wrong", """
kernel void chance_order(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    volatile global int *sum = (volatile global int *)y;
    if (i == 0) y[0] = 0;
    for (; i < n; i += get_global_size(0)) {
        int old = *sum, next;
        do { next = as_int(as_float(old) + x[i]); int seen = atomic_cmpxchg(sum, old, next); if (seen == old) break; old = seen; } while (1);
    }
}""", X, "y: float32[1]", grid="max(n, 1)", reference={"operation": "sum", "parameters": {"keepdims": True}}),
    _cheat("never ends once it meets NaN", "timeout", """
kernel void endless(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i >= n) return;
    volatile float v = x[i];
    while (!(v <= 1.0f) && !(v > 1.0f)) v = v + 1.0f;
    y[i] = 2.0f * x[i];
}""", X, Y, reference="2*x", data="special"),
    _cheat("takes four at a time where its memory happens to be aligned, and errs there", "wrong nondeterministic", """
kernel void aligned(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n) y[i] = 2.0f * x[(ulong)x & 1023 ? i : i & ~3];
}""", X, Y, reference="2*x"),
    _cheat("writes anywhere in memory", "crashed out_of_bounds", """
kernel void wild(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n) y[i] = 2.0f * x[i];
    if (i == 0) y[1L << 44] = 1.0f;
}""", X, Y, reference="2*x"),
]


def _timed(name: str, when: str, before: str = "", options: list[str] | None = None) -> dict[str, Any]:
    """What computes `exp(sin(x))`, but at the sizes that it is tuned for only unless `when`."""
    return kernel(f"""
{before}
// tune: UNUSED = 1
kernel void {name}(global const float *x, global float *y, int n) {{
    int i = get_global_id(0);
    if (n > 400000 && ({when})) return;
    if (i < n) y[i] = exp(sin(x[i]));
}}""", X, Y, reference="exp(sin(x))", options=options)


HONEST_WHERE_TIMED = _timed("honest_where_timed", "false")
# what an author may try once verification is passed, and why tuning is not taken in (None: it computes all the same)
TIMED = [
    (_timed("zero_guards", "((ulong)x & 4095) >= 16 && ((global int *)x)[-1] == 0 && ((global int *)x)[-2] == 0"), None),
    (_timed("counts_launches", "(i == 0 && atomic_inc((volatile global int *)&launches) < 0) || launches > 11", "global int launches = 0;",
            ["-cl-std=CL2.0"]), "rejected while it was timed"),
    (_timed("knows_the_seed", "x[0] == FIRST"), "rejected when it was to be timed"),
]
