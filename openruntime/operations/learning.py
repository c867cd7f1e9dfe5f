"""Learning from rows of numbers. Rows must be finite; half precisions are computed in float32, integer arrays in float64."""

from math import log
from typing import Annotated

from array_api_compat import device
from array_api_extra import argpartition, at
from msgspec import Meta

from openruntime.contracts.payload import ITEMSIZE
from openruntime.operations import dtypes
from openruntime.operations.definition import Array, Estimate, InvalidParameter, Namespace, Spec, Steps, operation
from openruntime.operations.numerics import BLOCK, blocks, common, joined, need_finite, need_rank, real, working
from openruntime.operations.random import Seed, uniforms

Count = Annotated[int, Meta(ge=1)]


def _rows(name: str, x: Spec, k: int, field: str) -> str:
    """The answer's dtype, for rows of which `k` must be there."""
    need_rank(x, "x", name, "(n, d)")
    if x.shape[1] == 0:
        raise InvalidParameter(f"`x` of {name} must have at least one column, and has shape {list(x.shape)}", field="x")
    if k > x.shape[0]:
        raise InvalidParameter(f"`{field}` of {name} can be at most the {x.shape[0]} rows of `x`, and is {k}", field=field)
    return real(name, x=x)


def _trials(k: int) -> int:
    return 2 + int(log(k))


def _kmeans(x: Spec, k: int, seed: int, iterations: int, tolerance: float) -> dict[str, Spec]:
    dtype = _rows("kmeans", x, k, "k")
    return {"centroids": Spec(dtype, (k, x.shape[1])), "labels": Spec("int64", x.shape[:1]), "inertia": Spec(dtype, ())}


def _kmeans_cost(x: Spec, k: int, seed: int, iterations: int, tolerance: float) -> Estimate:
    """Lloyd's iterations end early more often than not: 20 of them is what blobs and digits take."""
    n, width = x.shape[0], ITEMSIZE[working(x.dtype)]
    rounds, work = min(iterations, 20), x.size * width
    flops = rounds * 4.0 * x.size * k + 2.0 * x.size * k * _trials(k)
    moved = rounds * (2 * work + 4.0 * n * k * width) + k * (work + 4.0 * n * _trials(k) * width)
    return Estimate(flops, moved, int(x.nbytes + 3 * work + 3 * min(n * k, BLOCK) * width + n * (3 * _trials(k) * width + 16)))


def _distances(x: Array, squares: Array, points: Array, xp: Namespace) -> Array:
    """Squared Euclidean, (n, points); `squares` are the rows' own."""
    found = squares[:, None] - 2 * xp.matmul(x, points.T) + xp.sum(points * points, axis=1)[None, :]
    return xp.clip(found, 0, None)


def _spread(x: Array, squares: Array, k: int, seed: int, xp: Namespace, steps: Steps) -> Array:
    """k-means++, the best of a few candidates each time: Arthur and Vassilvitskii, SODA 2007, section 2.2 and remark in section 7."""
    n = x.shape[0]
    chances = xp.reshape(uniforms(xp, seed, 0, k * _trials(k), dtypes.name_of(x)), (k, _trials(k)))
    chosen = [x[min(n - 1, int(chances[0, 0] * n)), :]]
    nearest = _distances(x, squares, chosen[0][None, :], xp)[:, 0]
    for i in range(1, k):
        steps(0, 1, f"choosing centroid {i + 1} of {k}")
        reached = xp.cumulative_sum(nearest)
        candidates = xp.clip(xp.searchsorted(reached, chances[i, :] * reached[-1]), 0, n - 1)
        closer = xp.minimum(nearest[:, None], _distances(x, squares, xp.take(x, candidates, axis=0), xp))
        best = int(xp.argmin(xp.sum(closer, axis=0)))
        chosen.append(x[int(candidates[best]), :])
        nearest = closer[:, best]
    return xp.stack(chosen)


def _assigned(x: Array, squares: Array, centroids: Array, xp: Namespace) -> tuple[Array, Array]:
    """The nearest centroid's index, and the squared distance to it, for every row."""
    labels, nearest = [], []
    for part in blocks(x.shape[0], centroids.shape[0]):
        found = _distances(x[part, :], squares[part], centroids, xp)
        labels.append(xp.argmin(found, axis=1))
        nearest.append(xp.min(found, axis=1))
    return dtypes.cast(xp, joined(xp, labels), "int64"), joined(xp, nearest)


