kernel void matmul_naive(global const float *a, global const float *b, global float *c, int m, int k, int n) {
    int j = get_global_id(0), i = get_global_id(1);
    if (i >= m || j >= n) return;
    float sum = 0;
    for (int p = 0; p < k; p++) sum += a[i * k + p] * b[p * n + j];
    c[i * n + j] = sum;
}
