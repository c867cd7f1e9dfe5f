"""Clusters and neighbours on OpenCL. Distances are sums of squared differences in registers: no matrix of them is written, no digits are lost.

Algorithms and sources as in `operations/learning.py`.
"""

from functools import lru_cache
from math import log
from typing import Any

from openruntime.backends.opencl_arrays import Engine, Tensor, common_dtype
from openruntime.backends.opencl_linalg import TRANSPOSED, Gather, pack
from openruntime.backends.opencl_random import uniform
from openruntime.backends.opencl_reduce import all_finite, argmin, cumulative_sum, max_, mean, sum_
from openruntime.backends.opencl_sort import places_of, taken
from openruntime.backends.opencl_source import C_TYPE, load
from openruntime.contracts.errors import OperationFailed
from openruntime.contracts.interfaces import Steps
from openruntime.operations.numerics import working

# panels hold sixteen points each, coordinate by coordinate
_KERNELS = """
__kernel void assigned(const long rows, const long d, const long k, __global const T *restrict x, __global const T *restrict panels,
        __global long *restrict labels, __global T *restrict nearest) {
    FOR_EACH(row, rows) {
        T best = INFINITY, line[16];
        size_t label = 0;
        for (size_t panel = 0; panel * 16 < (size_t)k; ++panel) {
            T16 sum = 0;
            for (size_t j = 0; j < (size_t)d; ++j) { const T16 away = vload16(panel * d + j, panels) - x[row * d + j]; sum += away * away; }
            if (!any(sum < best)) continue;
            vstore16(sum, 0, line);
            for (size_t l = 0; l < 16 && panel * 16 + l < (size_t)k; ++l) if (line[l] < best) { best = line[l]; label = panel * 16 + l; }
        }
        labels[row] = label;
        nearest[row] = best;
    }
}
__kernel void closer(const long items, const long rows, const long d, __global const T *restrict x, __global const long *restrict chosen,
        __global const T *restrict nearest, __global T *restrict out) {
    FOR_EACH(item, items) {
        const size_t row = item % rows, from = chosen[item / rows] * d;
        T sum = 0;
        for (size_t j = 0; j < (size_t)d; ++j) { const T away = x[row * d + j] - x[from + j]; sum += away * away; }
        out[item] = min(sum, nearest[row]);
    }
}
__kernel void drawn_rows(const long trials, const long n, const long first, __global const T *restrict chances, __global const T *restrict reached,
        __global long *restrict out) {
    FOR_EACH(i, trials) {
        const T wanted = chances[first + i] * reached[n - 1];
        size_t low = 0, high = n;
        while (low < high) { const size_t middle = (low + high) / 2; if (reached[middle] < wanted) low = middle + 1; else high = middle; }
        out[i] = min(low, (size_t)n - 1);
    }
}
__kernel void gathered(const long items, const long rows, const long d, const long k, __global const T *restrict x,
        __global const long *restrict labels, __global S *restrict sums) {
    FOR_EACH(item, items) {
        __global S *own = sums + item * k * (d + 1);
        const size_t each = (rows + items - 1) / items;
        for (size_t j = 0; j < (size_t)k * (d + 1); ++j) own[j] = 0;
        for (size_t row = item * each; row < min((size_t)rows, (item + 1) * each); ++row) {
            __global S *to = own + labels[row] * (d + 1);
            for (size_t j = 0; j < (size_t)d; ++j) to[j] += x[row * d + j];
            to[d] += 1;
        }
    }
}
__kernel void moved(const long items, const long d, __global const S *restrict sums, __global const T *restrict before, __global T *restrict out) {
    FOR_EACH(item, items) {
        const size_t label = item / d;
        const S count = sums[label * (d + 1) + d];
        out[item] = count > 0 ? (T)(sums[label * (d + 1) + item % d] / count) : before[item];
    }
}
__kernel void neighbours(const long items, const long n, const long d, const long k, const long stretch, const long stretches,
        __global const T *restrict queries, __global const T *restrict panels, __global long *restrict indices, __global T *restrict distances) {
    FOR_EACH(item, items) {
        __global const T *q = queries + item / stretches * d;
        __global long *places = indices + item * k;
        __global T *list = distances + item * k;
        T line[16], worst = INFINITY;
        long held = 0;
        const size_t begin = item % stretches * stretch, end = min((size_t)(n + 15) / 16, begin + stretch);
        for (size_t panel = begin; panel < end; ++panel) {
            T16 sum = 0;
            for (size_t j = 0; j < (size_t)d; ++j) { const T16 away = vload16(panel * d + j, panels) - q[j]; sum += away * away; }
            if (held == k && !any(sum < worst)) continue;
            vstore16(sum, 0, line);
            for (size_t l = 0; l < 16 && panel * 16 + l < (size_t)n; ++l) {
                if (held == k && !(line[l] < worst)) continue;
                long at = held < k ? held++ : k - 1;
                for (; at > 0 && list[at - 1] > line[l]; --at) { list[at] = list[at - 1]; places[at] = places[at - 1]; }
                list[at] = line[l];
                places[at] = panel * 16 + l;
                if (held == k) worst = list[k - 1];
            }
        }
        for (; held < k; ++held) { list[held] = INFINITY; places[held] = n - 1; }
    }
}"""


