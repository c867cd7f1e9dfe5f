// tune: VEC = 8, 16
// tune: WG = 1, 4
#define JOIN(a, b) a##b
#define LOAD(width) JOIN(vload, width)
#define STORE(width) JOIN(vstore, width)
#define VECTOR(width) JOIN(float, width)
kernel void softmax_tuned(global const float *x, global float *y, int m, int n) {
    int row = get_global_id(0);
    if (row >= m) return;
    global const float *from = x + (long)row * n;
    global float *to = y + (long)row * n;
    VECTOR(VEC) tops = -INFINITY, sums = 0;
    int whole = n - n % VEC;
    for (int i = 0; i < whole; i += VEC) tops = fmax(tops, LOAD(VEC)(0, from + i));
    float most = -INFINITY, sum = 0, lanes[VEC];
    STORE(VEC)(tops, 0, lanes);
    for (int i = 0; i < VEC; i++) most = fmax(most, lanes[i]);
    for (int i = whole; i < n; i++) most = fmax(most, from[i]);
    for (int i = 0; i < whole; i += VEC) {
        VECTOR(VEC) e = exp(LOAD(VEC)(0, from + i) - most);
        STORE(VEC)(e, 0, to + i);
        sums += e;
    }
    STORE(VEC)(sums, 0, lanes);
    for (int i = 0; i < VEC; i++) sum += lanes[i];
    for (int i = whole; i < n; i++) sum += to[i] = exp(from[i] - most);
    float scale = 1 / sum;
    for (int i = 0; i < whole; i += VEC) STORE(VEC)(LOAD(VEC)(0, to + i) * scale, 0, to + i);
    for (int i = whole; i < n; i++) to[i] *= scale;
}
