kernel void expression_naive(global const float *x, global float *y, int n) {
    int i = get_global_id(0);
    if (i < n) y[i] = sin(x[i]) * exp(-x[i] * x[i]) + sqrt(fabs(x[i]));
}
