// tune: VEC = 4, 8, 16
// tune: WG = 1, 4
#define JOIN(a, b) a##b
#define LOAD(width) JOIN(vload, width)
#define STORE(width) JOIN(vstore, width)
#define VECTOR(width) JOIN(float, width)
kernel void scan_tuned(global const float *x, global float *y, int m, int n) {
    int row = get_global_id(0);
    if (row >= m) return;
    global const float *from = x + (long)row * n;
    global float *to = y + (long)row * n;
    float before = 0;
    int whole = n - n % VEC;
    for (int i = 0; i < whole; i += VEC) {
        VECTOR(VEC) v = LOAD(VEC)(0, from + i);
#if VEC == 4
        v += (float4)(0, v.s012);
        v += (float4)(0, 0, v.s01);
        float last = v.s3;
#elif VEC == 8
        v += (float8)(0, v.s0123, v.s45, v.s6);
        v += (float8)(0, 0, v.s0123, v.s45);
        v += (float8)((float4)0, v.s0123);
        float last = v.s7;
#else
        v += (float16)(0, v.s01234567, v.s89ab, v.scd, v.se);
        v += (float16)(0, 0, v.s01234567, v.s89ab, v.scd);
        v += (float16)((float4)0, v.s01234567, v.s89ab);
        v += (float16)((float8)0, v.s01234567);
        float last = v.sf;
#endif
        STORE(VEC)(v + before, 0, to + i);
        before += last;
    }
    for (int i = whole; i < n; i++) to[i] = before += from[i];
}
