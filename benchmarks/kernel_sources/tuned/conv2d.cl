// tune: OUTS = 1, 2, 4, 8
// tune: WG = 1, 4
kernel void conv2d_tuned(global const float *x, global const float *weight, global float *y, int c, int h, int o, int w) {
    int j = 16 * get_global_id(0), i = get_global_id(1), q = OUTS * get_global_id(2);
    if (i >= h - 2 || j >= w - 2 || q >= o) return;
    if (j + 16 <= w - 2 && q + OUTS <= o) {
        float16 sums[OUTS];
#pragma unroll
        for (int s = 0; s < OUTS; s++) sums[s] = 0;
        for (int k = 0; k < c; k++)
#pragma unroll
            for (int u = 0; u < 3; u++)
#pragma unroll
                for (int v = 0; v < 3; v++) {
                    float16 part = vload16(0, x + (k * h + i + u) * w + j + v);
#pragma unroll
                    for (int s = 0; s < OUTS; s++) sums[s] = fma(part, (float16)weight[(((q + s) * c + k) * 3 + u) * 3 + v], sums[s]);
                }
#pragma unroll
        for (int s = 0; s < OUTS; s++) vstore16(sums[s], 0, y + ((q + s) * (h - 2) + i) * (w - 2) + j);
        return;
    }
    for (int s = q; s < min(q + OUTS, o); s++)
        for (int t = j; t < min(j + 16, w - 2); t++) {
            float sum = 0;
            for (int k = 0; k < c; k++)
                for (int u = 0; u < 3; u++)
                    for (int v = 0; v < 3; v++) sum = fma(x[(k * h + i + u) * w + t + v], weight[((s * c + k) * 3 + u) * 3 + v], sum);
            y[(s * (h - 2) + i) * (w - 2) + t] = sum;
        }
}
