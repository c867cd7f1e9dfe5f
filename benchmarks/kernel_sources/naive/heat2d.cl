kernel void heat2d_naive(global const float *u, global float *v, int m, int n) {
    int j = get_global_id(0), i = get_global_id(1);
    if (i >= m || j >= n) return;
    int at = i * n + j;
    if (i == 0 || j == 0 || i == m - 1 || j == n - 1) v[at] = u[at];
    else v[at] = (1 - 4 * 0.2f) * u[at] + 0.2f * (u[at - n] + u[at + n] + u[at - 1] + u[at + 1]);
}
