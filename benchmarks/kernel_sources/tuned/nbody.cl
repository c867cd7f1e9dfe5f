// tune: VEC = 8, 16
// tune: WG = 1, 2
#define JOIN(a, b) a##b
#define LOAD(width) JOIN(vload, width)
#define STORE(width) JOIN(vstore, width)
#define VECTOR(width) JOIN(float, width)
kernel void nbody_tuned(
    global const float *positions, global const float *velocities, global const float *masses, global float *moved, int n
) {
    int first = VEC * get_global_id(0), count = min(VEC, n - first);
    float lanes[3][VEC], pulls[3][VEC];
    for (int i = 0; i < VEC; i++)
        for (int axis = 0; axis < 3; axis++) lanes[axis][i] = i < count ? positions[3 * (first + i) + axis] : 0;
    VECTOR(VEC) x = LOAD(VEC)(0, lanes[0]), y = LOAD(VEC)(0, lanes[1]), z = LOAD(VEC)(0, lanes[2]), px = 0, py = 0, pz = 0;
    for (int j = 0; j < n; j++) {
        VECTOR(VEC) dx = positions[3 * j] - x, dy = positions[3 * j + 1] - y, dz = positions[3 * j + 2] - z;
        VECTOR(VEC) square = fma(dx, dx, fma(dy, dy, fma(dz, dz, (VECTOR(VEC))0.25f)));
        VECTOR(VEC) pull = masses[j] / (square * sqrt(square));
        px = fma(dx, pull, px);
        py = fma(dy, pull, py);
        pz = fma(dz, pull, pz);
    }
    STORE(VEC)(px, 0, pulls[0]);
    STORE(VEC)(py, 0, pulls[1]);
    STORE(VEC)(pz, 0, pulls[2]);
    for (int i = 0; i < count; i++)
        for (int axis = 0; axis < 3; axis++) {
            int at = 3 * (first + i) + axis;
            moved[at] = positions[at] + (velocities[at] + 0.5f * pulls[axis][i]);
        }
}
