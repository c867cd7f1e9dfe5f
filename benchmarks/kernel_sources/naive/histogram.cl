kernel void histogram_naive(global const uchar *x, global int *counts, int n) {
    local int bins[256];
    int lane = get_local_id(0);
    bins[lane] = 0;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = lane; i < n; i += 256) atomic_inc(bins + x[i]);
    barrier(CLK_LOCAL_MEM_FENCE);
    counts[lane] = bins[lane];
}
