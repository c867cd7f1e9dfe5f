// tune: VEC = 8, 16
// tune: WG = 1, 4
#define JOIN(a, b) a##b
#define LOAD(width) JOIN(vload, width)
#define STORE(width) JOIN(vstore, width)
#define VECTOR(width) JOIN(float, width)
kernel void layer_norm_tuned(global const float *x, global const float *weight, global const float *bias, global float *y, int m, int n) {
    int row = get_global_id(0);
    if (row >= m) return;
    global const float *from = x + (long)row * n;
    global float *to = y + (long)row * n;
    int whole = n - n % (2 * VEC);
    float sum = 0, squares = 0, lanes[VEC];
    VECTOR(VEC) first = 0, second = 0;
    for (int i = 0; i < whole; i += 2 * VEC) {
        first += LOAD(VEC)(0, from + i);
        second += LOAD(VEC)(1, from + i);
    }
    STORE(VEC)(first + second, 0, lanes);
    for (int i = 0; i < VEC; i++) sum += lanes[i];
    for (int i = whole; i < n; i++) sum += from[i];
    float mean = sum / n;
    first = second = 0;
    for (int i = 0; i < whole; i += 2 * VEC) {
        VECTOR(VEC) a = LOAD(VEC)(0, from + i) - mean, b = LOAD(VEC)(1, from + i) - mean;
        first = fma(a, a, first);
        second = fma(b, b, second);
    }
    STORE(VEC)(first + second, 0, lanes);
    for (int i = 0; i < VEC; i++) squares += lanes[i];
    for (int i = whole; i < n; i++) squares += (from[i] - mean) * (from[i] - mean);
    float scale = 1 / sqrt(squares / n + 1e-5f);
    for (int i = 0; i < whole; i += VEC)
        STORE(VEC)((LOAD(VEC)(0, from + i) - mean) * scale * LOAD(VEC)(0, weight + i) + LOAD(VEC)(0, bias + i), 0, to + i);
    for (int i = whole; i < n; i++) to[i] = (from[i] - mean) * scale * weight[i] + bias[i];
}
