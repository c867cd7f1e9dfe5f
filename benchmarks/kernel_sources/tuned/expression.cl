// tune: VEC = 1, 4, 8, 16
// tune: WG = 64, 16
#define JOIN(a, b) a##b
#define LOAD(width) JOIN(vload, width)
#define STORE(width) JOIN(vstore, width)
#define VECTOR(width) JOIN(float, width)
kernel void expression_tuned(global const float *x, global float *y, int n) {
    int i = VEC * get_global_id(0);
#if VEC > 1
    if (i + VEC <= n) {
        VECTOR(VEC) v = LOAD(VEC)(0, x + i);
        if (all(fabs(v) < 8388608.0f)) {  // beside one that is not, PoCL 3.1's sin of a vector is wrong for numbers below 2^-7
            STORE(VEC)(sin(v) * exp(-v * v) + sqrt(fabs(v)), 0, y + i);
            return;
        }
    }
#endif
    for (int j = i; j < min(i + VEC, n); j++) y[j] = sin(x[j]) * exp(-x[j] * x[j]) + sqrt(fabs(x[j]));
}
