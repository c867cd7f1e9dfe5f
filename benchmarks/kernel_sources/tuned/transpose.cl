// tune: TILE = 8, 4, 16, 32
// tune: WG = 1, 8
kernel void transpose_tuned(global const float *x, global float *y, int m, int n) {
    int j = TILE * get_global_id(0), i = TILE * get_global_id(1);
    if (i + TILE <= m && j + TILE <= n) {
        float block[TILE][TILE];
#pragma unroll
        for (int r = 0; r < TILE; r++)
#pragma unroll
            for (int c = 0; c < TILE; c++) block[c][r] = x[(i + r) * n + j + c];
#pragma unroll
        for (int c = 0; c < TILE; c++)
#pragma unroll
            for (int r = 0; r < TILE; r++) y[(j + c) * m + i + r] = block[c][r];
        return;
    }
    for (int r = i; r < min(i + TILE, m); r++)
        for (int c = j; c < min(j + TILE, n); c++) y[c * m + r] = x[r * n + c];
}