@lru_cache(maxsize=4)
def _source(dtype: str, sums: str) -> str:
    t = C_TYPE[dtype][1]
    return f"#define T {t}\n#define T16 {t}16\n#define S {C_TYPE[sums][1]}\n{_KERNELS}"


class _Rows:
    """(n, d) rows in the dtype to compute in, and the kernels on them."""

    def __init__(self, engine: Engine, x: Tensor) -> None:
        self.engine, self.x = engine, x
        self.n, self.d = x.shape
        self.sums = "float64" if engine.device.has_double else x.dtype
        self.source = _source(x.dtype, self.sums)

    def run(self, name: str, items: int, *arguments: Any, work: int) -> None:
        self.engine.run(self.source, name, items, items, *arguments, work=work)

    def assigned(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        k = centroids.shape[0]
        labels, nearest = self.engine.output((self.n,), "int64"), self.engine.empty((self.n,), self.x.dtype)
        self.run("assigned", self.n, self.d, k, self.x, _panels(self.engine, centroids), labels, nearest, work=k * self.d)
        return labels, nearest

    def moved(self, labels: Tensor, nearest: Tensor, before: Tensor) -> Tensor:
        k, width = before.shape[0], self.d + 1
        units = self.engine.device.units
        items = max(1, min(4 * units if self.engine.device.processor else 64 * units, (1 << 24) // (k * width), self.n))
        parts = self.engine.empty((items, k, width), self.sums)
        self.run("gathered", items, self.n, self.d, k, self.x, labels, parts, work=2 * self.d * -(-self.n // items))
        sums, out = sum_(self.engine, parts, 0), self.engine.empty(before.shape, self.x.dtype)
        self.run("moved", k * self.d, self.d, sums, before, out, work=4)
        counts = self.engine.read(self.engine.rearranged(sums, (k,), (width,), self.d))
        empty = [label for label in range(k) if counts[label] == 0]
        if empty:
            places = self.engine.read(places_of(self.engine, nearest.reshaped(1, self.n), True))[0]
            far = self.engine.read(nearest)
            for label, row in zip(empty, places, strict=False):
                if far[row] > 0:
                    self.engine.copy(self.x, out, (self.d,), (1,), offset=int(row) * self.d, start=label * self.d)
        return out

    def spread(self, k: int, seed: int, steps: Steps) -> Tensor:
        """k-means++."""
        engine, n, d, dtype = self.engine, self.n, self.d, self.x.dtype
        trials = 2 + int(log(k))
        chances = uniform(engine, (k * trials,), seed, dtype=dtype)
        chosen = engine.empty((k, d), dtype)
        row = min(n - 1, int(engine.read(chances)[0] * n))
        nearest = engine.filled((n,), dtype, float("inf"))
        self._chosen(engine.constant([row], "int64"), row, nearest, chosen, 0)
        nearest = self._closer(engine.constant([row], "int64"), nearest).reshaped(n)
        for i in range(1, k):
            steps(0, 1, f"choosing centroid {i + 1} of {k}")
            candidates = engine.empty((trials,), "int64")
            self.run("drawn_rows", trials, n, i * trials, chances, cumulative_sum(engine, nearest), candidates, work=40)
            closer = self._closer(candidates, nearest)
            best = int(engine.read(argmin(engine, sum_(engine, closer, 1))))
            row = int(engine.read(candidates)[best])
            self._chosen(candidates, row, nearest, chosen, i)
            nearest = engine.rearranged(closer, (n,), (1,), best * n)
        return chosen

    def _chosen(self, candidates: Tensor, row: int, nearest: Tensor, chosen: Tensor, i: int) -> None:
        self.engine.copy(self.x, chosen, (self.d,), (1,), offset=row * self.d, start=i * self.d)

    def _closer(self, candidates: Tensor, nearest: Tensor) -> Tensor:
        out = self.engine.empty((candidates.size, self.n), self.x.dtype)
        self.run("closer", out.size, self.n, self.d, self.x, candidates, nearest, out, work=2 * self.d)
        return out


def _panels(engine: Engine, points: Tensor) -> Tensor:
    n, d = points.shape
    element = TRANSPOSED if points.dtype != "float16" else load("float16", "b", TRANSPOSED[2:-1])
    return pack(engine, points, Gather(element), 1, d, n, points.dtype, (0, 0, d))


def _finite(engine: Engine, x: Tensor, field: str, operation: str) -> None:
    if not all_finite(engine, x):
        raise OperationFailed(f"{operation} needs finite numbers: `{field}` holds NaN or infinity", field=field)


def kmeans(engine: Engine, x: Tensor, *, k: int, seed: int = 0, iterations: int = 300, tolerance: float = 1e-4, steps: Steps) -> dict[str, Tensor]:
    dtype = common_dtype(x)
    x = engine.cast(x, working(dtype))
    _finite(engine, x, "x", "kmeans")
    centre = mean(engine, x, 0, True)
    x = engine.expression("x - centre", x=x, centre=centre)
    rows = _Rows(engine, x)
    enough = tolerance * float(engine.read(mean(engine, engine.expression("x * x", x=x))))
    centroids = rows.spread(k, seed, steps)
    labels, nearest = rows.assigned(centroids)
    for i in range(iterations):
        steps(i, iterations)
        before, old = centroids, labels
        centroids = rows.moved(labels, nearest, before)
        labels, nearest = rows.assigned(centroids)
        if not engine.read(max_(engine, engine.expression("a != b", a=labels, b=old))):
            break
        if float(engine.read(sum_(engine, engine.expression("(a - b)**2", a=centroids, b=before)))) <= enough:
            break
    moved = engine.expression("c + centre", c=centroids, centre=centre)
    return {"centroids": engine.cast(moved, dtype), "labels": labels, "inertia": engine.cast(sum_(engine, nearest), dtype)}


def knn(engine: Engine, x: Tensor, queries: Tensor, *, k: int) -> dict[str, Tensor]:
    dtype = common_dtype(x, queries)
    wide = working(dtype)
    x, queries = engine.cast(x, wide), engine.cast(queries, wide)
    _finite(engine, x, "x", "knn")
    _finite(engine, queries, "queries", "knn")
    (n, d), m = x.shape, queries.shape[0]
    if not m:
        return {"indices": engine.output((0, k), "int64"), "distances": engine.output((0, k), dtype)}
    panels, count = _panels(engine, x), -(-n // 16)
    wanted = 4 * engine.device.units if engine.device.processor else 512 * engine.device.units
    stretches = max(1, min(-(-wanted // m), count // max(1, k)))
    stretch = -(-count // stretches)
    stretches = -(-count // stretch)
    whole = stretches == 1
    indices = engine.output((m, k), "int64") if whole else engine.empty((m, stretches * k), "int64")
    squares = engine.empty((m, stretches * k), wide)
    source = _source(wide, wide)
    items = m * stretches
    engine.run(source, "neighbours", items, items, n, d, k, stretch, stretches, queries, panels, indices, squares, work=2 * d * n // stretches)
    if not whole:
        order = places_of(engine, squares)
        indices, squares = taken(engine, indices, order, k), taken(engine, squares, order, k)
    return {"indices": indices, "distances": engine.cast(engine.expression("sqrt(s)", s=squares), dtype)}
