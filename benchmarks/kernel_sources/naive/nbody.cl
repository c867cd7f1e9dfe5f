kernel void nbody_naive(
    global const float *positions, global const float *velocities, global const float *masses, global float *moved, int n
) {
    int i = get_global_id(0);
    if (i >= n) return;
    float3 here = vload3(i, positions), pull = 0;
    for (int j = 0; j < n; j++) {
        float3 away = vload3(j, positions) - here;
        float square = dot(away, away) + 0.25f;
        pull += away * (masses[j] / (square * sqrt(square)));
    }
    vstore3(here + (vload3(i, velocities) + 0.5f * pull), i, moved);
}
