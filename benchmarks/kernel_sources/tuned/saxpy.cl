// tune: VEC = 1, 4, 8, 16
// tune: WG = 64, 256
#define JOIN(a, b) a##b
#define LOAD(width) JOIN(vload, width)
#define STORE(width) JOIN(vstore, width)
kernel void saxpy_tuned(global const float *x, global const float *y, global float *z, float a, int n) {
    int i = VEC * get_global_id(0);
#if VEC > 1
    if (i + VEC <= n) {
        STORE(VEC)(a * LOAD(VEC)(0, x + i) + LOAD(VEC)(0, y + i), 0, z + i);
        return;
    }
    for (; i < n; i++) z[i] = a * x[i] + y[i];
#else
    if (i < n) z[i] = a * x[i] + y[i];
#endif
}
