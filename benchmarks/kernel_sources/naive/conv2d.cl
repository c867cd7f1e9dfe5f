kernel void conv2d_naive(global const float *x, global const float *weight, global float *y, int c, int h, int o, int w) {
    int j = get_global_id(0), i = get_global_id(1), q = get_global_id(2);
    if (i >= h - 2 || j >= w - 2 || q >= o) return;
    float sum = 0;
    for (int k = 0; k < c; k++)
        for (int u = 0; u < 3; u++)
            for (int v = 0; v < 3; v++) sum += x[(k * h + i + u) * w + j + v] * weight[((q * c + k) * 3 + u) * 3 + v];
    y[(q * (h - 2) + i) * (w - 2) + j] = sum;
}
