// tune: ROWS = 1, 4, 16
// tune: WG = 1, 16
kernel void heat2d_tuned(global const float *u, global float *v, int m, int n) {
    int j = 16 * get_global_id(0), first = ROWS * get_global_id(1);
    for (int i = first; i < min(first + ROWS, m); i++) {
        int at = i * n + j;
        if (j > 0 && j + 17 <= n && i > 0 && i < m - 1) {
            float16 around = vload16(0, u + at - n) + vload16(0, u + at + n) + vload16(0, u + at - 1) + vload16(0, u + at + 1);
            vstore16((1 - 4 * 0.2f) * vload16(0, u + at) + 0.2f * around, 0, v + at);
        } else
            for (int k = j; k < min(j + 16, n); k++, at++) {
                if (i == 0 || k == 0 || i == m - 1 || k == n - 1) v[at] = u[at];
                else v[at] = (1 - 4 * 0.2f) * u[at] + 0.2f * (u[at - n] + u[at + n] + u[at - 1] + u[at + 1]);
            }
    }
}