def _moved(x: Array, labels: Array, nearest: Array, centroids: Array, xp: Namespace) -> Array:
    """The means of the rows of each label; a label without rows moves to a row that is far from its centroid."""
    k = centroids.shape[0]
    sums, counts = xp.zeros_like(centroids), xp.zeros_like(centroids[:, 0])
    for part in blocks(x.shape[0], k):
        member = xp.arange(k, device=device(x))[:, None] == labels[part][None, :]
        sums = sums + xp.matmul(xp.astype(member, x.dtype), x[part, :])
        counts = counts + xp.astype(xp.count_nonzero(member, axis=1), x.dtype)
    moved = xp.where(counts[:, None] > 0, sums / xp.clip(counts, 1, None)[:, None], centroids)
    empty = [label for label in range(k) if int(counts[label]) == 0]
    if empty:
        for label, row in zip(empty, xp.argsort(nearest, descending=True)[: len(empty)], strict=True):
            if float(nearest[row]) > 0:
                moved = at(moved, label).set(x[row, :], xp=xp)
    return moved


@operation(family="learning", check=_kmeans, estimate=_kmeans_cost, outputs=("centroids", "labels", "inertia"))
def kmeans(
    x: Array,
    *,
    k: Count,
    seed: Seed = 0,
    iterations: Count = 300,
    tolerance: Annotated[float, Meta(ge=0, le=1e6)] = 1e-4,
    xp: Namespace,
    steps: Steps,
) -> dict[str, Array]:
    """Rows in `k` clusters, so that the squared distances to the clusters' means are small.

    x: (n, d), n at least k. Answers centroids (k, d), labels (n,) int64, inertia (): the sum of the squared distances. Ends after
    `iterations`, when no label changes, or when the centroids' squared movement is at most `tolerance` times the columns' mean
    variance. Equal seeds start from equal chances. Raises `OperationFailed` for NaN or infinity.
    Source: Lloyd, Least squares quantization in PCM, 1982; k-means++ of Arthur and Vassilvitskii, 2007.
    """
    dtype, (x,) = common(xp, x)
    need_finite(xp, x, "x", "kmeans")
    centre = xp.mean(x, axis=0, keepdims=True)
    x = x - centre  # distances by the dot product lose digits far from the origin
    squares = xp.sum(x * x, axis=1)
    enough = tolerance * float(xp.mean(squares)) / x.shape[1]
    centroids = _spread(x, squares, k, seed, xp, steps)
    labels, nearest = _assigned(x, squares, centroids, xp)
    for i in range(iterations):
        steps(i, iterations)
        before, old = centroids, labels
        centroids = _moved(x, labels, nearest, before, xp)
        labels, nearest = _assigned(x, squares, centroids, xp)
        if bool(xp.all(labels == old)) or float(xp.sum((centroids - before) ** 2)) <= enough:
            break
    inertia = xp.sum((x - xp.take(centroids, labels, axis=0)) ** 2)
    return {"centroids": dtypes.cast(xp, centroids + centre, dtype), "labels": labels, "inertia": dtypes.cast(xp, inertia, dtype)}


def _knn(x: Spec, queries: Spec, k: int) -> dict[str, Spec]:
    _rows("knn", x, k, "k")
    if len(queries.shape) != 2 or queries.shape[1] != x.shape[1]:
        raise InvalidParameter(f"`queries` of knn must be (m, {x.shape[1]}) to fit `x`, and has shape {list(queries.shape)}", field="queries")
    shape = (queries.shape[0], k)
    return {"indices": Spec("int64", shape), "distances": Spec(real("knn", x=x, queries=queries), shape)}


def _candidates(n: int, k: int) -> int:
    """More than `k`, since distances by the dot product are rounded: the exact ones decide among these."""
    return min(n, 2 * k + 8)


def _knn_cost(x: Spec, queries: Spec, k: int) -> Estimate:
    (n, d), m = x.shape, queries.shape[0]
    width, near = ITEMSIZE[working(real("knn", x=x, queries=queries))], _candidates(n, k)
    row = max(n, near * d)
    work = 2 * (x.size + queries.size) * width
    held = x.nbytes + queries.nbytes + work + m * k * (8 + width) + 4 * max(row, min(m * row, BLOCK)) * 8
    return Estimate(2.0 * m * n * d + 3.0 * m * near * d + 8.0 * m * n, work + 6.0 * m * n * width, held)


