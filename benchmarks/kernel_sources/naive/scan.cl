kernel void scan_naive(global const float *x, global float *y, int m, int n) {
    int row = get_global_id(0);
    if (row >= m) return;
    float sum = 0;
    for (int i = 0; i < n; i++) {
        sum += x[row * n + i];
        y[row * n + i] = sum;
    }
}
