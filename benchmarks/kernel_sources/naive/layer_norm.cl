kernel void layer_norm_naive(global const float *x, global const float *weight, global const float *bias, global float *y, int m, int n) {
    int row = get_global_id(0);
    if (row >= m) return;
    float sum = 0, squares = 0;
    for (int i = 0; i < n; i++) sum += x[row * n + i];
    float mean = sum / n;
    for (int i = 0; i < n; i++) squares += (x[row * n + i] - mean) * (x[row * n + i] - mean);
    float scale = 1 / sqrt(squares / n + 1e-5f);
    for (int i = 0; i < n; i++) y[row * n + i] = (x[row * n + i] - mean) * scale * weight[i] + bias[i];
}
