kernel void softmax_naive(global const float *x, global float *y, int m, int n) {
    int row = get_global_id(0);
    if (row >= m) return;
    float most = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) most = fmax(most, x[row * n + i]);
    for (int i = 0; i < n; i++) sum += exp(x[row * n + i] - most);
    for (int i = 0; i < n; i++) y[row * n + i] = exp(x[row * n + i] - most) / sum;
}