@operation(family="learning", check=_knn, estimate=_knn_cost, outputs=("indices", "distances"), batch=lambda queries, **_: {"queries": queries.shape})
def knn(x: Array, queries: Array, *, k: Count, xp: Namespace) -> dict[str, Array]:
    """The `k` rows of `x` nearest to each query, nearest first, by Euclidean distance.

    x: (n, d), n at least k. queries: (m, d). Answers indices (m, k) int64 and distances (m, k) in the common floating dtype. Equal
    distances are in the order of their indices; which of them make the last place is open. Worked through in blocks of queries.
    Raises `OperationFailed` for NaN or infinity. No queries give empty answers.
    """
    dtype, (x, queries) = common(xp, x, queries)
    need_finite(xp, x, "x", "knn")
    need_finite(xp, queries, "queries", "knn")
    centre = xp.mean(x, axis=0, keepdims=True)
    x, queries = x - centre, queries - centre
    (n, d), near = x.shape, _candidates(x.shape[0], k)
    squares = xp.sum(x * x, axis=1)
    indices, distances = [], []
    for part in blocks(queries.shape[0], max(n, near * d)):
        some = queries[part, :]
        count = some.shape[0]
        if near < n:
            rough = squares[None, :] - 2 * xp.matmul(some, x.T)
            found = xp.sort(argpartition(rough, near - 1, axis=-1, xp=xp)[:, :near], axis=-1)
        else:
            found = xp.broadcast_to(xp.arange(n, device=device(x))[None, :], (count, n))
        rows = xp.reshape(xp.take(x, xp.reshape(found, (-1,)), axis=0), (count, near, d))
        exact = xp.sum((rows - some[:, None, :]) ** 2, axis=-1)
        order = xp.argsort(exact, axis=-1, stable=True)[:, :k]
        indices.append(xp.take_along_axis(found, order, axis=-1))
        distances.append(xp.sqrt(xp.take_along_axis(exact, order, axis=-1)))
    return {"indices": dtypes.cast(xp, joined(xp, indices), "int64"), "distances": dtypes.cast(xp, joined(xp, distances), dtype)}


def _pca(x: Spec, components: int) -> dict[str, Spec]:
    dtype = _rows("pca", x, components, "components")
    n, d = x.shape
    if n < 2:
        raise InvalidParameter(f"`x` of pca must have at least two rows, since one has no variance; it has shape {list(x.shape)}", field="x")
    if components > d:
        raise InvalidParameter(f"`components` of pca can be at most the {d} columns of `x`, and is {components}", field="components")
    shapes = {"components": (components, d), "explained_variance": (components,), "mean": (d,), "projected": (n, components)}
    return {name: Spec(dtype, shape) for name, shape in shapes.items()}


def _pca_cost(x: Spec, components: int) -> Estimate:
    n, d = x.shape
    width, small = ITEMSIZE[working(x.dtype)], min(n, d)
    held = x.nbytes + width * (3 * x.size + (n + d) * small + 2 * n * components + 5 * small**2)
    return Estimate(6.0 * n * d * small + 20.0 * small**3, 6.0 * x.size * width, held)


@operation(family="learning", check=_pca, estimate=_pca_cost, outputs=("components", "explained_variance", "mean", "projected"))
def pca(x: Array, *, components: Count, xp: Namespace) -> dict[str, Array]:
    """The directions in which rows vary most, by the singular value decomposition of the centred rows.

    x: (n, d), n at least 2. Answers components (components, d), orthonormal rows by falling variance; explained_variance
    (components,), with n - 1 in the denominator; mean (d,); projected (n, components), the centred rows in the new axes. A component's
    largest element by magnitude is positive, so that signs are the same everywhere (as scikit-learn does).
    Raises `OperationFailed` for NaN or infinity.
    Source: Jolliffe, Principal component analysis, 2nd edition, 2002, section 3.5.
    """
    dtype, (x,) = common(xp, x)
    need_finite(xp, x, "x", "pca")
    mean = xp.mean(x, axis=0)
    u, s, vt = xp.linalg.svd(x - mean[None, :], full_matrices=False)
    u, s, vt = u[:, :components], s[:components], vt[:components, :]
    signs = xp.sign(xp.take_along_axis(vt, xp.argmax(xp.abs(vt), axis=1)[:, None], axis=1))
    found = {"components": vt * signs, "explained_variance": s * s / (x.shape[0] - 1), "mean": mean, "projected": u * s * signs.T}
    return {name: dtypes.cast(xp, value, dtype) for name, value in found.items()}
