kernel void transpose_naive(global const float *x, global float *y, int m, int n) {
    int j = get_global_id(0), i = get_global_id(1);
    if (i < m && j < n) y[j * m + i] = x[i * n + j];
}
