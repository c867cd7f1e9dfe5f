"""References: SciPy's distances, eigenvectors of NumPy's covariance, and clusters far enough apart to be known."""

from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from openruntime.testing.cases import Case, close

_random = np.random.default_rng(21)


def _normal(*shape: int, dtype: str = "float64") -> Any:
    return _random.normal(size=shape).astype(dtype)


_CENTRES = np.array([[0.0, 0.0, 0.0], [40.0, 0.0, 10.0], [0.0, 50.0, -10.0], [-30.0, -30.0, 0.0]])
_MEMBERS = np.arange(120) % 4
_BLOBS = 1000 + _CENTRES[_MEMBERS] + _normal(120, 3)


def _found_blobs(outputs: Any, x: Any, **_: Any) -> None:
    labels, centroids = outputs["labels"], outputs["centroids"]
    means = np.stack([x[blob == _MEMBERS].astype("f8").mean(0) for blob in range(4)])
    names = [labels[blob] for blob in range(4)]
    assert sorted(names) == [0, 1, 2, 3]
    np.testing.assert_array_equal(labels, np.array(names)[_MEMBERS])
    precision = 1e-9 if x.dtype == "float64" else 1e-5
    close(centroids[names], means, precision)
    close(outputs["inertia"], ((x - means[_MEMBERS]) ** 2).sum(), 1e-3 if x.dtype == "float32" else 1e-9)


def _is_a_local_optimum(outputs: Any, x: Any, k: int, **_: Any) -> None:
    distances = cdist(x, outputs["centroids"], "sqeuclidean")
    np.testing.assert_allclose(distances[np.arange(len(x)), outputs["labels"]], distances.min(1), rtol=1e-9, atol=1e-9)
    close(outputs["inertia"], distances.min(1).sum(), 1e-9)
    for label in range(k):
        np.testing.assert_allclose(x[outputs["labels"] == label].mean(0), outputs["centroids"][label], rtol=1e-9, atol=1e-9)


def _knn(x: Any, queries: Any, k: int) -> dict[str, Any]:
    distances = cdist(queries.astype("f8"), x.astype("f8"))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return {"indices": order, "distances": np.take_along_axis(distances, order, axis=1)}


def _pca(x: Any, components: int) -> dict[str, Any]:
    x = x.astype("f8")
    mean = x.mean(0)
    variances, axes = np.linalg.eigh(np.cov(x, rowvar=False).reshape(x.shape[1], x.shape[1]))
    axes = axes[:, ::-1][:, :components].T
    axes *= np.sign(axes[np.arange(components), np.abs(axes).argmax(1)])[:, None]
    return {"components": axes, "explained_variance": variances[::-1][:components], "mean": mean, "projected": (x - mean) @ axes.T}


def _cloud(dtype: str = "float64") -> Any:
    return (_normal(60, 4) * np.array([9.0, 4.0, 2.0, 0.5]) @ np.linalg.qr(_normal(4, 4))[0] + 3).astype(dtype)


_HOLED = np.where(np.arange(12).reshape(6, 2) == 5, np.nan, 1.0)

CASES = [
    *(Case("kmeans", {"x": _BLOBS.astype(t), "k": 4, "seed": seed}, verify=_found_blobs) for t in ("float32", "float64") for seed in (0, 7)),
    Case("kmeans", {"x": _normal(90, 3), "k": 7, "seed": 3, "tolerance": 0.0}, verify=_is_a_local_optimum),
    Case("kmeans", {"x": np.arange(10).reshape(5, 2), "k": 5}, verify=_is_a_local_optimum, note="each its own"),
    Case("kmeans", {"x": _normal(5, 2), "k": 1}, verify=_is_a_local_optimum),
    Case("kmeans", {"x": np.ones((6, 2)), "k": 1}, {"centroids": np.ones((1, 2)), "labels": np.zeros(6, "int64"), "inertia": np.array(0.0)}),
    Case("kmeans", {"x": _normal(5, 2), "k": 6}, refused="k"),
    Case("kmeans", {"x": _normal(5, 2), "k": 0}, refused="k"),
    Case("kmeans", {"x": np.zeros((0, 2)), "k": 1}, refused="k"),
    Case("kmeans", {"x": np.zeros((5, 0)), "k": 1}, refused="x"),
    Case("kmeans", {"x": _normal(5), "k": 1}, refused="x"),
    Case("kmeans", {"x": _normal(5, 2).astype("complex128"), "k": 1}, refused="x"),
    Case("kmeans", {"x": _normal(5, 2), "k": 2, "seed": -1}, refused="seed"),
    Case("kmeans", {"x": _normal(5, 2), "k": 2, "iterations": 0}, refused="iterations"),
    Case("kmeans", {"x": _HOLED, "k": 2}, fails="`x` holds NaN or infinity"),
    *(Case("knn", {"x": _normal(50, 3, dtype=t), "queries": _normal(7, 3, dtype=t), "k": 4}, _knn) for t in ("float32", "float64")),
    Case("knn", {"x": _normal(400, 5) + 1e4, "queries": _normal(9, 5) + 1e4, "k": 10}, _knn, note="far from the origin"),
    Case("knn", {"x": np.array([[0.0], [1.0], [1.0], [5.0]]), "queries": np.array([[1.0]]), "k": 3},
         {"indices": np.array([[1, 2, 0]]), "distances": np.array([[0.0, 0.0, 1.0]])}, note="equal distances"),
    Case("knn", {"x": _normal(4, 2), "queries": np.zeros((0, 2)), "k": 2},
         {"indices": np.zeros((0, 2), "int64"), "distances": np.zeros((0, 2))}, note="no queries"),
    Case("knn", {"x": _normal(4, 2), "queries": _normal(3, 2), "k": 5}, refused="k"),
    Case("knn", {"x": _normal(4, 2), "queries": _normal(3, 3), "k": 1}, refused="queries"),
    Case("knn", {"x": _normal(4), "queries": _normal(3, 3), "k": 1}, refused="x"),
    Case("knn", {"x": _HOLED, "queries": _normal(3, 2), "k": 1}, fails="`x` holds NaN or infinity"),
    Case("knn", {"x": _normal(3, 2), "queries": _HOLED, "k": 1}, fails="`queries` holds NaN or infinity"),
    Case("pca", {"x": _cloud(), "components": 3}, _pca),
    Case("pca", {"x": _cloud("float32"), "components": 4}, _pca, precision=1e-4),
    Case("pca", {"x": np.array([[1, 2], [3, 5], [4, 9]]), "components": 1}, _pca, note="of integers"),
    Case("pca", {"x": np.ones((4, 1)), "components": 1},
         {"components": np.ones((1, 1)), "explained_variance": np.zeros(1), "mean": np.ones(1), "projected": np.zeros((4, 1))}),
    Case("pca", {"x": _normal(4, 3), "components": 4}, refused="components"),
    Case("pca", {"x": _normal(2, 5), "components": 3}, refused="components"),
    Case("pca", {"x": _normal(1, 3), "components": 1}, refused="x"),
    Case("pca", {"x": np.zeros((0, 3)), "components": 1}, refused="components"),
    Case("pca", {"x": _HOLED, "components": 1}, fails="`x` holds NaN or infinity"),
]  # fmt: skip
