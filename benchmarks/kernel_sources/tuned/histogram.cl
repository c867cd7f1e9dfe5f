// tune: LANES = 2, 4, 8, 16
kernel void histogram_tuned(global const uchar *x, global int *counts, int n) {
    local int bins[LANES][256];
    int lane = get_local_id(0);
    for (int i = 0; i < 256; i++) bins[lane][i] = 0;
    int share = (n / LANES) / 16 * 16, from = lane * share, until = lane == LANES - 1 ? n : from + share;
    for (; from + 16 <= until; from += 16) {
        uchar16 some = vload16(0, x + from);
        uchar each[16];
        vstore16(some, 0, each);
#pragma unroll
        for (int i = 0; i < 16; i++) bins[lane][each[i]]++;
    }
    for (; from < until; from++) bins[lane][x[from]]++;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int bin = lane; bin < 256; bin += LANES) {
        int sum = 0;
        for (int i = 0; i < LANES; i++) sum += bins[i][bin];
        counts[bin] = sum;
    }
}
