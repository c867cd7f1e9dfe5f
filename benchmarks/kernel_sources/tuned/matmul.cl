// tune: ROWS = 4, 8, 12
// tune: VECTORS = 1, 2
// tune: WG = 1, 4
#define COLUMNS (16 * VECTORS)
kernel void matmul_tuned(global const float *a, global const float *b, global float *c, int m, int k, int n) {
    int j = COLUMNS * get_global_id(0), i = ROWS * get_global_id(1);
    if (i + ROWS <= m && j + COLUMNS <= n) {
        float16 sums[ROWS][VECTORS];
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int v = 0; v < VECTORS; v++) sums[r][v] = 0;
        for (int p = 0; p < k; p++) {
            float16 right[VECTORS];
#pragma unroll
            for (int v = 0; v < VECTORS; v++) right[v] = vload16(v, b + p * n + j);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                float16 left = a[(i + r) * k + p];
#pragma unroll
                for (int v = 0; v < VECTORS; v++) sums[r][v] = fma(left, right[v], sums[r][v]);
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int v = 0; v < VECTORS; v++) vstore16(sums[r][v], v, c + (i + r) * n + j);
        return;
    }
    for (int r = i; r < min(i + ROWS, m); r++)
        for (int q = j; q < min(j + COLUMNS, n); q++) {
            float sum = 0;
            for (int p = 0; p < k; p++) sum = fma(a[r * k + p], b[p * n + q], sum);
            c[r * n + q] = sum;
        }
}
