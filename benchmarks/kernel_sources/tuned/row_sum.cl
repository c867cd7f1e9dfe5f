// tune: CHAINS = 1, 2, 4
// tune: WG = 1, 4
kernel void row_sum_tuned(global const float *x, global float *y, int m, int n) {
    int row = get_global_id(0);
    if (row >= m) return;
    global const float *from = x + (long)row * n;
    int whole = n - n % (16 * CHAINS);
    float16 sums[CHAINS];
#pragma unroll
    for (int chain = 0; chain < CHAINS; chain++) sums[chain] = 0;
    for (int i = 0; i < whole; i += 16 * CHAINS)
#pragma unroll
        for (int chain = 0; chain < CHAINS; chain++) sums[chain] += vload16(chain, from + i);
    float16 all = sums[0];
#pragma unroll
    for (int chain = 1; chain < CHAINS; chain++) all += sums[chain];
    float8 half_ = all.lo + all.hi;
    float4 quarter = half_.lo + half_.hi;
    float sum = quarter.s0 + quarter.s1 + (quarter.s2 + quarter.s3);
    for (int i = whole; i < n; i++) sum += from[i];
    y[row] = sum;
}
